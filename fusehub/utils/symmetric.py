"""Symmetric matrices in strips, so that a large one need not be there as a whole, or twice.

A strip of `S`, [n, n], is some rows from the diagonal on: `(start, rows)` with `rows = S[start:start + k, start:]`,
whose first k columns are symmetric. All strips of a matrix, one after the other, are its upper triangle; whoever is
given one may overwrite it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from fusehub.utils.products import add_product, product

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Strip: TypeAlias = "tuple[int, Tensor]"
# Rows of a strip: enough for a product to be as fast as that of the whole, few enough to stay near the processor.
STEP = 256
# So few rows are solved for by reading the factor, which takes longer than multiplying: row by row, as it lies.
_FEW = 16
# Numbers that are left free after each row.
_ROOM = 16


def spaced(rows: int, columns: int, **kind: Any) -> Tensor:
    """Zeros, [rows, columns], with a little room after each row; `kind` has their dtype and device.

    Without it the rows of many layers lie a multiple of 4,096 bytes apart, where a processor's cache has the same few
    places for a whole column: to turn a part of them round took eight times as long.
    """
    import torch

    return torch.zeros(rows, columns + _ROOM, **kind)[:, :columns]


def bounds(size: int) -> Iterator[tuple[int, int]]:
    """Where the strips of a matrix of `size` rows begin and end."""
    return ((start, min(size, start + STEP)) for start in range(0, size, STEP))


def strips_of(matrix: Tensor, dtype: torch.dtype) -> Iterator[Strip]:
    """The strips of a matrix that is there: [n, n]; copies."""
    for start, stop in bounds(len(matrix)):
        yield start, matrix[start:stop, start:].to(dtype, copy=True)


def unpacked(packed: Tensor, size: int) -> Iterator[Strip]:
    """The strips of a packed upper triangle, [size * (size + 1) / 2], in its dtype."""
    offset, source = 0, _array(packed)
    for start, stop in bounds(size):
        width = size - start
        rows = spaced(stop - start, width, dtype=packed.dtype, device=packed.device)
        target = _array(rows)
        for row in range(stop - start):
            target[row, row:] = source[offset : offset + width - row]
            offset += width - row
        square = rows[:, : stop - start]
        square.add_(square.triu(1).T)
        yield start, rows


def pack_into(packed: Tensor, start: int, rows: Tensor) -> None:
    """Puts a strip that begins at row `start` to its place in a packed upper triangle."""
    size = start + rows.shape[1]
    offset = start * size - start * (start - 1) // 2
    target, source = _array(packed), _array(rows.to(packed.device))
    for row in range(len(rows)):
        width = rows.shape[1] - row
        target[offset : offset + width] = source[row, row:]
        offset += width


def _array(tensor: Tensor) -> Any:
    """The same numbers as an array of NumPy, which unpacks a triangle in a quarter of the time; on another
    device the tensor itself."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def whole(strips: Iterator[Strip], size: int, dtype: torch.dtype) -> Tensor:
    """The matrix of all its strips: [size, size]."""
    import torch

    matrix = torch.empty(size, size, dtype=dtype)
    for start, rows in strips:
        matrix[start : start + len(rows), start:] = rows
    mirror(matrix)
    return matrix


def mirror(matrix: Tensor) -> None:
    """Copies what is above the diagonal of a square matrix to below it."""
    for start, stop in bounds(len(matrix)):
        square = matrix[start:stop, start:stop]
        square.triu_().add_(square.triu(1).T)
        matrix[stop:, start:stop] = matrix[start:stop, stop:].T


def add_strip_product(strip: Strip, factor: Tensor, out: Tensor) -> None:
    """Adds to `out`, [m, n], what one strip of `S` has in `factor @ S`."""
    start, rows = strip
    stop = start + len(rows)
    add_product(out[:, start:stop], factor[:, start:], rows)
    add_product(out[:, stop:], factor[:, start:stop], rows[:, stop - start :].T)


class Factorized:
    """The Cholesky factor `L` of a symmetric matrix `S`, and `S` itself, in the memory of one matrix.

    `matrix`, [n, n] and symmetric, is overwritten: its strict upper triangle stays, and `L` takes the rest. Only
    where `ok` is it positive definite, and may be solved with.
    """

    def __init__(self, matrix: Tensor) -> None:
        self._matrix = matrix
        self._diagonal = matrix.diagonal().clone()
        self._inverses: list[Tensor] = []
        """Of the blocks on the diagonal of `L`, in float32: a product takes a fraction of the time of a solve."""
        self.ok = self._factorize()

    def _factorize(self) -> bool:
        """Column block by column block; half of the multiplications of the whole, since symmetry is made use of."""
        import torch

        matrix = self._matrix
        for start, stop in bounds(len(matrix)):
            square, below = matrix[start:stop, start:stop], matrix[stop:, start:stop]
            # Above the diagonal, the matrix's own numbers stay.
            kept = square.triu(1)
            add_product(matrix[start:, start:stop], matrix[start:, :start], matrix[start:stop, :start], factor=-1.0)
            factor, info = torch.linalg.cholesky_ex(square.tril() + square.tril(-1).T)
            square.copy_(kept.add_(factor))
            if int(info):
                return False
            if matrix.dtype == torch.float32:
                unit = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
                self._inverses.append(torch.linalg.solve_triangular(factor, unit, upper=False))
            self._divide(below, start // STEP, transposed=True)
        return True

    @property
    def dtype(self) -> torch.dtype:
        """What the factor is in."""
        return self._matrix.dtype

    @property
    def least_pivot(self) -> float:
        """The least square on the diagonal of `L`. A matrix of unit diagonal has its inverse as condition, or more."""
        return float(self._matrix.diagonal().min()) ** 2

    def solve(self, right: Tensor) -> Tensor:
        """`right S⁻¹`: [m, n]. Overwrites `right`."""
        lower = self._matrix
        steps = [*bounds(len(lower))]
        for start, stop in steps:
            part = right[:, start:stop]
            add_product(part, right[:, :start], lower[start:stop, :start], factor=-1.0)
            self._divide(part, start // STEP, transposed=True)
        for start, stop in reversed(steps):
            part = right[:, start:stop]
            if len(right) > _FEW:
                add_product(part, right[:, stop:], lower[stop:, start:stop].T, factor=-1.0)
            self._divide(part, start // STEP, transposed=False)
            if len(right) <= _FEW:
                right[:, :start].addmm_(part, lower[start:stop, :start], alpha=-1)
        return right

    def _divide(self, part: Tensor, block: int, *, transposed: bool) -> None:
        """`part L⁻¹` of one block of `L` on the diagonal, or `part L⁻ᵀ`, in place: [m, k]."""
        import torch

        if self._inverses:
            inverse = self._inverses[block]
            divided = product(part, inverse if transposed else inverse.T)
        else:
            own = slice(block * STEP, (block + 1) * STEP)
            lower = self._matrix[own, own]
            divided = torch.linalg.solve_triangular(
                lower.T if transposed else lower, part, upper=transposed, left=False
            )
        part.copy_(divided)

    def times(self, factor: Tensor) -> Tensor:
        """`factor @ S` for [m, n], in the dtype of `factor` and where that is."""
        out = factor.new_zeros(factor.shape)
        for start, stop in bounds(len(self._matrix)):
            rows = self._matrix[start:stop, start:].to(factor.device).to(factor.dtype, copy=True)
            square = rows[:, : stop - start]
            square.triu_(1)
            square.add_(square.T.clone())
            square.diagonal().copy_(self._diagonal[start:stop])
            add_strip_product((start, rows), factor, out)
        return out

    def restored(self) -> Tensor:
        """`S` once more, in the same memory; the factor is lost."""
        self._matrix.diagonal().copy_(self._diagonal)
        mirror(self._matrix)
        return self._matrix
