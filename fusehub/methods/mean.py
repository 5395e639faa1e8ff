"""The plain mean of weights, weighted by the experts' coefficients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fusehub.errors import BadRecipe
from fusehub.methods.registry import Layer, Merged, Options, merge_method

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class MeanOptions(Options):
    """Options of `mean`."""

    normalize: bool = Field(True, description="true divides by the sum of the coefficients; false does not.")


@merge_method(
    "mean",
    title="Mean of the weights",
    summary="Averages every tensor. Needs nothing but the weights; the line that every other method has to beat.",
    when="Experts of one task over one base that differ little, as runs with other seeds; and always first, to see "
    "what another method is worth.",
    paper="https://arxiv.org/abs/2203.05482",
    options=MeanOptions,
    negative_weights=True,
    aliases=("linear",),
)
def mean(layer: Layer, options: MeanOptions) -> Merged:
    """`Σ c_i W_i / Σ c_i` (Wortsman et al. 2022, "Model soups"; the baseline of Jin et al. 2023)."""
    share = sum(layer.coefficients)
    if min(layer.coefficients) >= 0 and share > 0:
        merged = weighted_mean(layer.tensors, layer.coefficients)
        return Merged(merged if options.normalize else merged * share)
    merged = sum(tensor * coefficient for tensor, coefficient in zip(layer.tensors, layer.coefficients, strict=True))
    if options.normalize and share <= 0:
        raise BadRecipe(
            f"{layer.name}: the weights add up to {share:g}, which nothing can be divided by.",
            "Say normalize=false, or give weights with a sum above zero.",
        )
    return Merged(merged / share if options.normalize else merged)


def weighted_mean(tensors: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """`Σ c_i W_i / Σ c_i` as a running mean, each step `m + c/Σc · (W − m)`: one pass a tensor, and identical
    tensors give themselves to the last bit whatever the coefficients. Same shape and dtype as the tensors."""
    merged, total = None, 0.0
    for tensor, coefficient in zip(tensors, coefficients, strict=True):
        total += coefficient
        if merged is None and coefficient:
            merged = tensor.clone()
        elif coefficient:
            merged.lerp_(tensor, coefficient / total)
    return merged
