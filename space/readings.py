"""Data that a visitor gave: what was found in it, and what of it is to be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fusehub.errors import FuseHubError


@dataclass
class Reading:
    """One file or data set: how the page calls it, and where it is read, with the config and the split chosen.

    Columns are None where what the package guesses is taken.
    """

    called: str
    source: str
    text_column: str | None = None
    label_column: str | None = None
    seen: dict[str, Any] | None = None
    """What it has (see `fusehub.preview_data`)."""
    problem: FuseHubError | None = None
    """Why it cannot be read at all."""


@dataclass
class Readings:
    """All that was given to one form, by its place: the path of a file, or the name of a data set."""

    all: dict[str, Reading] = field(default_factory=dict)
    given: tuple[str, ...] = ()
    """Those that are given at this moment."""
    current: str = ""
    """The one that is shown."""
    opened: tuple[str | None, bool] | None = None
    """The page that shows the form, and whether it was opened or folded away there last."""
    offered: tuple[str | None, tuple[str, ...], tuple[str, ...]] | None = None
    """The page that shows the form, and the models of which one was offered there last: all, and those that lack."""

    @property
    def shown(self) -> Reading | None:
        return self.all.get(self.current) if self.current in self.given else None

    def of(self, place: str) -> Reading:
        """What is known of a place; of one that nobody looked into, what the package guesses is read."""
        return self.all.get(place) or Reading(place, place)
