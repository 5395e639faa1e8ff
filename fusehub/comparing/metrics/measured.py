"""What scoring gives: the metrics, and from which counts of each example they follow.

A metric that is a function of sums over the examples can be computed of examples that are drawn anew without asking
the model, or the library that computed it, again: `fusehub.comparing.intervals` does that. The functions of sums here
take `[..., counts]` and give `[...]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Tally:
    """Counts of each example, `[examples, counts]`, and the metric that follows from their sums."""

    counts: np.ndarray
    metric: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class LabelCounts:
    """For each of the labels `names`, `[examples, labels]`: how often it was said rightly, said at all, and true."""

    names: list[str]
    right: np.ndarray
    said: np.ndarray
    true: np.ndarray

    def together(self) -> np.ndarray:
        """All of them, `[examples, 3 * labels]`, as `f1_of_labels` reads their sums."""
        import numpy as np

        return np.concatenate([self.right, self.said, self.true], axis=-1)


@dataclass(frozen=True)
class Measured:
    """The metrics of one model on one data set by name, the main one first; the tallies of those that follow from
    sums over examples, and the counts of each label where labels are what is predicted."""

    metrics: Mapping[str, float]
    tallies: Mapping[str, Tally] = field(default_factory=lambda: MappingProxyType({}))
    labels: LabelCounts | None = None


def count_labels(true: Sequence[Sequence[object]], said: Sequence[Sequence[object]], names: list[str]) -> LabelCounts:
    """The counts of the labels `names`, where each example has some that are true, and some that a model says.

    Items are labels, or tuples that begin with a label and end with a place: (type, first word, last word). One that
    is among both is right. No item is twice in an example.
    """
    import numpy as np

    at = {name: place for place, name in enumerate(names)}
    counts = np.zeros((3, len(true), len(names)), np.float32)
    for row, (right, own) in enumerate(zip(true, said, strict=True)):
        common = set(right) & set(own)
        for kind, items in enumerate((common, own, right)):
            for item in items:
                counts[kind, row, at[str(item[0] if isinstance(item, tuple) else item)]] += 1
    return LabelCounts(names, *counts)


def mean_of(values: Sequence[float], weights: Sequence[float] | None = None) -> Tally:
    """The mean of one value an example; with `weights`, of sums of as many."""
    import numpy as np

    return Tally(
        np.stack([np.asarray(values, float), np.ones(len(values)) if weights is None else weights], -1), _ratio
    )


def f1_of_labels(sums: np.ndarray) -> np.ndarray:
    """The F1 of each label, `[..., labels]`: 2 right / (said + true), 0 where it was neither said nor true."""
    right, said, true = _parts(sums)
    return _divided(2 * right, said + true)


def f1_macro(sums: np.ndarray) -> np.ndarray:
    """The mean F1 of the labels that occur."""
    occurs = _parts(sums)[2] > 0
    return _divided((f1_of_labels(sums) * occurs).sum(-1), occurs.sum(-1))


def f1_micro(sums: np.ndarray) -> np.ndarray:
    """The F1 of all labels' counts together."""
    right, said, true = (part.sum(-1) for part in _parts(sums))
    return _divided(2 * right, said + true)


def precision_micro(sums: np.ndarray) -> np.ndarray:
    """Of what was said, the share that is right."""
    right, said, _ = (part.sum(-1) for part in _parts(sums))
    return _divided(right, said)


def recall_micro(sums: np.ndarray) -> np.ndarray:
    """Of what is true, the share that was said."""
    right, _, true = (part.sum(-1) for part in _parts(sums))
    return _divided(right, true)


def pearson_of(true: Sequence[float], said: Sequence[float]) -> Tally:
    """The correlation of numbers; NaN where they do not differ."""
    import numpy as np

    # About their means, so that little is lost where squares are taken away from each other.
    a, b = (np.asarray(values, float) - np.mean(values) for values in (true, said))
    return Tally(np.stack([np.ones_like(a), a, b, a * a, b * b, a * b], -1), _pearson)


def _pearson(sums: np.ndarray) -> np.ndarray:
    import numpy as np

    n, a, b, aa, bb, ab = np.moveaxis(sums, -1, 0)
    spread = np.maximum(n * aa - a * a, 0) * np.maximum(n * bb - b * b, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 0, (n * ab - a * b) / np.sqrt(spread), np.nan)


def _parts(sums: np.ndarray) -> list[np.ndarray]:
    import numpy as np

    return np.split(sums, 3, axis=-1)


def _ratio(sums: np.ndarray) -> np.ndarray:
    return _divided(sums[..., 0], sums[..., 1])


def _divided(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape)), where=b > 0)
