"""How good models are on labelled data, with the metrics of scikit-learn and seqeval.

    evaluation = evaluate(["user/expert-1", "out/merged"], {"films": "user/films/test", "news": "news.csv"})
    evaluation.mean()["merged"]      # mean accuracy over the data sets

| labels of the data | metrics, the main one first |
| --- | --- |
| one a text | accuracy, f1_macro (mean F1 of the labels that occur in the data) |
| several a text | f1_micro, f1_macro, accuracy (all labels of a text right) |
| a number a text | pearson, spearman, mse |
| one a word, entities (B-PER) | f1, precision, recall of whole entities; accuracy of words |
| one a word, no entities (NOUN) | accuracy, f1_macro |
| answers to questions | f1 of words and exact_match, as SQuAD counts them |
| target texts | chrf, bleu, exact_match |
| none: a language model | perplexity of the next token, or of masked tokens (lower is better) |

Entities count as in seqeval's default mode and conlleval: right only with the right words and type, and an I- after
an O or another type starts one too, so that IOB1, IOB2, BIOES and BILOU are all read as they are meant.
Labels are compared by name. A label of the data that the model does not know counts as wrong, with a warning.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ParamSpec

from fusehub.comparing.ensemble import ensemble, experts_among
from fusehub.comparing.perplexity import perplexity
from fusehub.comparing.prediction import Prediction
from fusehub.comparing.predictor import Predictor, check_one_task, known_labels, predict_all, shifted
from fusehub.comparing.tasks import answers_of
from fusehub.data.examples import Examples, load_examples
from fusehub.errors import Action, BadData, Incompatible
from fusehub.hub.access import Access
from fusehub.models.ref import ModelRef, short_names
from fusehub.models.resolve import ref_of
from fusehub.models.tasks import TASKS, has_labels, labels_of, problem_type_of
from fusehub.utils.devices import Device
from fusehub.utils.logging import gathering, warn
from fusehub.utils.progress import Progress, silent

logger = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")
# Metrics of which a lower value is the better one.
LESS_IS_BETTER = ("perplexity", "mse")


@dataclass(frozen=True)
class Score:
    """What one model reaches on one data set: `metrics` by name, the main one first, in fractions of 1 (but for `mse`
    and `perplexity`, of which less is better).

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

    @property
    def main(self) -> float:
        """The value of the main metric."""
        return next(iter(self.metrics.values()))


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
        for score in whole["scores"]:
            score["metrics"] = {name: _finite(value) for name, value in score["metrics"].items()}
        whole["mean"] = {name: _finite(value) for name, value in whole["mean"].items()}
        return whole


def _with_warnings(evaluate: Callable[Arguments, Evaluation]) -> Callable[Arguments, Evaluation]:
    """`evaluate`, whose results tell what was warned of on the way, each once."""

    @functools.wraps(evaluate)
    def run(*args: Arguments.args, **options: Arguments.kwargs) -> Evaluation:
        with gathering() as told:
            done = evaluate(*args, **options)
        return replace(done, warnings=list(dict.fromkeys(told)))

    return run


@_with_warnings
def evaluate(
    models: Sequence[str | ModelRef],
    data: Mapping[str, str | Examples],
    *,
    ensemble: bool | Sequence[str] = False,
    limit: int | None = None,
    seed: int = 0,
    text_column: str | None = None,
    label_column: str | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
    device: Device | None = None,
    token: bool | str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    progress: Progress = silent,
) -> Evaluation:
    """Scores of `models` on `data`, read once; each model is loaded once.

    Args:
        models: One or more, all for one task.
        data: Names of data sets -> a file, a folder or `user/dataset[:config][/split]`, whose split is `test` unless
            it names one; or examples that were read before.
        ensemble: Whether the mean of the experts' probabilities is added (see `compare`).
        limit: How many examples of each data set are drawn; all where it is not said.
        seed: For that draw.
        text_column: The column that has the texts; guessed where it is not said.
        label_column: The column that has the labels; guessed where it is not said.
        batch_size: How many examples a model is given at once.
        max_length: Where texts are cut, in tokens.
        device: Where the models run; by itself an accelerator where there is one.
        token: The Hub's token; None for the one of `hf auth login` if there is one, True where there must be, False
            for none.
        cache_dir: Where downloads lie; the Hub's cache of this machine where nothing is said.
        local_files_only: Read what is in the cache already, and ask the Hub for nothing.
        progress: Called with (done, total, what).

    Returns:
        Every metric, in fractions of 1 (but for `mse` and `perplexity`, of which less is better).

    Raises:
        Incompatible: The models are for different tasks.
        BadData: Labels are missing, or are not those of the model.

    Examples:
        >>> experts = ["user/expert-1", "user/expert-2"]
        >>> scores = fusehub.evaluate(experts, {"texts": "user/texts"}, limit=5, ensemble=True)
        >>> list(scores.mean())
        ['expert-1', 'expert-2', 'ensemble']
        >>> list(scores.scores[0].metrics)
        ['accuracy', 'f1_macro']
    """
    access = Access(token, cache_dir, local_files_only)
    refs = [ref_of(model, access) for model in models]
    task = check_one_task(refs)
    names = short_names(refs)
    members = experts_among(refs, names, ensemble)
    if not data:
        raise BadData(
            "There is no data to evaluate on.", "Name labelled data: --data NAME=SOURCE", actions=[Action("give-data")]
        )
    sets = {
        name: source
        if isinstance(source, Examples)
        else load_examples(
            source,
            task,
            limit=limit,
            seed=seed,
            text_column=text_column,
            label_column=label_column,
            need_labels=True,
            default_split="test",
            access=access,
            labels=known_labels(refs),
        )
        for name, source in data.items()
    }
    for ref, name in zip(refs, names, strict=True):
        _warn_of_tuning(ref, name, sets)
    if TASKS[task].unlabelled:
        return _perplexities(refs, names, sets, members, batch_size, max_length, seed, device, progress)
    _check_labels(refs, names, sets)
    answers_of(task).require_library()
    predictions = predict_all(
        refs,
        names,
        [examples.texts for examples in sets.values()],
        batch_size=batch_size,
        max_length=max_length,
        device=device,
        progress=progress,
    )
    ids: list[str | None] = [ref.id for ref in refs]
    if members:
        place = max(members) + 1
        predictions.insert(place, _ensemble([predictions[index] for index in members]))
        ids.insert(place, None)
    scores = [
        _score(prediction, examples, name, model_id)
        for own, model_id in zip(predictions, ids, strict=True)
        for prediction, (name, examples) in zip(own, sets.items(), strict=True)
    ]
    return Evaluation(task, [own[0].model for own in predictions], list(sets), scores, [names[i] for i in members])


def _ensemble(predictions: Sequence[Sequence[Prediction]]) -> list[Prediction]:
    return [ensemble(own) for own in zip(*predictions, strict=True)]


def _warn_of_tuning(ref: ModelRef, name: str, sets: Mapping[str, Examples]) -> None:
    """Says which data is no test of a merge, because its options were chosen by it."""
    from fusehub.merging.provenance import REPORT_FILENAME

    if REPORT_FILENAME not in ref.files:
        return
    try:
        tuning = json.loads(ref.path(REPORT_FILENAME).read_text(encoding="utf-8")).get("tuning") or {}
        used = {(own["revision"], own["split"]) for own in tuning.get("data", ())}
    except (ValueError, AttributeError, KeyError, TypeError):
        warn(
            logger,
            "%s: its %s cannot be read, so nobody knows whether its options were chosen by this data.",
            name,
            REPORT_FILENAME,
        )
        return
    for data, examples in sets.items():
        if (examples.revision, examples.split) in used:
            warn(logger, "%s: the options of %s were chosen by this data, so this is no test of it.", data, name)


def _check_labels(refs: Sequence[ModelRef], names: Sequence[str], sets: Mapping[str, Examples]) -> None:
    """Finds labels that do not fit before any model is loaded."""
    if not has_labels(refs[0].config):
        return
    for ref, name in zip(refs, names, strict=True):
        for examples in sets.values():
            try:
                labels, problem = labels_of(ref.config, name), problem_type_of(ref.config, name)
                answers_of(examples.task).require_labels(examples, labels, problem)
            except BadData as error:
                raise error.retold(f"{name}: {error.what}") from error


def _score(prediction: Prediction, examples: Examples, name: str, model_id: str | None) -> Score:
    metrics = answers_of(prediction.task).score(prediction, examples)
    return _scored(prediction.model, model_id, name, examples, prediction.seconds, metrics)


def _scored(
    model: str, model_id: str | None, name: str, examples: Examples, seconds: float, metrics: Mapping[str, float]
) -> Score:
    return Score(
        model=model,
        model_id=model_id,
        data=name,
        source=examples.source,
        split=examples.split,
        revision=examples.revision,
        examples=len(examples),
        seconds=round(seconds, 3),
        metrics={metric: float(value) for metric, value in metrics.items()},
    )


def _perplexities(
    refs: Sequence[ModelRef],
    names: Sequence[str],
    sets: Mapping[str, Examples],
    members: Sequence[int],
    batch_size: int,
    max_length: int | None,
    seed: int,
    device: Device | None,
    progress: Progress,
) -> Evaluation:
    """Scores of language models, which predict no labels; they have no ensemble here."""
    if members:
        raise Incompatible(
            "The perplexity of an ensemble of language models is not defined here: their tokens may differ.",
            "Evaluate them without --ensemble.",
            actions=[Action("leave-ensemble")],
        )
    scores = []
    total, before = len(refs) * sum(map(len, sets.values())), 0
    for ref, name in zip(refs, names, strict=True):
        with Predictor(ref, name=name, device=device) as predictor:
            for data, examples in sets.items():
                start = time.perf_counter()
                value = perplexity(
                    ref,
                    predictor.network,
                    examples,
                    max_length=max_length,
                    seed=seed,
                    batch_size=batch_size,
                    progress=shifted(progress, before, total),
                )
                before += len(examples)
                scores.append(
                    _scored(name, ref.id, data, examples, time.perf_counter() - start, {"perplexity": value})
                )
    return Evaluation(next(iter(sets.values())).task, list(names), list(sets), scores, [])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
