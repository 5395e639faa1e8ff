"""The plain mean of weights, weighted by the experts' coefficients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fusehub.errors import BadRecipe
from fusehub.methods.base import Layer, Merged, Options
from fusehub.methods.registry import merge_method

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class MeanOptions(Options):
    """Options of `mean`."""

    normalize: bool = Field(
        True,
        title="Divide by the sum of weights",
        description="true divides by the sum of the coefficients; false does not.",
    )


def shares_of(layer: Layer) -> list[float]:
    """The coefficients divided by their sum. Raises `BadRecipe` naming the tensor where that is not above zero."""
    total = sum(layer.coefficients)
    if total <= 0:
        raise BadRecipe(
            f"{layer.name}: the weights add up to {total:g}, which nothing can be divided by.",
            "Say normalize=false, or give weights with a sum above zero.",
        )
    return [coefficient / total for coefficient in layer.coefficients]


def factors_of(layer: Layer, options: MeanOptions) -> list[float]:
    """What each tensor is multiplied by in their sum."""
    return shares_of(layer) if options.normalize else list(layer.coefficients)


@merge_method(
    "mean",
    title="Mean of the weights",
    summary="Averages every tensor. Needs nothing but the weights; the line that every other method has to beat.",
    when="Experts of one task over one base that differ little, as runs with other seeds; and always first, to see "
    "what another method is worth.",
    paper="https://arxiv.org/abs/2203.05482",
    options=MeanOptions,
    factors=factors_of,
    absolute_weights_with={"normalize": False},
    negative_weights=True,
    aliases=("linear",),
)
def mean(layer: Layer, options: MeanOptions) -> Merged:
    """`Σ c_i W_i / Σ c_i` (Wortsman et al. 2022, "Model soups"; the baseline of Jin et al. 2023)."""
    import torch

    total = sum(layer.coefficients)
    if min(layer.coefficients) >= 0 and total > 0:
        merged = weighted_mean(layer.tensors, layer.coefficients)
        return Merged(merged if options.normalize else merged * total)
    factors = factors_of(layer, options)
    parts = (tensor * factor for tensor, factor in zip(layer.tensors, factors, strict=True))
    return Merged(sum(parts, torch.zeros(())))


def weighted_mean(tensors: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """`Σ c_i W_i / Σ c_i` as a running mean, each step `m + c/Σc · (W − m)`: one pass a tensor, and identical
    tensors give themselves to the last bit whatever the coefficients. Same shape and dtype as the tensors."""
    merged, total = None, 0.0
    for tensor, coefficient in zip(tensors, coefficients, strict=True):
        if not coefficient:
            continue
        total += coefficient
        if merged is None:
            merged = tensor.clone()
        else:
            merged.lerp_(tensor, coefficient / total)
    assert merged is not None  # The coefficients have a sum above zero.
    return merged
