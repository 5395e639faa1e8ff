"""DELLA: as DARE, but small elements of a task vector are dropped more often than large ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fusehub.errors import BadRecipe
from fusehub.methods.base import Layer, Merged
from fusehub.methods.cost import of_dropping, of_election
from fusehub.methods.registry import merge_method
from fusehub.methods.task_vectors.base import (
    SparseShare,
    TaskOptions,
    add_up,
    differences,
    elect_and_add_up,
    rescale_to,
)

if TYPE_CHECKING:
    from torch import Tensor


class DellaLinearOptions(TaskOptions):
    """Options of `della_linear`."""

    rescale: bool = Field(
        True,
        title="Scale up what is kept",
        description="true scales a thinned task vector so that its magnitudes add up to what they did before.",
    )


class DellaOptions(DellaLinearOptions):
    """Options of `della`."""

    normalize: bool = Field(
        True,
        title="Divide by the sum of weights",
        description="true divides by the sum of the weights that take part.",
    )


class DellaShare(SparseShare):
    """What may be said of each model."""

    epsilon: float = Field(
        0.15,
        ge=0,
        lt=0.5,
        title="Spread of the draw",
        description="how far the probability to be kept goes below and above density; both ends lie between 0 and 1.",
    )


@merge_method(
    "della",
    title="DELLA",
    summary="Drops elements of each task vector at random, small ones more often, and averages those that have the "
    "elected sign.",
    when="As dare_ties; the draw by size loses less at low density.",
    paper="https://arxiv.org/abs/2406.11617",
    options=DellaOptions,
    own_options=DellaShare,
    base="needed",
    whole_tensor=True,
    cost=of_election,
    models=(1, None),
)
def della(layer: Layer, options: DellaOptions) -> Merged:
    """Deep et al. 2024, "DELLA-Merging": MagPrune by rows, then TIES' election of signs."""
    return elect_and_add_up(layer, _pruned(layer, options), options)


@merge_method(
    "della_linear",
    title="DELLA without election",
    summary="Drops elements of each task vector at random, small ones more often, and adds the rest to the base.",
    when="As dare_linear; the draw by size loses less at low density.",
    paper="https://arxiv.org/abs/2406.11617",
    options=DellaLinearOptions,
    own_options=DellaShare,
    base="needed",
    whole_tensor=True,
    cost=of_dropping,
    negative_weights=True,
    models=(1, None),
)
def della_linear(layer: Layer, options: DellaLinearOptions) -> Merged:
    """DELLA's MagPrune, then task arithmetic."""
    return add_up(layer, _pruned(layer, options), options)


def _pruned(layer: Layer, options: DellaLinearOptions) -> list[Tensor]:
    """The task vectors, each element kept with a probability that grows with its rank in its row."""
    import torch

    deltas = differences(layer)
    for index, (delta, own) in enumerate(zip(deltas, layer.own, strict=True)):
        if own.density >= 1:
            continue
        if own.density <= 0:
            delta.zero_()
            continue
        if not own.epsilon < min(own.density, 1 - own.density):
            raise BadRecipe(
                f"{layer.name}: density {own.density:g} with epsilon {own.epsilon:g} goes beyond 0 or 1.",
                "Choose epsilon smaller than density and than 1 - density.",
            )
        before = float(delta.abs().sum()) if options.rescale else 0.0
        rows = delta.abs().reshape(1 if delta.ndim < 2 else len(delta), -1)
        ranks = rows.argsort(dim=1, stable=True).argsort(dim=1).float() / max(1, rows.shape[1] - 1)
        chances = own.density - own.epsilon + 2 * own.epsilon * ranks
        drawn = torch.rand(chances.shape, generator=layer.random(index)) < chances
        delta.mul_(drawn.view(delta.shape))
        if options.rescale:
            rescale_to(delta, before)
    return deltas
