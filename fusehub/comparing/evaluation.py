"""Scores of models on data: what `fusehub.evaluate` gives, as values.

A score is a number of one model on one data set, with how sure it is; a difference is what one model has over another
on the same examples. All are in fractions of 1, but for `mse` and `perplexity`, of which less is better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from fusehub.comparing.intervals import FEW_EXAMPLES, FEW_OF_LABEL, Interval, Resampling
from fusehub.errors import BadData

# Why a model is held against another one.
Chosen = Literal["own", "best", "asked"]
# Metrics of which a lower value is the better one.
LESS_IS_BETTER = ("perplexity", "mse")


@dataclass(frozen=True)
class LabelScore:
    """What one model reaches on one label of a data set, which is true `support` times.

    `interval` is that of `f1`, None where there is none.
    """

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    interval: Interval | None

    @property
    def few(self) -> bool:
        """Whether it occurs too seldom for the numbers to say much (`fusehub.comparing.intervals.FEW_OF_LABEL`)."""
        return self.support < FEW_OF_LABEL


@dataclass(frozen=True)
class Score:
    """What one model reaches on one data set: `metrics` by name, the main one first, in fractions of 1 (but for `mse`
    and `perplexity`, of which less is better).

    `intervals` are those of the metrics, None where resampling tells nothing, as where every example is right, and not
    there where a metric has none (spearman). `labels` are the scores label by label, of the entities' types where
    there are entities; none where labels are not what is predicted.
    `model_id` names exactly the weights (None for an ensemble); `source`, `split` and `revision` exactly the data.
    """

    model: str
    model_id: str | None
    data: str
    source: str
    split: str | None
    revision: str | None
    examples: int
    seconds: float
    metrics: dict[str, float]
    intervals: dict[str, Interval | None] = field(default_factory=dict)
    labels: list[LabelScore] = field(default_factory=list)

    @property
    def main(self) -> float:
        """The value of the main metric."""
        return next(iter(self.metrics.values()))

    @property
    def metric(self) -> str:
        """The name of the main metric."""
        return next(iter(self.metrics))

    @property
    def few(self) -> bool:
        """Whether it is of too few examples to say much (`fusehub.comparing.intervals.FEW_EXAMPLES`)."""
        return self.examples < FEW_EXAMPLES


@dataclass(frozen=True)
class LabelDifference:
    """How much better a model's F1 of one label is than another's, on the same examples."""

    label: str
    value: float
    interval: Interval | None


@dataclass(frozen=True)
class Difference:
    """How much better `model` is than `against` in the main metric: above 0 where it is better, whatever the metric.

    `data` is None for the mean over all data sets. `interval` is that of the difference on the same examples (paired);
    None where there is none, as where both give the same answers. `chosen` says why it is held against this one: it is
    the data set's "own" expert, whose card names the data set; the "best" expert there, which the same examples chose,
    so that the difference is somewhat to the model's disadvantage; or it was "asked" for.
    """

    model: str
    against: str
    data: str | None
    metric: str
    value: float
    interval: Interval | None
    chosen: Chosen
    labels: list[LabelDifference] = field(default_factory=list)

    @property
    def is_better(self) -> bool:
        """Whether the interval says that the model is better."""
        return self.interval is not None and self.interval.low > 0

    @property
    def is_worse(self) -> bool:
        """Whether the interval says that the model is worse."""
        return self.interval is not None and self.interval.high < 0


@dataclass(frozen=True)
class Result:
    """One number, as a model card's `model-index` wants it."""

    model: str
    task: str
    data: str
    source: str
    split: str | None
    revision: str | None
    metric: str
    value: float


@dataclass(frozen=True)
class Evaluation:
    """Scores of all models on all data sets, model by model.

    Attributes:
        task: What the models are for.
        models: Their names, the ensemble among them.
        data: The names of the data sets.
        scores: One for each model and data set.
        ensemble_of: Whose probabilities the ensemble is the mean of; empty where there is none.
        warnings: What one should know of the numbers: labels that were guessed, rows that were left out.
        experts: Those of the models that are no merges.
        resampling: How intervals were made; None where there are none.
        mean_intervals: Each model's interval of its mean of the main metric over the data sets.
        differences: What each model is better or worse by than the expert of each data set, and on average than the
            best expert.
        summary: What the numbers mean, in sentences: how sure they are, and where each merge won and lost.

    Examples:
        >>> scores = fusehub.evaluate(["user/expert-1"], {"texts": "user/texts"}, limit=5)
        >>> scores.rows()
        [{'model': 'expert-1', 'texts': ...}]
    """

    task: str
    models: list[str]
    data: list[str]
    scores: list[Score]
    ensemble_of: list[str]
    warnings: list[str] = field(default_factory=list)
    experts: list[str] = field(default_factory=list)
    resampling: Resampling | None = None
    mean_intervals: dict[str, Interval | None] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    summary: list[str] = field(default_factory=list)

    def mean(self) -> dict[str, float]:
        """Each model's mean of the main metric over the data sets."""
        return {
            model: math.fsum(score.main for score in self.scores if score.model == model) / len(self.data)
            for model in self.models
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row a model for a table: its name, the main metric on each data set, and their mean."""
        means = self.mean()
        return [
            {"model": model}
            | {score.data: score.main for score in self.scores if score.model == model}
            | ({"mean": means[model]} if len(self.data) > 1 else {})
            for model in self.models
        ]

    def score_of(self, model: str, data: str) -> Score:
        """The score of one model on one data set.

        Args:
            model: Its name.
            data: That of the data set.

        Returns:
            The score.
        """
        return next(score for score in self.scores if (score.model, score.data) == (model, data))

    def difference_of(self, model: str, data: str | None) -> Difference | None:
        """What a model is better by than the one that all are held against.

        Args:
            model: Its name.
            data: The data set; None for the mean over all.

        Returns:
            The difference, None for the one that all are held against.
        """
        found = (own for own in self.differences if (own.model, own.data) == (model, data))
        return next(found, None)

    def results(self) -> list[Result]:
        """Every metric of every model on every data set, for the model card."""
        return [
            Result(
                model=score.model,
                task=self.task,
                data=score.data,
                source=score.source,
                split=score.split,
                revision=score.revision,
                metric=metric,
                value=value,
            )
            for score in self.scores
            for metric, value in score.metrics.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it.

        Returns:
            Each attribute by its name, and `mean`; a correlation that does not exist, as all predictions are equal, is
                None.
        """
        whole = asdict(self) | {"mean": self.mean()}
        for told, score in zip(whole["scores"], self.scores, strict=True):
            told["metrics"] = {name: _finite(value) for name, value in score.metrics.items()}
            told["few"] = score.few
            for label, own in zip(told["labels"], score.labels, strict=True):
                label["few"] = own.few
        for difference in whole["differences"]:
            difference["value"] = _finite(difference["value"])
        whole["mean"] = {name: _finite(value) for name, value in whole["mean"].items()}
        return whole

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Evaluation:
        """The evaluation that `to_dict` has told.

        Args:
            told: What it gave, and perhaps more.

        Returns:
            The evaluation.

        Raises:
            BadData: It is not what `to_dict` gives.
        """
        from pydantic import TypeAdapter, ValidationError

        try:
            scores = [score | {"metrics": _numbers(score["metrics"])} for score in told["scores"]]
            differences = [own | _numbers({"value": own["value"]}) for own in told["differences"]]
            return TypeAdapter(cls).validate_python({**told, "scores": scores, "differences": differences})
        except (ValidationError, KeyError, TypeError) as error:
            raise BadData(
                "The results are not those of an evaluation.", "Write them with `fusehub evaluate`."
            ) from error


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in values.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
