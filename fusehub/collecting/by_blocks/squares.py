"""Fisher diagonals that were summed block by block, and lie in files: read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.models.tensor_files import SafetensorsFile

if TYPE_CHECKING:
    from torch import Tensor

    from fusehub.models.layout import Layout, Part


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
        found: dict[str, tuple[str, Part | None]] = {}
        for name, parameter in layout.names(stored).items():
            part = layout.parts.get(parameter)
            own = part.parameter if part else parameter
            own = self.owners.get(own, own)
            if own in self.shapes:
                found[name] = own, part
        return _Means(self, found)

    def mean(self, owner: str) -> Tensor:
        """That of a parameter; zeros where no gradient reached it."""
        import torch

        total: Tensor | None = None
        for path in self.files.get(owner, ()):
            file = SafetensorsFile(path, "squares")
            try:
                found = file.read(owner, 0, None)
            finally:
                file.close()
            total = found if total is None else total.add_(found)
        return torch.zeros(self.shapes[owner]) if total is None else total.div_(max(1, self.description["examples"]))


class _Means(Mapping[str, "Tensor"]):
    def __init__(self, squares: StoredSquares, places: Mapping[str, tuple[str, Part | None]]) -> None:
        self._squares, self._places = squares, places

    def __getitem__(self, name: str) -> Tensor:
        owner, part = self._places[name]
        mean = self._squares.mean(owner)
        return mean[part.expert, part.start : part.stop] if part else mean

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
