"""Fisher diagonals that were summed block by block, and lie in files: read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.collecting.fisher.means import Means
from fusehub.models.tensor_files import SafetensorsFile

if TYPE_CHECKING:
    from torch import Tensor

    from fusehub.models.layout import Layout


@dataclass(frozen=True)
class StoredSquares:
    """What `FisherCollector` tells of sums in memory."""

    files: Mapping[str, Sequence[Path]]
    """Of each parameter that some gradient reached, where the squares are that are added."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of all that have a diagonal."""
    owners: Mapping[str, str]
    """Each name of a parameter -> the one that its squares are called by."""
    description: dict[str, Any]

    def means(self, layout: Layout, stored: Iterable[str]) -> Mapping[str, Tensor]:
        """The diagonal of each of the `stored` tensors of a checkpoint that has one: the mean over the examples."""
        return Means(layout, stored, self.owners, self.shapes.__contains__, self.mean)

    def mean(self, owner: str, row: int | None = None) -> Tensor:
        """That of a parameter, or of a row of it; zeros where no gradient reached it."""
        import torch

        total: Tensor | None = None
        for path in self.files.get(owner, ()):
            file = SafetensorsFile(path, "squares")
            try:
                found = file.read(owner, 0, None) if row is None else file.read(owner, row, row + 1)[0]
            finally:
                file.close()
            total = found if total is None else total.add_(found)
        if total is None:
            shape = self.shapes[owner]
            return torch.zeros(shape if row is None else shape[1:])
        return total.div_(max(1, self.description["examples"]))
