"""What a statistics file holds, and whether it is sound: finite, and sums of squares as it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from fusehub.errors import BadStatistics
from fusehub.progress import silent
from fusehub.statistics.format import REMAKE
from fusehub.statistics.sources import open_statistics

# An eigenvalue this far below zero, relative to the largest, is more than the rounding of float32 sums.
_NEGATIVE = 1e-6


@dataclass(frozen=True)
class LayerSummary:
    """One stored gram: its size, the rows counted, its numerical rank and condition, and which layers share it."""

    name: str
    size: int
    rows: int
    rank: int
    condition: float
    aliases: tuple[str, ...]


@dataclass(frozen=True)
class StatisticsSummary:
    """A statistics file that was read as a whole and found sound."""

    origin: str
    nbytes: int
    metadata: dict[str, Any]
    layers: list[LayerSummary]

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain data."""
        return asdict(self)


def inspect(
    source: str, *, token: str | None = None, progress: Callable[[int, int, str], None] = silent
) -> StatisticsSummary:
    """Reads every layer of the statistics at `source`. Raises `BadStatistics` naming the first that is not sound."""
    import torch

    statistics = open_statistics(source, token=token)
    try:
        stored = [layer for layer in statistics.layers.values() if layer.name == layer.stored_as]
        summaries = []
        for number, layer in enumerate(stored, 1):
            values = torch.linalg.eigvalsh(layer.gram())
            largest = float(values[-1])
            if float(values[0]) < -_NEGATIVE * max(largest, 0.0) or largest < 0:
                raise BadStatistics(
                    f"{source}: {layer.name}.S is no sum of squares: it has the eigenvalue {float(values[0]):.3g} "
                    f"beside {largest:.3g}.",
                    f"The file is broken. {REMAKE}",
                )
            kept = values[values > layer.size * torch.finfo(torch.float32).eps * largest]
            summaries.append(
                LayerSummary(
                    layer.name,
                    layer.size,
                    layer.rows,
                    len(kept),
                    float(kept[-1] / kept[0]) if len(kept) else float("inf"),
                    tuple(sorted(name for name, target in statistics.aliases.items() if target == layer.name)),
                )
            )
            progress(number, len(stored), "layers")
        return StatisticsSummary(statistics.origin, statistics.nbytes, statistics.metadata, summaries)
    finally:
        statistics.close()
