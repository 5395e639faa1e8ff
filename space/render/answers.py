"""What models say about texts, as the page shows it: a table of all answers, then each text with bars, to save too."""

from __future__ import annotations

import json
from collections import Counter
from textwrap import shorten
from typing import Any

from fusehub.models.tasks import TASKS

from . import html, plots


def answers_html(found: dict[str, Any]) -> str:
    texts = [text for text in found["texts"] if text["differs"]] if found.get("only") else found["texts"]
    labels = list(
        dict.fromkeys(label for text in found["texts"] for a in text["answers"] for label in a["probabilities"])
    )
    kinds = {entity["label"] for text in found["texts"] for a in text["answers"] for entity in a["entities"]}
    colours = plots.colours_of(labels or sorted(kinds))
    differing = sum(text["differs"] for text in found["texts"])
    parts = [
        f'<p class="fh-summary">{html.count(len(found["texts"]), "text")}; the models disagree on {differing}.</p>',
        plots.legend(colours) if labels else "",
    ]
    if texts and not TASKS[found["task"]].writes:
        parts.append(_overview_html(found["models"], texts))
    parts += [_text_html(text, colours) for text in texts]
    if not texts:
        parts.append(html.empty("They all agree on every text."))
    parts.append(_downloads(found))
    return "".join(parts)


def _overview_html(models: list[str], texts: list[dict[str, Any]]) -> str:
    """All answers in one table, in which those that most models do not give stand out."""
    rows = []
    for text in texts:
        said = [_said(answer) for answer in text["answers"]]
        most, times = Counter(said).most_common(1)[0]
        cells = []
        for label, answer in zip(said, text["answers"], strict=True):
            odd = times > 1 and label != most
            sure = html.percent(answer["probability"])
            told = f"<strong>≠ {html.esc(label)}</strong>" if odd else html.esc(label)
            cells.append(f"{told} <small>{sure}</small>" if sure else told)
        rows.append([html.esc(shorten(text["text"], 60, placeholder=" ...")), *cells])
    return html.table(("Text", *models), rows, caption="Label and its probability; ≠: not what most models say")


def _said(answer: dict[str, Any]) -> str:
    """An answer in one line."""
    if answer["label"] is None:
        return ", ".join(f"{entity['text']} ({entity['label']})" for entity in answer["entities"]) or "none"
    label = ", ".join(answer["label"]) if isinstance(answer["label"], list) else answer["label"]
    return f"{label:.3f}" if isinstance(label, float) else label or "none"


def _text_html(text: dict[str, Any], colours: dict[str, int]) -> str:
    rows = []
    for answer in text["answers"]:
        name = f'<span class="fh-name">{html.esc(answer["model"])}</span>'
        if answer["label"] is None:
            told = plots.marked(text["text"], answer["entities"], colours)
            rows.append(f'<li>{name}<p class="fh-marked">{told}</p></li>')
            continue
        label = _said(answer)
        if isinstance(answer["label"], str) and answer["probability"] is None:
            rows.append(f'<li>{name}<p class="fh-written">{html.esc(label)}</p></li>')
            continue
        sure = html.percent(answer["probability"])
        rows.append(
            f'<li>{name}<span class="fh-label">{html.esc(label)} <small>{sure}</small></span>'
            f"{plots.probabilities(answer['probabilities'], colours)}</li>"
        )
    differs = html.tag("they disagree", "fh-warning") if text["differs"] else ""
    return (
        f'<article class="fh-text"><h3>{html.esc(text["text"])} {differs}</h3>'
        f'<ul class="fh-answers">{"".join(rows)}</ul></article>'
    )


def _downloads(found: dict[str, Any]) -> str:
    rows = [
        {
            "text": text["text"],
            "model": answer["model"],
            "label": answer["marked"] if answer["label"] is None else answer["label"],
            "probability": answer["probability"],
            "differs": text["differs"],
        }
        for text in found["texts"]
        for answer in text["answers"]
    ]
    return (
        '<p class="fh-downloads">'
        + html.download("comparison.csv", html.csv_of(rows), "text/csv", "Download as CSV")
        + html.download("comparison.json", json.dumps(found, indent=1), "application/json", "Download as JSON")
        + "</p>"
    )
