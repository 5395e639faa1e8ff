"""The ensemble of several models: which of them make it up, and the mean of what they predict.

    both = ensemble([predict("user/expert-1", texts), predict("user/expert-2", texts)])
    both.answers()     # [("positive", 0.93), ("negative", 0.71)]

It does the work of all its models for every prediction, and is what a merge is measured against.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusehub.comparing.predictor import REGRESSION, SINGLE, TOKENS, Prediction
from fusehub.errors import Incompatible, NotFound
from fusehub.models.label_names import key_of
from fusehub.models.resolve import ModelRef
from fusehub.models.tasks import MASKED, QUESTIONS, TASKS

if TYPE_CHECKING:
    import numpy as np

ENSEMBLE = "ensemble"


def is_merge(ref: ModelRef) -> bool:
    """Whether the model says, by its files or its card, that it is a merge and so no expert of its own."""
    from fusehub.merging.provenance import REPORT_FILENAME

    if REPORT_FILENAME in ref.files or (ref.folder is not None and (ref.folder.parent / REPORT_FILENAME).is_file()):
        return True
    tags = ref.card.get("tags")
    tags = tags if isinstance(tags, list) else [tags]
    return ref.card.get("base_model_relation") == "merge" or "merge" in tags or "mergekit" in tags


def experts_among(refs: Sequence[ModelRef], names: Sequence[str], wanted: bool | Sequence[str]) -> list[int]:
    """Which models make up the ensemble: those `wanted` by name; with True, all that are no merges themselves."""
    if isinstance(wanted, bool):
        experts = [index for index, ref in enumerate(refs) if not is_merge(ref)] if wanted else []
        return experts if len(experts) > 1 else []
    indices = []
    for name in wanted:
        found = [i for i, ref in enumerate(refs) if name in (names[i], ref.name, ref.repo_id, ref.id)]
        if not found:
            raise NotFound(f"{name} is not among the models.", f"The models are {', '.join(names)}.")
        indices.append(found[0])
    return indices


def ensemble(predictions: Sequence[Prediction], *, name: str = ENSEMBLE) -> Prediction:
    """The mean of the predictions, label by label by name, whatever the order in which each model has them.

    A label that only some models know is averaged over those that do; each row is then scaled to sum to 1 again
    (multi-label and regression are not). Raises `Incompatible` where a model shares no label with the others.
    """
    import numpy as np

    first = predictions[0]
    for other in predictions[1:]:
        if (other.task, other.problem) != (first.task, first.problem):
            raise Incompatible(
                f"{first.model} ({first.task}, {first.problem}) and {other.model} ({other.task}, {other.problem}) "
                "answer different questions, which have no mean.",
                "Ensemble models of one task.",
            )
        if len(other) != len(first):
            raise ValueError(f"{other.model} has {len(other)} texts, {first.model} has {len(first)}.")
    if TASKS[first.task].writes:
        raise Incompatible(
            f"{first.model} and the others write texts, which have no mean.", "Compare them without an ensemble."
        )
    if first.task == QUESTIONS:
        return _mean_of_answers(predictions, name)
    labels, columns = _union(predictions)

    def mean(rows: Sequence[np.ndarray]) -> np.ndarray:
        spread = np.full((len(rows), len(rows[0]), len(labels)), np.nan)
        for number, (own, at) in enumerate(zip(rows, columns, strict=True)):
            spread[number][:, at] = own
        known = ~np.isnan(spread)
        count = known.sum(0)
        total = np.where(known, spread, 0).sum(0)
        average = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
        if first.problem != SINGLE:
            return average
        # In texts that were cut differently, a word may have been seen only by models that lack some label.
        seen = (count > 0).any(-1, keepdims=True)
        average = np.where(seen & np.isnan(average), 0, average)
        return average / average.sum(-1, keepdims=True)

    rows = [prediction.probabilities for prediction in predictions]
    averaged = [mean(own) for own in zip(*rows, strict=True)] if first.task in (TOKENS, MASKED) else mean(rows)
    seconds = sum(prediction.seconds for prediction in predictions)
    return Prediction(name, first.task, first.problem, labels, averaged, seconds)


def _mean_of_answers(predictions: Sequence[Prediction], name: str) -> Prediction:
    """Each answer's mean probability; one that a model does not have among its likeliest counts as nothing there."""
    first = predictions[0]
    means = []
    for own in zip(*(prediction.probabilities for prediction in predictions), strict=True):
        total: dict[str, float] = {}
        for answers in own:
            for text, probability in answers.items():
                total[text] = total.get(text, 0.0) + probability / len(own)
        means.append(total)
    seconds = sum(prediction.seconds for prediction in predictions)
    return Prediction(name, first.task, first.problem, [], means, seconds)


def _union(predictions: Sequence[Prediction]) -> tuple[list[str], list[list[int]]]:
    """All labels in the order in which they first occur, and for each prediction where its labels are in them."""
    if predictions[0].problem == REGRESSION:
        return predictions[0].labels, [list(range(len(prediction.labels))) for prediction in predictions]
    own = [
        [label if prediction.task == MASKED else key_of(label) for label in prediction.labels]
        for prediction in predictions
    ]
    for number, keys in enumerate(own):
        others = {key for at, other in enumerate(own) if at != number for key in other} - {"o"}
        if len(own) > 1 and not others & set(keys):
            raise Incompatible(
                f"{predictions[number].model} ({', '.join(predictions[number].labels[:6])}) has no label in common "
                "with the other models.",
                "Ensemble models with the same labels; if only the names differ, rename them in config.json.",
            )
    labels: dict[str, str] = {}
    for prediction, keys in zip(predictions, own, strict=True):
        for key, label in zip(keys, prediction.labels, strict=True):
            labels.setdefault(key, label)
    at = {key: index for index, key in enumerate(labels)}
    return list(labels.values()), [[at[key] for key in keys] for keys in own]
