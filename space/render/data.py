"""What data has, as the page shows it: which columns are read and why, the first rows, and the labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..readings import Reading
from . import html
from .offers import fix_of

# As many labels as a person reads at once.
_MOST = 12


def data_html(reading: Reading) -> str:
    """What was found, and what speaks against using it."""
    if reading.problem is not None:
        problem = html.told(reading.problem)
        return html.notice(problem.what, "warning", fix_of(problem))
    seen = reading.seen
    if seen is None:
        return ""
    told = f"<p>{_columns_said(seen)}</p>" if seen["text_columns"] else ""
    warned = "".join(html.notice(own, "warning") for own in seen["warnings"])
    problems = [html.told(problem) for problem in seen["problems"]]
    wrong = "".join(html.notice(own.what, "warning", fix_of(own)) for own in problems)
    return f"{told}{_rows_html(reading, seen)}{_labels_html(seen)}{warned}{wrong}"


def _columns_said(seen: Mapping[str, Any]) -> str:
    columns = " and ".join(f"<strong>{html.esc(name)}</strong>" for name in seen["text_columns"])
    said = f"Read as input: {columns}{_because(seen['why_texts'])}."
    if seen["label_column"]:
        labels = " and ".join(f"<strong>{html.esc(name)}</strong>" for name in seen["label_column"].split(","))
        said += f" Read as labels: {labels}{_because(seen['why_label'])}."
    return said


def _because(why: str) -> str:
    return f" ({html.esc(why)})" if why else ""


def _rows_html(reading: Reading, seen: Mapping[str, Any]) -> str:
    kinds = dict.fromkeys(seen["text_columns"], "input") | dict.fromkeys(
        (seen["label_column"] or "").split(","), "label"
    )
    heads = [
        html.esc(name) + (f" {html.tag(kinds[name], 'fh-good')}" if name in kinds else "") for name in seen["columns"]
    ]
    rows = [[html.esc(row[name]) for name in seen["columns"]] for row in seen["rows"]]
    return html.table((), rows, caption=f"The first rows of {reading.called}", heads=heads) if rows else ""


def _labels_html(seen: Mapping[str, Any]) -> str:
    """Which label of the models each label of the data is; once, where all models agree."""
    apart: dict[str, list[str]] = {}
    for model, labels in seen["labels"].items():
        apart.setdefault(_said(labels), []).append(model)
    told = []
    for said, models in apart.items():
        whose = f"{', '.join(map(html.esc, models))}: " if len(apart) > 1 else ""
        told.append(f"<p>{whose}{said}</p>")
    return "".join(told)


def _said(labels: Mapping[str, str | None]) -> str:
    known = [(label, own) for label, own in labels.items() if own is not None]
    unknown = [label for label in labels if labels[label] is None]
    same = all(label == own for label, own in known)
    listed = ", ".join(html.esc(label if same else f"{label} = {own}") for label, own in known[:_MOST])
    more = f" and {len(known) - _MOST} more" if len(known) > _MOST else ""
    said = f"Its labels are those of the models: {listed}{more}." if known else ""
    if unknown:
        names = ", ".join(html.esc(label) for label in unknown[:_MOST])
        said += f" <strong>{names}</strong>: none of the models' labels, and so every answer there is wrong."
    return said.strip()
