"""Fisher diagonals that were summed block by block, and lie in files: read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.models.tensor_files import SafetensorsFile

if TYPE_CHECKING:
    from torch import Tensor

    from fusehub.models.layout import Layout


@dataclass(frozen=True)
class StoredSquares:
    """What `FisherCollector` tells of sums in memory."""

    files: Mapping[str, Path]
    """Of each parameter that some gradient reached, where its squares are."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of all that have a diagonal."""
    owners: Mapping[str, str]
    """Each name of a parameter -> the one that its squares are called by."""
    description: dict[str, Any]

    def means(self, layout: Layout, stored: Iterable[str]) -> Mapping[str, Tensor]:
        """The diagonal of each of the `stored` tensors of a checkpoint that has one: the mean over the examples."""
        owners = {name: self.owners.get(own, own) for name, own in layout.names(stored).items()}
        return _Means(self, {name: own for name, own in owners.items() if own in self.shapes})

    def mean(self, owner: str) -> Tensor:
        """That of a parameter; zeros where no gradient reached it."""
        import torch

        if owner not in self.files:
            return torch.zeros(self.shapes[owner])
        file = SafetensorsFile(self.files[owner], "squares")
        try:
            return file.read(owner, 0, None) / max(1, self.description["examples"])
        finally:
            file.close()


class _Means(Mapping[str, "Tensor"]):
    def __init__(self, squares: StoredSquares, owners: Mapping[str, str]) -> None:
        self._squares, self._owners = squares, owners

    def __getitem__(self, name: str) -> Tensor:
        return self._squares.mean(self._owners[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._owners)

    def __len__(self) -> int:
        return len(self._owners)
