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

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PROBES = 16
"""Random vectors. What they tell of two random matrices of many numbers is then right to a few percent."""


def halves_of(examples: int) -> Tensor:
    """Which half each of so many examples is in, 0 or 1: [examples]; at random, since data may be in any order, and
    always the same, however they are put into batches and spread over processes."""
    import torch

    return torch.randperm(examples, generator=torch.Generator().manual_seed(0)) % 2


class Halves:
    """`H W` of both halves, for `PROBES` random vectors `W`: [2, size, PROBES]; and how many rows each has."""

    def __init__(self, size: int, device: torch.device | str = "cpu") -> None:
        import torch

        # The same vectors for every layer of that size, in every process: sums of several can then be added.
        self._vectors = torch.randn(size, PROBES, generator=torch.Generator().manual_seed(size)).to(device)
        place = device if has_float64(device) else "cpu"
        self._seen = torch.zeros(2, size, PROBES, dtype=torch.float64, device=place)
        self._rows = torch.zeros(2, dtype=torch.int64)

    def add(self, x: Tensor, times: int, half: int | Tensor) -> None:
        """Counts the rows `x`, [n, size] float32, each of them `times` times, in the half 0 or 1; [n] of such, where
        it is not the same for all."""
        import torch

        seen = x @ self._vectors
        if isinstance(half, int):
            self._seen[half].add_((x.T @ seen).to(self._seen.device), alpha=times)
            self._rows[half] += len(x) * times
            return
        second = half.to(seen.dtype)[:, None]
        both = x.T @ torch.cat([seen * (1 - second), seen * second], dim=1)
        self._seen.add_(both.unflatten(1, (2, PROBES)).transpose(0, 1).to(self._seen.device), alpha=times)
        ones = int(half.sum())
        self._rows += torch.tensor([len(half) - ones, ones]) * times

    def tensors(self) -> list[Tensor]:
        """What is summed, to be reduced over processes in place."""
        return [self._seen, self._rows]

    def standard_error(self, diagonal: Tensor) -> float | None:
        """The standard error of the gram, relative to its own size; None where one half has no rows.

        Both are Frobenius norms with each input (row of the gram) scaled to length 1 by `diagonal`, [size], so that
        the inputs with large numbers do not speak for all.
        """
        import torch

        counts = self._rows.double()
        if not bool((counts > 0).all()):
            return None
        first, second = (self._seen.cpu() / counts[:, None, None]).unbind()
        scale = torch.where(diagonal > 0, diagonal.rsqrt(), 0.0)[:, None]
        shares = counts / counts.sum()
        whole = float((scale * (shares[0] * first + shares[1] * second)).norm())
        # The variance of a mean over all rows is this part of that of the difference of the two halves' means.
        apart = float((scale * (first - second)).norm()) * math.sqrt(float(shares[0] * shares[1]))
        return apart / whole if whole else None
