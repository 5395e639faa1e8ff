"""What the values of a table mean: a label by its name, a bit, half a character that is no text.

value_of({"translation": {"de": "Ja."}}, "translation.de")      # "Ja."
label_of("1.0", ["negative", "positive"])                       # "positive"
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fusehub.data.chats import Chat
from fusehub.data.literals import read_list
from fusehub.data.tables.table import Row
from fusehub.errors import BadData
from fusehub.utils.untrusted.limits import ITEMS

Label = str | float | list[str]


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


def label_of(value: Any, names: Sequence[str] | None) -> Label | None:
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
        inner = [name_of(label) for item in value if (label := label_of(item, names)) is not None]
        return inner if len(inner) == len(value) else None
    if value is None or value == "" or is_nan(value):
        return None
    if names is not None and (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
        return names[int(value)] if 0 <= value < len(names) else None
    return value if isinstance(value, str | float) else str(value)


def name_of(label: Label) -> str:
    """A label as text: 1.0 is the label 1, which a column with gaps turned into a number with a fraction."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def bit_of(value: Any) -> bool | None:
    """Whether a value is 1; None where it is neither 0 nor 1."""
    label = label_of(value, None)
    known = {"0": False, "1": True, "false": False, "true": True}
    return known.get(name_of(label).casefold()) if isinstance(label, str | float) else None


def is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def require_characters(value: Any, column: str | None, place: str) -> None:
    """Raises `BadData` for half of a pair of UTF-16 in a text, which JSON can escape and which is no character."""
    if isinstance(value, Chat):
        value = [text for _, text in value.turns]
    for text in value if isinstance(value, list | tuple) else [value]:
        if isinstance(text, str) and (found := re.search("[\ud800-\udfff]", text)):
            raise BadData(
                f"{place}: the column {column} holds half a character (\\u{ord(found[0]):04x}), which is no text.",
                "Write the text as UTF-8, or leave out that row.",
            )
