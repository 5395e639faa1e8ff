"""Model Breadcrumbs: task vectors without their largest and without their smallest elements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fusehub.methods.base import Layer, Merged
from fusehub.methods.cost import of_dropping, of_masking
from fusehub.methods.registry import merge_method
from fusehub.methods.task_vectors.base import (
    SparseShare,
    TaskOptions,
    add_up,
    differences,
    elect_and_add_up,
    rescale_to,
)
from fusehub.methods.task_vectors.largest import largest

if TYPE_CHECKING:
    from torch import Tensor


class BreadcrumbsOptions(TaskOptions):
    """Options of `breadcrumbs` and `breadcrumbs_ties`."""

    rescale: bool = Field(
        False,
        title="Scale up what is kept",
        description="true scales a masked task vector so that its magnitudes add up to what they did before.",
    )


class BreadcrumbsShare(SparseShare):
    """What may be said of each model."""

    gamma: float = Field(
        0.01,
        ge=0,
        le=1,
        title="Part of outliers that is left out",
        description="the part of the largest elements that is left out, 0 to 1.",
    )


@merge_method(
    "breadcrumbs",
    title="Model Breadcrumbs",
    summary="Leaves out the largest and the smallest elements of each task vector, and adds the rest to the base.",
    when="Many experts of different tasks, where a few outliers of one would drown the others; density around 0.9 "
    "and gamma around 0.01. With density 1, the default as in mergekit, nothing is left out.",
    paper="https://arxiv.org/abs/2312.06795",
    options=BreadcrumbsOptions,
    own_options=BreadcrumbsShare,
    base="needed",
    whole_tensor=True,
    cost=of_dropping,
    negative_weights=True,
    models=(1, None),
)
def breadcrumbs(layer: Layer, options: BreadcrumbsOptions) -> Merged:
    """Davari and Belilovsky 2024, "Model Breadcrumbs": layerwise masks, then task arithmetic."""
    return add_up(layer, _masked(layer, options), options)


@merge_method(
    "breadcrumbs_ties",
    title="Model Breadcrumbs with TIES",
    summary="Leaves out the largest and the smallest elements of each task vector, and adds up those that have the "
    "elected sign.",
    when="As breadcrumbs, where the experts also pull in different directions.",
    paper="https://arxiv.org/abs/2312.06795",
    options=BreadcrumbsOptions,
    own_options=BreadcrumbsShare,
    base="needed",
    whole_tensor=True,
    cost=of_masking,
    models=(1, None),
)
def breadcrumbs_ties(layer: Layer, options: BreadcrumbsOptions) -> Merged:
    """The masks of Model Breadcrumbs, then TIES' election of signs."""
    return elect_and_add_up(layer, _masked(layer, options), options)


def _masked(layer: Layer, options: BreadcrumbsOptions) -> list[Tensor]:
    """Each task vector with `density` of its elements: those below the largest `gamma`, which are left out.

    Fewer outliers go where otherwise fewer elements than `density` would be left.
    """
    deltas = differences(layer)
    for delta, own in zip(deltas, layer.own, strict=True):
        if own.density >= 1:
            continue
        before = float(delta.abs().sum()) if options.rescale else 0.0
        kept = int(own.density * delta.numel())
        outliers = min(int(own.gamma * delta.numel()), delta.numel() - kept)
        delta.mul_(largest(delta, kept + outliers) & ~largest(delta, outliers))
        if options.rescale:
            rescale_to(delta, before)
    return deltas
