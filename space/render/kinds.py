"""What a model is to a comparison: an expert, the ensemble of the experts, or a merge; each looks like what it is."""

from __future__ import annotations

from collections.abc import Sequence

from fusehub.comparing.ensemble import ENSEMBLE

from . import html

EXPERT, MERGE = "expert", "merge"


def kind_of(model: str, experts: Sequence[str]) -> str:
    """`expert`, `ensemble` or `merge`."""
    return EXPERT if model in experts else ENSEMBLE if model == ENSEMBLE else MERGE


def named(model: str, kind: str) -> str:
    """A model's name as HTML, marked where it is a merge; the ensemble is called what it is."""
    name = f'<span class="fh-name">{html.esc(model)}</span>'
    return name + (f" {html.tag('merge', 'fh-is-merge')}" if kind == MERGE else "")
