"""TIES: trim, elect sign, merge those that agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fusehub.methods.base import Layer, Merged
from fusehub.methods.cost import of_dropping
from fusehub.methods.registry import merge_method
from fusehub.methods.task_vectors.base import SparseShare, TaskOptions, differences, elect_and_add_up, rescale_to
from fusehub.methods.task_vectors.largest import keep_largest

if TYPE_CHECKING:
    from torch import Tensor


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
    cost=of_dropping,
    models=(1, None),
)
def ties(layer: Layer, options: TiesOptions) -> Merged:
    """Yadav et al. 2023, "TIES-Merging": trim each `δ_i` to its density, elect signs, disjoint mean."""
    deltas = differences(layer)
    for delta, own in zip(deltas, layer.own, strict=True):
        trim(delta, own.density, rescale=options.rescale)
    return elect_and_add_up(layer, deltas, options)


def trim(delta: Tensor, density: float, *, rescale: bool) -> None:
    """Sets all but the largest `density` of the elements to zero, in place; one is kept where density is not 0."""
    if density >= 1:
        return
    before = float(delta.abs().sum()) if rescale else 0.0
    count = max(1, int(density * delta.numel())) if density > 0 else 0
    keep_largest(delta, count)
    if rescale:
        rescale_to(delta, before)
