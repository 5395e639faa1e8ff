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

Each has a bootstrap interval (`fusehub.comparing.intervals`), but for spearman. Entities count as in seqeval's default
mode and conlleval: right only with the right words and type, and an I- after an O or another type starts one too, so
that IOB1, IOB2, BIOES and BILOU are all read as they are meant. Labels are compared by name. A label of the data that
the model does not know counts as wrong, with a warning.
"""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ParamSpec

from fusehub.comparing.differences import Weighing
from fusehub.comparing.ensemble import ENSEMBLE, ensemble, experts_among, is_merge
from fusehub.comparing.evaluation import Evaluation, Score
from fusehub.comparing.intervals import Resampling
from fusehub.comparing.metrics.measured import Measured
from fusehub.comparing.perplexity import perplexity
from fusehub.comparing.prediction import Prediction
from fusehub.comparing.predictor import Predictor, check_one_task, known_labels, predict_all, shifted
from fusehub.comparing.summary import summary
from fusehub.comparing.tasks import answers_of
from fusehub.data.examples import Examples, load_examples
from fusehub.errors import Action, BadData, Incompatible
from fusehub.hub.access import Access
from fusehub.models.ref import ModelRef, short_names
from fusehub.models.resolve import refs_of
from fusehub.models.tasks import TASKS, has_labels, labels_of, problem_type_of
from fusehub.utils.devices import Device
from fusehub.utils.logging import gathering, warn
from fusehub.utils.progress import Progress, silent

logger = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")


def _with_warnings(evaluate: Callable[Arguments, Evaluation]) -> Callable[Arguments, Evaluation]:
    """`evaluate`, whose results tell what was warned of on the way, each once, and what they mean."""

    @functools.wraps(evaluate)
    def run(*args: Arguments.args, **options: Arguments.kwargs) -> Evaluation:
        with gathering() as told:
            done = evaluate(*args, **options)
        return replace(done, warnings=list(dict.fromkeys(told)), summary=summary(done))

    return run


@_with_warnings
def evaluate(
    models: Sequence[str | ModelRef],
    data: Mapping[str, str | Examples],
    *,
    ensemble: bool | Sequence[str] = False,
    limit: int | None = None,
    seed: int = 0,
    resamples: int = 1000,
    confidence_level: float = 0.95,
    against: str | None = None,
    text_column: str | Mapping[str, str] | None = None,
    label_column: str | Mapping[str, str] | None = None,
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
        seed: For that draw, and for the resamples.
        resamples: How often the examples are drawn anew for the intervals (bootstrap); 0 for no intervals.
        confidence_level: What part of the resamples an interval holds.
        against: The model that all others are held against; where it is not said, each data set's own expert (whose
            card names the data set, else the best one there), and on average the best expert.
        text_column: The column that has the texts, of all data or by the names of data sets; guessed where it is not
            said.
        label_column: The column that has the labels, said in the same way.
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
        NotFound: No model is called what `against` says.

    Examples:
        >>> experts = ["user/expert-1", "user/expert-2"]
        >>> scores = fusehub.evaluate(experts, {"texts": "user/texts"}, limit=5, ensemble=True)
        >>> list(scores.mean())
        ['expert-1', 'expert-2', 'ensemble']
        >>> list(scores.scores[0].metrics)
        ['accuracy', 'f1_macro']
    """
    resampling = Resampling(confidence_level, resamples, seed) if resamples else None
    access = Access(token, cache_dir, local_files_only)
    refs = refs_of(models, access)
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
            text_column=_column_of(text_column, name),
            label_column=_column_of(label_column, name),
            need_labels=True,
            default_split="test",
            access=access,
            labels=known_labels(refs),
        )
        for name, source in data.items()
    }
    for ref, name in zip(refs, names, strict=True):
        _warn_of_tuning(ref, name, sets)
    experts = {name: ref for name, ref in zip(names, refs, strict=True) if not is_merge(ref)}
    weighing = Weighing(sets, experts, resampling, against)
    weighing.require_known([*names, *([ENSEMBLE] if members else [])])
    if TASKS[task].unlabelled:
        return _perplexities(refs, names, sets, members, batch_size, max_length, seed, device, progress, weighing)
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
        _score(prediction, examples, name, model_id, weighing)
        for own, model_id in zip(predictions, ids, strict=True)
        for prediction, (name, examples) in zip(own, sets.items(), strict=True)
    ]
    found = Evaluation(task, [own[0].model for own in predictions], list(sets), scores, [names[i] for i in members])
    return weighing.weighed(found)


def _column_of(said: str | Mapping[str, str] | None, data: str) -> str | None:
    return said.get(data) if isinstance(said, Mapping) else said


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


def _score(prediction: Prediction, examples: Examples, name: str, model_id: str | None, weighing: Weighing) -> Score:
    measured = answers_of(prediction.task).score(prediction, examples)
    return _scored(prediction.model, model_id, name, examples, prediction.seconds, measured, weighing)


def _scored(
    model: str,
    model_id: str | None,
    name: str,
    examples: Examples,
    seconds: float,
    measured: Measured,
    weighing: Weighing,
) -> Score:
    score = Score(
        model=model,
        model_id=model_id,
        data=name,
        source=examples.source,
        split=examples.split,
        revision=examples.revision,
        examples=len(examples),
        seconds=round(seconds, 3),
        metrics={metric: float(value) for metric, value in measured.metrics.items()},
    )
    return weighing.of(score, measured)


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
    weighing: Weighing,
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
                measured = perplexity(
                    ref,
                    predictor.network,
                    examples,
                    max_length=max_length,
                    seed=seed,
                    batch_size=batch_size,
                    progress=shifted(progress, before, total),
                )
                before += len(examples)
                seconds = time.perf_counter() - start
                scores.append(_scored(name, ref.id, data, examples, seconds, measured, weighing))
    return weighing.weighed(Evaluation(next(iter(sets.values())).task, list(names), list(sets), scores, []))
