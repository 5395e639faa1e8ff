"""Texts and labels from a file, a folder or a dataset on the Hub; labels by name, never by number alone.

    examples = load_examples("reviews.csv", "text-classification", limit=500)
    examples.texts[0], examples.labels[0]     # "A fine film.", "positive"

Which column holds what is guessed from the names that people use, and can be said. Texts in batches are
`fusehub.encoding`.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fusehub.columns import Columns, Label, choose_columns, read_inputs, read_label
from fusehub.encoding import Text
from fusehub.errors import BadData
from fusehub.label_names import are_generic
from fusehub.pictures import open_pictures
from fusehub.tables import Table, open_table
from fusehub.tasks import CAUSAL, IMAGES, MASKED, WORDS

logger = logging.getLogger(__name__)

# A sample is drawn from the first so many rows, so that one of a huge dataset does not download all of it.
POOL = 30_000


@dataclass(frozen=True)
class Examples:
    """Texts, and their labels where every one of them has one.

    `texts` are strings, pairs of strings (for question answering: question and text), lists of words for token
    classification, or pictures. `labels` are names: one a text, a list a text (multi-label, or one a word), or numbers
    with a fraction for regression. Numbers that stand for nothing known stay as they are, as text. For question
    answering they are lists of right answers, for sequence to sequence the target texts, for language models none.
    `names` are all label names of the data in the order of their numbers, where the data says so.
    `source`, `split` and `revision` are what was read, without paths of this machine.
    """

    task: str
    texts: list[Text]
    labels: list[Label] | None
    source: str
    revision: str | None
    split: str | None = None
    names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.texts)


def load_examples(
    source: str,
    task: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    text_column: str | None = None,
    label_column: str | None = None,
    need_labels: bool = False,
    default_split: str = "train",
    token: str | None = None,
) -> Examples:
    """The examples that `source` names (see `fusehub.tables`), for a model of `task`.

    With `limit`, that many, drawn by `seed` from the first 30,000 usable rows and kept in their order. Rows without
    text are left out, and with `need_labels` those without a label, both with a warning. `text_column` may name two
    columns, "premise,hypothesis", for pairs of texts. Raises `NotFound` and `BadData`.
    """
    if limit is not None and limit < 1:
        raise BadData(f"{limit} examples are no data.", "Give a limit of 1 or more, or none.")
    opened = open_pictures if task == IMAGES else open_table
    table = opened(source, default_split=default_split, token=token)
    if task in (MASKED, CAUSAL):
        if label_column:
            raise BadData(
                "A language model learns from the text alone: it has no labels.", "Leave out --label-column."
            )
        need_labels = False
    columns = choose_columns(table, task, text_column, label_column, need_labels)
    usable = _usable(table, columns, need_labels)
    taken = _sample(usable, limit, seed) if limit else list(usable)
    if not taken:
        kind = "image" if task == IMAGES else "text"
        missing = f"{kind} with a label" if need_labels else kind
        raise BadData(f"{table.source} holds no {missing}.", f"Look into its column {columns.described}.")
    labels = [label for _, label in taken]
    return Examples(
        task=task,
        texts=[text for text, _ in taken],
        labels=None if any(label is None for label in labels) else labels,
        source=table.source,
        revision=table.revision,
        split=table.split,
        names=tuple(table.names.get(columns.label or "", ())) or None,
    )


def match_labels(examples: Examples, labels: Sequence[str]) -> dict[str, int | None]:
    """For each label of the data, the index of the model's label it is; None where the model does not know it.

    By name, whatever the case. Where no name agrees and one side has only numbers (or LABEL_0, LABEL_1, ...), by
    number, with a warning. Raises `BadData` where neither works: words of like meaning are never taken as the same.
    """
    present = _present(examples)
    by_name = {label.strip().casefold(): index for index, label in enumerate(labels)}
    matched = {label: by_name.get(label.casefold()) for label in present}
    known = [label for label, index in matched.items() if index is not None and label.upper() != "O"]
    if known or (not [label for label in present if label.upper() != "O"] and present):
        return matched
    order = {name: number for number, name in enumerate(examples.names or ())}
    if examples.names is None and all(label.isdecimal() for label in present):
        order = {label: int(label) for label in present}
    fits = max(order.values(), default=-1) < len(labels)
    named = examples.names is not None and (not are_generic(list(labels)) or len(examples.names) != len(labels))
    if not set(present) <= set(order) or not fits or named:
        raise BadData(
            f"The labels of {examples.source} ({_listed(present)}) are not those of the model ({_listed(labels)}).",
            "Name the right column with --label-column, or rename the labels in the data as the model names them.",
        )
    pairs = ", ".join(f"{label} = {labels[index]}" for label, index in list(order.items())[:8])
    logger.warning("%s: labels are matched by number: %s. Is that right?", examples.source, pairs)
    return {label: order[label] for label in present}


def labels_as_ids(examples: Examples, labels: Sequence[str]) -> list[Any]:
    """The labels of the examples as indices into the model's `labels`, in the shape they have.

    Raises `BadData` where there are none, or where the model does not know one of them.
    """
    if examples.labels is None:
        raise BadData(f"{examples.source} has no labels, or not for every text.", "Name their column.")
    if examples.task != WORDS:
        examples = from_multi_hot(examples, labels)
    matched = match_labels(examples, labels)
    unknown = [label for label, index in matched.items() if index is None]
    if unknown:
        raise BadData(
            f"{examples.source} has labels that the model does not know ({_listed(unknown)}); it knows "
            f"{_listed(labels)}.",
            "Leave out those examples, or use a model that knows these labels.",
        )
    return [
        [matched[name] for name in label] if isinstance(label, list) else matched[name_of(label)]
        for label in examples.labels
    ]


def name_of(label: str | float) -> str:
    """A label as text: 1.0 is the label 1, which a column with gaps turned into a number with a fraction."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def from_multi_hot(examples: Examples, labels: Sequence[str]) -> Examples:
    """The examples with lists such as [0, 1, 0], one number for each of the model's `labels`, turned into names."""
    lists = [label for label in examples.labels or () if isinstance(label, list)]
    hot = {"0", "1", "0.0", "1.0"}
    if not lists or examples.names or any(len(label) != len(labels) or not hot.issuperset(label) for label in lists):
        return examples
    named = [[name for name, bit in zip(labels, label, strict=True) if float(bit)] for label in lists]
    return replace(examples, labels=named)


def _usable(table: Table, columns: Columns, need_labels: bool) -> Iterator[tuple[Text, Label | None]]:
    """What a model is given of each row that has it, and its label; only rows with one where it is needed."""
    empty = unlabelled = 0
    for number, row in enumerate(table.rows, 1):
        place = f"{table.source}, row {number}"
        text = read_inputs(row, columns, table, place)
        if not text:
            empty += 1
            continue
        label = read_label(row, columns, table, text, place, needed=need_labels)
        if label is None and need_labels:
            unlabelled += 1
            continue
        yield text, label
    kind = {IMAGES: "an image"}.get(columns.task, "text")
    if empty:
        logger.warning("%s: %d rows without %s are left out.", table.source, empty, kind)
    if unlabelled:
        logger.warning("%s: %d rows without a label are left out.", table.source, unlabelled)


def _sample(rows: Iterator[Any], limit: int, seed: int) -> list[Any]:
    """`limit` of the first `POOL` rows, each as likely as another, in their order (reservoir sampling)."""
    rng = random.Random(seed)
    taken: list[tuple[int, Any]] = []
    for number, row in enumerate(rows):
        if number >= max(POOL, limit):
            break
        if number < limit:
            taken.append((number, row))
        elif (place := rng.randrange(number + 1)) < limit:
            taken[place] = (number, row)
    return [row for _, row in sorted(taken, key=lambda pair: pair[0])]


def _present(examples: Examples) -> list[str]:
    """The labels that occur, each once, in the order in which they do."""
    present: dict[str, None] = {}
    for label in examples.labels or ():
        present.update(dict.fromkeys(label if isinstance(label, list) else [name_of(label)]))
    return list(present)


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
