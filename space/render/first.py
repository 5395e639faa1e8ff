"""What a visitor sees first: what FuseHub does in one picture, one measured number, and where to read more."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, metadata

from fusehub.hub.client import endpoint
from fusehub.methods import METHODS
from fusehub.recommending.measured import record

from ..documents import FIRST, PLACE, are_there
from . import html

# What the number is of: the way that is recommended, on as many experts of one task as were measured most.
_METHOD, _TASK = "regmean", "text-classification"
_EXPERTS = ("films", "shops", "tweets")
# How strongly two inputs of a layer go together, as a picture of it: symmetric, and strongest on the diagonal.
_GRAMS = (
    ((9, 5, 2, 1), (5, 9, 3, 2), (2, 3, 9, 6), (1, 2, 6, 9)),
    ((9, 2, 6, 3), (2, 9, 1, 4), (6, 1, 9, 2), (3, 4, 2, 9)),
    ((9, 3, 1, 6), (3, 9, 5, 1), (1, 5, 9, 3), (6, 1, 3, 9)),
)


def first_html(links: Mapping[str, str]) -> str:
    """The whole of it; `links` are names and addresses of where to read more."""
    more = "".join(
        f'<a href="{html.esc(url)}" target="_blank" rel="noopener">{html.esc(name)}</a>' for name, url in links.items()
    )
    return (
        '<section class="fh-first" aria-label="What FuseHub does"><div><p class="fh-first-say">'
        "Several people fine-tuned one base model, each on texts of their own. FuseHub makes <strong>one model for "
        "the texts of all of them</strong>. It needs no training and none of their texts: only sums of what the "
        f"layers of each expert see.</p>{_number_html()}<p class='fh-links'>{more}</p></div>{picture()}</section>"
    )


def _number_html() -> str:
    """By how much the recommended way is above the mean, as it was measured; nothing where it was not."""
    rows = [row for row in record().of(_METHOD, (_TASK,)) if row.models == len(_EXPERTS)]
    if not rows:
        return ""
    gain = rows[0].in_domain
    return (
        f'<p class="fh-figure"><strong>{gain.points:+.1f} points</strong> of accuracy over plainly averaging the '
        f"weights of three sentiment experts, and higher in {gain.above} of {gain.runs} runs.</p>"
    )


def picture() -> str:
    """Experts, their grams and one model, as SVG in the page's own colours; its words are readable on a phone."""
    rows = []
    for place, (name, gram) in enumerate(zip(_EXPERTS, _GRAMS, strict=True)):
        top = 26 + 50 * place
        cells = "".join(
            f'<rect x="{128 + 9 * column}" y="{top + 9 * row}" width="8" height="8" class="fh-p{place}" '
            f'opacity="{value / 9:.2f}"/>'
            for row, values in enumerate(gram)
            for column, value in enumerate(values)
        )
        rows.append(
            f'<rect x="1" y="{top}" width="86" height="36" rx="8" class="fh-box fh-o{place}"/>'
            f'<text x="44" y="{top + 22}" text-anchor="middle">{name}</text>'
            f'<path d="M90 {top + 18}H120" class="fh-arrow"/>{cells}'
            f'<path d="M170 {top + 18}C205 {top + 18} 200 94 238 94" class="fh-arrow"/>'
        )
    heads = (("44", "experts"), ("146", "their grams"), ("290", "one model"))
    words = "".join(f'<text x="{x}" y="13" text-anchor="middle" class="fh-head">{text}</text>' for x, text in heads)
    stripes = "".join(
        f'<rect x="242" y="{70 + 16 * place}" width="96" height="16" class="fh-p{place}" opacity=".35"/>'
        for place in range(len(_EXPERTS))
    )
    box = 'x="242" y="70" width="96" height="48" rx="8"'
    return (
        '<svg class="fh-picture" viewBox="0 0 340 172" role="img" aria-label="Three experts of one base; of each, the '
        'sums of what its layers see, its grams; and the one model that is solved from them.">'
        f'<clipPath id="fh-merged"><rect {box}/></clipPath>{words}{"".join(rows)}'
        f'<g clip-path="url(#fh-merged)">{stripes}</g><rect {box} class="fh-box"/>'
        '<text x="290" y="99" text-anchor="middle" class="fh-head">merged</text></svg>'
    )


def links() -> dict[str, str]:
    """Where to read more, by name: the paper, the documents, and where they have an address the code and questions.

    On a Space these are its own files. Elsewhere they are what the package's metadata names ([project.urls] in
    pyproject.toml: Documents, Code); without an address there, the documents are pages of the app itself.
    """
    address = METHODS[_METHOD].paper
    found = {"The paper": address} if address else {}
    if space := os.environ.get("SPACE_ID"):
        place = f"{endpoint()}/spaces/{space}"
        own = {"Documents": f"{place}/blob/main/README.md", "Code": f"{place}/tree/main"}
        return own | found | {"Questions": f"{place}/discussions"}
    try:
        said = metadata("fusehub").get_all("Project-URL") or []
    except PackageNotFoundError:
        said = []
    named = dict(entry.split(", ", 1) for entry in said if ", " in entry)
    own = {"Documents": f"{PLACE}/{FIRST}"} if are_there() else {}
    return own | {name: named[name] for name in ("Documents", "Code") if name in named} | found
