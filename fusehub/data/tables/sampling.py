"""A sample of all rows, whatever their order and their number, in one pass and the memory of the sample alone.

    taken = sample(rows, Draw(limit=500, seed=0))

Which rows are taken depends on the seed and on their places alone: the same rows give the same sample from a CSV file
and from Parquet, on every machine and in every process.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from fusehub.data.tables.table import Draw
from fusehub.utils.logging import warn

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
# A column with more different values holds no names of labels.
MOST_LABELS = 10_000


def sample(rows: Iterable[Item], draw: Draw) -> list[Item]:
    """`draw.limit` of the rows, each as likely as another, in their order (reservoir sampling); all if fewer."""
    rng = random.Random(draw.seed)
    taken: list[tuple[int, Item]] = []
    for number, row in enumerate(rows):
        if number < draw.limit:
            taken.append((number, row))
        elif (place := rng.randrange(number + 1)) < draw.limit:
            taken[place] = (number, row)
    return [row for _, row in sorted(taken, key=lambda pair: pair[0])]


class LabelsSeen:
    """The labels of all rows that pass, to be held against those of the sample that is drawn from them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names: dict[str, None] = dict.fromkeys(names)

    def passing(self, rows: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """The rows, (what a model is given, label), as they are."""
        for row in rows:
            if len(self.names) < MOST_LABELS:
                self.names.update(dict.fromkeys(_named(row[1])))
            yield row

    def warn_of_missing(self, drawn: Sequence[Any], source: str) -> None:
        """Says which labels none of the `drawn` has."""
        present = {name for label in drawn for name in _named(label)}
        missing = [name for name in self.names if name not in present]
        if missing and present and len(self.names) < MOST_LABELS:
            listed = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
            warn(
                logger,
                "%s: the %d examples that were drawn have %d of %d labels; none has %s. A larger limit draws more.",
                source,
                len(drawn),
                len(self.names) - len(missing),
                len(self.names),
                listed,
            )


def _named(label: Any) -> list[str]:
    """The names in a label; none in a number that is to be predicted, and where there is no label."""
    if isinstance(label, list):
        return [str(name) for name in label]
    return [label] if isinstance(label, str) else []
