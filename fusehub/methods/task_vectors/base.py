"""What methods on task vectors share: `δ_i = W_i − W_0`, thinned out, with signs elected, added to the base.

    W = W_0 + λ · Σ w_i m_i δ_i  ( / Σ w_i m_i  where `normalize` )

with `m_i` 1 where expert i takes part in an element, else 0. The words are mergekit's, and so is what they mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fusehub.methods.base import Layer, Merged, Options, Share
from fusehub.methods.mean import shares_of
from fusehub.methods.task_vectors.largest import pieces

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class TaskOptions(Options):
    """Options of all methods on task vectors."""

    normalize: bool = Field(
        False,
        title="Divide by the sum of weights",
        description="true divides by the sum of the weights that take part.",
    )
    lambda_: float = Field(
        1.0,
        alias="lambda",
        allow_inf_nan=False,
        title="Length of the merged update",
        description="what the merged task vector is multiplied by before it is added to the base.",
    )
    int8_mask: bool = Field(
        False,
        title="mergekit's small masks",
        description="accepted as mergekit writes it; masks are a byte an element here, whatever it says.",
    )


class TaskShare(Share):
    """What may be said of each model: the factor of its task vector."""

    weight: float = Field(1.0, allow_inf_nan=False, description="what the model's task vector is multiplied by.")


class SparseShare(TaskShare):
    """For methods that keep some of each task vector's elements."""

    density: float = Field(
        1.0,
        ge=0,
        le=1,
        title="Part of each update that is kept",
        description="the part of the task vector's elements that is kept, 0 to 1. With 1, as in mergekit, all are.",
    )


def differences(layer: Layer) -> list[Tensor]:
    """`δ_i`. Overwrites the layer's tensors, which can be the largest of a model."""
    return [tensor.sub_(layer.needed_base) for tensor in layer.tensors]


def add_up(layer: Layer, deltas: Sequence[Tensor], options: TaskOptions) -> Merged:
    """The weighted sum of task vectors on the base. Overwrites `deltas`."""
    for delta, factor in zip(deltas, factors_of(layer, options), strict=True):
        delta.mul_(factor)
    total, *others = deltas
    for delta in others:
        total.add_(delta)
    return Merged(total.add_(layer.needed_base))


def factors_of(layer: Layer, options: TaskOptions) -> list[float]:
    """What each task vector is multiplied by in their sum. Raises `BadRecipe` where weights cannot be normalised."""
    weights = layer.coefficients
    if options.normalize and any(weights):
        weights = shares_of(layer)
    return [options.lambda_ * weight for weight in weights]


def elect_and_add_up(layer: Layer, deltas: Sequence[Tensor], options: TaskOptions) -> Merged:
    """The same of those elements alone whose sign is that of the sum: TIES' election. Overwrites `deltas`."""
    import torch

    base, flats = layer.needed_base.reshape(-1), [delta.reshape(-1) for delta in deltas]
    # In pieces, of which all that is made on the way stays in the processor's cache. The first is the result's memory.
    for part in pieces(len(base)):
        own = [flat[part] for flat in flats]
        for delta, weight in zip(own, layer.coefficients, strict=True):
            delta.mul_(weight)
        majority = own[0].clone()
        for delta in own[1:]:
            majority.add_(delta)
        # Ones and zeros in the dtype of the numbers: masks of another, and choices by them, take longer than all else.
        sign = majority.ge_(0).mul_(2).sub_(1)
        total, share = torch.zeros_like(sign), torch.zeros_like(sign)
        for delta, weight in zip(own, layer.coefficients, strict=True):
            agrees = (delta * sign).gt_(0)
            total.add_(delta.mul_(agrees))
            share.add_(agrees, alpha=weight)
        if options.normalize:
            total.div_(share.add_(share.clone().eq_(0)))
        own[0].copy_(total.mul_(options.lambda_).add_(base[part]))
    return Merged(flats[0].view(layer.needed_base.shape))


def rescale_to(delta: Tensor, before: float) -> Tensor:
    """`delta` with the sum of its magnitudes brought back to `before`; in place."""
    after = float(delta.abs().sum())
    return delta.mul_(before / after) if after else delta
