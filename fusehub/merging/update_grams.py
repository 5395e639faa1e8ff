"""Statistics without data: an expert's own update stands in for its gram.

    G = ΔᵀΔ,  Δ = W − W₀

A linear layer's update is a sum of gradients, `Δ = Σ g xᵀ`, so its rows lie where the layer's inputs lay, and `ΔᵀΔ`
is a gram of those inputs, each weighted by how much the layer learned from it. Nothing has to be published for it,
but the base W₀ must be known, and its scale means nothing: it is set to that of the other experts' grams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from fusehub.methods.registry import LayerStatistics

DATA_FREE = "data-free"


@dataclass(frozen=True)
class DataFree:
    """In the place of an expert's `FoundStatistics`: there are none, and its update is to stand in for them."""

    origin: str = DATA_FREE
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> dict[str, int]:
        """No input was counted."""
        return {}


@dataclass(frozen=True)
class UpdateGram:
    """`ΔᵀΔ` of one layer, in the place of `S`: as large as the other experts' grams, and as if of `rows` rows."""

    delta: Tensor
    rows: int
    scale: float

    @classmethod
    def of(cls, delta: Tensor, others: Sequence[LayerStatistics]) -> UpdateGram:
        """The gram of the update `delta`, [out, in] in float64, beside the statistics of the experts that have some.

        Its trace a row is the mean of theirs, so that all experts have the same say; 1 where there are no others.
        An update of zero says nothing: its gram is zero.
        """
        counted = [other for other in others if other.rows]
        rows = round(sum(other.rows for other in counted) / len(counted)) if counted else 1
        traces = [float(other.gram().diagonal().sum()) / other.rows for other in counted]
        wanted = sum(traces) / len(traces) if traces else 1.0
        trace = float(delta.square().sum())
        return cls(delta, rows, wanted * rows / trace if trace else 0.0)

    @property
    def shift(self) -> float:
        """None is needed: `ΔᵀΔ` is computed, not rounded."""
        return 0.0

    @property
    def size(self) -> int:
        """Inputs of the layer."""
        return self.delta.shape[1]

    def gram(self) -> Tensor:
        """The scaled `ΔᵀΔ`: [in, in], float64, a new tensor at each call."""
        return (self.delta.T @ self.delta).mul_(self.scale)

    @property
    def total(self) -> Tensor:
        """Zeros, [in]: an update does not tell its inputs' mean."""
        return self.delta.new_zeros(self.size)
