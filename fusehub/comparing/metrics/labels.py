"""Metrics of predicted labels against the labels of data, with scikit-learn, scipy and seqeval.

`fusehub.comparing.evaluate` says which metrics each kind of label has. Labels are compared by name.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from typing import Any

from fusehub.comparing.answers import with_prefixes
from fusehub.comparing.metrics.measured import (
    LabelCounts,
    Measured,
    Tally,
    count_labels,
    f1_macro,
    f1_micro,
    mean_of,
    pearson_of,
    precision_micro,
    recall_micro,
)
from fusehub.comparing.said import MULTI, REGRESSION, Said
from fusehub.data.examples import Examples
from fusehub.data.label_matching import from_multi_hot, match_labels, one_a_text
from fusehub.data.tokenizing import are_word_lists
from fusehub.data.values import Label, name_of
from fusehub.errors import Action, BadData
from fusehub.models.label_names import key_of
from fusehub.utils.extras import needs
from fusehub.utils.logging import warn

logger = logging.getLogger(__name__)


def require_known(examples: Examples, labels: Sequence[str], *, is_number: bool) -> None:
    """Raises `BadData` where a model with these `labels`, or one that predicts numbers, cannot be scored on the data:
    no label of the data is one of the model's, or one is no number."""
    if is_number:
        _numbers(examples)
    else:
        _matched(from_multi_hot(examples, labels), labels)


def _labels(examples: Examples) -> Sequence[Label]:
    assert examples.labels is not None  # What is scored was read for its labels.
    return examples.labels


def label_metrics(prediction: Said, answers: Sequence[Any], examples: Examples) -> Measured:
    """The metrics of a model that predicts labels or numbers, the main one first."""
    if prediction.problem == REGRESSION:
        return _regression_metrics(answers, examples)
    if prediction.problem == MULTI:
        return _multi_metrics(prediction, answers, examples)
    return _class_metrics(prediction, answers, examples)


def _class_metrics(prediction: Said, answers: Sequence[Any], examples: Examples) -> Measured:
    examples = one_a_text(examples, prediction.labels)
    labels = _labels(examples)
    if any(isinstance(label, list) for label in labels):
        raise BadData(
            f"{examples.source} has several labels a text, and {prediction.model} gives one.",
            "Name the right column with --label-column.",
            actions=[Action("name-columns")],
        )
    named, meant = _common_names(prediction, examples)
    true = [meant[name_of(label)] for label in labels]
    said = [named[label] for label, _ in answers]
    counts = count_labels([[label] for label in true], [[label] for label in said], sorted({*true, *said}))
    tallies = {"accuracy": mean_of(counts.right.sum(-1)), "f1_macro": Tally(counts.together(), f1_macro)}
    return Measured(_accuracy_and_f1(true, said), tallies, counts)


def _accuracy_and_f1(true: Sequence[str], said: Sequence[str]) -> dict[str, float]:
    with needs("evaluate", "Scores"):
        from sklearn.metrics import accuracy_score, f1_score

    macro = f1_score(true, said, labels=sorted(set(true)), average="macro", zero_division=0.0)
    return {"accuracy": accuracy_score(true, said), "f1_macro": macro}


def _multi_metrics(prediction: Said, answers: Sequence[Any], examples: Examples) -> Measured:
    with needs("evaluate", "Scores"):
        from sklearn.metrics import accuracy_score, f1_score
        from sklearn.preprocessing import MultiLabelBinarizer

    examples = from_multi_hot(examples, prediction.labels)
    named, meant = _common_names(prediction, examples)
    lists = [label if isinstance(label, list) else [name_of(label)] for label in _labels(examples)]
    true = [[meant[label] for label in own] for own in lists]
    # What the data says nothing of is neither right nor wrong.
    told = {key_of(label) for label in examples.told or prediction.labels}
    said = [[named[label] for label in labels if key_of(label) in told] for labels, _ in answers]
    classes = sorted({label for own in (*true, *said) for label in own})
    binarizer = MultiLabelBinarizer(classes=classes)
    a, b = binarizer.fit_transform(true), binarizer.transform(said)
    present = [index for index, label in enumerate(classes) if any(label in own for own in true)]
    metrics = {
        "f1_micro": f1_score(a, b, average="micro", zero_division=0.0),
        "f1_macro": f1_score(a, b, labels=present, average="macro", zero_division=0.0) if present else 0.0,
        "accuracy": accuracy_score(a, b),
    }
    counts = LabelCounts(classes, a * b, b, a)
    together = counts.together()
    tallies = {"f1_micro": Tally(together, f1_micro), "f1_macro": Tally(together, f1_macro)}
    return Measured(metrics, tallies | {"accuracy": mean_of((a == b).all(-1))}, counts)


def _regression_metrics(answers: Sequence[Any], examples: Examples) -> Measured:
    with needs("evaluate", "Scores"):
        from scipy.stats import pearsonr, spearmanr
        from sklearn.metrics import mean_squared_error

    true, said = _numbers(examples), [value for value, _ in answers]
    constant = len(set(true)) < 2 or len(set(said)) < 2
    metrics = {
        "pearson": math.nan if constant else pearsonr(true, said).statistic,
        "spearman": math.nan if constant else spearmanr(true, said).statistic,
        "mse": mean_squared_error(true, said),
    }
    # Ranks follow from no sums.
    errors = [(a - b) ** 2 for a, b in zip(true, said, strict=True)]
    return Measured(metrics, {"pearson": pearson_of(true, said), "mse": mean_of(errors)})


def _numbers(examples: Examples) -> list[float]:
    labels = _labels(examples)
    try:
        numbers = [float(name_of(label)) for label in labels]
    except ValueError as error:
        raise BadData(
            f"{examples.source}: a regression model needs numbers as labels ({error}).",
            "Name the column with the numbers: --label-column NAME",
            actions=[Action("name-columns")],
        ) from error
    for label, number in zip(labels, numbers, strict=True):
        if not math.isfinite(number):
            raise BadData(
                f"{examples.source}: a regression model needs finite numbers as labels, and one is {str(label)[:20]}.",
                "Leave out its row, or write its number.",
            )
    return numbers


def word_metrics(prediction: Said, answers: Sequence[Any], examples: Examples) -> Measured:
    """Whole entities, and words; counted text by text, whose words are not independent of each other.

    Words that the model did not see, because their text was cut, count as O.
    """
    named, meant = _common_names(prediction, examples)
    labels = _labels(examples)
    assert are_word_lists(labels)
    true = [[meant[label] for label in own] for own in labels]
    said = [["O" if label is None else named[label] for label, _ in words] for words in answers]
    flat_true = [label for own in true for label in own]
    flat_said = [label for own in said for label in own]
    words = _accuracy_and_f1(flat_true, flat_said)
    right = [sum(one == other for one, other in zip(*both, strict=True)) for both in zip(true, said, strict=True)]
    accuracy = mean_of(right, [len(own) for own in true])
    if not any(re.match("[BIESLU]-", label) for label in (*flat_true, *prediction.labels)):
        placed = [[[(label, at) for at, label in enumerate(own)] for own in texts] for texts in (true, said)]
        counts = count_labels(placed[0], placed[1], sorted({*flat_true, *flat_said}))
        return Measured(words, {"accuracy": accuracy, "f1_macro": Tally(counts.together(), f1_macro)}, counts)
    with needs("evaluate", "Scores of entities"):
        from seqeval.metrics import f1_score, precision_score, recall_score
        from seqeval.metrics.sequence_labeling import get_entities

    a, b = [with_prefixes(own) for own in true], [with_prefixes(own) for own in said]
    metrics = {
        "f1": f1_score(a, b, zero_division=0),
        "precision": precision_score(a, b, zero_division=0),
        "recall": recall_score(a, b, zero_division=0),
        "accuracy": words["accuracy"],
    }
    found = [[get_entities(own) for own in texts] for texts in (a, b)]
    counts = count_labels(found[0], found[1], sorted({kind for texts in found for own in texts for kind, *_ in own}))
    together = counts.together()
    of_entities = {"f1": f1_micro, "precision": precision_micro, "recall": recall_micro}
    tallies = {name: Tally(together, metric) for name, metric in of_entities.items()}
    return Measured(metrics, {**tallies, "accuracy": accuracy}, counts)


def _common_names(prediction: Said, examples: Examples) -> tuple[dict[str, str], dict[str, str]]:
    """One name for each label: (from the model's label, from the data's label), the data's where both have one."""
    named = {label: label for label in prediction.labels}
    matched = _matched(examples, prediction.labels, warns=True)
    for label, index in reversed(matched.items()):
        if index is not None:
            named[prediction.labels[index]] = label
    meant = {label: label if index is None else named[prediction.labels[index]] for label, index in matched.items()}
    return named, meant


def _matched(examples: Examples, labels: Sequence[str], *, warns: bool = False) -> dict[str, int | None]:
    matched = match_labels(examples, labels)
    unknown = [label for label, index in matched.items() if index is None]
    if warns and unknown:
        warn(logger, "%s: the model does not know %s: counted as wrong.", examples.source, ", ".join(unknown[:8]))
    return matched
