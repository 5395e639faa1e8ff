"""DARE: drop elements of the task vectors at random, and scale up the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fusehub.methods.base import Layer, Merged
from fusehub.methods.cost import of_dropping, of_masking
from fusehub.methods.registry import merge_method
from fusehub.methods.task_vectors.base import SparseShare, TaskOptions, add_up, differences, elect_and_add_up

if TYPE_CHECKING:
    from torch import Tensor


class DareOptions(TaskOptions):
    """Options of `dare_linear` and `dare_ties`."""

    rescale: bool = Field(
        True,
        title="Scale up what is kept",
        description="true divides what is kept by the density, so that its mean stays.",
    )


@merge_method(
    "dare_linear",
    title="DARE",
    summary="Drops elements of each task vector at random, scales up the rest, and adds them to the base.",
    when="Many experts over one large base, whose task vectors are small and redundant: a density of 0.1 to 0.5 "
    "makes them collide less; with 1, the default as in mergekit, nothing is dropped. The draw depends on the seed; "
    "on small models it costs accuracy.",
    paper="https://arxiv.org/abs/2311.03099",
    options=DareOptions,
    own_options=SparseShare,
    base="needed",
    whole_tensor=True,
    cost=of_dropping,
    negative_weights=True,
    models=(1, None),
)
def dare_linear(layer: Layer, options: DareOptions) -> Merged:
    """Yu et al. 2024, "Language models are super Mario": drop and rescale, then task arithmetic."""
    return add_up(layer, dropped(layer, options), options)


@merge_method(
    "dare_ties",
    title="DARE with TIES",
    summary="Drops elements of each task vector at random, scales up the rest, and adds up those that have the "
    "elected sign.",
    when="As dare_linear, where the experts also pull in different directions.",
    paper="https://arxiv.org/abs/2311.03099",
    options=DareOptions,
    own_options=SparseShare,
    base="needed",
    whole_tensor=True,
    cost=of_masking,
    models=(1, None),
)
def dare_ties(layer: Layer, options: DareOptions) -> Merged:
    """DARE's drop and rescale, then TIES' election of signs."""
    return elect_and_add_up(layer, dropped(layer, options), options)


def dropped(layer: Layer, options: DareOptions) -> list[Tensor]:
    """The task vectors with each element kept with the probability `density`, and divided by it."""
    import torch

    deltas = differences(layer)
    for index, (delta, own) in enumerate(zip(deltas, layer.own, strict=True)):
        if own.density < 1:
            delta.mul_(torch.rand(delta.shape, generator=layer.random(index)) < own.density)
            if options.rescale and own.density > 0:
                delta.div_(own.density)
    return deltas
