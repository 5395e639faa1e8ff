"""How sure a score is: bootstrap intervals over the examples, and of differences between models on the same examples.

    values = resampled(tally, Resampling(0.95, 1000, seed=0), place=0)      # [resamples]
    interval_of(values, 0.95)

A resample draws as many examples as there are, with replacement (Efron and Tibshirani 1993, "An Introduction to the
Bootstrap"; for metrics of language, Koehn 2004), and an interval runs between two percentiles of the metric over the
resamples. The draws of a data set are the same for all models, so that a difference is that on the same examples: what
makes an example hard for both is no part of it. Words of a text are drawn together. An interval says what other
examples of the same kind would have given; of other kinds of text, and of another training run, it says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusehub.errors import BadData

if TYPE_CHECKING:
    import numpy as np

    from fusehub.comparing.metrics.measured import Tally

FEW_EXAMPLES = 100
"""On fewer examples than this a score is said to be of few. Measured for an accuracy of 95 %, the interval of 95 %
holds it in 96 of 100 cases with 100 examples, in 92 with 50, 78 with 30 and 39 with 10."""
FEW_OF_LABEL = 30
"""With fewer of a label than this, what is said of the label is of few: as above for a recall of 90 %, 95 of 100 with
30, 87 with 20 and 65 with 10."""
# Examples times resamples that are drawn at once: some 80 MB.
_AT_ONCE = 10_000_000


@dataclass(frozen=True)
class Resampling:
    """How intervals were made: how much they are to hold, of how many resamples, drawn by which seed.

    Raises `BadData` for a level outside 0 and 1, and for so few resamples that none lies beyond an interval's end.
    """

    confidence_level: float
    resamples: int
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.confidence_level < 1:
            raise BadData(
                f"{self.confidence_level} is no level of confidence.", "Give one between 0 and 1, such as 0.95."
            )
        least = math.ceil(2 / (1 - self.confidence_level) - 1e-9)
        if self.resamples < least:
            raise BadData(
                f"{self.resamples} resamples give no interval of {100 * self.confidence_level:g} %.",
                f"Take at least {least} (1,000 are usual), or 0 for no intervals.",
            )


@dataclass(frozen=True)
class Interval:
    """Between which values a metric, or a difference, lies in `confidence_level` of the resamples."""

    low: float
    high: float


def resampled(tally: Tally, resampling: Resampling, place: int) -> np.ndarray:
    """The metric over every resample of the examples: `[resamples]`, or `[resamples, ...]` where it gives several.

    `place` is the data set's number: its draws are the same for every model, and independent of other data sets'.
    """
    import numpy as np

    parts = [tally.metric(weights @ tally.counts) for weights in _draws(len(tally.counts), resampling, place)]
    return np.concatenate(parts)


def interval_of(values: np.ndarray, confidence_level: float) -> Interval | None:
    """The percentile interval of a metric over resamples.

    None where resampling tells nothing: all are the same (all examples are right), or none is a number.
    """
    import numpy as np

    values = values[np.isfinite(values)]
    if not len(values) or np.ptp(values) <= 1e-12 * np.abs(values).max():
        return None
    outside = (1 - confidence_level) / 2
    low, high = np.quantile(values, [outside, 1 - outside])
    return Interval(float(low), float(high))


def _draws(examples: int, resampling: Resampling, place: int) -> Iterator[np.ndarray]:
    """How often each example is in each resample, some resamples at a time: `[some, examples]`."""
    import numpy as np

    random = np.random.default_rng([resampling.seed, place])
    some = max(1, _AT_ONCE // examples)
    for start in range(0, resampling.resamples, some):
        count = min(some, resampling.resamples - start)
        drawn = np.zeros((count, examples), np.float64)
        for row in drawn:
            row += np.bincount(random.integers(examples, size=examples), minlength=examples)
        yield drawn
