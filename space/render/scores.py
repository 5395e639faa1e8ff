"""Scores on labelled data, as the page shows them: what they mean in sentences, a table of scores with intervals and
gains, and on demand bars, the differences on each data set, and each label; to save too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fusehub.comparing.evaluation import LESS_IS_BETTER, Difference, Evaluation
from fusehub.comparing.intervals import Interval
from fusehub.comparing.summary import difference_words, summary
from fusehub.comparing.tasks import answers_of

from . import html, plots
from .kinds import kind_of, named


def without_paths(scored: dict[str, Any]) -> dict[str, Any]:
    """Scores as others may see them: without the folders of this machine that merges lie in."""
    own = [
        score | {"model_id": None if Path(score["model_id"] or "").is_absolute() else score["model_id"]}
        for score in scored["scores"]
    ]
    return scored | {"scores": own}


def table_of(scored: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a model: what it is, its main score on each set of data, their mean, and its gain over the expert that
    it is held against, with the ends of that one's interval.

    A gain is above 0 where the model is better, also by a metric of which less is better.
    """
    found = Evaluation.from_dict(scored)
    means = scored["mean"]
    rows = []
    for model in found.models:
        values = {name: _number(found.score_of(model, name).main) for name in found.data}
        gain = _gain_of(found, model)
        between = gain.interval if gain else None
        own = {"gain": _number(gain.value) if gain else _no_gain(found)}
        own |= (
            {"gain_low": between.low, "gain_high": between.high} if between else {"gain_low": None, "gain_high": None}
        )
        rows.append({"model": model, "kind": kind_of(model, found.experts), **values, "mean": means[model], **own})
    return rows


def scores_html(scored: dict[str, Any]) -> str:
    found = Evaluation.from_dict(scored)
    warned = "".join(html.notice(said, "warning") for said in found.warnings)
    said = "".join(f"<li>{html.esc(line)}</li>" for line in summary(found))
    examples = {score.data: score.examples for score in found.scores}
    counted = ", ".join(f"{name} {html.count(number, 'example')}" for name, number in examples.items())
    return (
        f"{warned}<p class='fh-summary'>{html.esc(counted)}.</p>"
        f"<ul class='fh-meaning' aria-label='What the numbers mean'>{said}</ul>"
        f"{_scores_table(found, table_of(scored))}{_bars(found)}{_differences(found)}{_labels(found)}"
        f"{_downloads(scored)}"
    )


def _scores_table(found: Evaluation, rows: list[dict[str, Any]]) -> str:
    is_fraction = _is_fraction(found)
    several = len(found.data) > 1
    columns = ["Model", *found.data, *(["On average"] if several else []), _gain_head(found)]
    shown = [*found.data, *(["mean"] if several else [])]
    best_of = max if is_fraction else min
    best = {name: best_of((row[name] for row in rows if row[name] is not None), default=None) for name in shown}
    body = []
    for row in rows:
        model = row["model"]
        intervals = [found.score_of(model, name).intervals.get(_metric(found)) for name in found.data]
        intervals += [found.mean_intervals.get(model)] if several else []
        cells = [
            _cell(row[name], between, row[name] == best[name], is_fraction)
            for name, between in zip(shown, intervals, strict=True)
        ]
        body.append([named(model, row["kind"]), *cells, _gain(_gain_of(found, model), row["gain"], found)])
    measured = "in percent" if is_fraction else "less is better"
    brackets = f"; in brackets {100 * found.resampling.confidence_level:g} % intervals" if found.resampling else ""
    return html.table(
        columns,
        body,
        caption=f"{_words_of_metric(found)}, {measured}{brackets}",
        numbers=tuple(range(1, len(columns))),
        kinds=[f"fh-{row['kind']}" for row in rows],
    )


def _bars(found: Evaluation) -> str:
    """The same as bars, for who likes them; of metrics without a whole there are none."""
    if not _is_fraction(found):
        return ""
    colours = {model: place % plots.COLOURS for place, model in enumerate(found.models)}
    figures = []
    for name in found.data:
        values = {model: found.score_of(model, name).main for model in found.models}
        known = {model: value for model, value in values.items() if value == value}
        best = [model for model, value in known.items() if value == max(known.values())]
        bars = plots.bars(known, colours, best)
        figures.append(f"<figure><figcaption>{html.esc(name)}</figcaption>{bars}</figure>")
    return html.folded("The same as bars", f"<div class='fh-plots'>{''.join(figures)}</div>")


def _differences(found: Evaluation) -> str:
    """On each data set against its expert: in the table there is the mean alone."""
    if len(found.data) < 2 or not found.differences:
        return ""
    against = {own.data: own.against for own in found.differences}
    places = [name for name in found.data if name in against]
    rows = [
        [named(model, kind_of(model, found.experts)), *(_on(found.difference_of(model, name)) for name in places)]
        for model in found.models
    ]
    heads = ["Model", *(f"{name} against {against[name]}" for name in places)]
    told = html.table(
        heads,
        rows,
        caption="Better by, on the same examples; bold where the interval leaves out zero",
        numbers=tuple(range(1, len(heads))),
        kinds=_kinds(found),
    )
    return html.folded("Gains on each dataset", told)


def _on(difference: Difference | None) -> str:
    if difference is None:
        return "–"
    told = html.esc(difference_words(difference.value, difference.metric, difference.interval))
    return f"<strong>{told}</strong>" if difference.is_better or difference.is_worse else told


def _labels(found: Evaluation) -> str:
    """Precision, recall and F1 of each label, one table a data set."""
    tables = []
    for name in found.data:
        rows, kinds = [], []
        own = [(label, score.model) for score in found.scores if score.data == name for label in score.labels]
        for label, model in sorted(own, key=lambda one: (one[0].label, found.models.index(one[1]))):
            few = f"{label.support} {html.tag('few', 'fh-warning')}" if label.few else str(label.support)
            f1 = _cell(label.f1, label.interval, False, True)
            rows.append([html.esc(label.label), html.esc(model), *(f"{100 * value:.1f}" for value in
                         (label.precision, label.recall)), f1, few])  # fmt: skip
            kinds.append(f"fh-{kind_of(model, found.experts)}")
        if rows:
            heads = ("Label", "Model", "Precision", "Recall", "F1", "Examples")
            caption = f"{name}: each label, in percent"
            tables.append(html.table(heads, rows, caption=caption, numbers=(2, 3, 4, 5), kinds=kinds))
    return html.folded("Label by label", "".join(tables)) if tables else ""


def _downloads(scored: dict[str, Any]) -> str:
    told = json.dumps(without_paths(scored), indent=1)
    return (
        '<p class="fh-downloads">'
        + html.download("scores.csv", html.csv_of(table_of(scored)), "text/csv", "Download as CSV")
        + html.download("scores.json", told, "application/json", "Download as JSON")
        + "</p>"
    )


def _gain_of(found: Evaluation, model: str) -> Difference | None:
    return found.difference_of(model, None if len(found.data) > 1 else found.data[0])


def _no_gain(found: Evaluation) -> float | None:
    """Of the expert that all others are held against."""
    return 0.0 if found.differences else None


def _gain_head(found: Evaluation) -> str:
    gain = next(filter(None, (_gain_of(found, model) for model in found.models)), None)
    if gain is None or gain.chosen == "best":
        return "Gain over the best expert"
    return f"Gain over {gain.against}"


def _kinds(found: Evaluation) -> list[str]:
    return [f"fh-{kind_of(model, found.experts)}" for model in found.models]


def _cell(value: float | None, interval: Interval | None, best: bool, is_fraction: bool) -> str:
    if value is None:
        return "–"
    times = 100 if is_fraction else 1
    told = f"{times * value:.1f}"
    between = f" <small>[{times * interval.low:.1f}, {times * interval.high:.1f}]</small>" if interval else ""
    return (f"<strong>{told}</strong>" if best else told) + between


def _gain(difference: Difference | None, value: float | None, found: Evaluation) -> str:
    if difference is None or value is None:
        return "–"
    told = difference_words(value, difference.metric, difference.interval)
    number, bracket, rest = told.partition(" [")
    return html.esc(number) + (f" <small>[{html.esc(rest)}</small>" if bracket else "")


def _number(value: float) -> float | None:
    return value if value == value else None


def _metric(found: Evaluation) -> str:
    """The main metric."""
    return found.scores[0].metric


def _is_fraction(found: Evaluation) -> bool:
    """Metrics are fractions of 1, but for those of which less is better."""
    return _metric(found) not in LESS_IS_BETTER


def _words_of_metric(found: Evaluation) -> str:
    name = _metric(found)
    known = {"f1_micro": "F1 (micro)", **answers_of(found.task).metric_names}
    return known.get(name, name.capitalize())
