"""Statistics that others made, questioned before they decide weights: the model is run on random tokens for that."""

from __future__ import annotations

import contextlib

from fusehub.errors import BadStatistics, FuseHubError
from fusehub.models.resolve import ModelRef
from fusehub.statistics.inspection import require_sound
from fusehub.statistics.plausible import compare_with_random
from fusehub.statistics.sources import FoundStatistics

# A merge never holds a model as a whole; for this it does, in float32, up to so many bytes.
_LARGEST = 8 * 2**30


def question(found: FoundStatistics, ref: ModelRef, model_bytes: int) -> str:
    """What has to be said of statistics that are of others than the model's owner.

    Raises `BadStatistics` where they are not sound, or cannot be of this model.
    """
    with contextlib.closing(found.open()) as statistics:
        require_sound(statistics)
        if model_bytes > _LARGEST:
            return (
                f"The statistics {found.origin} are not of the owner of {ref.name}, and the model is too large "
                f"to question them: `fusehub inspect {found.origin} --against {ref.name}` does it."
            )
        try:
            likeness = compare_with_random(statistics, ref)
        except BadStatistics:
            raise
        except FuseHubError as error:
            return f"The statistics {found.origin} could not be held against {ref.name}: {error.what}"
    likeness.require_possible(found.origin, ref.name)
    return likeness.question(found.origin, ref.name) or (
        f"The statistics {found.origin} were made by others than the owner of {ref.name}; held against random tokens, "
        f"{likeness}."
    )
