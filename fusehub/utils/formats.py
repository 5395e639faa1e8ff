"""Sizes, options and labels as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def size(count: int | None) -> str:
    """Bytes as people read them: 1.3 GB."""
    if count is None:
        return "?"
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def parameters(count: int) -> str:
    """A number of parameters as people read it: 22.7 M, and of tiny models 9.1 k."""
    return f"{count / 1e6:,.1f} M" if count >= 50_000 else f"{count / 1e3:,.1f} k"


def describe(options: Mapping[str, Any]) -> str:
    """Options in one line: `alpha 0.9, weighting mean`."""
    return ", ".join(
        f"{name} {str(value).lower() if isinstance(value, bool) else value}" for name, value in options.items()
    )


def label_text(label: Any) -> str:
    """A label, several of them, or a number, as one text."""
    if isinstance(label, list):
        return ", ".join(label) or "none"
    return f"{label:.4f}" if isinstance(label, float) else str(label)
