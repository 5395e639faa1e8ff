"""Which columns of a table hold what, by the names that people give them.

    columns = choose_columns(table, data_of("question-answering").columns, None, None, need_labels=True)
    columns.texts, columns.label       # ("question", "context"), "answers"

`translation.de` means the field `de` of a column that holds objects, as data for translation has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fusehub.data.chats import is_chat
from fusehub.data.tables.table import Table
from fusehub.data.values import bit_of, label_of
from fusehub.errors import Action, BadData, NotFound
from fusehub.models.label_names import key_of

TEXT_COLUMNS = (
    *("text", "sentence", "content", "review", "review_body", "reviewText", "comment", "comment_text", "tweet"),
    *("post", "body", "message", "document", "article", "utterance", "question", "premise", "sentence1", "title"),
)
LABEL_COLUMNS = (
    *("label_text", "label", "labels", "sentiment", "class", "category", "target", "emotion", "intent", "topic"),
    *("polarity", "coarse_label", "stars", "rating", "score", "similarity_score"),
)
TAG_COLUMNS = ("ner_tags", "tags", "labels", "ner", "entities", "label")
_CHAT_COLUMNS = ("messages", "conversations", "conversation", "chat", "dialog")


@dataclass(frozen=True)
class Guesses:
    """What a task looks for: pairs of columns first, then one column, and the column with the labels."""

    kind: str
    """What the inputs are, for a person: `text`."""
    labels: str = "labels"
    """What the labels are, for a person."""
    pairs: tuple[tuple[str, str], ...] = ()
    texts: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    most: int = 1
    least: int = 1
    named: str = "NAME"
    """How the columns are named, as an option."""
    name_them: str = "Name one: --text-column NAME"
    """What to do where it is not clear which they are."""
    chats: bool = False
    """A column may hold conversations."""
    names_both: bool = False
    """Two columns that are named as those of the inputs are those of the inputs and of the labels."""
    labels_named: bool = False
    """The one column whose labels the data itself names is the one with the labels."""
    bits: bool = False
    """Columns of 0 and 1 may each say whether an example has a label."""


@dataclass(frozen=True)
class Columns:
    """Which columns hold what: one text column or two, and the one with labels, answers or targets."""

    texts: tuple[str, ...]
    label: str | None
    bits: tuple[str, ...] = ()
    """Columns of 0 and 1 that are labels of the model by themselves, each saying whether a row has it."""
    why_texts: str = field(default="", compare=False)
    """Why those of the texts were taken, for a person; nothing where they were named."""
    why_label: str = field(default="", compare=False)
    """The same of the one with the labels."""

    @property
    def described(self) -> str:
        return " and ".join(self.texts)


def choose_columns(
    table: Table,
    guesses: Guesses,
    text_column: str | None,
    label_column: str | None,
    need_labels: bool,
    labels: Sequence[str] = (),
) -> Columns:
    """The columns of `table`: those named, and the rest guessed. Raises `NotFound` and `BadData`.

    For sequence to sequence, `text_column` may be "source,target". `labels` are those of the model: columns of 0 and 1
    that are called after them say which labels a row has.
    """
    texts, why_texts = (_named_texts(table, text_column), "") if text_column else _guess_texts(table, guesses)
    if guesses.names_both and len(texts) == 2 and not label_column:
        label_column, texts = texts[1], texts[:1]
    if not guesses.least <= len(texts) <= guesses.most:
        raise BadData(
            f"{guesses.kind.capitalize()} cannot be in {len(texts)} columns ({', '.join(texts)}).", guesses.name_them
        )
    if bits := _bit_columns(table, guesses, label_column, labels):
        why = "" if label_column else "they are called after the model's labels, and hold 0 and 1"
        return Columns(texts, None, bits, why_texts, why)
    named = _column(table, label_column, "--label-column") if label_column else None
    label, why_label = (named, "") if named else _guess_label(table, guesses)
    if label in texts:
        label = None
    if need_labels and label is None:
        raise NotFound(
            f"{table.source}: no column looks like {guesses.labels}.",
            f"{_columns_of(table)} Name the one with the {guesses.labels}: --label-column NAME",
            actions=[Action("name-columns")],
        )
    return Columns(texts, label, (), why_texts, why_label if label is not None else "")


def _bit_columns(table: Table, guesses: Guesses, label_column: str | None, labels: Sequence[str]) -> tuple[str, ...]:
    """The columns that are labels of the model: all of them where none is named, else those that are named."""
    if not guesses.bits or (not label_column and _guess_label(table, guesses)[0]):
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
    first = table.first(lambda row: any(label_of(row.get(column), None) is not None for column in found)) or {}
    told = [value for column in found if label_of(value := first.get(column), None) is not None]
    return tuple(found) if told and all(bit_of(value) is not None for value in told) else ()


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


def _guess_label(table: Table, guesses: Guesses) -> tuple[str | None, str]:
    """The one column whose labels the data itself names, if there is one; else by its name; and why."""
    named = [column for column in table.columns if column in table.names]
    if guesses.labels_named and len(named) == 1:
        return named[0], "the data names the labels in it"
    return _find(table, guesses.targets), f"columns of {guesses.labels} are often called so"


def _guess_texts(table: Table, guesses: Guesses) -> tuple[tuple[str, ...], str]:
    """One column, or two, and why."""
    what = {"text": "texts"}.get(guesses.kind, guesses.kind)
    chats = _find(table, _CHAT_COLUMNS)
    if guesses.chats and chats and is_chat((table.peek() or {}).get(chats)):
        return (chats,), "it holds conversations"
    for first, second in guesses.pairs:
        one, other = _find(table, [first]), _find(table, [second])
        if one is not None and other is not None:
            return (one, other), "two columns that belong together are often called so"
    guess, why = _find(table, guesses.texts), f"columns of {what} are often called so"
    if guess is None and guesses.least == 1:
        aside = (*LABEL_COLUMNS, *TAG_COLUMNS, *guesses.targets, "id", "idx")
        rest = [name for name in table.columns if name.casefold() not in aside]
        guess, why = (rest[0], "there is no other for them") if len(rest) == 1 else (None, "")
    if guess is None:
        raise NotFound(
            f"{table.source}: no column looks like {guesses.kind}.",
            f"{_columns_of(table)} Name the one with the {what}: --text-column {guesses.named}",
            actions=[Action("name-columns")],
        )
    return (guess,), why


def _columns_of(table: Table) -> str:
    return f"Its columns are {', '.join(map(str, table.columns))}."
