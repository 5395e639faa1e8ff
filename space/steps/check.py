"""Step 2: can these models be merged, what speaks against it, and what will it cost? Before anything is downloaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from fusehub.checking.heads import Heads
from fusehub.errors import Action, FuseHubError
from fusehub.models.label_names import are_generic
from fusehub.utils.formats import parameters, size

from ..render import html
from ..render.labels import CHOICES, labels_html, labels_said, to_map
from ..render.offers import OFFERS, OTHERS, action_of, fix_of_finding
from ..render.reproduce import merge_command
from ..step import Step, folded, not_yet
from ..visit import PICK, STATISTICS, Picked, Visit, statistics_of
from ..workers.pace import Tell, seconds_of, untold
from .advice import fill_in_base


class Check(Step):
    """The report, and names for labels that have none."""

    title = "Check that they fit"
    intro = "Told from configurations, tokenizers and the headers of the weights. Nothing is downloaded for it."

    def layout(self) -> None:
        self.report = gr.HTML("", js_on_load=html.PRESS)
        self.offering = [self.report]
        with gr.Column(visible=False) as self.form:
            self._fields()
        self.painted = [
            self.report, self.form, self.naming, self.base, self.base_part, self.keep, self.heads_part, self.mapping,
            *self.labels
        ]  # fmt: skip

    def _fields(self) -> None:
        with gr.Column(visible=False) as self.naming:
            gr.HTML(
                "<h3>Name the labels</h3><p class='fh-intro'>These models number their labels. Say what they mean, in "
                "order and with commas between them, so that labels can be matched by name.</p>"
            )
            self.labels = [
                gr.Textbox(visible=False, label=f"Labels of model {place + 1}", placeholder="negative, positive")
                for place in range(self.frame.setting.most_models)
            ]
        self.mapping = gr.HTML("", js_on_load=CHOICES, elem_id="labels")
        with folded("Heads") as self.heads_part:
            self.keep = gr.Checkbox(
                label="Each model keeps its own head",
                info="The rest is merged, and the result holds one model for each. Otherwise heads are merged where "
                "their labels agree.",
                elem_id="keep-heads",
            )
        with folded("Base model") as self.base_part:
            self.base = gr.Textbox(
                label="The pretrained model that they share",
                info="Only methods that work with the difference to the base need it. It is downloaded too.",
                placeholder="google-bert/bert-base-uncased",
                max_lines=1,
                elem_id="base-model",
            )
        with gr.Row(elem_classes="fh-actions"):
            self.again = gr.Button("Check again", elem_id="check")
            self.lead("Go on to statistics", STATISTICS)
            self.lead("Pick other models", PICK)

    def wire(self) -> None:
        self.frame.on(
            self.again.click,
            self,
            self._check,
            [self.base, self.keep, *self.labels],
            paints=[self.report],
            busy="Checking the models",
            shows=self.report,
            concurrency_limit=10,
            prepares=True,
        )

        self.frame.on(
            self.mapping.click, self, self._name, paints=[self.report], busy="Checking the models", shows=self.report,
            concurrency_limit=10, prepares=True,
        )  # fmt: skip

    def prepare(self, visit: Visit, token: str | None, heard: Tell) -> None:
        if visit.wanted is not None and visit.wanted.code == "leave-out":
            _leave_out(visit, visit.wanted.models)
        if len(visit.picks) > 1:
            check(self.frame, visit, token, heard)

    def show(self, visit: Visit, token: str | None) -> list:
        if len(visit.picks) < 2:
            nothing = not_yet("A merge takes two models or more. Pick them first.", PICK)
            return [nothing, gr.Column(visible=False), *[gr.skip()] * (len(self.painted) - 2)]
        if visit.report is None:
            check(self.frame, visit, token)
        boxes, asks = [], False
        typed = _typed(visit)
        for place in range(len(self.labels)):
            pick = visit.picks[place] if place < len(visit.picks) else None
            if pick is None or pick not in typed:
                boxes.append(gr.Textbox(visible=False))
            else:
                asks = True
                count = html.count(len(pick.labels), "label")
                boxes.append(gr.Textbox(visible=True, label=f"{pick.name} ({count})"))
        wanted = visit.wanted.code if visit.wanted is not None else None
        base = gr.Accordion(open=True) if wanted == "name-base" else gr.skip()
        heads = gr.Accordion(open=True) if wanted == "keep-heads" else gr.skip()
        kept = (visit.page, visit.heads)
        keeps = wanted == "keep-heads" or visit.heads == "keep"
        keep = gr.skip() if kept == visit.heads_filled and not wanted else gr.Checkbox(value=keeps)
        visit.heads_filled = kept
        report = _report_html(visit) + self._room_html(visit)
        filled = (visit.page, visit.base)
        box = gr.skip() if filled == visit.base_filled else gr.Textbox(value=visit.base)
        visit.base_filled = filled
        choices = labels_html(visit.picks, visit.labels)
        return [report, gr.Column(visible=True), gr.Column(visible=asks), box, base, keep, heads, choices, *boxes]

    def _room_html(self, visit: Visit) -> str:
        """Said here already, where this machine is too small for the merge."""
        cost = (visit.report or {}).get("cost")
        if not cost:
            return ""
        asked = {
            "models": visit.names(), "method": "regmean", "base_model": visit.base, "labels": visit.labels,
            "heads": visit.heads,
            "parameters": {}, "weights": {}, "statistics": {}, "made": {},
        }  # fmt: skip
        try:
            self.frame.setting.require_room(
                cost["memory_bytes"], cost["download_bytes"], cost["output_bytes"], merge_command(asked)
            )
        except FuseHubError as error:
            return html.notice(error.what, "warning", error.fix)
        return ""

    def _check(self, visit: Visit, token: str | None, data: Any, base: str, keep: bool, *labels: str) -> None:
        typed = [pick.name for pick in _typed(visit)]
        # Those that were chosen one by one stay.
        named = {name: own for name, own in visit.labels.items() if name not in typed}
        for pick, text in zip(visit.picks, labels, strict=False):
            if text and pick.name in typed:
                named[pick.name] = [label.strip() for label in text.split(",")]
        # Whether they have to be merged, which a recipe can say, is not asked here.
        unkept: Heads = "auto" if visit.heads == "keep" else visit.heads
        visit.labels, visit.heads, visit.wanted = named, "keep" if keep else unkept, None
        visit.heads_filled = (visit.page, visit.heads)
        # Whoever took the base that was found out of the box wants none.
        visit.base, visit.base_is_found, visit.base_is_said = base.strip(), False, True
        visit.base_filled = (visit.page, visit.base)
        if visit.base:
            self.frame.setting.require_name(visit.base)
        visit.report = None

    def _name(self, visit: Visit, token: str | None, data: Any) -> None:
        """Takes in which label is which, of all that were to be chosen."""
        if data.act == "labels":
            here = {pick.name for pick in to_map(visit.picks)[1]}
            kept = {name: own for name, own in visit.labels.items() if name not in here}
            visit.labels = kept | labels_said(data.value, visit.picks)
            visit.report, visit.wanted = None, None


def _leave_out(visit: Visit, models: Sequence[str]) -> None:
    """Takes models out of the visit that do not fit the others."""
    kept = [pick for pick in visit.picks if pick.name not in models]
    visit.wanted = None
    if len(kept) < len(visit.picks):
        visit.picks = kept
        visit.changed_models()


def _typed(visit: Visit) -> list[Picked]:
    """The models whose labels are typed: numbers, and none has names to choose from."""
    chosen = to_map(visit.picks)[1]
    return [pick for pick in visit.picks if pick.labels and are_generic(list(pick.labels)) and pick not in chosen]


def check(frame: Any, visit: Visit, token: str | None, heard: Tell = untold) -> dict[str, Any]:
    """The report of the visit's models, asked for once; `heard` is told how far that is.

    A base that all of them name is filled in after it, unless the visitor has said what is the base, or that none is.
    """
    require_two(visit)
    while visit.report is None:
        asked = what_to_check(visit)
        found = frame.worker.ask("check", asked, token, heard)
        if what_to_check(visit) == asked:  # Else it is of other models than are picked now.
            take_in_check(visit, found)
        require_two(visit)
    return visit.report


def require_two(visit: Visit) -> None:
    """Raises `FuseHubError` where there is nothing to merge yet."""
    if len(visit.picks) < 2:
        raise FuseHubError("A merge takes two models or more.", "Pick them in step 1.")


def what_to_check(visit: Visit) -> dict[str, Any]:
    """What a check is asked, which asks the Hub whether the visitor may read the models."""
    return {
        "models": visit.names(),
        "base": visit.base or None,
        "labels": visit.labels or None,
        "heads": visit.heads,
        "statistics": dict(statistics_of(visit)) or None,
    }


def take_in_check(visit: Visit, found: dict[str, Any]) -> None:
    visit.report = found
    fill_in_base(visit)


def _report_html(visit: Visit) -> str:
    report = visit.report or {}
    errors = _errors(report)
    warnings, notes = (
        [finding for finding in report["findings"] if finding["level"] == level] for level in ("warning", "note")
    )
    if errors:
        parts = [refusal_html(report)]
    elif warnings:
        parts = [html.notice(f"They can be merged. {html.count(len(warnings), 'thing')} to know first.", "done")]
    else:
        parts = [html.notice("They fit: nothing speaks against a merge.", "done")]
    parts.append(_findings_html([*errors, *warnings, *notes]))
    if report.get("cost"):
        parts.append(_cost_html(report["cost"]))
    parts.append(_models_html(visit.picks, report))
    return "".join(parts)


def refusal_html(report: Mapping[str, Any], fix: str = "", offered: str = "") -> str:
    """That the models do not fit: an answer, and no failure. `fix` says more of it, with the buttons `offered`."""
    reasons = html.count(len(_errors(report)), "reason")
    return html.notice(f"These models cannot be merged as they are, for {reasons}.", "answer", fix, offered)


def _errors(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What stands against a merge; first what only other models change, as nothing else helps before that."""
    found = [finding for finding in report["findings"] if finding["level"] == "error"]
    return sorted(found, key=lambda finding: all(action["code"] not in OTHERS for action in finding["actions"]))


def ways_out(report: Mapping[str, Any]) -> list[Action]:
    """What can be done where models do not fit, and first what comes next."""
    return list(dict.fromkeys(action_of(action) for finding in _errors(report) for action in finding["actions"]))


def _findings_html(found: Sequence[dict[str, Any]]) -> str:
    """One after the other, each with what can be done that none before it has said. The first of all is loud."""
    items, offered = [], set[Action]()
    words = {code: offer.words for code, offer in OFFERS.items()}
    for finding in found:
        level = finding["level"]
        actions = [own for action in finding["actions"] if (own := action_of(action)) not in offered]
        said = fix_of_finding(finding, words)
        fix = f'<p class="fh-fix">{html.esc(said)}</p>' if said else ""
        fix += html.offers(actions, loud=level == "error" and not offered)
        offered |= set(actions)
        tag = html.tag({"error": "Reason", "warning": "To know", "note": "Fact"}[level], f"fh-{level}")
        items.append(f'<li class="fh-{level}"><p>{tag} {html.esc(finding["what"])}</p>{fix}</li>')
    return f'<ul class="fh-findings">{"".join(items)}</ul>' if items else ""


def _cost_html(cost: dict[str, int]) -> str:
    return "<h3>What a merge will take</h3>" + html.facts(
        {
            "Download": size(cost["download_bytes"]) if cost["download_bytes"] else "nothing, all is here",
            "Memory": "about " + size(cost["memory_bytes"]),
            "Disk": size(cost["output_bytes"]) + " for each result",
            "Time": "about " + html.seconds(seconds_of(cost)) + " for each method",
        }
    )


def _models_html(picks: list[Picked], report: dict[str, Any]) -> str:
    rows = []
    for model in report["models"]:
        rows.append(
            [
                html.esc(model["name"]),
                html.esc(model["architecture"] or "?"),
                parameters(model["parameters"]) if model["parameters"] else "?",
                html.esc("/".join(model["dtypes"]) or "?"),
                html.esc(", ".join(model["labels"][:6])),
                html.esc(model["license"] or "not said"),
            ]
        )
    columns = ("Model", "Architecture", "Parameters", "Stored as", "Labels", "License")
    return html.table(columns, rows, caption="The models", numbers=(2,))
