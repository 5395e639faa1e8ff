"""What each model is better or worse by than the experts, on the same examples, and how sure that is.

A merge is held against the expert of each data set: it is made to replace that one there. On average over the data
sets it is held against the expert that is best on average, which is what one would use without a merge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fusehub.comparing.evaluation import (
    LESS_IS_BETTER,
    Chosen,
    Difference,
    Evaluation,
    LabelDifference,
    LabelScore,
    Score,
)
from fusehub.comparing.intervals import Interval, Resampling, interval_of, resampled
from fusehub.comparing.metrics.measured import LabelCounts, Measured, Tally, f1_of_labels
from fusehub.data.examples import Examples
from fusehub.data.tables.hub_datasets import pinned_dataset, trained_on
from fusehub.errors import NotFound
from fusehub.models.resolve import ModelRef

if TYPE_CHECKING:
    import numpy as np


class Weighing:
    """Gives scores their intervals as they are measured, and at the end all models their differences.

    `experts` are the models that are no merges. What is drawn is kept until then: one number a resample for each
    score, and for each label of it.
    """

    def __init__(
        self,
        sets: Mapping[str, Examples],
        experts: Mapping[str, ModelRef],
        resampling: Resampling | None,
        against: str | None,
    ) -> None:
        self.sets, self.experts, self.resampling, self.against = sets, experts, resampling, against
        self._values: dict[tuple[str, str], np.ndarray] = {}
        self._labels: dict[tuple[str, str], dict[str, np.ndarray]] = {}

    def require_known(self, models: Sequence[str]) -> None:
        """Raises `NotFound` where the model that all are to be held against is none of them."""
        if self.against is not None and self.against not in models:
            raise NotFound(f"{self.against} is not among the models.", f"The models are {', '.join(models)}.")

    def of(self, score: Score, measured: Measured) -> Score:
        """The score with the intervals of its metrics, and its labels."""
        counts = measured.labels
        intervals: dict[str, Interval | None] = {}
        drawn = None
        if self.resampling is not None:
            place = list(self.sets).index(score.data)
            for name, tally in measured.tallies.items():
                values = resampled(tally, self.resampling, place)
                intervals[name] = interval_of(values, self.resampling.confidence_level)
                # Of language models, texts that are cut into pieces are not the same for two tokenizers.
                if name == score.metric and len(tally.counts) == len(self.sets[score.data]):
                    self._values[score.model, score.data] = values
            if counts is not None:
                drawn = resampled(Tally(counts.together(), f1_of_labels), self.resampling, place)
                self._labels[score.model, score.data] = dict(zip(counts.names, drawn.T, strict=True))
        return replace(score, intervals=intervals, labels=self._label_scores(counts, drawn) if counts else [])

    def weighed(self, found: Evaluation) -> Evaluation:
        """The evaluation with the intervals of means, and all differences."""
        means: dict[str, Interval | None] = {}
        if self.resampling is not None:
            for model in found.models:
                values = self._mean(found, model)
                means[model] = None if values is None else interval_of(values, self.resampling.confidence_level)
        experts = [name for name in found.models if name in self.experts]
        found = replace(found, experts=experts, resampling=self.resampling, mean_intervals=means)
        differences = [own for data in found.data for own in self._on(found, data)]
        if len(found.data) > 1:
            differences += self._on_average(found)
        return replace(found, differences=differences)

    def _label_scores(self, counts: LabelCounts, drawn: np.ndarray | None) -> list[LabelScore]:
        result = []
        sums = zip(counts.names, counts.right.sum(0), counts.said.sum(0), counts.true.sum(0), strict=True)
        for at, (name, right, said, true) in enumerate(sums):
            interval = None
            if drawn is not None and self.resampling is not None:
                interval = interval_of(drawn[:, at], self.resampling.confidence_level)
            precision, recall = right / said if said else 0.0, right / true if true else 0.0
            f1 = 2 * right / (said + true) if said + true else 0.0
            result.append(LabelScore(name, float(precision), float(recall), float(f1), int(true), interval))
        return result

    def _on(self, found: Evaluation, data: str) -> list[Difference]:
        """Of all models but the one that they are held against, on one data set."""
        against, chosen = self._opponent(found, data)
        if against is None:
            return []
        metric = found.score_of(against, data).metric
        other, drawn = found.score_of(against, data), self._values.get((against, data))
        result = []
        for model in found.models:
            if model == against:
                continue
            own, values = found.score_of(model, data), self._values.get((model, data))
            interval = self._between(values, drawn, metric)
            labels = self._of_labels(own, other)
            value = _sign(metric) * (own.main - other.main)
            result.append(Difference(model, against, data, metric, value, interval, chosen, labels))
        return result

    def _on_average(self, found: Evaluation) -> list[Difference]:
        """The same of the mean over the data sets, whose resamples are drawn for themselves."""
        metric, means = found.scores[0].metric, found.mean()
        chosen: Chosen = "best" if self.against is None else "asked"
        against = self.against or _best(found.experts, means, metric)
        if against is None:
            return []
        drawn = self._mean(found, against)
        return [
            Difference(
                model,
                against,
                None,
                metric,
                _sign(metric) * (means[model] - means[against]),
                self._between(self._mean(found, model), drawn, metric),
                chosen,
            )
            for model in found.models
            if model != against
        ]

    def _opponent(self, found: Evaluation, data: str) -> tuple[str | None, Chosen]:
        """Whom all are held against on a data set, and why."""
        if self.against is not None:
            return self.against, "asked"
        examples = self.sets[data]
        hub = pinned_dataset(examples.source, examples.revision)
        own = [name for name, ref in self.experts.items() if hub and hub.repo_id in trained_on(ref.card)]
        if len(own) == 1:
            return own[0], "own"
        scores = {name: found.score_of(name, data).main for name in found.experts}
        return _best(found.experts, scores, found.scores[0].metric), "best"

    def _of_labels(self, own: Score, other: Score) -> list[LabelDifference]:
        """Of each label that is in the data."""
        theirs = {label.label: label for label in other.labels}
        drawn, against = (self._labels.get((score.model, score.data), {}) for score in (own, other))
        return [
            LabelDifference(
                label.label,
                label.f1 - theirs[label.label].f1,
                self._between(drawn.get(label.label), against.get(label.label), "f1"),
            )
            for label in own.labels
            if label.support and label.label in theirs
        ]

    def _mean(self, found: Evaluation, model: str) -> np.ndarray | None:
        values = [self._values.get((model, data)) for data in found.data]
        known = [own for own in values if own is not None]
        return sum(known[1:], known[0]) / len(known) if len(known) == len(found.data) else None

    def _between(self, own: np.ndarray | None, other: np.ndarray | None, metric: str) -> Interval | None:
        if own is None or other is None or self.resampling is None:
            return None
        return interval_of(_sign(metric) * (own - other), self.resampling.confidence_level)


def _sign(metric: str) -> int:
    return -1 if metric in LESS_IS_BETTER else 1


def _best(models: Sequence[str], values: Mapping[str, float], metric: str) -> str | None:
    known = [name for name in models if values[name] == values[name]]
    return max(known, key=lambda name: _sign(metric) * values[name], default=None)
