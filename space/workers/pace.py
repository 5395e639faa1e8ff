"""About how long work takes on a laptop or a small Space, before it has begun, and how far the whole of it is."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol

# Bytes a second from the Hub, to it and on the disk; 10^9 operations a second; seconds to begin.
NETWORK, UPLOAD, DISK, GFLOPS, START = 30e6, 10e6, 200e6, 20.0, 3.0


class Tell(Protocol):
    """How work says how far it is: what it does, how many of what are done of it, and the share of the whole."""

    def __call__(
        self, step: str, done: int = 0, total: int = 0, unit: str = "", share: float | None = None
    ) -> None: ...


def untold(step: str, done: int = 0, total: int = 0, unit: str = "", share: float | None = None) -> None:
    """How work says that to whoever does not want to know."""


def seconds_of(cost: Mapping[str, int]) -> float:
    """About how long a merge of that cost takes."""
    return START + cost["download_bytes"] / NETWORK + _written(cost["output_bytes"]) + cost["gflop"] / GFLOPS


class Course:
    """How far a piece of work is whose parts are expected to take so many seconds each.

    Course([2, 6]).share(1, 0.5)             # all of part 0 and half of part 1, of the whole
    """

    def __init__(self, seconds: Sequence[float]) -> None:
        self._ends = [0.0, *accumulate(seconds)]
        self.seconds = self._ends[-1]

    def share(self, part: int, done: float) -> float:
        """The part of the whole, in [0, 1], that is done when `done` of a part is."""
        begin, end = self._ends[part], self._ends[part + 1]
        return (begin + done * (end - begin)) / self.seconds if self.seconds else 0.0


class Merging:
    """The course of one merge: its progress is told in bytes, and its work lies in the tensors that are solved."""

    def __init__(self, plan: Any) -> None:
        from fusehub.merging.cost import multiplications

        self.names = list(plan.tensors)
        sizes = [tensor.info.nbytes for tensor in plan.tensors.values()]
        work = [
            multiplications(tensor, plan.method, len(plan.experts), plan.statistics)
            for tensor in plan.tensors.values()
        ]
        self._ends = list(accumulate(sizes))
        self._course = Course([_written(size) + count / 1e9 / GFLOPS for size, count in zip(sizes, work, strict=True)])
        self.seconds = self._course.seconds

    def at(self, done: int) -> tuple[str, float]:
        """The tensor that is being made when so many bytes are written, and the part of the work that is done."""
        place = min(bisect_right(self._ends, done), len(self._ends) - 1)
        begin = self._ends[place - 1] if place else 0
        size = self._ends[place] - begin
        return self.names[place], self._course.share(place, min(1.0, (done - begin) / size) if size else 1.0)


def _written(size: int) -> float:
    """Seconds in which so many bytes are read from two models and written."""
    return 3 * size / DISK
