"""Step 5: experts, their ensemble and the merged models side by side, on texts that are typed and on labelled data."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import gradio as gr

from fusehub.errors import BadData, FuseHubError
from space import plots, words
from space.access import require_all
from space.frame import Step
from space.visit import PUSH, Visit

ENSEMBLE = "ensemble"
_EXAMPLES = {
    "token-classification": "Anna Schmidt works for Siemens in Munich.\nThe Rolling Stones played in Buenos Aires.",
    "": "Not bad at all.\nI waited three weeks, and then it broke.\nThe plot is thin, but the actors are wonderful.",
}


class Compare(Step):
    """Texts and answers; labelled data and scores."""

    title = "Compare"
    intro = (
        "What each expert says, what their ensemble says, and what the merged models say. Every text is asked of all."
    )

    def layout(self) -> None:
        self.texts = gr.Textbox(label="Texts, one a line", lines=4, placeholder="Not bad at all.", elem_id="texts")
        with gr.Row(elem_classes="fh-actions"):
            self.go = gr.Button("Compare", variant="primary", elem_id="compare")
            self.example = gr.Button("Fill in some texts", elem_id="example-texts")
        self.only = gr.Checkbox(label="Only texts where the models disagree", elem_id="only-disagreeing")
        self.answers = gr.HTML("")
        gr.HTML(
            "<h3>Scores on labelled data</h3><p class='fh-intro'>Each dataset or file is a kind of text of its own: a "
            "column of the table.</p>"
        )
        self.datasets = gr.Textbox(
            label="Datasets on the Hub, one a line", lines=2, placeholder="films=stanfordnlp/imdb/test",
            info="name=user/dataset/split; the name is optional, the split is test unless said.", elem_id="datasets",
        )  # fmt: skip
        with gr.Row(elem_classes="fh-actions"):
            self.upload = gr.UploadButton(
                "Add files with texts and labels",
                file_count="multiple",
                file_types=[".csv", ".jsonl", ".parquet"],
                elem_id="score-files",
            )
        self.uploads = gr.HTML("", js_on_load=words.PRESS)
        self.limit = gr.Slider(
            20, 2000, value=200, step=20, label="Examples of each at most", elem_id="score-limit",
            info="The same examples for all models.",
        )  # fmt: skip
        with gr.Row(elem_classes="fh-actions"):
            self.score = gr.Button("Score", elem_id="score")
            self.lead("Push a result", PUSH)
        self.scores = gr.HTML("")
        self.painted = [self.answers, self.uploads, self.scores]

    def wire(self) -> None:
        for event, change in ((self.go.click, self._compare), (self.only.change, self._filter)):
            self.frame.on(event, self, change, [self.texts, self.only], paints=[self.answers], concurrency_limit=40)
        self.frame.on(self.score.click, self, self._score, [self.datasets, self.limit])
        self.frame.on(self.upload.upload, self, self._upload, [self.upload], show_progress="hidden")
        self.frame.on(self.uploads.click, self, self._drop, show_progress="hidden")
        self.example.click(
            self._examples, self.frame.key, self.texts, show_progress="hidden", api_visibility="private"
        )

    def show(self, visit: Visit) -> list:
        if not visit.picks:
            return [words.empty("Pick models in step 1 first."), "", ""]
        answers = (
            _answers_html(visit.comparison) if visit.comparison else words.empty("Type texts above and press Compare.")
        )
        scores = (
            _scores_html(visit.evaluation, visit)
            if visit.evaluation
            else words.empty("Name datasets or upload files above and press Score.")
        )
        return [answers, _uploads_html(visit), scores]

    def _upload(self, visit: Visit, token: str | None, data: Any, files: Any) -> None:
        for path in self.frame.take_uploads(visit, files):
            visit.uploads[_free(Path(path).stem, visit.uploads)] = path

    def _drop(self, visit: Visit, token: str | None, data: Any) -> None:
        visit.uploads.pop(data.id, None)

    def _examples(self, key: str) -> str:
        visit = self.frame.visits.of(key)
        task = visit.picks[0].task if visit.picks else ""
        return _EXAMPLES.get(task or "", _EXAMPLES[""])

    def _compare(self, visit: Visit, token: str | None, data: Any, texts: str, only: bool) -> None:
        lines = [line.strip() for line in texts.splitlines() if line.strip()]
        visit.comparison = compare_texts(self.frame, visit, lines, token) | {"only": only}

    def _filter(self, visit: Visit, token: str | None, data: Any, texts: str, only: bool) -> None:
        if visit.comparison:
            visit.comparison["only"] = only

    def _score(self, visit: Visit, token: str | None, data: Any, datasets: str, limit: float) -> None:
        sources: dict[str, str] = {}
        for line in datasets.splitlines():
            if line.strip():
                name, separator, source = line.strip().partition("=")
                source = source.strip() if separator else name
                if self.frame.setting.shared:
                    self.frame.setting.require_name(source.partition(":")[0], "dataset")
                sources[_free(name.strip() if separator else words.short(_without_split(source)), sources)] = source
        for name, path in visit.uploads.items():
            sources[_free(name, sources)] = path
        start_scores(self.frame, visit, sources, int(limit), token)


def compare_texts(frame: Any, visit: Visit, texts: list[str], token: str | None) -> dict[str, Any]:
    """The comparison of all models of the visit on `texts`, as plain data with the visit's names."""
    most = frame.setting.most_texts
    if not texts:
        raise BadData("There is no text.", "Type at least one, one a line.")
    if len(texts) > most:
        raise BadData(f"{len(texts)} texts are too many at once.", f"Take at most {most}; score a file for more.")
    models = models_to_ask(visit)
    require_all(visit.names(), token)
    found = frame.worker.ask("compare", {"models": models, "texts": texts}, token)
    return _renamed(found, models)


def start_scores(frame: Any, visit: Visit, sources: dict[str, str], limit: int | None, token: str | None) -> None:
    """Puts scoring of all models of the visit into the queue."""
    if not sources:
        raise BadData("There is no data to score on.", "Name a dataset of the Hub, or upload a file with labels.")
    models = models_to_ask(visit)
    require_all(visit.names(), token)

    def keep(visit: Visit, scored: dict[str, Any]) -> None:
        visit.evaluation = scored

    arguments = {"models": models, "data": sources, "ensemble": True, "limit": limit}
    frame.start(visit, "evaluate", "Scoring all models", arguments, token, keep)


def models_to_ask(visit: Visit) -> dict[str, str]:
    """Name -> model, of experts of the first one's task and all merges."""
    if not visit.picks:
        raise FuseHubError("There is no model yet.", "Pick models in step 1.")
    return visit.all_models()


def _renamed(found: dict[str, Any], models: dict[str, str]) -> dict[str, Any]:
    """Short names that the package gave are kept; commits and folders never show."""
    return found | {"source": None, "asked": list(models)}


def _free(name: str, taken: dict[str, str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


def _without_split(source: str) -> str:
    parts = source.partition(":")[0].split("/")
    return "/".join(parts[:2])


def _uploads_html(visit: Visit) -> str:
    if not visit.uploads:
        return "<p class='fh-intro'>.csv, .jsonl or .parquet with texts and labels in columns, at most 20 MB each.</p>"
    rows = "".join(
        f"<li>{words.esc(Path(path).name)} "
        f"{words.button('drop', 'Remove', name, kind='fh-small', says='Remove ' + Path(path).name)}</li>"
        for name, path in visit.uploads.items()
    )
    return f'<ul class="fh-files" aria-label="Files to score on">{rows}</ul>'


def _answers_html(found: dict[str, Any]) -> str:
    texts = [text for text in found["texts"] if text["differs"]] if found.get("only") else found["texts"]
    labels = list(
        dict.fromkeys(label for text in found["texts"] for a in text["answers"] for label in a["probabilities"])
    )
    colours = plots.colours_of(labels)
    differing = sum(text["differs"] for text in found["texts"])
    parts = [
        f'<p class="fh-summary">{words.count(len(found["texts"]), "text")}; the models disagree on {differing}.</p>',
        plots.legend(colours) if labels else "",
    ]
    parts += [_text_html(text, colours) for text in texts]
    if not texts:
        parts.append(words.empty("They all agree on every text."))
    parts.append(_downloads(found))
    return "".join(parts)


def _text_html(text: dict[str, Any], colours: dict[str, int]) -> str:
    rows = []
    for answer in text["answers"]:
        if answer["label"] is None:
            told = plots.marked(text["text"], answer["entities"])
            rows.append(
                f'<li><span class="fh-name">{words.esc(answer["model"])}</span><p class="fh-marked">{told}</p></li>'
            )
            continue
        label = ", ".join(answer["label"]) if isinstance(answer["label"], list) else answer["label"]
        label = f"{label:.3f}" if isinstance(label, float) else label or "none"
        sure = words.percent(answer["probability"])
        rows.append(
            f'<li><span class="fh-name">{words.esc(answer["model"])}</span>'
            f'<span class="fh-label">{words.esc(label)} <small>{sure}</small></span>'
            f"{plots.probabilities(answer['probabilities'], colours)}</li>"
        )
    differs = words.tag("they disagree", "fh-warning") if text["differs"] else ""
    return (
        f'<article class="fh-text"><h3>{words.esc(text["text"])} {differs}</h3>'
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
        + words.download("comparison.csv", _csv(rows), "text/csv", "Download as CSV")
        + words.download("comparison.json", json.dumps(found, indent=1), "application/json", "Download as JSON")
        + "</p>"
    )


def _csv(rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return out.getvalue()


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


def _scores_html(scored: dict[str, Any], visit: Visit) -> str:
    scored = scored | {"merges": _merged_names(scored, visit)}
    rows = table_of(scored)
    data, metric = scored["data"], _words_of_metric(scored)
    best = {name: max((row[name] for row in rows if row[name] is not None), default=None) for name in [*data, "mean"]}
    columns = ["Model", *data, *(["Mean"] if len(data) > 1 else []), "Gain over the best expert"]
    shown = [*data, *(["mean"] if len(data) > 1 else [])]
    body = [
        [
            words.esc(row["model"]),
            *(_cell(row[name], row[name] == best[name]) for name in shown),
            "–" if row["gain"] is None else f"{100 * row['gain']:+.1f} points",
        ]
        for row in rows
    ]
    colours = {row["model"]: place % plots.COLOURS for place, row in enumerate(rows)}
    plotted = "".join(
        f"<figure><figcaption>{words.esc(name)}</figcaption>"
        + plots.bars(
            {row["model"]: row[name] for row in rows if row[name] is not None},
            colours,
            [row["model"] for row in rows if row[name] == best[name]],
        )
        + "</figure>"
        for name in data
    )
    examples = {score["data"]: score["examples"] for score in scored["scores"]}
    counted = ", ".join(f"{name} {words.count(number, 'example')}" for name, number in examples.items())
    downloads = (
        '<p class="fh-downloads">'
        + words.download("scores.csv", _csv(rows), "text/csv", "Download as CSV")
        + words.download("scores.json", json.dumps(scored, indent=1), "application/json", "Download as JSON")
        + "</p>"
    )
    numbers = tuple(range(1, len(columns)))
    table = words.table(columns, body, caption=f"{metric}, in percent", numbers=numbers)
    return f"<p class='fh-summary'>{words.esc(counted)}.</p>{table}<div class='fh-plots'>{plotted}</div>{downloads}"


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
