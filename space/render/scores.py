"""Scores on labelled data, as the page shows them: a table with gains, and bars for each kind of text; to save too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fusehub.comparing.evaluation import LESS_IS_BETTER
from fusehub.comparing.tasks import answers_of

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
    """One row a model: its main score on each set of data, their mean, and the gain over the best expert's mean.

    A gain is above 0 where the model is better, also by a metric of which less is better.
    """
    best_of, sign = (min, -1) if _metric(scored) in LESS_IS_BETTER else (max, 1)
    merged_or_ensemble = set(scored.get("merges", ())) | {ENSEMBLE}
    rows = []
    for model in scored["models"]:
        own = {score["data"]: _main(score) for score in scored["scores"] if score["model"] == model}
        rows.append({"model": model, **own, "mean": scored["mean"][model]})
    experts = [row["mean"] for row in rows if row["model"] not in merged_or_ensemble and row["mean"] is not None]
    best = best_of(experts, default=None)
    for row in rows:
        known = best is not None and row["mean"] is not None
        row["gain"] = sign * (row["mean"] - best) if known else None
    return rows


def _main(score: dict[str, Any]) -> float | None:
    return next(iter(score["metrics"].values()))


def scores_html(scored: dict[str, Any], visit: Visit) -> str:
    scored = scored | {"merges": _merged_names(scored, visit)}
    rows = table_of(scored)
    data, metric = scored["data"], _metric(scored)
    # Metrics are fractions of 1, but for those of which less is better.
    is_fraction = metric not in LESS_IS_BETTER
    best_of = max if is_fraction else min
    best = {
        name: best_of((row[name] for row in rows if row[name] is not None), default=None) for name in [*data, "mean"]
    }
    columns = ["Model", *data, *(["Mean"] if len(data) > 1 else []), "Gain over the best expert"]
    shown = [*data, *(["mean"] if len(data) > 1 else [])]
    body = [
        [
            html.esc(row["model"]),
            *(_cell(row[name], row[name] == best[name], is_fraction) for name in shown),
            _gain(row["gain"], is_fraction),
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
        for name in (data if is_fraction else ())
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
    measured = "in percent" if is_fraction else "less is better"
    table = html.table(columns, body, caption=f"{_words_of_metric(scored)}, {measured}", numbers=numbers)
    warned = "".join(html.notice(said, "warning") for said in scored["warnings"])
    summary = f"{warned}<p class='fh-summary'>{html.esc(counted)}.</p>"
    return f"{summary}{table}<div class='fh-plots'>{plotted}</div>{downloads}"


def _merged_names(scored: dict[str, Any], visit: Visit) -> list[str]:
    folders = {place for made in visit.merges.values() for place in made.models.values()}
    return list(dict.fromkeys(score["model"] for score in scored["scores"] if score["model_id"] in folders))


def _cell(value: float | None, best: bool, is_fraction: bool) -> str:
    if value is None:
        return "–"
    told = f"{100 * value if is_fraction else value:.1f}"
    return f"<strong>{told}</strong>" if best else told


def _gain(value: float | None, is_fraction: bool) -> str:
    if value is None:
        return "–"
    return (f"{100 * value:+.1f} points" if is_fraction else f"{value:+.1f}").replace("-", "−")


def _metric(scored: dict[str, Any]) -> str:
    """The main metric."""
    return next(iter(scored["scores"][0]["metrics"]))


def _words_of_metric(scored: dict[str, Any]) -> str:
    name = _metric(scored)
    known = {"f1_micro": "F1 (micro)", **answers_of(scored["task"]).metric_names}
    return known.get(name, name.capitalize())
