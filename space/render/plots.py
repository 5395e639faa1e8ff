"""Plots as plain HTML: bars that follow the page's colours, fit a phone, and read well without seeing them.

Every bar stands beside its number in a list or table, so nothing is told by length or colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .html import esc, percent

COLOURS = 8


def bar(share: float, colour: int = 0) -> str:
    """One bar, `share` of the width that there is."""
    width = max(0.0, min(1.0, share)) * 100
    fill = f'<span class="fh-fill fh-c{colour}" style="width:{width:.1f}%"></span>'
    return f'<span class="fh-bar" aria-hidden="true">{fill}</span>'


def bars(values: Mapping[str, float], colours: Mapping[str, int], best: Sequence[str] = ()) -> str:
    """A list of names, bars and numbers (fractions of 1, shown in percent)."""
    rows = "".join(
        f'<li class="{"fh-best" if name in best else ""}"><span class="fh-name">{esc(name)}</span>'
        f"{bar(value, colours.get(name, 0))}<span class='fh-value'>{_value(value)}</span></li>"
        for name, value in values.items()
    )
    return f'<ul class="fh-bars">{rows}</ul>'


def probabilities(shares: Mapping[str, float], colours: Mapping[str, int]) -> str:
    """All labels' probabilities in one stacked bar, and in words for who does not see it."""
    parts = "".join(
        f'<span class="fh-fill fh-c{colours.get(label, 0)}" style="width:{100 * share:.1f}%" '
        f'title="{esc(label)} {percent(share)}"></span>'
        for label, share in shares.items()
        if share > 0
    )
    spoken = ", ".join(f"{label} {percent(share)}" for label, share in shares.items())
    return f'<span class="fh-stack" role="img" aria-label="{esc(spoken)}">{parts}</span>'


def legend(colours: Mapping[str, int]) -> str:
    """Which colour is which label."""
    return (
        '<ul class="fh-legend" aria-label="Colours">'
        + "".join(
            f'<li><span class="fh-dot fh-c{at}" aria-hidden="true"></span>{esc(name)}</li>'
            for name, at in colours.items()
        )
        + "</ul>"
    )


def colours_of(names: Sequence[str]) -> dict[str, int]:
    """A colour a name: in order, and again from the first where there are more names than colours."""
    return {name: place % COLOURS for place, name in enumerate(dict.fromkeys(names))}


def marked(text: str, entities: Sequence[Mapping], colours: Mapping[str, int], odd: Sequence[Mapping] = ()) -> str:
    """A text with its entities coloured and named; those that are `odd` stand out, for who does not see it too."""
    result, at = [], 0
    for entity in sorted(entities, key=lambda entity: entity["start"]):
        result.append(esc(text[at : entity["start"]]))
        kind, sign = (" fh-odd", "≠ ") if entity in odd else ("", "")
        result.append(
            f'<mark class="fh-c{colours.get(entity["label"], 0)}{kind}">'
            f"{sign}{esc(text[entity['start'] : entity['end']])}"
            f"<span>{esc(entity['label'])}</span></mark>"
        )
        at = entity["end"]
    return "".join(result) + esc(text[at:])


def _value(value: float) -> str:
    return f"{100 * value:.1f} %" if value == value else "?"
