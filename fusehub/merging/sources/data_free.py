"""Statistics without data: an expert's own update stands in for its gram.

    G = ΔᵀΔ,  Δ = W − W₀

A linear layer's update is a sum of gradients, `Δ = Σ g xᵀ`, so its rows lie where the layer's inputs lay, and `ΔᵀΔ`
is a gram of those inputs, each weighted by how much the layer learned from it. Nothing has to be published for it,
but the base W₀ must be known, and its scale means nothing: it is set to that of the other experts' grams.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fusehub.merging.sources.source import SourceLayer, StatisticsSource, Wanted
from fusehub.utils.symmetric import bounds

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fusehub.methods.base import LayerStatistics
    from fusehub.utils.symmetric import Strip

DATA_FREE = "data-free"


@dataclass(frozen=True)
class DataFree(StatisticsSource):
    """There are no statistics, and the expert's update is to stand in for them."""

    name = DATA_FREE
    place = "none: its difference to the base stands in for them"
    stands_by_update = True
    # ΔᵀΔ is made for the sum, and again for the right side.
    update_products = 2

    @classmethod
    def find(cls, wanted: Wanted) -> DataFree:
        """Always there."""
        return cls()

    @property
    def origin(self) -> str:
        """`data-free`"""
        return DATA_FREE

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Nothing is known."""
        return MappingProxyType({})

    @property
    def knows_means(self) -> bool:
        """An update does not tell its inputs' mean."""
        return False

    def words(self) -> str:
        """That there are none."""
        return "none; its difference to the base stands in for them (data-free)"

    def notes(self, wanted: Wanted) -> list[str]:
        """That there are none, where the method itself would take some."""
        if wanted.method.data_free:
            return []
        return [f"Without statistics: {wanted.ref.name}. The difference to the base stands in for them (data-free)."]

    def open(self) -> AbstractContextManager[dict[str, SourceLayer]]:
        """Nothing is counted."""
        return contextlib.nullcontext({})


@dataclass(frozen=True)
class UpdateGram:
    """`ΔᵀΔ` of one layer, in the place of `S`: as large as the other experts' grams, and as if of `rows` rows."""

    delta: Tensor
    rows: int
    scale: float

    @classmethod
    def of(cls, delta: Tensor, others: Sequence[LayerStatistics]) -> UpdateGram:
        """The gram of the update `delta`, [out, in], beside the statistics of the experts that have some.

        Its trace a row is the mean of theirs, so that all experts have the same say; 1 where there are no others.
        An update of zero says nothing: its gram is zero.
        """
        import torch

        counted = [other for other in others if other.rows]
        rows = round(sum(other.rows for other in counted) / len(counted)) if counted else 1
        traces = [float(other.diagonal().sum()) / other.rows for other in counted]
        wanted = sum(traces) / len(traces) if traces else 1.0
        trace = float(torch.linalg.vector_norm(delta, dtype=torch.float64)) ** 2
        return cls(delta, rows, wanted * rows / trace if trace else 0.0)

    @property
    def shift(self) -> float:
        """None is needed: `ΔᵀΔ` is computed, not rounded."""
        return 0.0

    @property
    def size(self) -> int:
        """Inputs of the layer."""
        return self.delta.shape[1]

    def diagonal(self) -> Tensor:
        """The diagonal of the scaled `ΔᵀΔ`: [in], float64."""
        return self.delta.double().square().sum(0).mul_(self.scale)

    def strips(self, dtype: torch.dtype, device: str = "cpu") -> Iterator[Strip]:
        """The strips of the scaled `ΔᵀΔ`, computed in `dtype`."""
        delta = self.delta.to(dtype).to(device)
        for start, stop in bounds(self.size):
            yield start, (delta[:, start:stop].T @ delta[:, start:]).mul_(self.scale)

    def gram(self) -> Tensor:
        """The scaled `ΔᵀΔ`: [in, in], float64, a new tensor at each call."""
        delta = self.delta.double()
        return (delta.T @ delta).mul_(self.scale)

    @property
    def total(self) -> Tensor:
        """Zeros, [in]: an update does not tell its inputs' mean."""
        return self.delta.new_zeros(self.size).double()
