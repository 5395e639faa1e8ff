"""How well a gram is known from the texts it was summed over: by two halves of them, seen through random vectors.

Two halves of a sample differ from each other as they differ from what all texts would give, up to a factor that their
sizes say. To compare them, neither need be kept: the squared length of A w, for a vector w of independent standard
normal numbers, is on average the squared Frobenius norm of A (Hutchinson, 1989), and of a sum H, H w is summed up as
easily as H is, in n numbers where H has n².
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fusehub.utils.devices import has_float64
from fusehub.utils.products import product

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PROBES = 8
"""Random vectors. What they tell of a matrix of many numbers is right to some percent; each costs a pass over them."""


def halves_of(examples: int) -> Tensor:
    """Which half each of so many examples is in, 0 or 1: [examples]; at random, since data may be in any order, and
    always the same, however they are put into batches and spread over processes."""
    import torch

    return torch.randperm(examples, generator=torch.Generator().manual_seed(0)) % 2


def half_bytes(size: int) -> int:
    """Bytes of a `HalfSum`: of its vectors in float32, what they see in float64, and a count."""
    return (4 + 8) * size * PROBES + 8


class HalfSum:
    """`H W` of one half of all rows, for `PROBES` random vectors `W`: [size, PROBES]; and how many rows that are."""

    def __init__(self, size: int, device: torch.device | str = "cpu") -> None:
        import torch

        # The same vectors for every layer of that size, in every process: sums of several can then be added.
        self.vectors = torch.randn(size, PROBES, generator=torch.Generator().manual_seed(size)).to(device)
        place = device if has_float64(device) else "cpu"
        self._seen = torch.zeros(size, PROBES, dtype=torch.float64, device=place)
        self._rows = torch.zeros(1, dtype=torch.int64)

    def add(self, x: Tensor, columns: Tensor, times: int, half: int | Tensor) -> None:
        """Counts the rows `x`, [n, size] float32, each of them `times` times, in the half 0 or 1; [n] of such, where
        it is not the same for all. `columns` are the same turned round, [size, n]."""
        if isinstance(half, int) and not half:
            return
        seen = product(x, self.vectors.T)
        if not isinstance(half, int):
            seen *= half[:, None]
        self._seen.add_(product(columns, seen.T).to(self._seen.device), alpha=times)
        self._rows += (len(x) if isinstance(half, int) else int(half.sum())) * times

    def tensors(self) -> list[Tensor]:
        """What is summed, to be reduced over processes in place."""
        return [self._seen, self._rows]

    def standard_error(self, whole: Tensor, diagonal: Tensor, rows: int) -> float | None:
        """The standard error of the gram `S` of all `rows`, relative to its own size; None where one half has none.

        Both are Frobenius norms with each input (row of the gram) scaled to length 1, so that the inputs with large
        numbers do not speak for all. `whole` is `S W`, [size, PROBES] float64; `diagonal` that of `S`, [size].
        """
        import torch

        own = int(self._rows)
        if not 0 < own < rows:
            return None
        second = self._seen.cpu()
        scale = torch.where(diagonal > 0, diagonal.rsqrt(), 0.0)[:, None]
        apart = float((scale * (second / own - (whole - second) / (rows - own))).norm())
        size = float((scale * whole / rows).norm())
        # The variance of a mean over all rows is this part of that of the difference of the two halves' means.
        return apart * math.sqrt(own * (rows - own)) / rows / size if size else None
