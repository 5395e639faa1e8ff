"""Whether the texts for a model that tags words are one word a row: a table of words, which it reads as sentences.

rows = WordRows(table, columns)
rows.see("anna")
rows.require_sound()        # raises BadData where all rows were as this one
"""

from __future__ import annotations

from collections import Counter

from fusehub.data.columns import Columns
from fusehub.data.literals import read_list
from fusehub.data.tables.table import Table
from fusehub.errors import BadData

_FIX = (
    "Put the words of a sentence into a list, and their tags into another: "
    '{"tokens": ["Anna", "sings"], "ner_tags": ["B-PER", "O"]} a line of a .jsonl file; '
    "or write a .txt file with a word and its tag a line and an empty line after each sentence."
)
# From so many rows on, words that end most of them are told for tags if each ends so many.
_ROWS, _EACH = 20, 4


class WordRows:
    """Counts what rows of plain text look like; rows of lists are sentences whatever they hold."""

    def __init__(self, table: Table, columns: Columns) -> None:
        self._source = table.source
        aside = [name for name in table.columns if name.casefold().startswith(("sent", "doc"))]
        # A word of its own is no sentence where each has a tag, or says of which sentence it is.
        self._told = columns.label is not None or bool(set(aside) - set(columns.texts))
        self._lengths: Counter[int] = Counter()
        self._last: Counter[str] = Counter()

    def see(self, value: object) -> None:
        """Counts the value of a row's column of texts."""
        if isinstance(value, str) and value.strip() and read_list(value) is None:
            fields = value.split()
            self._lengths[len(fields)] += 1
            # Tags are few; of texts no more than that are kept.
            if fields[-1] in self._last or len(self._last) < 1000:
                self._last[fields[-1]] += 1

    def require_sound(self) -> None:
        """Raises `BadData` where rows are words, or words with their tags, and no sentences."""
        rows = self._lengths.total()
        if self._told and rows > 1 and set(self._lengths) == {1}:
            raise BadData(f"{self._source} has one word a row, which would be read as a sentence.", _FIX)
        if self._told or rows < _ROWS:
            return
        length, alike = self._lengths.most_common(1)[0]
        tags = {word: count for word, count in self._last.items() if count >= _EACH}
        if length > 1 and alike >= 0.9 * rows and sum(tags.values()) >= 0.9 * rows:
            raise BadData(
                f"{self._source}: {alike} of {rows} lines have {length} fields, of which the last is one of few "
                f"({', '.join(sorted(tags)[:8])}): these are words with tags, and would be read as texts.",
                _FIX,
            )
