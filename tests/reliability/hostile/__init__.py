"""Files of strangers that state more than a limit allows, each with the command that reads it.

for each in HOSTILE:
    each.make(folder, sound)    # ["check", folder / "model"]: `sound` is a model to be spoilt
"""

from tests.reliability.hostile import data, models
from tests.reliability.hostile.inputs import Hostile

HOSTILE: list[Hostile] = [*models.HOSTILE, *data.HOSTILE]
