"""How many texts are enough: until the standard errors of the grams are small."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

SETTLED = 0.15
"""Grams whose standard error is at most this part of themselves are known well enough: in docs/results.md, merges by
statistics of more texts than leave it score no better. With MiniLM and texts of 30 tokens, 250 texts leave it."""
FIRST = 64
"""Texts of the first attempt. By their number and the error that they leave, that of the next is foreseen."""
_MARGIN = 1.1
# Layers outside of the blocks see one row a text, and settle last: they are few, and do not decide.
_OF_LAYERS = 0.9


def typical_error(errors: Mapping[str, float]) -> float | None:
    """The standard error that nine of ten layers have at most; None where no layer's is known.

    `errors` are those of the layers, by name (see `HalfSum.standard_error`).
    """
    if len(errors) < 2:
        return next(iter(errors.values()), None)
    return statistics.quantiles(errors.values(), n=100, method="inclusive")[round(100 * _OF_LAYERS) - 1]


def error_in(metadata: Mapping[str, Any]) -> float | None:
    """The `typical_error` of statistics with this metadata."""
    return typical_error(metadata.get("standard_errors") or {})


def error_words(error: float) -> str:
    """`1.4 %`."""
    return f"{100 * error:.2g} %"


def next_limit(examples: int, error: float | None) -> int:
    """How many texts are tried next, where so many left that error: it shrinks with the square root of their number.

    At least twice as many, as the error is an estimate itself.
    """
    foreseen = examples * (error / SETTLED) ** 2 * _MARGIN if error is not None else 0
    return max(2 * examples, math.ceil(foreseen))
