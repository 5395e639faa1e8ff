"""Statistics of so few texts that a merge by them follows these texts rather than their kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusehub.utils.findings import Finding

FEW_TEXTS = 100
"""With fewer texts than this, statistics are warned of. Their sums are known to about one part in the square root of
the number of texts, which is a tenth here; layers that see one row a text, as heads do, then have fewer rows than most
models have inputs, and the rest is left to the ridge."""


def few_texts_finding(metadata: Mapping[str, Any], model: str | None = None) -> Finding | None:
    """A warning about statistics of `model` with this metadata where they are of few texts.

    None where they are not, or where the file does not tell how many there were.
    """
    examples = metadata.get("examples")
    if not examples or examples >= FEW_TEXTS:
        return None
    what = "1 text" if examples == 1 else f"{examples} texts"
    of = model or metadata["model"]["id"]
    return Finding(
        "few-texts",
        "warning",
        f"The statistics of {of} are of {what}: a merge by them follows these texts, rather than their kind.",
        f"Make them from at least {FEW_TEXTS} texts; a few hundred are good.",
    )
