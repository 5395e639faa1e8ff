"""Fisher diagonals by the names of a checkpoint, each made of its sum when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from fusehub.models.layout import Layout, Part


class Means(Mapping[str, "Tensor"]):
    """The diagonal of each of the `stored` tensors of a checkpoint that has one: of those that `has` says so of.

    `mean` gives that of a parameter, or of one row of it; `owners` are names of parameters that are others' by another
    name.
    """

    def __init__(
        self,
        layout: Layout,
        stored: Iterable[str],
        owners: Mapping[str, str],
        has: Callable[[str], bool],
        mean: Callable[[str, int | None], Tensor],
    ) -> None:
        self._mean = mean
        self._places: dict[str, tuple[str, Part | None]] = {}
        for name, parameter in layout.names(stored).items():
            part = layout.parts.get(parameter)
            own = part.parameter if part else parameter
            own = owners.get(own, own)
            if has(own):
                self._places[name] = own, part

    def __getitem__(self, name: str) -> Tensor:
        own, part = self._places[name]
        # Of all experts together, only the one is made.
        return self._mean(own, part.expert)[part.start : part.stop] if part else self._mean(own, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
