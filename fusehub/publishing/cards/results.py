"""The results section of a model card: a table of all models, what it says in words, and entries for `model-index`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.comparing.evaluation import LESS_IS_BETTER, Difference
from fusehub.comparing.intervals import FEW_EXAMPLES, Interval
from fusehub.comparing.summary import difference_words
from fusehub.data.tables.hub_datasets import pinned_dataset
from fusehub.errors import Action, BadData
from fusehub.hub.client import endpoint
from fusehub.utils.markdown import link, listed, md

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from fusehub.comparing.evaluation import Evaluation

# The Hub's name of a metric, how a person calls it, and what has to be said about how it is computed.
_METRICS: dict[str, tuple[str, str, dict[str, str] | None]] = {
    "accuracy": ("accuracy", "Accuracy", None),
    "f1": ("f1", "F1", None),
    "f1_macro": ("f1", "F1 (macro)", {"average": "macro"}),
    "f1_micro": ("f1", "F1 (micro)", {"average": "micro"}),
    "precision": ("precision", "Precision", None),
    "recall": ("recall", "Recall", None),
    "pearson": ("pearsonr", "Pearson", None),
    "spearman": ("spearmanr", "Spearman", None),
    "mse": ("mse", "Mean squared error", None),
    "exact_match": ("exact_match", "Exact match", None),
    "perplexity": ("perplexity", "Perplexity (less is better)", None),
    "chrf": ("chrf", "chrF", None),
    "bleu": ("sacrebleu", "BLEU", None),
}


_NO_TEST = "**The options of this merge were chosen by this data**, so what it scores here is no test"


@dataclass(frozen=True)
class DataSet:
    """A column of the table: its name, and in words what exactly it is."""

    name: str
    described: str
    metric: str


@dataclass(frozen=True)
class Row:
    """A line of the table, ready to be shown."""

    name: str
    cells: list[str]


class Results:
    """An evaluation, as the card of the merge in `folder` (or in the repo `repo_id`) tells it.

    `experts` are the repo ids and folder names of what went in, `tuned_on` the data (`source`, `split`, `revision`)
    that its options were chosen by: a score on it is no test. Raises `BadData` where the evaluation is not one, or
    does not have this merge among its models.
    """

    def __init__(
        self,
        evaluation: Evaluation | Mapping[str, Any],
        folder: Path,
        repo_id: str | None,
        experts: Iterable[str],
        tuned_on: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        whole = evaluation if isinstance(evaluation, Mapping) else evaluation.to_dict()
        try:
            self.task: str = whole["task"]
            self.models: list[str] = list(whole["models"])
            self._scores = list(whole["scores"])
            names = list(whole["data"])
            # By model and data set, None for the mean of all.
            self._differences = {(own["model"], own["data"]): _difference(own) for own in whole.get("differences", ())}
            self._level: float | None = (whole.get("resampling") or {}).get("confidence_level")
            counts = {score["data"]: score["examples"] for score in self._scores}
            self._few = {data: count for data, count in counts.items() if count < FEW_EXAMPLES}
            self._main = {(score["model"], score["data"]): _main(score) for score in self._scores}
            ids = {score["model"]: score["model_id"] for score in self._scores}
            self.data = [_data_set(next(s for s in self._scores if s["data"] == name)) for name in names]
        except (KeyError, TypeError, StopIteration, AttributeError) as error:
            raise BadData(
                "The results are not those of an evaluation.", "Write them with `fusehub evaluate`."
            ) from error
        self._sign = -1.0 if any(data.metric in LESS_IS_BETTER for data in self.data) else 1.0
        chosen = {(own["revision"], own["split"]) for own in tuned_on}
        self.data = [
            replace(data, described=f"{data.described}. {_NO_TEST}") if key in chosen else data
            for data, key in zip(self.data, self._keys_of_data(), strict=True)
        ]
        experts = set(experts)
        self.merged = [name for name in self.models if _is_this(ids.get(name), folder, repo_id)]
        self.experts = [name for name in self.models if name not in self.merged and _keys(ids.get(name)) & experts]
        if not self.merged:
            raise BadData(
                f"The results are of {', '.join(self.models)}, and not of the merge in {folder}.",
                f"Evaluate it too: fusehub evaluate {folder} --data NAME=SOURCE",
                actions=[Action("give-data")],
            )

    def _keys_of_data(self) -> list[tuple[str | None, str | None]]:
        """What tells each data set from others: the bytes, and the split of them."""
        firsts = [next(score for score in self._scores if score["data"] == data.name) for data in self.data]
        return [(score["revision"], score["split"]) for score in firsts]

    @property
    def rows(self) -> list[Row]:
        """One line a model, the best of each column in bold."""
        columns = [[self._main.get((model, data.name)) for model in self.models] for data in self.data]
        if len(self.data) > 1:
            columns.append([self.mean(model) for model in self.models])
        shown = [_bold_best(column, self._sign) for column in columns]
        return [
            Row(f"{md(model)} (this model)" if model in self.merged else md(model), [column[at] for column in shown])
            for at, model in enumerate(self.models)
        ]

    @property
    def caption(self) -> str:
        """What the numbers are."""
        metrics = list(dict.fromkeys(_name_of(data.metric) for data in self.data))
        level = f" Below, brackets hold {100 * self._level:g} % intervals over the examples." if self._level else ""
        return f"{listed(metrics)}; the best of each column in bold.{level}"

    @property
    def verdict(self) -> list[str]:
        """What the table says about this model, whether it is good news or not."""
        said = []
        if len(self.merged) == 1 and self.experts:
            said.append(self._against_best(self.merged[0]))
        if len(self.data) > 1 and self.experts:
            behind = [data.name for data in self.data if self._expert_scores_better(data.name)]
            if behind:
                names = listed([md(name) for name in behind])
                said.append(
                    f"On {len(behind)} of {len(self.data)} data sets ({names}) an expert has the better score."
                )
        said += [line for model in self.merged for line in self._lost(model)]
        said += self._better_others()
        if self._few:
            few = listed([f"{md(name)} ({count})" for name, count in self._few.items()])
            said.append(f"Of few examples, so that the numbers say little: {few}.")
        return said

    def mean(self, model: str) -> float | None:
        """Mean of the main metric over the data sets; None where a number is missing."""
        values = [value for data in self.data if (value := self._main.get((model, data.name))) is not None]
        return sum(values) / len(values) if len(values) == len(self.data) else None

    def entries(self) -> list[EvalResult]:
        """Every metric of this model on every data set, for `model-index`."""
        from huggingface_hub import EvalResult

        found = []
        for score in self._scores:
            if score["model"] not in self.merged:
                continue
            hub = pinned_dataset(score["source"], score["revision"])
            name = score["data"] if len(self.merged) == 1 else f"{score['data']} ({score['model']})"
            for metric, value in score["metrics"].items():
                if value is None or value != value:
                    continue
                kind, shown, arguments = _METRICS.get(metric, (metric, metric, None))
                found.append(
                    EvalResult(
                        task_type=self.task,
                        dataset_type=hub.repo_id if hub else score["source"],
                        dataset_name=name,
                        dataset_config=hub.config if hub else None,
                        dataset_split=score["split"],
                        dataset_revision=score["revision"],
                        metric_type=kind,
                        metric_name=shown,
                        metric_value=round(value, 4),
                        metric_args=arguments,
                    )
                )
        return found

    def _against_best(self, merged: str) -> str:
        means = {name: self.mean(name) for name in self.experts}
        known = {name: value for name, value in means.items() if value is not None}
        own = self.mean(merged)
        if not known or own is None:
            return ""
        best = max(known, key=lambda name: self._sign * known[name])
        where = "on average" if len(self.data) > 1 else f"on {md(self.data[0].name)}"
        numbers = f"{_shown(own)} against {_shown(known[best])} {where}"
        if _shown(own) == _shown(known[best]):
            return f"The merge is as good as the best single expert, {md(best)} ({_shown(own)} {where})."
        difference = self._differences.get((merged, None if len(self.data) > 1 else self.data[0].name))
        if difference is not None and difference.against == best and difference.interval:
            numbers += f", {difference_words(difference.value, difference.metric, difference.interval)}"
            if not (difference.is_better or difference.is_worse):
                return f"These examples do not tell the merge from the best single expert, {md(best)}: {numbers}."
        if self._sign * own > self._sign * known[best]:
            return f"The merge is better than the best single expert, {md(best)}: {numbers}."
        return f"**The merge does not beat the best single expert**, {md(best)}: {numbers}."

    def _lost(self, merged: str) -> Iterator[str]:
        """Where an expert is better by more than the draw of the examples explains."""
        for data in self.data if len(self.data) > 1 else ():
            found = self._differences.get((merged, data.name))
            if found is not None and found.is_worse:
                words = difference_words(found.value, found.metric, found.interval)
                yield f"On {md(data.name)} it lost to {md(found.against)}: {words}."

    def _expert_scores_better(self, data: str) -> bool:
        def best(models: Sequence[str]) -> float:
            values = [self._sign * value for m in models if (value := self._main.get((m, data))) is not None]
            return max(values, default=-math.inf)

        return round(best(self.experts), 3) > round(best(self.merged), 3)

    def _better_others(self) -> list[str]:
        """Models beside experts and merge, such as the ensemble or a plain mean, that do better."""
        if len(self.merged) != 1 or (own := self.mean(self.merged[0])) is None:
            return []
        others = [name for name in self.models if name not in self.merged and name not in self.experts]
        better = [
            name
            for name in others
            if (value := self.mean(name)) is not None and round(self._sign * value, 3) > round(self._sign * own, 3)
        ]
        return [f"{md(name)} reaches {_shown(self.mean(name))}." for name in better]


def _difference(told: Mapping[str, Any]) -> Difference:
    """A difference that an evaluation tells, without its labels."""
    interval = Interval(**told["interval"]) if told["interval"] else None
    model, against, data, metric, value = (told[name] for name in ("model", "against", "data", "metric", "value"))
    return Difference(model, against, data, metric, value, interval, told["chosen"])


def _main(score: Mapping[str, Any]) -> float | None:
    value = next(iter(score["metrics"].values()))
    return value if value is not None and value == value else None


def _data_set(score: Mapping[str, Any]) -> DataSet:
    hub = pinned_dataset(score["source"], score["revision"])
    source = md(score["source"])
    if hub:
        url = f"{endpoint()}/datasets/{hub.repo_id}/tree/{score['revision']}"
        source = link(hub.repo_id, url) + (f", config {md(hub.config)}" if hub.config else "")
    split = f", split {md(score['split'])}" if score["split"] else ""
    described = f"{source}{split}, {score['examples']:,} examples"
    return DataSet(score["data"], described, next(iter(score["metrics"])))


def _is_this(model_id: str | None, folder: Path, repo_id: str | None) -> bool:
    """Whether an evaluation's model is the merge in `folder`, or one of the heads that it keeps."""
    if model_id is None:
        return False
    own = folder.resolve()
    for place in _places(model_id):
        path = Path(place)
        if path.exists() and own in (path.resolve(), path.resolve().parent):
            return True
        if repo_id is not None and place.partition("@")[0] == repo_id:
            return True
    return False


def _places(model_id: str) -> list[str]:
    """The model's id; of `base+adapter` also the adapter's."""
    return [model_id, *(model_id[plus.end() :] for plus in re.finditer(r"\+", model_id))]


def _keys(model_id: str | None) -> set[str]:
    """What an expert may be called by in the report of a merge."""
    places = _places(model_id) if model_id else []
    return {key for place in places for key in (place, place.partition("@")[0], Path(place).name)}


def _bold_best(column: Sequence[float | None], sign: float) -> list[str]:
    shown = [_shown(value) for value in column]
    best = max((value for value in column if value is not None), key=lambda value: sign * value, default=None)
    return [f"**{text}**" if best is not None and text == _shown(best) else text for text in shown]


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _name_of(metric: str) -> str:
    return _METRICS.get(metric, (metric, md(metric), None))[1]
