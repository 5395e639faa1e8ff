"""What the Hub has of a model's statistics, as plain data for the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fusehub.statistics.few_texts import few_texts_finding

if TYPE_CHECKING:
    from fusehub.models.ref import ModelRef


def published(ref: ModelRef) -> dict[str, Any] | None:
    """Where the published statistics of a model's weights are, and what they are of; or whose else there are.

    None where nobody has published any.
    """
    from fusehub.errors import BadStatistics, NotFound
    from fusehub.models.checkpoints.checkpoint import weight_hashes
    from fusehub.statistics.sources import find_statistics, offered_statistics

    hashes = weight_hashes(ref)
    try:
        found = find_statistics(ref, hashes=hashes)
    except NotFound:
        offered = offered_statistics(ref, hashes)
        return {"offered": [source.partition("@")[0] for source in offered]} if offered else None
    except BadStatistics as error:
        return {"problem": error.what}
    return {"origin": found.origin, "when": _when(found.origin, ref), **of_metadata(found.metadata, ref.name)}


def _when(origin: str, ref: ModelRef) -> str | None:
    """The day of the commit that has published statistics."""
    from fusehub.hub.client import hub_errors

    repo, _, commit = origin.partition("@")
    if not commit:
        return None
    with hub_errors(origin):
        changed = ref.access.info(repo, commit).last_modified
    return changed.date().isoformat() if changed else None


def of_metadata(metadata: Mapping[str, Any], model: str) -> dict[str, Any]:
    """How much was counted of which data, and what one should know of it first; `model` is what it is called here."""
    few = few_texts_finding(metadata, model)
    rows = [layer["rows"] for layer in metadata["layers"].values()]
    data = metadata.get("data") or {}
    return {
        "examples": metadata.get("examples"),
        "tokens": metadata.get("tokens"),
        "rows": max(rows, default=0),
        "data": data.get("source"),
        "findings": [asdict(few)] if few else [],
    }
