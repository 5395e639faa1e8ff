"""Texts and labels from a file, a folder or a dataset on the Hub; labels by name, never by number alone.

    examples = load_examples("reviews.csv", "text-classification", limit=500)
    examples.texts[0], examples.labels[0]     # "A fine film.", "positive"

Which column holds what is guessed from the names that people use, and can be said. Texts in batches:
`fusehub.encoding`, whose functions are here too.
"""

from __future__ import annotations

import ast
import json
import logging
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fusehub.encoding import Text, batches, encode, first_tokens, max_length_of, split_words
from fusehub.errors import BadData, NotFound
from fusehub.tables import Row, Table, open_table
from fusehub.tasks import are_generic

__all__ = [
    "Examples",
    "batches",
    "encode",
    "first_tokens",
    "from_multi_hot",
    "labels_as_ids",
    "load_examples",
    "match_labels",
    "max_length_of",
    "name_of",
    "split_words",
]

logger = logging.getLogger(__name__)

# A sample is drawn from the first so many rows, so that one of a huge dataset does not download all of it.
POOL = 30_000
PAIRS = (
    *(("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text1", "text2")),
    *(("question", "sentence"), ("question", "passage"), ("question", "context"), ("text", "text_pair")),
)
TEXT_COLUMNS = (
    *("text", "sentence", "content", "review", "review_body", "reviewText", "comment", "comment_text", "tweet"),
    *("post", "body", "message", "document", "article", "utterance", "question", "premise", "sentence1", "title"),
)
WORD_COLUMNS = ("tokens", "words", "token", "word")
LABEL_COLUMNS = (
    *("label_text", "label", "labels", "sentiment", "class", "category", "target", "emotion", "intent", "topic"),
    *("polarity", "coarse_label", "stars", "rating", "score", "similarity_score"),
)
TAG_COLUMNS = ("ner_tags", "tags", "labels", "ner", "entities", "label")

Label = str | float | list[str]


@dataclass(frozen=True)
class Examples:
    """Texts, and their labels where every one of them has one.

    `texts` are strings, pairs of strings, or lists of words for token classification. `labels` are names: one a text,
    a list a text (multi-label, or one a word), or numbers with a fraction for regression. Numbers that stand for
    nothing known stay as they are, as text. `names` are all label names of the data in the order of their numbers,
    where the data says so. `source`, `split` and `revision` are what was read, without paths of this machine.
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
    table = open_table(source, default_split=default_split, token=token)
    columns = _choose_columns(table, task, text_column, label_column, need_labels)
    usable = _usable(table, columns, need_labels)
    taken = _sample(usable, limit, seed) if limit else list(usable)
    if not taken:
        missing = "text with a label" if need_labels else "text"
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
    if examples.task != "token-classification":
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


@dataclass(frozen=True)
class _Columns:
    """Which columns hold what: one text column or two, and whether it holds lists of words."""

    texts: tuple[str, ...]
    label: str | None
    words: bool

    @property
    def described(self) -> str:
        return " and ".join(self.texts)


def _choose_columns(
    table: Table, task: str, text_column: str | None, label_column: str | None, need_labels: bool
) -> _Columns:
    tokens = task == "token-classification"
    by_name = {name.casefold(): name for name in reversed(table.columns)}

    def find(names: Sequence[str]) -> str | None:
        return next((by_name[name.casefold()] for name in names if name.casefold() in by_name), None)

    def named(name: str, option: str) -> str:
        found = name if name in table.columns else find([name])
        if found is None:
            raise NotFound(f"{table.source} has no column '{name}'.", f"{_columns_of(table)} Name one: {option} NAME")
        return found

    if text_column:
        texts = tuple(
            named(part.strip(), "--text-column")
            for part in ([text_column] if text_column in table.columns else text_column.split(","))
        )
    else:
        texts = _guess_texts(table, find, tokens)
    if (tokens and len(texts) > 1) or len(texts) > 2:
        raise BadData(
            f"A text cannot be in {len(texts)} columns ({', '.join(texts)}).", "Name one: --text-column NAME"
        )
    label = named(label_column, "--label-column") if label_column else find(TAG_COLUMNS if tokens else LABEL_COLUMNS)
    if label in texts:
        label = None
    if need_labels and label is None:
        raise NotFound(
            f"{table.source}: no column looks like labels.",
            f"{_columns_of(table)} Name the one with the labels: --label-column NAME",
        )
    return _Columns(texts, label, words=tokens)


def _guess_texts(table: Table, find: Any, tokens: bool) -> tuple[str, ...]:
    if tokens and (words := find(WORD_COLUMNS)):
        return (words,)
    if not tokens:
        for first, second in PAIRS:
            if find([first]) and find([second]):
                return find([first]), find([second])
    guess = find(TEXT_COLUMNS)
    if guess is None:
        rest = [name for name in table.columns if name.casefold() not in (*LABEL_COLUMNS, *TAG_COLUMNS, "id", "idx")]
        guess = rest[0] if len(rest) == 1 else None
    if guess is None:
        raise NotFound(
            f"{table.source}: no column looks like {'words' if tokens else 'text'}.",
            f"{_columns_of(table)} Name the one with the texts: --text-column NAME",
        )
    return (guess,)


def _columns_of(table: Table) -> str:
    return f"Its columns are {', '.join(map(str, table.columns))}."


def _usable(table: Table, columns: _Columns, need_labels: bool) -> Iterator[tuple[Text, Label | None]]:
    """(text, label) of each row that has a text, and a label where one is needed."""
    empty = unlabelled = 0
    for number, row in enumerate(table.rows, 1):
        place = f"{table.source}, row {number}"
        text = _words(row, columns, place) if columns.words else _text(row, columns, place)
        if not text:
            empty += 1
            continue
        label = _label(row.get(columns.label), table.names.get(columns.label)) if columns.label else None
        if columns.words and label is not None:
            label = _tags(row[columns.label], label, table, columns, text, place if need_labels else None)
        if label is None and need_labels:
            unlabelled += 1
            continue
        yield text, label
    if empty:
        logger.warning("%s: %d rows without text are left out.", table.source, empty)
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


def _text(row: Row, columns: _Columns, place: str) -> Text | None:
    parts = []
    for column in columns.texts:
        value = row.get(column)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        if not isinstance(value, str):
            raise BadData(
                f"{place}: the column {column} holds {type(value).__name__}, not text.",
                f"The columns are {', '.join(map(str, row))}. Name the one with the texts: --text-column NAME",
            )
        parts.append(value)
    if not all(part.strip() for part in parts):
        return None
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


def _words(row: Row, columns: _Columns, place: str) -> list[str] | None:
    """The words of a row: a list, a list written as text, or a plain text, which is split."""
    value = row.get(columns.texts[0])
    if isinstance(value, str):
        listed = _as_list(value)
        value = [value[start:end] for start, end in split_words(value)] if listed is None else listed
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise BadData(
            f"{place}: the column {columns.described} holds no list of words.",
            f"The columns are {', '.join(map(str, row))}. Name the one with the words: --text-column NAME",
        )
    return value if any(word.strip() for word in value) else None


def _tags(raw: Any, label: Label, table: Table, columns: _Columns, words: Text, place: str | None) -> list[str] | None:
    """One label a word. Where they are not, raises `BadData`; without a `place`, where none is needed, gives None."""
    if isinstance(raw, str):
        listed = _as_list(raw)
        label = _label(raw.split() if listed is None else listed, table.names.get(columns.label)) or []
    if place is None and (not isinstance(label, list) or len(label) != len(words)):
        return None
    if not isinstance(label, list):
        raise BadData(f"{place}: the column {columns.label} has no label per word.", "Name it: --label-column NAME")
    if len(label) != len(words):
        raise BadData(
            f"{place}: {len(label)} labels for {len(words)} words.",
            "Give one label a word: words in a list (a column such as tokens), labels in a list of the same length.",
        )
    return label


def _as_list(text: str) -> list[Any] | None:
    """The list that was written as text into a CSV file, as JSON or as Python writes it; None if it is none."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, list):
            return value
    return None


def _label(value: Any, names: Sequence[str] | None) -> Label | None:
    """A label by its name; None where there is none (nothing, NaN, or the -1 of hidden test labels)."""
    if isinstance(value, list):
        inner = [_label(item, names) for item in value]
        return None if any(item is None for item in inner) else [str(item) for item in inner]
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None if value is None else str(value)
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if names is None:
        return str(value)
    return names[value] if 0 <= value < len(names) else None


def _present(examples: Examples) -> list[str]:
    """The labels that occur, each once, in the order in which they do."""
    present: dict[str, None] = {}
    for label in examples.labels or ():
        present.update(dict.fromkeys(label if isinstance(label, list) else [name_of(label)]))
    return list(present)


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
