"""Lists and objects that were written into a file as text: by JSON, by Python's `str`, by numpy or by pandas.

    read_list("['anna' 'likes' 'paris']")                   # ["anna", "likes", "paris"], as numpy prints them
    read_list("array([1, 0], dtype=int64)")                 # [1, 0]
    read_list("[np.str_('anna'), np.str_('likes')]")        # ["anna", "likes"]
    read_list("a plain text")                               # None

numpy puts no commas between what it prints, and Python takes strings side by side for one string: such a list must
never be read as Python.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from typing import Any

from fusehub.errors import BadData
from fusehub.utils.untrusted.documents import is_deep
from fusehub.utils.untrusted.limits import LITERAL_CHARACTERS

_ARRAYS = ("array", "tensor", "asarray")
_SCALAR = re.compile(r"(str|bool|int|uint|float|bytes)\d*_?")
_ENDS = ("]", ")", "}")
_NAMES = ("True", "False", "None", "nan", "inf")
_PREFIX = re.compile(r"(np|numpy|torch)\.|(array|tensor)\(")


class _NotWritten(ValueError):
    """The text is no list or object that was written."""


def read_list(text: str) -> list[Any] | None:
    """The list that `text` is; None where it is none. Raises `BadData` where some of it was left out in printing."""
    stripped = text.strip()
    if not (stripped.startswith("[") and stripped.endswith("]")) and not _PREFIX.match(stripped):
        return None
    value = read_literal(stripped)
    return value if isinstance(value, list) and not is_deep(value) else None


def read_literal(text: str) -> Any:
    """What `text` means as JSON, Python or numpy write it; the text itself if it means nothing.

    Raises `BadData` for what is not JSON and so long that reading it as Python would take minutes.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if len(text) > LITERAL_CHARACTERS:
        raise BadData(
            f"The list {' '.join(text[:60].split())}... has {len(text):,} characters; no more than "
            f"{LITERAL_CHARACTERS:,} are read of one that is not JSON.",
            "Write the list as JSON, or into Parquet.",
        )
    try:
        return _value(ast.parse(_with_commas(text), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, IndexError, MemoryError, RecursionError, tokenize.TokenError):
        return text


def _with_commas(text: str) -> str:
    """`text` with commas between the items of a list that was printed without any.

    Raises `_NotWritten` for a list that has some: whether two strings of it are one is anybody's guess.
    """
    pieces: list[str] = []
    before: tokenize.TokenInfo | None = None
    # For each bracket that is open: which commas it has, those that were written and those that are added.
    commas: list[set[str]] = [set()]
    # Parentheses make of several lines one expression.
    for token in tokenize.generate_tokens(io.StringIO(f"({text})").readline):
        if token.type in (tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER, tokenize.COMMENT):
            continue
        if token.string == "..." and before is not None and before.string != "(":
            raise BadData(
                f"The list {' '.join(text.split())[:60]} was printed with a part left out (...).",
                "Write the whole list: as JSON, or into Parquet.",
            )
        if before is not None and _side_by_side(before, token):
            pieces.append(",")
            commas[-1].add("added")
        elif token.string == ",":
            commas[-1].add("written")
        if token.string in ("[", "(", "{"):
            commas.append(set())
        elif token.string in _ENDS and len(commas.pop()) > 1:
            raise _NotWritten
        pieces.append(token.string)
        before = token
    return " ".join(pieces)


def _side_by_side(before: tokenize.TokenInfo, token: tokenize.TokenInfo) -> bool:
    """Whether two tokens are two values without anything between them."""
    kinds = (tokenize.STRING, tokenize.NUMBER)
    ends = before.type in kinds or before.string in _ENDS or before.string in _NAMES
    if token.string in ("-", "+"):
        # "[1 -1]" is two numbers in numpy's spelling.
        follows = token.line[token.end[1] : token.end[1] + 1]
        return ends and before.end != token.start and not follows.isspace()
    starts = token.type in kinds or token.type == tokenize.NAME or token.string in ("[", "{")
    return ends and starts


def _value(node: ast.expr) -> Any:
    """The plain value of an expression. Raises `_NotWritten` for anything that is not one."""
    if isinstance(node, ast.Constant) and node.value is not Ellipsis:
        return node.value.decode() if isinstance(node.value, bytes) else node.value
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {_value(key): _value(item) for key, item in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, ast.Name) and node.id in ("nan", "inf"):
        return float(node.id)
    if isinstance(node, ast.Attribute) and node.attr in ("True_", "False_"):
        return node.attr == "True_"
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        number = _value(node.operand)
        if isinstance(number, int | float):
            return -number if isinstance(node.op, ast.USub) else number
    if isinstance(node, ast.Call) and node.args:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in _ARRAYS or _SCALAR.fullmatch(name):
            return _value(node.args[0])
    raise _NotWritten
