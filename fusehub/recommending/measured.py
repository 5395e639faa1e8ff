"""What was measured of each method: by how much it is above the plain mean of the same experts, and how often.

The numbers are in `measured.json`, which `make battery` writes from the results that it records in `docs/results`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from fusehub.utils.frozen import freeze

FILENAME = "measured.json"


@dataclass(frozen=True)
class Gain:
    """By how many points of the task's main score a method is above the mean, and in how many of the runs."""

    points: float
    above: int
    runs: int

    @classmethod
    def together(cls, gains: Sequence[Gain]) -> Gain:
        """Of several tasks: the mean of their points, and all of their runs."""
        return cls(
            sum(gain.points for gain in gains) / len(gains),
            sum(gain.above for gain in gains),
            sum(gain.runs for gain in gains),
        )

    def words(self, than: str) -> str:
        """`4.3 points above the mean (higher in 12 of 12 runs)`"""
        runs = f"higher in {self.above} of {self.runs} runs"
        if round(abs(self.points), 1) == 0:
            return f"level with {than} ({runs})"
        side = "above" if self.points > 0 else "below"
        return f"{abs(self.points):.1f} points {side} {than} ({runs})"


@dataclass(frozen=True)
class Measured:
    """One method on one kind of experts.

    Attributes:
        tasks: The experts' tasks, sorted; one where they all have the same.
        models: How many experts were merged.
        method: The method's name.
        options: The options that it was measured with.
        in_domain: On texts of the kinds that the experts know.
        out_of_domain: On texts of a kind that none of them knows; None where that was not measured.
    """

    tasks: tuple[str, ...]
    models: int
    method: str
    options: Mapping[str, Any]
    in_domain: Gain
    out_of_domain: Gain | None

    def __post_init__(self) -> None:
        freeze(self, "options")


@dataclass(frozen=True)
class Record:
    """All that was measured; `baseline` is the method that the others are held against."""

    baseline: str
    rows: tuple[Measured, ...]

    def tasks(self) -> list[tuple[str, ...]]:
        """The kinds of experts that were measured."""
        return sorted({row.tasks for row in self.rows})

    def of(self, method: str, tasks: tuple[str, ...]) -> list[Measured]:
        """What was measured of a method on experts of these tasks."""
        return [row for row in self.rows if row.method == method and row.tasks == tasks]


@cache
def record() -> Record:
    """What was measured, as it comes with the package."""
    content = json.loads(files(__package__).joinpath(FILENAME).read_text(encoding="utf-8"))
    return Record(content["baseline"], tuple(map(_row, content["rows"])))


def _row(content: Mapping[str, Any]) -> Measured:
    outside = content["out_of_domain"]
    return Measured(
        tuple(content["tasks"]),
        content["models"],
        content["method"],
        content["options"],
        Gain(**content["in_domain"]),
        Gain(**outside) if outside else None,
    )
