"""SLERP: from one model to another along the arc instead of the straight line, of two models exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fusehub.methods.base import Layer, Merged, NoShare, Options, Share
from fusehub.methods.cost import of_arc
from fusehub.methods.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor

# Above this cosine the arc and the line are one, and the formula divides by almost nothing.
_PARALLEL = 0.9995
_TINY = 1e-8


class SlerpOptions(Options):
    """Options of `slerp`."""

    t: float = Field(
        0.5,
        ge=0,
        le=1,
        title="How far towards the second model",
        description="how far from the first model (the base, where one is said) to the other, 0 to 1.",
    )


@merge_method(
    "slerp",
    title="SLERP",
    summary="Interpolates each tensor of two models along the arc between them, so that its length is kept.",
    when="Two models that are rather far from each other, with t by layer. Experts of one base are so close that it "
    "is the straight line, the mean.",
    paper="https://en.wikipedia.org/wiki/Slerp",
    options=SlerpOptions,
    own_options=NoShare,
    base="end",
    tune_over={"t": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)},
    whole_tensor=True,
    cost=of_arc,
    models=(2, 2),
)
def slerp(layer: Layer, options: SlerpOptions) -> Merged:
    """Shoemake 1985, "Animating rotation with quaternion curves", on each tensor as one vector."""
    a, b = layer.tensors
    return Merged(arc(a, b, options.t, _cosine(a, b)))


class NuslerpOptions(Options):
    """Options of `nuslerp`."""

    nuslerp_flatten: bool = Field(
        True, title="Tensors as one vector", description="true takes a tensor as one vector; false takes its rows."
    )
    nuslerp_row_wise: bool = Field(
        False, title="Columns in place of rows", description="with nuslerp_flatten=false: columns instead of rows."
    )


@merge_method(
    "nuslerp",
    title="NuSLERP",
    summary="SLERP between two models by their weights; with a base, between their task vectors.",
    when="Two experts over a base whose task vectors differ in direction: the arc keeps their length, which a mean "
    "shrinks.",
    paper="https://en.wikipedia.org/wiki/Slerp",
    options=NuslerpOptions,
    own_options=Share,
    base="origin",
    whole_tensor=True,
    cost=of_arc,
    models=(2, 2),
)
def nuslerp(layer: Layer, options: NuslerpOptions) -> Merged:
    """SLERP at `t = w_2 / (w_1 + w_2)`, of whole tensors or of their rows or columns."""
    a, b = layer.tensors
    if layer.base is not None:
        a, b = a - layer.base, b - layer.base
    dim = None if options.nuslerp_flatten or a.ndim == 0 else 0 if options.nuslerp_row_wise else -1
    merged = arc(a, b, layer.coefficients[1] / sum(layer.coefficients), _cosine(a, b, dim))
    return Merged(merged if layer.base is None else merged + layer.base)


def arc(a: Tensor, b: Tensor, t: float, cosine: Tensor) -> Tensor:
    """The point at `t` of the arc from `a` to `b`, which have this cosine; of the line where there is no arc."""
    import torch

    straight = cosine.abs() > _PARALLEL
    angle = torch.acos(torch.where(straight, 0.0, cosine))
    sine = torch.sin(angle)
    first = torch.where(straight, 1 - t, torch.sin((1 - t) * angle) / sine)
    second = torch.where(straight, t, torch.sin(t * angle) / sine)
    return (first * a).add_(second * b).reshape(a.shape)


def _cosine(a: Tensor, b: Tensor, dim: int | None = None) -> Tensor:
    """The cosine of two tensors, as one vector each or along `dim`, which stays with size 1; float64.

    A vector of almost no length is orthogonal to all.
    """
    import torch

    if dim is None:
        a, b, dim = a.flatten(), b.flatten(), 0
    norms = [torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.float64) for x in (a, b)]
    product = (a.double() * b.double()).sum(dim=dim, keepdim=True)
    lengths = norms[0].clamp_min(_TINY) * norms[1].clamp_min(_TINY)
    return (product / lengths).clamp_(-1, 1)
