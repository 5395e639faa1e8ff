"""Which columns of a table hold what, by the names that people give them, and what a row says by them.

    columns = choose_columns(table, "question-answering", None, None, need_labels=True)
    columns.texts, columns.label       # ("question", "context"), "answers"

`translation.de` means the field `de` of a column that holds objects, as data for translation has them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fusehub.data.chats import Chat, is_chat, read_chat
from fusehub.data.images import picture_of
from fusehub.data.literals import read_list, read_literal
from fusehub.data.tables import Row, Table
from fusehub.data.tokenizing import Text, split_words
from fusehub.errors import BadData, NotFound
from fusehub.models.label_names import key_of
from fusehub.models.tasks import CAUSAL, IMAGES, MASKED, QUESTIONS, SEQ2SEQ, TASKS, TEXTS, WORDS
from fusehub.utils.limits import ITEMS

Label = str | float | list[str]

_PAIRS = (
    *(("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text1", "text2")),
    *(("question", "sentence"), ("question", "passage"), ("question", "context"), ("text", "text_pair")),
)
_QUESTION_PAIRS = (("question", "context"), ("question", "passage"), ("query", "context"), ("question", "text"))
_TEXT_COLUMNS = (
    *("text", "sentence", "content", "review", "review_body", "reviewText", "comment", "comment_text", "tweet"),
    *("post", "body", "message", "document", "article", "utterance", "question", "premise", "sentence1", "title"),
)
_SOURCE_COLUMNS = (
    *("source", "input", "inputs", "document", "article", "dialogue", "text", "src", "prompt", "question"),
    *("source_text", "input_text", "sentence", "content"),
)
_TARGET_COLUMNS = (
    *("target", "summary", "highlights", "output", "outputs", "targets", "tgt", "translation", "response", "answer"),
    *("target_text", "output_text", "label", "labels", "title"),
)
_CHAT_COLUMNS = ("messages", "conversations", "conversation", "chat", "dialog")
_WORD_COLUMNS = ("tokens", "words", "token", "word")
_IMAGE_COLUMNS = ("image", "img", "picture", "photo", "pixel_values", "file_name", "file", "path", "image_path")
_LABEL_COLUMNS = (
    *("label_text", "label", "labels", "sentiment", "class", "category", "target", "emotion", "intent", "topic"),
    *("polarity", "coarse_label", "stars", "rating", "score", "similarity_score"),
)
_IMAGE_LABEL_COLUMNS = (*_LABEL_COLUMNS, "fine_label", "species", "breed")
_TAG_COLUMNS = ("ner_tags", "tags", "labels", "ner", "entities", "label")
_ANSWER_COLUMNS = ("answers", "answer", "answer_text", "label")


@dataclass(frozen=True)
class _Guesses:
    """What a task looks for: pairs of columns first, then one column, and the column with the labels."""

    kind: str
    labels: str
    pairs: tuple[tuple[str, str], ...]
    texts: tuple[str, ...]
    targets: tuple[str, ...]
    most: int = 1
    least: int = 1


_TASKS = {
    TEXTS: _Guesses("text", "labels", _PAIRS, _TEXT_COLUMNS, _LABEL_COLUMNS, most=2),
    WORDS: _Guesses("words", "labels", (), (*_WORD_COLUMNS, *_TEXT_COLUMNS), _TAG_COLUMNS),
    QUESTIONS: _Guesses("a question and a text", "answers", _QUESTION_PAIRS, (), _ANSWER_COLUMNS, most=2, least=2),
    MASKED: _Guesses("text", "labels", (), _TEXT_COLUMNS, ()),
    CAUSAL: _Guesses("text", "labels", (), _TEXT_COLUMNS, ()),
    SEQ2SEQ: _Guesses("source texts", "target texts", (), _SOURCE_COLUMNS, _TARGET_COLUMNS),
    IMAGES: _Guesses("images", "labels", (), _IMAGE_COLUMNS, _IMAGE_LABEL_COLUMNS),
}


@dataclass(frozen=True)
class Columns:
    """Which columns hold what: one text column or two, and the one with labels, answers or targets."""

    task: str
    texts: tuple[str, ...]
    label: str | None
    bits: tuple[str, ...] = ()
    """Columns of 0 and 1 that are labels of the model by themselves, each saying whether a row has it."""

    @property
    def described(self) -> str:
        return " and ".join(self.texts)


def choose_columns(
    table: Table,
    task: str,
    text_column: str | None,
    label_column: str | None,
    need_labels: bool,
    labels: Sequence[str] = (),
) -> Columns:
    """The columns of `table` for `task`: those named, and the rest guessed. Raises `NotFound` and `BadData`.

    For sequence to sequence, `text_column` may be "source,target". `labels` are those of the model: columns of 0 and 1
    that are called after them say which labels a row has.
    """
    guesses = _TASKS[task]
    texts = _named_texts(table, text_column) if text_column else _guess_texts(table, guesses, task)
    if task == SEQ2SEQ and len(texts) == 2 and not label_column:
        label_column, texts = texts[1], texts[:1]
    if not guesses.least <= len(texts) <= guesses.most:
        fix = "Name one: --text-column NAME"
        if guesses.least > 1:
            fix = "Name that of the question and that of the text: --text-column QUESTION,TEXT"
        raise BadData(f"{guesses.kind.capitalize()} cannot be in {len(texts)} columns ({', '.join(texts)}).", fix)
    if bits := _bit_columns(table, task, label_column, labels):
        return Columns(task, texts, None, bits)
    label = _column(table, label_column, "--label-column") if label_column else _guess_label(table, task)
    if label in texts:
        label = None
    if need_labels and label is None:
        raise NotFound(
            f"{table.source}: no column looks like {guesses.labels}.",
            f"{_columns_of(table)} Name the one with the {guesses.labels}: --label-column NAME",
        )
    return Columns(task, texts, label)


def read_inputs(row: Row, columns: Columns, table: Table, place: str) -> Text | None:
    """What a model is given of a row; None where there is nothing. Raises `BadData` where it holds something else."""
    if TASKS[columns.task].of_images:
        return picture_of(value_of(row, columns.texts[0]), table.root, f"{place}: the column {columns.described}")
    text = _words(row, columns, place) if columns.task == WORDS else _text(row, columns, place)
    _require_characters(text, columns.described, place)
    return text


def read_label(row: Row, columns: Columns, table: Table, text: Text, place: str, *, needed: bool) -> Label | None:
    """The label of a row, its list of answers, or its target text; None where it has none."""
    label = _read_label(row, columns, table, text, place, needed=needed)
    _require_characters(label, columns.label, place)
    return label


def _read_label(row: Row, columns: Columns, table: Table, text: Text, place: str, *, needed: bool) -> Label | None:
    if columns.bits:
        bits = [_bit(value_of(row, column)) for column in columns.bits]
        wrong = [column for column, bit in zip(columns.bits, bits, strict=True) if bit is None]
        values = [_label(value_of(row, column), None) for column in wrong]
        if needed and any(value is not None for value in values):
            raise BadData(
                f"{place}: the column {wrong[0]} is called after a label and holds {values[0]}, not 0 or 1.",
                "Write 0 or 1 in it, or name the column with the labels: --label-column NAME",
            )
        return None if wrong else [column for column, bit in zip(columns.bits, bits, strict=True) if bit]
    if columns.label is None:
        return None
    value, names = value_of(row, columns.label), table.names.get(columns.label)
    if columns.task == QUESTIONS:
        return _answers(value, columns, place)
    if columns.task == SEQ2SEQ:
        if value is not None and not isinstance(value, str):
            raise BadData(
                f"{place}: the column {columns.label} holds {type(value).__name__}, not text.",
                f"The columns are {', '.join(map(str, row))}. Name the one with the target texts: --label-column NAME",
            )
        return value.strip() or None if value else None
    label = _label(value, names)
    if columns.task == WORDS and label is not None:
        assert isinstance(text, list)
        label = _tags(value, label, names, columns, text, place if needed else None)
    return label


def _require_characters(value: Any, column: str | None, place: str) -> None:
    """Raises `BadData` for half of a pair of UTF-16 in a text, which JSON can escape and which is no character."""
    if isinstance(value, Chat):
        value = [text for _, text in value.turns]
    for text in value if isinstance(value, list | tuple) else [value]:
        if isinstance(text, str) and (found := re.search("[\ud800-\udfff]", text)):
            raise BadData(
                f"{place}: the column {column} holds half a character (\\u{ord(found[0]):04x}), which is no text.",
                "Write the text as UTF-8, or leave out that row.",
            )


def _bit_columns(table: Table, task: str, label_column: str | None, labels: Sequence[str]) -> tuple[str, ...]:
    """The columns that are labels of the model: all of them where none is named, else those that are named."""
    if task not in (TEXTS, IMAGES) or (not label_column and _guess_label(table, task)):
        return ()
    names = list(labels)
    if label_column:
        named = [label_column] if label_column in table.columns else label_column.split(",")
        known = {key_of(label) for label in labels}
        names = [name.strip() for name in named if key_of(name) in known]
        if len(names) < len(named):
            return ()
    elif len(names) < 2:
        return ()
    found = [column for name in names if (column := _find(table, [name])) is not None]
    if len(found) < len(names):
        return ()
    # A row may say nothing of its labels; the first that says something tells what the columns hold.
    first = table.first(lambda row: any(_label(row.get(column), None) is not None for column in found)) or {}
    told = [value for column in found if _label(value := first.get(column), None) is not None]
    return tuple(found) if told and all(_bit(value) is not None for value in told) else ()


def _bit(value: Any) -> bool | None:
    """Whether a value is 1; None where it is neither 0 nor 1."""
    label = _label(value, None)
    known = {"0": False, "1": True, "false": False, "true": True}
    return known.get(name_of(label).casefold()) if isinstance(label, str | float) else None


def value_of(row: Row, column: str) -> Any:
    """The value of a column, or of a field `column.field` of an object in it. Raises `BadData` for too long a list."""
    if column in row:
        value = row[column]
    else:
        outer, _, inner = column.partition(".")
        value = row.get(outer)
        value = value.get(inner) if isinstance(value, Mapping) else None
    if isinstance(value, list) and len(value) > ITEMS:
        raise BadData(
            f"The column {column} holds a list of {len(value):,} items, and no more than {ITEMS:,} are read.",
            "Give one text a row.",
        )
    return value


def _find(table: Table, names: Sequence[str]) -> str | None:
    by_name = {key_of(name): name for name in reversed(table.columns)}
    return next((by_name[key_of(name)] for name in names if key_of(name) in by_name), None)


def _column(table: Table, name: str, option: str) -> str:
    """The column that was named: as it is written, else whatever the case."""
    if name in table.columns or ("." in name and name.partition(".")[0] in table.columns):
        return name
    found = _find(table, [name])
    if found is None:
        raise NotFound(f"{table.source} has no column '{name}'.", f"{_columns_of(table)} Name one: {option} NAME")
    return found


def _named_texts(table: Table, text_column: str) -> tuple[str, ...]:
    names = [text_column] if text_column in table.columns else text_column.split(",")
    return tuple(_column(table, name.strip(), "--text-column") for name in names)


def _guess_label(table: Table, task: str) -> str | None:
    """The one column whose labels the data itself names, if there is one; else by its name."""
    named = [column for column in table.columns if column in table.names]
    if TASKS[task].labels and len(named) == 1:
        return named[0]
    return _find(table, _TASKS[task].targets)


def _guess_texts(table: Table, guesses: _Guesses, task: str) -> tuple[str, ...]:
    chats = _find(table, _CHAT_COLUMNS)
    if task == CAUSAL and chats and is_chat((table.peek() or {}).get(chats)):
        return (chats,)
    for first, second in guesses.pairs:
        one, other = _find(table, [first]), _find(table, [second])
        if one is not None and other is not None:
            return one, other
    guess = _find(table, guesses.texts)
    if guess is None and guesses.least == 1:
        aside = (*_LABEL_COLUMNS, *_TAG_COLUMNS, *guesses.targets, "id", "idx")
        rest = [name for name in table.columns if name.casefold() not in aside]
        guess = rest[0] if len(rest) == 1 else None
    if guess is None:
        named = "QUESTION,TEXT" if guesses.least > 1 else "NAME"
        what = {"text": "texts"}.get(guesses.kind, guesses.kind)
        raise NotFound(
            f"{table.source}: no column looks like {guesses.kind}.",
            f"{_columns_of(table)} Name the one with the {what}: --text-column {named}",
        )
    return (guess,)


def _columns_of(table: Table) -> str:
    return f"Its columns are {', '.join(map(str, table.columns))}."


def _text(row: Row, columns: Columns, place: str) -> Text | None:
    parts = []
    for column in columns.texts:
        value = value_of(row, column)
        if value is None or _is_nan(value):
            return None
        if columns.task == CAUSAL and is_chat(value):
            return read_chat(value, place)
        if not isinstance(value, str):
            raise BadData(
                f"{place}: the column {column} holds {type(value).__name__}, not text.",
                f"The columns are {', '.join(map(str, row))}. Name the one with the texts: --text-column NAME",
            )
        parts.append(value)
    if not all(part.strip() for part in parts):
        return None
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


def _words(row: Row, columns: Columns, place: str) -> list[str] | None:
    """The words of a row: a list, a list written as text, or a plain text, which is split."""
    value = value_of(row, columns.texts[0])
    if isinstance(value, str):
        listed = read_list(value)
        # A column of lists in which one cannot be read is no text: its brackets are no words.
        looks_listed = columns.texts[0].casefold() in _WORD_COLUMNS and re.fullmatch(r"\s*\[.*\]\s*", value, re.DOTALL)
        if listed is None and not looks_listed:
            listed = [value[start:end] for start, end in split_words(value)]
        value = listed if listed is not None else value
    if value is None or _is_nan(value):
        return None
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise BadData(
            f"{place}: the column {columns.described} holds no list of words"
            + (f" that can be read: {value[:60]}." if isinstance(value, str) else "."),
            "Write lists as JSON (or give Parquet); or name the column with the words: --text-column NAME",
        )
    return value if any(word.strip() for word in value) else None


def _tags(
    raw: Any, label: Label, names: Sequence[str] | None, columns: Columns, words: list[str], place: str | None
) -> list[str] | None:
    """One label a word. Where they are not, raises `BadData`; without a `place`, where none is needed, gives None."""
    if isinstance(raw, str):
        listed = read_list(raw)
        label = _label(raw.split() if listed is None else listed, names) or []
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


def _answers(value: Any, columns: Columns, place: str) -> list[str] | None:
    """All texts that are right answers, none where the text holds no answer: `{"text": [...]}` as SQuAD has them."""
    if isinstance(value, str) and value[:1] in "{[":
        value = read_literal(value)
    if isinstance(value, Mapping):
        value = value.get("text")
    if isinstance(value, list):
        value = [item.get("text") if isinstance(item, Mapping) else item for item in value]
    if value is None or isinstance(value, str):
        return None if value is None else [value] if value.strip() else []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadData(
            f"{place}: the column {columns.label} holds no answers.",
            'Write answers as text, as a list of texts, or as {"text": [...]}; name their column: --label-column NAME',
        )
    return value


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _label(value: Any, names: Sequence[str] | None) -> Label | None:
    """A label by its name; None where there is none (nothing, NaN, or the -1 of hidden test labels).

    The same whether a file keeps numbers and lists as what they are, or as text: "1.0" is the number, "[0, 1]" a list.
    """
    if isinstance(value, str):
        listed = read_list(value)
        value = value.strip() if listed is None else listed
        # What is written otherwise than its number, as the version 3.10, is a name.
        if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.0*|\.\d+(e-?\d+)?)", value):
            value = float(value) if float(value).is_integer() or repr(float(value)) == value else value
    if isinstance(value, list):
        inner = [name_of(label) for item in value if (label := _label(item, names)) is not None]
        return inner if len(inner) == len(value) else None
    if value is None or value == "" or _is_nan(value):
        return None
    if names is not None and (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
        return names[int(value)] if 0 <= value < len(names) else None
    return value if isinstance(value, str | float) else str(value)


def name_of(label: Label) -> str:
    """A label as text: 1.0 is the label 1, which a column with gaps turned into a number with a fraction."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)
