"""The way through the steps: where a visit is, what of it is done, and what can be taken next."""

from __future__ import annotations

from ..visit import CHECK, COMPARE, MERGE, STATISTICS, Visit

STEPS = ("Pick", "Check", "Statistics", "Merge", "Compare", "Push")


def nav_html(visit: Visit | None) -> str:
    """The six steps as buttons; what is done is ticked, where one is is marked."""
    at = visit.step if visit else 0
    done = [False] * len(STEPS)
    if visit:
        done = [len(visit.picks) > 1, bool(visit.report and visit.report["ok"]), _has_statistics(visit)]
        done += [bool(visit.merges), bool(visit.comparison or visit.evaluation), visit.published is not None]
    items = []
    for place, name in enumerate(STEPS):
        here = ' aria-current="step"' if place == at else ""
        tick = (
            '<span class="fh-tick" aria-hidden="true">✓</span><span class="fh-sr"> done</span>' if done[place] else ""
        )
        items.append(
            f'<li><button type="button" data-act="go" data-id="{place}"{here}>'
            f'<span class="fh-step">{place + 1}</span> {name}{tick}</button></li>'
        )
    return f'<nav class="fh-nav" aria-label="Steps"><ol>{"".join(items)}</ol></nav>'


def is_ready(visit: Visit, place: int) -> bool:
    """Whether a step can be taken: what it works with is there."""
    fits = bool(visit.report and visit.report["ok"])
    ready = {CHECK: len(visit.picks) > 1, STATISTICS: fits, MERGE: fits, COMPARE: bool(visit.merges_of_picks())}
    return ready.get(place, bool(visit.merges and (visit.comparison or visit.evaluation)))


def _has_statistics(visit: Visit) -> bool:
    published = (visit.report or {}).get("statistics", {})
    return bool(visit.picks) and all(
        pick.name in visit.statistics or "origin" in (published.get(pick.name) or {}) for pick in visit.picks
    )
