"""Do numbers mean the same tokens to two models? Told from their tokenizers' vocabularies, added tokens included.

A number that means something to one model only is no difference: rows of embeddings are often filled up, and
tokenizers keep numbers free (`[unused7]`, `<|reserved_special_token_3|>`) which fine-tuning gives a meaning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# What a tokenizer calls a number that it keeps free.
_FREE = re.compile(r"\W*_?(unused|reserved|placeholder|dummy|madeupword|special|control|fill)\D*\d+\W*", re.IGNORECASE)


def clash(mine: Mapping[str, int], theirs: Mapping[str, int]) -> str | None:
    """What stands against these two (token -> id) in one model, for a person; None where nothing does."""
    tokens = {number: token for token, number in theirs.items()}
    for token, number in mine.items():
        if is_free(token):
            continue
        if token in theirs and theirs[token] != number:
            return f"'{token}' is {number} in one and {theirs[token]} in the other"
        other = tokens.get(number, token)
        if other != token and not is_free(other):
            return f"{number} is '{token}' in one and '{other}' in the other"
    return None


def is_free(token: str) -> bool:
    """Whether this is the name of a number that means nothing."""
    return _FREE.fullmatch(token) is not None


def known_to(vocabulary: Mapping[str, int]) -> list[str]:
    """The tokens that mean something, in the order of their numbers."""
    return [token for token in sorted(vocabulary, key=vocabulary.__getitem__) if not is_free(token)]
