"""Token classification: lists of words, and a label for each of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fusehub.data.columns import TAG_COLUMNS, TEXT_COLUMNS, Columns, Guesses
from fusehub.data.literals import read_list
from fusehub.data.tables.table import Row, Table
from fusehub.data.tasks.task import SENTENCE, RowWatch, TaskData
from fusehub.data.tokenizing import Text, split_words
from fusehub.data.values import Label, is_nan, label_of, value_of
from fusehub.data.word_rows import WordRows
from fusehub.errors import Action, BadData

_WORD_COLUMNS = ("tokens", "words", "token", "word")


class TokenClassificationData(TaskData):
    """Lists of words, each with its label."""

    kinds = (list,)
    columns = Guesses("words", texts=(*_WORD_COLUMNS, *TEXT_COLUMNS), targets=TAG_COLUMNS, labels_named=True)
    one_choice = False

    def watch(self, table: Table, columns: Columns) -> RowWatch:
        """Whether rows are sentences, and not single words."""
        return WordRows(table, columns)

    def example(self) -> tuple[Text, Label | None]:
        """The words of a sentence."""
        return SENTENCE.split(), None

    def _read_text(self, row: Row, columns: Columns, place: str) -> list[str] | None:
        """The words of a row: a list, a list written as text, or a plain text, which is split."""
        value = value_of(row, columns.texts[0])
        if isinstance(value, str):
            listed = read_list(value)
            # A column of lists in which one cannot be read is no text: its brackets are no words.
            named = columns.texts[0].casefold() in _WORD_COLUMNS
            looks_listed = named and re.fullmatch(r"\s*\[.*\]\s*", value, re.DOTALL)
            if listed is None and not looks_listed:
                listed = [value[start:end] for start, end in split_words(value)]
            value = listed if listed is not None else value
        if value is None or is_nan(value):
            return None
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise BadData(
                f"{place}: the column {columns.described} holds no list of words"
                + (f" that can be read: {value[:60]}." if isinstance(value, str) else "."),
                "Write lists as JSON (or give Parquet); or name the column with the words: --text-column NAME",
                actions=[Action("name-columns")],
            )
        return value if any(word.strip() for word in value) else None

    def _read_label(
        self,
        value: Any,
        names: Sequence[str] | None,
        columns: Columns,
        row: Row,
        text: Text,
        place: str,
        *,
        needed: bool,
    ) -> list[str] | None:
        """One label a word. Where they are not, raises `BadData`; where none is `needed`, gives None."""
        assert isinstance(text, list)
        label = label_of(value, names)
        if label is None:
            return None
        if isinstance(value, str):
            listed = read_list(value)
            label = label_of(value.split() if listed is None else listed, names) or []
        if not needed and (not isinstance(label, list) or len(label) != len(text)):
            return None
        if not isinstance(label, list):
            raise BadData(
                f"{place}: the column {columns.label} has no label per word.",
                "Name it: --label-column NAME",
                actions=[Action("name-columns")],
            )
        if len(label) != len(text):
            raise BadData(
                f"{place}: {len(label)} labels for {len(text)} words.",
                "Give one label a word: words in a list (a column such as tokens), labels in a list of the same "
                "length.",
            )
        return label
