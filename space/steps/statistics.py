"""Step 3: statistics of each expert: published ones, made now from texts, or none (its own update stands in)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from fusehub.errors import BadData, FuseHubError
from fusehub.merging.sources.data_free import DATA_FREE

from ..access import require_all
from ..events import EACH_PRESS, any_of
from ..render import html
from ..step import Step, not_yet
from ..uploads import take_uploads
from ..visit import MERGE, PICK, Visit
from ..workers.jobs import Job, Part
from ..workers.pace import Tell
from .check import check, refusal_html, ways_out
from .columns import Columns
from .counting import LIMIT, Texts, counting, named_for

DATASET, FILE, TEXTS, NONE = "A dataset on the Hub", "A file", "Texts that I paste", "No texts at all"
# In the place of one model: all that lack statistics. No model is called so.
ALL = ""


class StatisticsStep(Step):
    """A card for each expert, and one form that makes what is missing."""

    title = "Statistics"
    intro = (
        "RegMean weighs each layer by what the expert saw there. That is a file of sums, made once from texts of its "
        "kind; often its owner has published it. Methods such as the mean do without."
    )

    def layout(self) -> None:
        self.cards = gr.HTML("", js_on_load=html.PRESS)
        self.offering = [self.cards]
        with gr.Column(visible=False) as self.rest:
            with gr.Accordion("Make statistics from texts", elem_id="statistics-form") as self.form:
                self.model = gr.Dropdown([], label="For the model", elem_id="statistics-model")
                self.source = gr.Radio(
                    [DATASET, FILE, TEXTS, NONE], value=DATASET, label="From", elem_id="statistics-source"
                )
                self.dataset = gr.Textbox(
                    label="Dataset",
                    info="user/dataset, with texts like those it was trained on; config and split are chosen below.",
                    placeholder="stanfordnlp/imdb",
                    max_lines=1,
                    elem_id="statistics-dataset",
                )
                most = self.frame.setting.upload_size
                with gr.Column(visible=False) as self.upload:
                    self.file = gr.File(
                        label=f"A .txt, .csv, .jsonl or .parquet file with texts (at most {most})", height=140,
                        file_types=[".txt", ".csv", ".jsonl", ".parquet"], elem_id="statistics-file",
                    )  # fmt: skip
                    self.uploaded = gr.HTML("", js_on_load=html.PRESS)
                self.texts = gr.Textbox(
                    label="Texts, one a line", lines=5, visible=False, elem_id="statistics-texts",
                    info="A few hundred make good statistics.",
                )  # fmt: skip
                self.columns = Columns(self.frame, "statistics", labelled=False)
                self.none = gr.HTML(
                    "<p class='fh-intro'>The model's difference to its base stands in for its statistics. That needs "
                    "the base model (step 2), and is not as good as texts.</p>",
                    visible=False,
                )
                self.limit = gr.Slider(
                    50, 5000, value=LIMIT, step=50, label="Texts at most", info="More are better and slower.",
                    elem_id="statistics-limit",
                )  # fmt: skip
                self.fisher = gr.Checkbox(
                    label="Also for Fisher merging", elem_id="statistics-fisher",
                    info="The Fisher diagonals of all weights too. Takes about three times as long.",
                )  # fmt: skip
                with gr.Row(elem_classes="fh-actions"):
                    self.make = gr.Button("Make statistics", elem_id="make-statistics")
            with gr.Row(elem_classes="fh-actions"):
                self.lead("Go on to merge", MERGE)
                self.one_go("Do the rest in one go")
        self.painted = [
            self.cards, self.rest, self.form, self.model, self.file, self.uploaded, self.fisher, *self.columns.painted
        ]  # fmt: skip

        self.own = [self.make]

    def is_done(self, visit: Visit) -> bool:
        return not self.comes_first(visit)

    def comes_first(self, visit: Visit) -> bool:
        """Statistics that somebody came for are made first; else there are ways to merge without."""
        asked = visit.wanted is not None and visit.wanted.code in ("collect-statistics", "collect-fisher")
        return asked and visit.report is not None and visit.report["ok"] and bool(_lacking(visit, visit.report)[0])

    def wire(self) -> None:
        def shown(source: str) -> list[Any]:
            return [
                gr.Textbox(visible=source == DATASET),
                gr.Column(visible=source == FILE),
                gr.Textbox(visible=source == TEXTS),
                gr.HTML(visible=source == NONE),
                gr.Slider(visible=source != NONE),
                gr.Checkbox(visible=source != NONE),
                gr.Button("Use no texts" if source == NONE else "Make statistics"),
            ]

        self.source.change(
            shown,
            self.source,
            [self.dataset, self.upload, self.texts, self.none, self.limit, self.fisher, self.make],
            **self.frame.hidden,
        )
        self.frame.on(
            self.make.click,
            self,
            self._make,
            [self.model, self.source, self.dataset, self.texts, self.limit, self.fisher],
        )
        asked = [self.source, self.dataset]
        uploaded = self.frame.on(self.file.upload, self, self._upload, [self.file], show_progress="hidden")
        dropped = self.frame.on(self.uploaded.click, self, self._drop, show_progress="hidden")
        said = any_of([self.dataset.blur, self.dataset.submit, self.source.change])
        for event in (uploaded.then, dropped.then, said):
            self.frame.answer(event, self._look, asked, self.columns.painted, "Looking into the data")
        self.columns.wire()
        self.frame.on(self.cards.click, self, self._press, show_progress="hidden", **EACH_PRESS)

    def prepare(self, visit: Visit, token: str | None, heard: Tell) -> None:
        if len(visit.picks) > 1:
            check(self.frame, visit, token, heard)

    def show(self, visit: Visit, token: str | None) -> list:
        if len(visit.picks) < 2:
            nothing = not_yet("Pick two models or more first.", PICK)
            return [nothing, gr.Column(visible=False), *[gr.skip()] * (len(self.painted) - 2)]
        report = check(self.frame, visit, token)
        lacking, fisher = _lacking(visit, report)
        names = visit.names()
        shown = [_card_html(visit, report, pick) for pick in visit.picks]
        without = "no Fisher diagonals" if fisher else "no statistics"
        all_there = (
            refusal_html(report, offered=html.offers(ways_out(report), loud=True))
            if not report["ok"]
            else html.notice("All statistics are there. Nothing has to be made.", "done")
            if not lacking
            else html.notice(
                f"{html.count(len(lacking), 'model has', 'models have')} {without} yet. Make them below, or "
                "merge by a method that needs none.",
                "note",
                offered=_named_html(named_for(visit, lacking)),
            )
        )
        files = {"": str(visit.texts)} if visit.texts else {}
        return [
            all_there + html.cards(shown, "Statistics of each model"),
            gr.Column(visible=True),
            self._form(visit, open=bool(lacking)),
            self._models(visit, names, lacking),
            None,  # An upload is the visit's by now: the place to drop files is empty again.
            html.files(files, "File with texts"),
            gr.Checkbox(value=True) if fisher else gr.skip(),
            *self.columns.show(visit),
        ]

    def _form(self, visit: Visit, *, open: bool) -> Any:
        """The form, folded away once all is there; whoever opens or closes it has their way until that changes."""
        known, now = self.columns.all_of(visit), (visit.page, open)
        before, known.opened = known.opened, now
        return gr.skip() if before == now else gr.Accordion(open=open)

    def _models(self, visit: Visit, names: list[str], lacking: list[str]) -> Any:
        """What the form can be for, the first that lacks statistics chosen; whoever chooses another has their way
        until that changes."""
        known, now = self.columns.all_of(visit), (visit.page, tuple(names), tuple(lacking))
        before, known.offered = known.offered, now
        if before == now:
            return gr.skip()
        all_of_them = [(f"All {len(lacking)} that have none", ALL)] if len(lacking) > 1 else []
        chosen = lacking[0] if lacking else names[0]
        return gr.Dropdown([*((name, name) for name in names), *all_of_them], value=chosen)

    def _look(self, visit: Visit, token: str | None, source: str, dataset: str) -> list[Any]:
        """What the data has that is to be read, where it has columns."""
        places = {}
        if source == FILE and visit.texts is not None:
            places = {str(visit.texts): visit.texts.name}
        elif source == DATASET and dataset.strip():
            # What is no name of a dataset is said when it is used.
            with suppress(FuseHubError):
                name = self.frame.setting.require_dataset(dataset)
                places = {name: name}
        return self.columns.look(visit, token, places)

    def _upload(self, visit: Visit, token: str | None, data: Any, file: Any) -> None:
        self._drop(visit, token, data)
        visit.texts = Path(take_uploads(visit, file)[0])

    def _drop(self, visit: Visit, token: str | None, data: Any) -> None:
        if visit.texts is not None and not (visit.job and visit.job.is_open):
            visit.texts.unlink(missing_ok=True)
        visit.texts = None

    def _make(
        self, visit: Visit, token: str | None, data: Any, model: str, source: str, dataset: str, texts: str,
        limit: float, fisher: bool,
    ) -> None:  # fmt: skip
        models = _lacking(visit, check(self.frame, visit, token))[0] if model == ALL else [model]
        if not models or not set(models) <= set(visit.names()):
            raise FuseHubError("No model was chosen.", "Choose the model that the statistics are for.")
        if source == NONE:
            visit.statistics |= {name: {"source": DATA_FREE, "free": True} for name in models}
            return
        found = self._source(visit, source, dataset, texts)
        self._start(visit, dict.fromkeys(models, found), token, limit=int(limit), fisher=fisher)

    def _start(self, visit: Visit, texts: Mapping[str, Texts], token: str | None, *, limit: int, fisher: bool) -> None:
        """Puts the work of making statistics of each model into the queue, from its texts."""
        if not texts:
            return
        require_all(texts, token)

        def parts(job: Job) -> Iterator[Part]:
            for left, (model, own) in zip(reversed(range(len(texts))), texts.items(), strict=True):
                part = counting(visit, model, own, limit=limit, fisher=fisher)
                yield replace(part, rest=left * part.seconds)

        of = next(iter(texts)) if len(texts) == 1 else html.count(len(texts), "model")
        self.frame.start_parts(visit, "statistics", f"Statistics of {of}", parts, token)

    def _source(self, visit: Visit, source: str, dataset: str, texts: str) -> Texts:
        if source == DATASET:
            name = self.frame.setting.require_dataset(dataset)
            own = self.columns.of(visit, name)
            return Texts(own.source, own.source, is_dataset=True, column=own.text_column)
        if source == FILE:
            if visit.texts is None:
                raise BadData("No file was uploaded.", "Drop a .txt, .csv, .jsonl or .parquet file above.")
            own = self.columns.of(visit, str(visit.texts))
            return Texts(f"the file {visit.texts.name}", str(visit.texts), column=own.text_column)
        lines = [line.strip() for line in texts.splitlines() if line.strip()]
        if not lines:
            raise BadData("No text was pasted.", "Paste texts, one a line.")
        target = visit.new_folder("texts.txt")
        target.parent.mkdir(parents=True)
        target.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return Texts(html.count(len(lines), "pasted text"), str(target))

    def _press(self, visit: Visit, token: str | None, data: Any) -> None:
        """Statistics are forgotten, or made of what the cards name."""
        if data.act == "named":
            lacking, fisher = _lacking(visit, check(self.frame, visit, token))
            self._start(visit, named_for(visit, lacking), token, limit=LIMIT, fisher=fisher)
        else:
            visit.statistics.pop(data.id, None)


def _lacking(visit: Visit, report: Mapping[str, Any]) -> tuple[list[str], bool]:
    """The models that have no statistics yet, and whether these are to have Fisher diagonals: so it may be wanted."""
    lacking = [pick.name for pick in visit.picks if not _known(visit, report, pick.name)]
    wanted = visit.wanted
    fisher = wanted is not None and wanted.code == "collect-fisher"
    asked = [name for name in wanted.models if name in visit.names()] if wanted is not None else []
    # What was asked for and is not made yet.
    return [name for name in asked if not _made_as(visit, name, fisher)] or lacking, fisher


def _named_html(named: Mapping[str, Texts]) -> str:
    """What the cards of models name, and the button that makes statistics of it."""
    if not named:
        return ""
    listed = ", ".join(f"{html.esc(model)}: {html.esc(texts.called)}" for model, texts in named.items())
    press = html.button("named", "Make statistics of what the cards name", kind="fh-small")
    said = f"Their cards name what they were trained on. {listed}."
    return f'<p class="fh-fix">{said}</p><p class="fh-offers">{press}</p>'


def _made_as(visit: Visit, name: str, fisher: bool) -> bool:
    """Whether statistics of a model were made in the visit, with Fisher diagonals where these are wanted."""
    made = visit.statistics.get(name)
    return made is not None and (not fisher or bool(made.get("fisher")))


def _known(visit: Visit, report: Mapping[str, Any], name: str) -> bool:
    return name in visit.statistics or "origin" in (report["statistics"].get(name) or {})


def _card_html(visit: Visit, report: dict[str, Any], pick: Any) -> str:
    made, published = visit.statistics.get(pick.name), report["statistics"].get(pick.name) or {}
    action = ""
    if made:
        action = html.button("forget", "Forget", pick.name, kind="fh-small", says=f"Forget statistics of {pick.name}")
    if made and made.get("place"):
        body = f"<p>{html.tag('named', 'fh-good')}</p>" + html.facts({"From": made["place"]})
    elif made and made.get("free"):
        body = f"<p>{html.tag('without texts', 'fh-warning')}</p>" + html.facts(
            {"In its place": "its difference to the base model"}
        )
    elif made:
        body = f"<p>{html.tag('made in this visit', 'fh-good')}</p>" + _facts_html(made, None)
    elif "origin" in published:
        body = f"<p>{html.tag('published', 'fh-good')}</p>" + _facts_html(published, published["origin"])
    elif "problem" in published:
        body = f"<p>{html.tag('cannot be used', 'fh-error')}</p><p>{html.esc(published['problem'])}</p>"
    else:
        others = ", ".join(html.esc(name) for name in published.get("offered", ()))
        said = f" Others have: {others}. They decide merged weights, and are not used here." if others else ""
        body = f"<p>{html.tag('none')}</p><p>Its owner has published none. Make them below.{said}</p>"
    return html.card(pick.name, body, link=pick.url, action=action)


def _facts_html(known: dict[str, Any], origin: str | None) -> str:
    place, _, commit = (origin or "").partition("@")
    found = "".join(html.notice(finding["what"], "warning", finding["fix"]) for finding in known["findings"])
    return found + html.facts(
        {
            "From": f"{place} at {commit[:8]}" if origin else None,
            "When": known.get("when"),
            "Texts": html.number(known["examples"]) if known.get("examples") else None,
            "Tokens": html.number(known["tokens"]) if known.get("tokens") else None,
            "Rows": f"{known['rows']:,} in the layer that saw most" if known.get("rows") else None,
            "Made of": known.get("data"),
        }
    )
