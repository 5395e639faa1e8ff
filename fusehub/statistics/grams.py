"""Sums of x xᵀ over the rows of a linear layer's input, kept as the upper triangle only.

The matrix is symmetric, so it is kept as blocks of rows that start at the diagonal: half of the memory and,
since each block is one product, close to half of the multiplications.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusehub.statistics.halves import HalfSum, half_bytes
from fusehub.utils.devices import has_float64
from fusehub.utils.products import add_product, exact_products, transposed
from fusehub.utils.symmetric import pack_into, unpacked, whole

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import Tensor

    from fusehub.utils.symmetric import Strip


class GramSum:
    """The running sums of one linear layer's inputs: `S = Σ x xᵀ`, `s = Σ x` and `rows`.

    Sums, never means, in float32 whatever the model's dtype is; `s` and the count in float64, `s` on the CPU where
    the device has no float64.
    """

    def __init__(self, size: int, device: torch.device | str = "cpu") -> None:
        import torch

        self.size = size
        self.rows = 0
        self._step = _step(size)
        self._blocks = [torch.zeros(*shape, device=device) for shape in _shapes(size)]
        self.device = torch.device(device)
        place = device if has_float64(device) else "cpu"
        self.total = torch.zeros(size, dtype=torch.float64, device=place)
        self._half = HalfSum(size, device)

    def add(self, rows: Tensor, times: int = 1, half: int | Tensor | None = None) -> None:
        """Counts `rows`, [n, size], each of them `times` times; for `standard_error`, in which `half`, 0 or 1: [n]."""
        x = rows.float()
        inputs = transposed(x)
        with exact_products(rows):
            for block, start in zip(self._blocks, range(0, self.size, self._step), strict=True):
                add_product(block, inputs[start : start + self._step], inputs[start:], factor=times)
        self.total.add_(x.sum(0).to(self.total.device), alpha=times)
        self.rows += len(x) * times
        if half is not None:
            self._half.add(x, inputs[:, : len(x)], times, half)

    @property
    def standard_error(self) -> float | None:
        """The relative standard error of `S` (see `HalfSum`); None where not both halves were counted."""
        import torch

        vectors = self._half.vectors.cpu()
        whole = torch.zeros(vectors.shape, dtype=torch.float64)
        for start, strip in self.strips(torch.float32):
            end = start + len(strip)
            whole[start:end] += strip @ vectors[start:]
            whole[end:] += strip[:, end - start :].T @ vectors[start:end]
        return self._half.standard_error(whole, self.diagonal(), self.rows)

    def tensors(self) -> list[Tensor]:
        """The tensors that hold the sums, to be reduced over processes in place."""
        return [*self._blocks, self.total, *self._half.tensors()]

    def diagonal(self) -> Tensor:
        """The sums of squares of each input: [size], float64, on the CPU."""
        import torch

        return torch.cat([block.diagonal() for block in self._blocks]).cpu().double()

    def strips(self, dtype: torch.dtype, device: str = "cpu") -> Iterator[Strip]:
        """The strips of `S` (see `fusehub.utils.symmetric`); copies."""
        for block, start in zip(self._blocks, range(0, self.size, self._step), strict=True):
            rows = block.to(device).to(dtype, copy=True)
            square = rows[:, : len(rows)]
            square.triu_().add_(square.triu(1).T)
            yield start, rows

    def packed(self) -> Tensor:
        """The upper triangle of `S`, row after row: [size * (size + 1) / 2], float32, on the CPU."""
        import torch

        packed = torch.empty(self.size * (self.size + 1) // 2)
        for block, start in zip(self._blocks, range(0, self.size, self._step), strict=True):
            pack_into(packed, start, block.cpu())
        return packed


def sum_bytes(size: int) -> int:
    """Bytes of a `GramSum`: of its blocks, its total, and what is kept for the standard error."""
    return sum(4 * rows * columns for rows, columns in _shapes(size)) + 8 * size + half_bytes(size)


def triangle_bytes(size: int) -> int:
    """Bytes of `GramSum.packed`."""
    return 4 * size * (size + 1) // 2


def _step(size: int) -> int:
    """Rows of a block. Small ones save multiplications, large ones run faster: measured optimum."""
    return 128 if size <= 1024 else 256


def _shapes(size: int) -> list[tuple[int, int]]:
    """Those of the blocks."""
    step = _step(size)
    return [(min(step, size - start), size - start) for start in range(0, size, step)]


def pack(matrix: Tensor) -> Tensor:
    """The upper triangle of a square matrix, row after row: [size, size] -> [size * (size + 1) / 2]."""
    import torch

    return torch.cat([matrix[row, row:] for row in range(len(matrix))])


def unpack(packed: Tensor, size: int) -> Tensor:
    """The symmetric matrix of a packed upper triangle: [size * (size + 1) / 2] -> [size, size], float64."""
    import torch

    return whole(unpacked(packed, size), size, torch.float64)


def packed_diagonal(size: int) -> Tensor:
    """Where in a packed upper triangle the diagonal's elements lie: [size] indices."""
    import torch

    rows = torch.arange(size)
    return rows * size - rows * (rows - 1) // 2
