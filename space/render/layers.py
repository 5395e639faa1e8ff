"""What each layer of a merge kept of each expert: a line an expert from the first layer to the last, and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import html

# Of the drawing, which is as wide as its place; in its own units.
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 220, 60, 26, 10
# Lines are told apart by their dashes too.
DASHES = ("", "7 4", "2 4", "10 4 2 4")
COLOURS = 3


def layers_html(found: Mapping[str, Mapping[str, Any]]) -> str:
    """`found`: the merge's name -> what `fusehub.layer_changes` tells of it."""
    figures = "".join(_figure(name, told) for name, told in found.items())
    both = len({told["of_outputs"] for told in found.values()}) > 1
    apart = (
        " What layers give and their weights are not measured alike: those figures cannot be compared." if both else ""
    )
    return (
        "<p class='fh-intro'>By how much a layer changed for each expert: 0 % where it is the expert's own. It tells "
        f"where a merge left an expert, and not how good the merge is: scores do.{apart}</p>"
        f"<div class='fh-layers'>{figures}</div>"
    )


def _figure(name: str, told: Mapping[str, Any]) -> str:
    what = "what the layer gives for the expert's texts" if told["of_outputs"] else "the layer's weights"
    rows = [[html.esc(row["layer"]), *(_percent(row[expert]) for expert in told["experts"])] for row in told["rows"]]
    table = html.table(
        ("Layer", *told["experts"]),
        rows,
        caption=f"{name}: change of {what}",
        numbers=tuple(range(1, len(told["experts"]) + 1)),
    )
    return (
        f"<figure><figcaption>{html.esc(name)}: change of {html.esc(what)}, from the first layer to the last"
        f'</figcaption><div class="fh-scroll" tabindex="0" role="region" aria-label="{html.esc(name)} layer by layer">'
        f"{plot(told['rows'], told['experts'])}</div>{_legend(told)}</figure>"
        f"{html.folded('The same as a table', table)}"
    )


def plot(rows: Sequence[Mapping[str, Any]], experts: Sequence[str]) -> str:
    """The lines, as SVG in the page's own colours."""
    values = {expert: [float(row[expert]) for row in rows] for expert in experts}
    most = max((value for own in values.values() for value in own), default=0.0) or 1.0
    step = (_WIDTH - _LEFT - 8) / max(1, len(rows) - 1)

    def at(place: int, value: float) -> str:
        height = _HEIGHT - _BOTTOM - _TOP
        return f"{_LEFT + place * step:.1f},{_TOP + height * (1 - value / most):.1f}"

    grid = "".join(
        f'<path class="fh-grid" d="M{at(0, share * most)} H{_WIDTH - 8}"/>'
        f'<text x="{_LEFT - 6}" y="{at(0, share * most).partition(",")[2]}" dy="4" text-anchor="end">'
        f"{_percent(share * most)}</text>"
        for share in (0.0, 0.5, 1.0)
    )
    lines = "".join(
        f'<polyline class="fh-line fh-o{place % COLOURS}" stroke-dasharray="{DASHES[place % len(DASHES)]}" '
        f'points="{" ".join(at(number, value) for number, value in enumerate(own))}"/>'
        for place, own in enumerate(values.values())
    )
    ends = (
        f'<text x="{_LEFT}" y="{_HEIGHT - 6}">first layer</text>'
        f'<text x="{_WIDTH - 8}" y="{_HEIGHT - 6}" text-anchor="end">last layer</text>'
    )
    spoken = "; ".join(
        f"{expert}: {_percent(min(own))} to {_percent(max(own))}, on average {_percent(sum(own) / len(own))}"
        for expert, own in values.items()
        if own
    )
    return (
        f'<svg class="fh-plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Change layer by layer. '
        f'{html.esc(spoken)}">{grid}{lines}{ends}</svg>'
    )


def _legend(told: Mapping[str, Any]) -> str:
    """Which line is whose, with its mean over the layers."""
    items = []
    for place, expert in enumerate(told["experts"]):
        own = [row[expert] for row in told["rows"]]
        dash = f'<svg viewBox="0 0 34 8" aria-hidden="true"><path class="fh-line fh-o{place % COLOURS}" d="M0 4 H34" '
        dash += f'stroke-dasharray="{DASHES[place % len(DASHES)]}"/></svg>'
        items.append(f"<li>{dash}{html.esc(expert)} <small>{_percent(sum(own) / len(own))} on average</small></li>")
    return f'<ul class="fh-legend" aria-label="Lines">{"".join(items)}</ul>'


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %" if value < 0.995 else f"{100 * value:.0f} %"
