"""Texts and labels from a file, a folder or a dataset on the Hub; labels by name, never by number alone.

    examples = load_examples("reviews.csv", "text-classification", limit=500)
    examples.texts[0], examples.labels[0]     # "A fine film.", "positive"

Which column holds what is guessed from the names that people use, and can be said. Texts in batches are
`fusehub.data.tokenizing`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fusehub.data.columns import Columns, choose_columns
from fusehub.data.tables.sampling import LabelsSeen, sample
from fusehub.data.tables.table import Draw, Table
from fusehub.data.tasks import data_of
from fusehub.data.tasks.task import TaskData
from fusehub.data.tokenizing import Text
from fusehub.data.values import Label, value_of
from fusehub.errors import Action, BadData
from fusehub.hub.access import STORED, Access
from fusehub.models.tasks import TASKS
from fusehub.utils.logging import warn

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examples:
    """Texts, and their labels where every one of them has one.

    `texts` are strings, pairs of strings (for question answering: question and text), lists of words for token
    classification, pictures, or conversations. `labels` are names: one a text, a list a text (multi-label, or one a
    word), or numbers with a fraction for regression. Numbers that stand for nothing known stay as they are, as text.
    For question answering they are lists of right answers, for sequence to sequence the target texts, for language
    models none. `names` are all label names of the data in the order of their numbers, where the data says so; `seen`
    the labels of all rows from which a sample was drawn. `told` are the labels that have a column of 0 and 1 each: of
    others the data says nothing.
    `source`, `split` and `revision` are what was read, without paths of this machine.
    """

    task: str
    texts: Sequence[Text]
    labels: Sequence[Label] | None
    source: str
    revision: str | None
    split: str | None = None
    names: tuple[str, ...] | None = None
    seen: tuple[str, ...] = ()
    told: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)


def load_examples(
    source: str | os.PathLike[str],
    task: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    text_column: str | None = None,
    label_column: str | None = None,
    need_labels: bool = False,
    default_split: str = "train",
    access: Access = STORED,
    labels: Sequence[str] = (),
) -> Examples:
    """The examples that `source` names (see `fusehub.data.tables.sources`), for a model of `task`.

    With `limit`, that many, drawn by `seed` from all usable rows and kept in their order, with a warning where labels
    are in none of them. Of a dataset of many parts on the Hub, 64 parts that lie all over it are read for that. Rows
    without text are left out, and with `need_labels` those without a label, both with a warning. `text_column` may
    name two columns, "premise,hypothesis", for pairs of texts. `labels` are those of the model, after which columns of
    0 and 1 may be called. Raises `NotFound` and `BadData`.
    """
    if limit is not None and limit < 1:
        raise BadData(f"{limit} examples are no data.", "Give a limit of 1 or more, or none.")
    source = os.fspath(source)
    own = data_of(task)
    draw = Draw(limit, seed) if limit else None
    table = own.open(source, default_split=default_split, access=access, draw=draw)
    if TASKS[task].unlabelled:
        if label_column:
            raise BadData(
                "A language model learns from the text alone: it has no labels.",
                "Leave out --label-column.",
                actions=[Action("name-columns")],
            )
        need_labels = False
    columns = choose_columns(table, own.columns, text_column, label_column, need_labels, labels)
    return read_examples(table, columns, task, need_labels=need_labels, draw=draw)


def read_examples(
    table: Table, columns: Columns, task: str, *, need_labels: bool = False, draw: Draw | None = None
) -> Examples:
    """The examples in the rows of `table` that are left to be read; all of them, or as many as `draw` says."""
    own = data_of(task)
    usable = _usable(table, columns, own, need_labels)
    names = tuple(table.names.get(columns.label or "", ())) or None
    seen = LabelsSeen(names or ()) if TASKS[task].labels else None
    if draw is None:
        taken = list(usable)
    elif seen is None:
        taken = sample(usable, draw)
    else:
        taken = sample(seen.passing(usable), draw)
        seen.warn_of_missing([label for _, label in taken], table.source)
    if not taken:
        missing = f"{own.word} with a label" if need_labels else own.word
        raise BadData(f"{table.source} holds no {missing}.", f"Look into its column {columns.described}.")
    given = [label for _, label in taken if label is not None]
    return Examples(
        task=task,
        texts=[text for text, _ in taken],
        labels=given if len(given) == len(taken) else None,
        source=table.source,
        revision=table.revision,
        split=table.split,
        names=names,
        seen=tuple(seen.names) if draw and seen and not columns.bits else (),
        told=columns.bits,
    )


def _usable(table: Table, columns: Columns, own: TaskData, need_labels: bool) -> Iterator[tuple[Text, Label | None]]:
    """What a model is given of each row that has it, and its label; only rows with one where it is needed."""
    empty = unlabelled = 0
    watched = own.watch(table, columns)
    for number, row in enumerate(table.rows, 1):
        place = f"{table.source}, row {number}"
        if watched:
            watched.see(value_of(row, columns.texts[0]))
        text = own.read_inputs(row, columns, table, place)
        if not text:
            empty += 1
            continue
        label = own.read_label(row, columns, table, text, place, needed=need_labels)
        if label is None and need_labels:
            unlabelled += 1
            continue
        yield text, label
    if watched:
        watched.require_sound()
    if empty:
        warn(logger, "%s: %d rows without %s are left out.", table.source, empty, own.one_word)
    if unlabelled:
        warn(logger, "%s: %d rows without a label are left out.", table.source, unlabelled)
