"""Gradients of single examples out of one backward pass over a batch.

An operation that uses a parameter tells, from its input and the gradient of its output, what each example's gradient
is: for `x @ W.T` it is `Σ_t δ_t x_tᵀ` over the example's rows t. Each use is a *piece*; the pieces of a parameter that
is used several times are put together before anything is squared.

    pieces = [make(gradient) for make in uses]     # one a use
    add_squares(sums, pieces)                      # sums += Σ_b (Σ pieces of example b)²

`rules()` maps a function of torch to what it does with parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# Elements of the buffer for gradients: what stays in a processor's cache, or keeps an accelerator busy.
_BUFFER, _BUFFER_ACCELERATOR = 2**18, 2**26


@dataclass(frozen=True)
class Product:
    """`Σ_t left_t right_tᵀ`: left [batch, t, r], right [batch, t, c], for a parameter of r * c elements."""

    left: Tensor
    right: Tensor


@dataclass(frozen=True)
class Rows:
    """`values` added to the rows `ids` of a table: [batch, t] and [batch, t, width]."""

    ids: Tensor
    values: Tensor


@dataclass(frozen=True)
class Direct:
    """The gradients themselves: [batch, ...]."""

    values: Tensor


Piece = Product | Rows | Direct
Uses = list[tuple["Tensor", Callable[["Tensor"], Piece]]]


def add_squares(sums: Tensor, pieces: Sequence[Piece]) -> None:
    """Adds the squares of each example's gradient to `sums`, which has the parameter's shape."""
    products = [piece for piece in pieces if isinstance(piece, Product)]
    rows = [piece for piece in pieces if isinstance(piece, Rows)]
    direct = [piece for piece in pieces if isinstance(piece, Direct)]
    # A tensor of its own, which can be squared in place.
    values = sum((piece.values.to(sums.dtype) for piece in direct), sums.new_zeros(())) if direct else None
    if values is not None and not products and not rows:
        sums.add_(values.square_().sum(0).reshape(sums.shape))
    elif not products and not direct:
        _add_rows(sums, rows)
    else:
        _add_products(sums, products, rows, values)


def _add_rows(sums: Tensor, pieces: Sequence[Rows]) -> None:
    """Tables: only the rows that an example uses are touched, and equal ids of one example are summed first."""
    import torch

    ids = torch.cat([piece.ids for piece in pieces], dim=1)
    values = torch.cat([piece.values for piece in pieces], dim=1).to(sums.dtype)
    count, length = ids.shape
    keys = ids + len(sums) * torch.arange(count, device=ids.device)[:, None]
    unique, inverse = keys.reshape(-1).unique(return_inverse=True)
    gradients = values.new_zeros(len(unique), values.shape[-1])
    gradients.index_add_(0, inverse, values.reshape(count * length, -1))
    sums.index_add_(0, unique % len(sums), gradients.square_())


def _add_products(sums: Tensor, products: Sequence[Product], rows: Sequence[Rows], direct: Tensor | None) -> None:
    import torch

    left = torch.cat([piece.left for piece in products], dim=1).to(sums.dtype) if products else None
    right = torch.cat([piece.right for piece in products], dim=1).to(sums.dtype) if products else None
    if left is not None and right is not None:
        flat = sums.view(left.shape[-1], right.shape[-1])
        if left.shape[1] == 1 and not rows and direct is None:
            # One row an example: the square of the product is the product of the squares.
            flat.addmm_(left[:, 0].square().T, right[:, 0].square())
            return
    else:
        flat = sums.view(len(sums), -1)
    first = left if left is not None else direct
    assert first is not None  # Rows alone are added where they stand.
    count = len(first)
    budget = _BUFFER if sums.device.type == "cpu" else _BUFFER_ACCELERATOR
    step = max(1, budget // sums.numel())
    if left is not None and right is not None and not rows and direct is None and step == 1:
        _add_large_products(flat, left, right, budget)
        return
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        if left is not None and right is not None:
            gradients = torch.bmm(left[part].transpose(1, 2), right[part])
        else:
            gradients = flat.new_zeros(part.stop - start, *flat.shape)
        for piece in rows:
            for number, (ids, values) in enumerate(zip(piece.ids[part], piece.values[part], strict=True)):
                gradients[number].index_add_(0, ids, values.to(sums.dtype))
        if direct is not None:
            gradients += direct[part].reshape(gradients.shape)
        if len(gradients) == 1:
            flat.addcmul_(gradients[0], gradients[0])
        else:
            flat.add_(gradients.square_().sum(0))


def _add_large_products(flat: Tensor, left: Tensor, right: Tensor, budget: int) -> None:
    """The same of products alone, a few rows of the parameter at a time: it may be a gigabyte large."""
    import torch

    height = max(1, budget // flat.shape[1])
    for start in range(0, len(flat), height):
        part = slice(start, start + height)
        for one, other in zip(left[:, :, part], right, strict=True):
            gradient = torch.mm(one.T, other)
            flat[part].addcmul_(gradient, gradient)


def _rows(x: Tensor, count: int) -> Tensor:
    """[batch, ..., width] or [batch * t, width] -> [batch, t, width]."""
    return x.reshape(count, -1, x.shape[-1])


def _linear(count: int, out: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Uses:
    uses: Uses = [(weight, lambda gradient: Product(_rows(gradient, count), _rows(input, count)))]
    if bias is not None:
        uses.append((bias, lambda gradient: Direct(_rows(gradient, count).sum(1))))
    return uses


def _addmm(count: int, out: Tensor, input: Tensor, mat1: Tensor, mat2: Tensor) -> Uses:
    """transformers' Conv1D: `bias + x @ W` with W [in, out]."""
    return [
        (mat2, lambda gradient: Product(_rows(mat1, count), _rows(gradient, count))),
        (input, lambda gradient: Direct(_rows(gradient, count).sum(1))),
    ]


def _embedding(
    count: int,
    out: Tensor,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Uses:
    if max_norm is not None or scale_grad_by_freq:
        return []
    ids = input.reshape(count, -1)

    def piece(gradient: Tensor) -> Rows:
        values = _rows(gradient, count)
        if padding_idx is not None:
            # The row of the padding token is not trained: its gradient is zero by definition.
            row = padding_idx % len(weight)
            values = values * (ids != row)[..., None]
        return Rows(ids, values)

    return [(weight, piece)]


def _norm(count: int, normal: Tensor, weight: Tensor | None, bias: Tensor | None) -> Uses:
    """`normal * weight + bias`, with one number of `weight` and `bias` a feature."""
    uses: Uses = []
    if weight is not None:
        uses.append((weight, lambda gradient: Direct(_rows(gradient * normal, count).sum(1))))
    if bias is not None:
        uses.append((bias, lambda gradient: Direct(_rows(gradient, count).sum(1))))
    return uses


def _layer_norm(
    count: int,
    out: Tensor,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Uses:
    from torch.nn import functional

    if len(normalized_shape) != 1:
        return []
    return _norm(count, functional.layer_norm(input, normalized_shape, eps=eps).detach(), weight, bias)


def _rms_norm(
    count: int,
    out: Tensor,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Uses:
    from torch.nn import functional

    if len(normalized_shape) != 1:
        return []
    return _norm(count, functional.rms_norm(input, normalized_shape, eps=eps).detach(), weight, None)


def _conv2d(
    count: int,
    out: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Uses:
    """Patches of images: an unfolded image is rows of a linear layer."""
    from torch.nn import functional

    if groups != 1 or isinstance(padding, str) or out.dim() != 4:
        return []

    def piece(gradient: Tensor) -> Product:
        patches = functional.unfold(input, weight.shape[2:], dilation, padding, stride)
        return Product(gradient.flatten(2).transpose(1, 2), patches.transpose(1, 2))

    uses: Uses = [(weight, piece)]
    if bias is not None:
        uses.append((bias, lambda gradient: Direct(gradient.sum((2, 3)))))
    return uses


def _multiply(count: int, out: Tensor, input: Tensor, other: Any) -> Uses:
    """One operand is a parameter that is the same for all examples; RMSNorm's last step in most models."""
    import torch

    if not isinstance(input, torch.Tensor) or not isinstance(other, torch.Tensor):
        return []
    return [
        (own, _reducing(own, count, by))
        for own, by in ((input, other.detach()), (other, input.detach()))
        if _same_for_all(own, out)
    ]


def _add(count: int, out: Tensor, input: Tensor, other: Any, alpha: float = 1) -> Uses:
    import torch

    if alpha != 1:
        return []
    operands = [own for own in (input, other) if isinstance(own, torch.Tensor) and _same_for_all(own, out)]
    return [(own, _reducing(own, count)) for own in operands]


def _expand(count: int, out: Tensor, input: Tensor, *sizes: Any) -> Uses:
    return [(input, _reducing(input, count))] if _same_for_all(input, out) else []


def _reducing(own: Tensor, count: int, by: Tensor | None = None) -> Callable[[Tensor], Piece]:
    """The piece of a gradient, times `by`, for a parameter that was broadcast."""
    return lambda gradient: _reduced(gradient if by is None else gradient * by, own, count)


def _same_for_all(own: Tensor, out: Tensor) -> bool:
    """Whether `own`, broadcast to `out` [batch, ...], has no values of its own for each example."""
    return own.dim() < out.dim() or (own.dim() == out.dim() and own.shape[0] == 1)


def _reduced(gradient: Tensor, own: Tensor, count: int) -> Direct:
    """The gradient of `own`, which was broadcast, for each example: sums over the axes that it does not have."""
    lead = gradient.dim() - own.dim()
    summed = [axis for axis in range(1, gradient.dim()) if axis < lead or own.shape[axis - lead] == 1]
    if summed:
        gradient = gradient.sum(summed, keepdim=True)
    return Direct(gradient.reshape(count, *own.shape))


@cache
def rules() -> dict[Any, Callable[..., Uses]]:
    """What each function of torch does with the parameters that it is given.

    A rule gets the number of examples, the output, and the function's own arguments; it gives, for each tensor among
    them that has a gradient of its own for each example, what makes a piece of the output's gradient. An argument
    that it leaves out is one that it cannot tell the gradient of.
    """
    import torch
    from torch.nn import functional

    tensor = torch.Tensor
    return {
        functional.linear: _linear,
        torch.addmm: _addmm,
        functional.embedding: _embedding,
        functional.layer_norm: _layer_norm,
        functional.rms_norm: _rms_norm,
        functional.conv2d: _conv2d,
        tensor.expand: _expand,
        **dict.fromkeys((torch.mul, tensor.mul, tensor.__mul__, tensor.__rmul__), _multiply),
        **dict.fromkeys((torch.add, tensor.add, tensor.__add__, tensor.__radd__), _add),
    }


@cache
def flat_rules() -> frozenset[Any]:
    """The functions whose rule also knows outputs of [batch * t, width], the rows of an example after each other."""
    import torch
    from torch.nn import functional

    return frozenset((functional.linear, torch.addmm, functional.layer_norm, functional.rms_norm))
