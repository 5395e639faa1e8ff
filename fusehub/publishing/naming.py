"""A name for a merge, from those of what went in."""

from __future__ import annotations

import re
from collections.abc import Sequence

_LONGEST = 90


def suggested_name(experts: Sequence[str], method: str) -> str:
    """`minilm-sentiment-regmean`: the words that the names of all experts have, and the method; a name on the Hub.

    `experts` are names of repos or folders, whose owners and commits do not count.
    """
    each = [re.split(r"[^a-z0-9]+", _short(expert).lower()) for expert in experts]
    common = [word for word in dict.fromkeys(each[0]) if word and all(word in words for words in each)] if each else []
    return "-".join([*(common or ["merged"]), *re.findall(r"[a-z0-9]+", method.lower())])[:_LONGEST].strip("-")


def _short(name: str) -> str:
    return name.partition("@")[0].rstrip("/").rpartition("/")[2]
