"""Scores on labelled data, as the page shows them: a table with gains, and bars for each kind of text; to save too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..visits import Visit
from . import html, plots

ENSEMBLE = "ensemble"


def without_paths(scored: dict[str, Any]) -> dict[str, Any]:
    """Scores as others may see them: without the folders of this machine that merges lie in."""
    own = [
        score | {"model_id": None if Path(score["model_id"] or "").is_absolute() else score["model_id"]}
        for score in scored["scores"]
    ]
    return scored | {"scores": own}


def table_of(scored: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a model: its main score on each set of data, their mean, and the gain over the best expert's mean."""
    merged_or_ensemble = set(scored.get("merges", ())) | {ENSEMBLE}
    rows = []
    for model in scored["models"]:
        own = {score["data"]: _main(score) for score in scored["scores"] if score["model"] == model}
        rows.append({"model": model, **own, "mean": scored["mean"][model]})
    experts = [row["mean"] for row in rows if row["model"] not in merged_or_ensemble and row["mean"] is not None]
    best = max(experts, default=None)
    for row in rows:
        known = best is not None and row["mean"] is not None
        row["gain"] = row["mean"] - best if known else None
    return rows


def _main(score: dict[str, Any]) -> float | None:
    return next(iter(score["metrics"].values()))


def scores_html(scored: dict[str, Any], visit: Visit) -> str:
    scored = scored | {"merges": _merged_names(scored, visit)}
    rows = table_of(scored)
    data, metric = scored["data"], _words_of_metric(scored)
    best = {name: max((row[name] for row in rows if row[name] is not None), default=None) for name in [*data, "mean"]}
    columns = ["Model", *data, *(["Mean"] if len(data) > 1 else []), "Gain over the best expert"]
    shown = [*data, *(["mean"] if len(data) > 1 else [])]
    body = [
        [
            html.esc(row["model"]),
            *(_cell(row[name], row[name] == best[name]) for name in shown),
            "–" if row["gain"] is None else f"{100 * row['gain']:+.1f} points".replace("-", "−"),
        ]
        for row in rows
    ]
    colours = {row["model"]: place % plots.COLOURS for place, row in enumerate(rows)}
    plotted = "".join(
        f"<figure><figcaption>{html.esc(name)}</figcaption>"
        + plots.bars(
            {row["model"]: row[name] for row in rows if row[name] is not None},
            colours,
            [row["model"] for row in rows if row[name] == best[name]],
        )
        + "</figure>"
        for name in data
    )
    examples = {score["data"]: score["examples"] for score in scored["scores"]}
    counted = ", ".join(f"{name} {html.count(number, 'example')}" for name, number in examples.items())
    told = json.dumps(without_paths(scored), indent=1)
    downloads = (
        '<p class="fh-downloads">'
        + html.download("scores.csv", html.csv_of(rows), "text/csv", "Download as CSV")
        + html.download("scores.json", told, "application/json", "Download as JSON")
        + "</p>"
    )
    numbers = tuple(range(1, len(columns)))
    table = html.table(columns, body, caption=f"{metric}, in percent", numbers=numbers)
    return f"<p class='fh-summary'>{html.esc(counted)}.</p>{table}<div class='fh-plots'>{plotted}</div>{downloads}"


def _merged_names(scored: dict[str, Any], visit: Visit) -> list[str]:
    folders = {place for made in visit.merges.values() for place in made.models.values()}
    return list(dict.fromkeys(score["model"] for score in scored["scores"] if score["model_id"] in folders))


def _cell(value: float | None, best: bool) -> str:
    if value is None:
        return "–"
    return f"<strong>{100 * value:.1f}</strong>" if best else f"{100 * value:.1f}"


def _words_of_metric(scored: dict[str, Any]) -> str:
    name = next(iter(scored["scores"][0]["metrics"]))
    return {"accuracy": "Accuracy", "f1": "F1 of entities", "f1_micro": "F1 (micro)"}.get(name, name.capitalize())
