"""TIES: trim, elect sign, merge those that agree."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from fusehub.methods.base import Layer, Merged
from fusehub.methods.cost import of_dropping
from fusehub.methods.registry import merge_method
from fusehub.methods.task_vectors.base import SparseShare, TaskOptions, differences, elect_and_add_up
from fusehub.methods.task_vectors.largest import Cutoff, find_cutoff, keep

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from fusehub.methods.task_vectors.largest import Parts


class TiesOptions(TaskOptions):
    """Options of `ties`."""

    normalize: bool = Field(
        True,
        title="Divide by the sum of weights",
        description="true divides by the sum of the weights that take part.",
    )
    rescale: bool = Field(
        False,
        title="Scale up what is kept",
        description="true scales a trimmed task vector so that its magnitudes add up to what they did before.",
    )


class Trimming(NamedTuple):
    """How one task vector is trimmed: which elements are kept, and what they are multiplied by."""

    cutoff: Cutoff
    growth: float = 1.0


def survey(delta: Parts, numel: int, own: SparseShare, options: TiesOptions) -> Trimming | None:
    """All but the largest `density` of a task vector's elements are trimmed; one is kept where density is not 0."""
    if own.density >= 1:
        return None
    cutoff = find_cutoff(delta, numel, max(1, int(own.density * numel)) if own.density > 0 else 0)
    if not options.rescale:
        return Trimming(cutoff)
    before = after = 0.0
    start = 0
    for part in delta():
        sizes = part.double().abs()
        before += float(sizes.sum())
        after += float(sizes.mul_(cutoff.chosen(part, start)).sum())
        start += len(part)
    return Trimming(cutoff, before / after if after else 1.0)


@merge_method(
    "ties",
    title="TIES",
    summary="Keeps the largest elements of each task vector, elects a sign for each element, and averages those that "
    "have it.",
    when="Several experts of different tasks whose task vectors get in each other's way. With density 1, the default "
    "as in mergekit, nothing is trimmed and only signs are elected; the paper keeps 0.2, our own runs kept 0.5. "
    "Where statistics are published, compare it with regmean, which was ahead on sentiment and level on named "
    "entities in our own runs.",
    paper="https://arxiv.org/abs/2306.01708",
    options=TiesOptions,
    own_options=SparseShare,
    base="needed",
    whole_tensor=True,
    survey=survey,
    cost=of_dropping,
    models=(1, None),
)
def ties(layer: Layer, options: TiesOptions) -> Merged:
    """Yadav et al. 2023, "TIES-Merging": trim each `δ_i` to its density, elect signs, disjoint mean."""
    deltas = differences(layer)
    for index, (delta, own) in enumerate(zip(deltas, layer.own, strict=True)):
        if layer.surveyed:
            found = layer.surveyed[index]
        else:
            found = survey(partial(_parts, delta), delta.numel(), own, options)
        if found is None:
            continue
        keep(delta, found.cutoff, layer.start)
        if found.growth != 1:
            delta.mul_(found.growth)
    return elect_and_add_up(layer, deltas, options)


def _parts(delta: Tensor) -> Iterator[Tensor]:
    yield delta.reshape(-1)
