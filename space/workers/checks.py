"""One run over a visit's models: whether they fit, where their statistics are, and what a merge would cost.

What the Hub says of a commit is asked once, of all models side by side; as models come in, that is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fusehub
from fusehub.checking.heads import Heads
from fusehub.checking.report import Report
from fusehub.errors import FuseHubError
from fusehub.hub.access import Access
from fusehub.merging.plan import plan_by
from fusehub.models.resolve import ModelRef, refs_of
from fusehub.utils.side_by_side import side_by_side

from .pace import Course, Tell
from .published import published

# How long the phases take beside each other where the Hub is far away: models are found and read, their statistics are
# looked for, a merge is planned.
_PHASES = Course([1, 3, 2, 1])
_FIND, _READ, _LOOK, _PLAN = range(4)


def check(
    tell: Tell,
    token: str | None,
    *,
    models: list[str],
    base: str | None = None,
    labels: dict[str, list[str]] | None = None,
    heads: Heads = "auto",
    statistics: dict[str, str] | None = None,
) -> dict[str, Any]:
    """The report of `fusehub.check`, with what a merge would cost and where statistics are."""
    tell("Finding the models")
    access = Access(token)
    named = [*models, *([base] if base else [])]
    refs = dict(zip(named, refs_of(named, access), strict=True))

    def read(done: int, total: int, name: str) -> None:
        step = f"Reading {done + 1} of {total}" if done < total else "Comparing what was read"
        tell(step, share=_PHASES.share(_READ, done / total))

    read(0, len(named), "")
    report = fusehub.check(
        [refs[model] for model in models],
        base=refs[base] if base else None,
        heads=heads,
        labels=labels,
        progress=read,
    )
    tell("Looking for statistics", share=_PHASES.share(_LOOK, 0))
    where = side_by_side(published, [refs[model] for model in models])
    found = report.to_dict() | {"statistics": dict(zip(models, where, strict=True)), "cost": None}
    if report.ok:
        tell("Planning a merge", share=_PHASES.share(_PLAN, 0))
        found["cost"] = _cost(models, base, labels, heads, statistics, access, refs, report)
    return found


def _cost(
    models: list[str],
    base: str | None,
    labels: dict[str, list[str]] | None,
    heads: Heads,
    statistics: dict[str, str] | None,
    access: Access,
    refs: Mapping[str, ModelRef],
    report: Report,
) -> dict[str, int] | None:
    """What RegMean would cost, or the mean where there are no statistics yet."""
    for method, own in (("regmean", statistics), ("mean", None)):
        try:
            recipe = fusehub.Recipe.of(models, method, labels=labels, heads=heads, base_model=base, statistics=own)
            return dict(plan_by(recipe, access, resolved=refs, report=report).cost)
        except FuseHubError:
            continue
    return None
