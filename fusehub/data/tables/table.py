"""Rows and what is known about them, wherever they come from, and the splits that people name.

    table.columns     # ["text", "label"]
    next(table.rows)  # {"text": "Fine.", "label": 1}

What a SOURCE names is opened by `fusehub.data.tables.sources`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from fusehub.errors import NotFound
from fusehub.utils.logging import warn

logger = logging.getLogger(__name__)

Row = dict[str, Any]
# What people call a split, and which one stands in for another that is not there.
SPLITS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
INSTEAD = {"train": ("train",), "validation": ("validation", "test"), "test": ("test", "validation")}
_AHEAD = 1000
GRAMMAR = "Give a file (.txt, .csv, .jsonl, .parquet), a folder, or user/dataset[:config][/split][@revision]."


@dataclass(frozen=True)
class Draw:
    """How many examples are wanted, and the seed that decides which."""

    limit: int
    seed: int


@dataclass
class Table:
    """Rows that can be gone through once, and what is known about them.

    `names` are the label names of columns that hold their numbers; `revision` the commit of a dataset on the Hub,
    or the sha256 of what was read here; `root` the folder from which names of files in it are seen; `configs` and
    `splits` are all that the source has, and `config` is the one of them that was read.
    """

    source: str
    columns: list[str]
    rows: Iterator[Row]
    revision: str | None = None
    split: str | None = None
    names: Mapping[str, list[str]] = field(default_factory=dict)
    root: Path | None = None
    config: str | None = None
    configs: Sequence[str] = ()
    splits: Sequence[str] = ()

    def peek(self) -> Row | None:
        """The next row, which stays to be read; None where there is none."""
        return self.first(lambda row: True)

    def first(self, wanted: Callable[[Row], bool]) -> Row | None:
        """The first of the next thousand rows that is `wanted`, all of which stay to be read; None where none is."""
        read: list[Row] = []
        found = False
        for row in islice(self.rows, _AHEAD):
            read.append(row)
            if found := wanted(row):
                break
        self.rows = chain(read, self.rows)
        return read[-1] if found else None


def split_of(path: Path) -> str | None:
    """The split that a file is named after: `news.test.jsonl`, `train-00000-of-00002.parquet`, `dev/a.txt`."""
    for part in (path.name, *reversed(path.parts[:-1])):
        words = re.split(r"[^a-z]+", part.lower())
        for split, aliases in SPLITS.items():
            if any(alias in words for alias in aliases):
                return split
    return None


def split_among(asked: str | None, default: str, known: list[str], name: str) -> str:
    """The one of the splits `known` that was asked for; else the default, what stands in for it, or the only one."""
    if asked is not None:
        alias = next((split for split, aliases in SPLITS.items() if asked.lower() in aliases), asked)
        wanted: tuple[str, ...] = (asked, alias, *SPLITS.get(alias, ()))
    else:
        wanted = tuple(chain.from_iterable(SPLITS[split] for split in INSTEAD.get(default, ()))) or (default,)
    found = next((split for split in wanted if split in known), None)
    if found is None and asked is None and len(known) == 1:
        found = known[0]
    if found is not None:
        if asked is None and found not in SPLITS.get(default, (default,)):
            warn(logger, "%s has no split '%s': '%s' is read.", name, default, found)
        return found
    raise part_not_found(
        "split",
        known,
        f"{name} has no split '{asked or default}'.",
        f"Its splits are {', '.join(known) or 'none'}: write {name}/SPLIT.",
    )


def part_not_found(part: str, known: Sequence[str], what: str, fix: str) -> NotFound:
    """The error for a `config` or `split` that is not there, or of which one of several has to be named."""
    error = NotFound(what, fix)
    error.part, error.among = part, tuple(known)
    return error


def label_names(features: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """Label names of the columns that hold class labels or lists of them."""
    found = {}
    for column, feature in (features or {}).items():
        inner = getattr(feature, "feature", feature)
        if isinstance(inner, list) and inner:
            inner = inner[0]
        names = getattr(inner, "names", None)
        if names:
            found[column] = list(names)
    return found
