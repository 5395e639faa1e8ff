"""Tensors that are read when they are asked for, each time anew, so that no two of them need be in memory at once.

weights = OnDemand(3, lambda index, rows: files[index].read(name, rows.start, rows.stop))
weights[0]                      # all rows of the first
rows_of(weights, slice(2, 5))   # the same of some rows; of tensors that are there, too
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


class OnDemand(Sequence["Tensor"]):
    """`count` tensors: `read` gives the rows (a slice along the first axis) of one."""

    def __init__(self, count: int, read: Callable[[int, slice], Tensor]) -> None:
        self._count, self._read = count, read

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if not -self._count <= index < self._count:
            raise IndexError(index)
        return self._read(index % self._count, slice(None))

    def rows(self, rows: slice) -> OnDemand:
        """These rows of all of them."""
        return OnDemand(self._count, lambda index, inner: self._read(index, rows)[inner])


def each(change: Callable[[int, Tensor], Tensor], tensors: Sequence[Tensor]) -> OnDemand:
    """What `change` makes of each, by its place and itself, when it is asked for."""
    return OnDemand(len(tensors), lambda index, rows: change(index, tensors[index])[rows])


def rows_of(tensors: Sequence[Tensor], rows: slice) -> Sequence[Tensor]:
    """These rows of all of them."""
    return tensors.rows(rows) if isinstance(tensors, OnDemand) else [tensor[rows] for tensor in tensors]
