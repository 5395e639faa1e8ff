"""One run over a visit's models: whether they fit, where their statistics are, and what a merge would cost.

What the Hub says of a commit is asked once, of all models side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fusehub
from fusehub.checking.report import Report
from fusehub.errors import FuseHubError
from fusehub.hub.access import Access
from fusehub.merging.plan import plan_by
from fusehub.models.resolve import ModelRef, refs_of
from fusehub.utils.side_by_side import side_by_side

from .published import published


def check(
    token: str | None,
    *,
    models: list[str],
    base: str | None = None,
    labels: dict[str, list[str]] | None = None,
    statistics: dict[str, str] | None = None,
) -> dict[str, Any]:
    """The report of `fusehub.check`, with what a merge would cost and where statistics are."""
    access = Access(token)
    named = [*models, *([base] if base else [])]
    refs = dict(zip(named, refs_of(named, access), strict=True))
    report = fusehub.check([refs[model] for model in models], base=refs[base] if base else None, labels=labels)
    where = side_by_side(published, [refs[model] for model in models])
    found = report.to_dict() | {"statistics": dict(zip(models, where, strict=True)), "cost": None}
    if report.ok:
        found["cost"] = _cost(models, base, labels, statistics, access, refs, report)
    return found


def _cost(
    models: list[str],
    base: str | None,
    labels: dict[str, list[str]] | None,
    statistics: dict[str, str] | None,
    access: Access,
    refs: Mapping[str, ModelRef],
    report: Report,
) -> dict[str, int] | None:
    """What RegMean would cost, or the mean where there are no statistics yet."""
    for method, own in (("regmean", statistics), ("mean", None)):
        try:
            recipe = fusehub.Recipe.of(models, method, labels=labels, base_model=base, statistics=own)
            return dict(plan_by(recipe, access, resolved=refs, report=report).cost)
        except FuseHubError:
            continue
    return None
