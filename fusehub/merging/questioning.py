"""Statistics that others made, questioned before they decide weights: the model is run on random tokens for that."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from fusehub.errors import BadStatistics, FuseHubError
from fusehub.merging.plan import Plan
from fusehub.models.resolve import ModelRef
from fusehub.statistics.inspection import require_sound
from fusehub.statistics.plausible import compare_with_random
from fusehub.statistics.sources import FoundStatistics, is_of_others

# A merge never holds a model as a whole; for this it does, in float32, up to so many bytes.
_LARGEST = 8 * 2**30


def question_statistics(plan: Plan) -> Iterator[str]:
    """What has to be said of the statistics of a plan that are of others than the models' owners.

    Raises `BadStatistics` where they cannot be of these models.
    """
    if plan.method.needs_fisher:
        return
    size = sum(tensor.info.numel * 4 for tensor in plan.tensors.values())
    for ref, found in zip(plan.experts, plan.statistics, strict=False):
        if isinstance(found, FoundStatistics) and is_of_others(found.origin, ref):
            _require_sound(found)
            if size > _LARGEST:
                yield (
                    f"The statistics {found.origin} are not of the owner of {ref.name}, and the model is too large "
                    f"to question them: `fusehub inspect {found.origin} --against {ref.name}` does it."
                )
            else:
                yield _question(ref, found)


def _require_sound(found: FoundStatistics) -> None:
    with contextlib.closing(found.open()) as statistics:
        require_sound(statistics)


def _question(ref: ModelRef, found: FoundStatistics) -> str:
    """What a comparison says; raises `BadStatistics` where the statistics cannot be of the model."""
    with contextlib.closing(found.open()) as statistics:
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
