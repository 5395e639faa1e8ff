"""Step 4: one method or several, their options as the registry has them, a share for each model; then the work."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from fusehub.errors import BadRecipe, FuseHubError
from fusehub.merging.sources import source_said
from fusehub.methods import METHODS, Method

from ..access import require_all
from ..frame import Step
from ..render import html
from ..render.reproduce import merge_command
from ..visits import COMPARE, Made, Visit, statistics_of
from .check import check
from .options import changed_options, options_of


class Merge(Step):
    """Methods, options, shares, and what was merged."""

    title = "Merge"
    intro = "Choose one way to merge, or several to compare them. The defaults are good ones to begin with."

    def layout(self) -> None:
        default = ["regmean", "mean"]
        self.methods = gr.CheckboxGroup(
            [(method.title, name) for name, method in offered().items()], value=default, label="Methods",
            elem_id="methods",
        )  # fmt: skip
        self.options: dict[tuple[str, str], Any] = {}
        self.boxes: dict[str, gr.Accordion] = {}
        for name, method in offered().items():
            with gr.Accordion(f"{method.title}: options", open=False, visible=name in default) as self.boxes[name]:
                gr.HTML(_about_html(method))
                for option, field in options_of(method).items():
                    self.options[name, option] = option_input(option, field)
        with gr.Accordion("How much each model counts", open=False):
            gr.HTML("<p class='fh-intro'>Only the proportions count: 2 and 1 give the first model two thirds.</p>")
            self.shares = [
                gr.Slider(
                    0, 2, value=1, step=0.05, label=f"Model {place + 1}", visible=False, elem_id=f"share-{place}"
                )
                for place in range(self.frame.setting.most_models)
            ]
        with gr.Row(elem_classes="fh-actions"):
            self.go = gr.Button("Merge", variant="primary", elem_id="merge")
            self.lead("Compare the results", COMPARE, primary=False)
        self.made = gr.HTML("", js_on_load=html.PRESS)
        self.painted = [self.made, *self.shares]

    def wire(self) -> None:
        self.methods.change(
            lambda chosen: [gr.Accordion(visible=name in chosen) for name in self.boxes],
            self.methods,
            list(self.boxes.values()),
            show_progress="hidden",
            api_visibility="private",
        )
        self.frame.on(self.go.click, self, self._merge, [self.methods, *self.options.values(), *self.shares])
        self.frame.on(self.made.click, self, self._delete, show_progress="hidden")

    def show(self, visit: Visit, token: str | None) -> list:
        shares = [
            gr.Slider(visible=True, label=visit.picks[place].name)
            if place < len(visit.picks)
            else gr.Slider(visible=False)
            for place in range(len(self.shares))
        ]
        return [_made_html(visit), *shares]

    def _merge(self, visit: Visit, token: str | None, data: Any, chosen: list[str], *values: Any) -> None:
        if not chosen:
            raise BadRecipe("No method was chosen.", "Choose at least one.")
        report = check(self.frame, visit, token)
        if not report["ok"]:
            raise FuseHubError("These models cannot be merged.", "See step 2 for what speaks against it.")
        options = dict(zip(self.options, values[: len(self.options)], strict=True))
        shares = values[len(self.options) :]
        weights = {pick.name: float(share) for pick, share in zip(visit.picks, shares, strict=False)}
        parameters = {
            name: {
                option: plain(value, options_of(METHODS[name])[option])
                for (of, option), value in options.items()
                if of == name and value not in (None, "")
            }
            for name in chosen
        }
        start_merges(self.frame, visit, parameters, weights, token)

    def _delete(self, visit: Visit, token: str | None, data: Any) -> None:
        made = visit.merges.pop(data.id, None)
        if made is not None:
            import shutil

            shutil.rmtree(made.folder.parent, ignore_errors=True)
            visit.comparison = visit.evaluation = None


def start_merges(
    frame: Any,
    visit: Visit,
    parameters: dict[str, dict[str, Any]],
    weights: dict[str, float],
    token: str | None,
) -> None:
    """Puts merges of the visit's models into the queue: `parameters` has the options by method."""
    setting = frame.setting
    if len(visit.merges) + len(parameters) > setting.most_merges:
        raise FuseHubError(
            f"A visit keeps at most {setting.most_merges} merges.", "Delete some that you do not need, below."
        )
    require_offered(parameters)
    require_all([*visit.names(), *([visit.base] if visit.base else [])], token)
    recipes: list[dict[str, Any]] = []
    for method, own in parameters.items():
        name = _free_name(visit, method, [recipe["name"] for recipe in recipes])
        recipes.append(
            {
                "name": name,
                "method": method,
                "models": visit.names(),
                "parameters": own,
                "weights": weights if len(set(weights.values())) > 1 else {},
                "statistics": _sources(visit, METHODS[method]),
                "labels": visit.labels,
                "base_model": visit.base if visit.base and _takes_base(visit, METHODS[method], own) else None,
                "out": str(visit.new_folder(name)),
                "made": _made_here(visit, METHODS[method]),
            }
        )
    command = merge_command(recipes[0])
    if visit.report and visit.report.get("cost"):
        cost = visit.report["cost"]
        setting.require_room(
            cost["memory_bytes"], cost["download_bytes"] + cost["output_bytes"] * len(parameters), command
        )

    def keep(visit: Visit, results: list[dict[str, Any]]) -> None:
        for recipe, made in zip(recipes, results, strict=True):
            visit.merges[made["name"]] = Made(
                name=made["name"],
                folder=Path(made["folder"]),
                method=recipe["method"],
                options=_options_text(recipe),
                parts=tuple(made["parts"]),
                notes=tuple(made["notes"]),
                seconds=made["seconds"],
                recipe=made["recipe"],
                asked=recipe,
            )
        visit.comparison = visit.evaluation = None

    titles = " and ".join(METHODS[name].title for name in parameters)
    arguments = {"models": visit.names(), "recipes": recipes, "room": (setting.memory(), command)}
    frame.start(visit, "merge", f"Merging by {titles}", arguments, token, keep)


def offered() -> dict[str, Method]:
    """The methods that the app has all for: models, a base, and statistics that are published or were made."""
    return {name: method for name, method in METHODS.items() if not wants_more(method)}


def wants_more(method: Method) -> bool:
    """Whether a method needs what the app cannot give it: texts, while it merges."""
    return method.needs_data


def require_offered(methods: Iterable[str]) -> None:
    """Raises `BadRecipe` for a method that only the command line has all for."""
    for name in methods:
        if wants_more(METHODS[name]):
            raise BadRecipe(
                f"{METHODS[name].title} needs more than the app can give it.",
                f"Use the command line: fusehub merge --method {name} --help",
            )


def _sources(visit: Visit, method: Method) -> dict[str, str]:
    return dict(statistics_of(visit)) if method.needs_statistics or method.needs_fisher else {}


def _takes_base(visit: Visit, method: Method, options: Mapping[str, Any]) -> bool:
    """Whether the base is for this merge: the visitor named it once for all, and others would change what they do."""
    if method.base == "end":
        return visit.base in visit.names()
    by_update = any(source_said(said).stands_by_update for said in _sources(visit, method).values())
    own = {name: value for name, value in options.items() if name in method.options.fields()}
    return by_update or method.needs_base(method.parse(own))


def _made_here(visit: Visit, method: Method) -> dict[str, dict[str, Any]]:
    """Model -> what its statistics were made of in this visit, for those that the method takes."""
    return {
        name: {option: known[option] for option in ("data", "dataset", "limit", "fisher")}
        for name, known in visit.statistics.items()
        if name in _sources(visit, method) and not known.get("free")
    }


def _about_html(method: Method) -> str:
    link = f' <a href="{html.esc(method.paper)}" target="_blank" rel="noopener">The paper</a>.' if method.paper else ""
    base = " It needs the base model: name it in step 2." if method.base == "needed" else ""
    return f"<p class='fh-intro'>{html.esc(method.summary)} {html.esc(method.when)}{base}{link}</p>"


def option_input(name: str, field: Any) -> Any:
    """The input for one option of a method, by its type: what it may be, its default, and its sentence."""
    kind, default = field.annotation, field.default
    said = {"label": name.replace("_", " "), "info": field.description}
    choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    if kind is bool:
        return gr.Checkbox(value=default, **said)
    if choices:
        return gr.Radio([str(choice) for choice in choices], value=str(default), **said)
    if float in (kind, *typing.get_args(kind)) or int in (kind, *typing.get_args(kind)):
        low, high = _range(field)
        if low is not None and high is not None and isinstance(default, int | float):
            step = 1 if kind is int else 0.05 if high - low <= 2 else 0.1
            return gr.Slider(low, high, value=default, step=step, **said)
        return gr.Number(value=default if isinstance(default, int | float) else None, **said)
    return gr.Textbox(value="" if default is None else str(default), **said)


def plain(value: Any, field: Any) -> Any:
    """What an input gave, as the option wants it: numbers of whole options are whole."""
    if field.annotation is int or (int in typing.get_args(field.annotation) and float(value).is_integer()):
        return int(value)
    return value


def _range(field: Any) -> tuple[float | None, float | None]:
    low = high = None
    for rule in field.metadata:
        low = getattr(rule, "ge", getattr(rule, "gt", low))
        high = getattr(rule, "le", getattr(rule, "lt", high))
    return low, high


def _free_name(visit: Visit, method: str, others: list[str]) -> str:
    taken = {*visit.merges, *others}
    number = 1
    while (name := method if number == 1 else f"{method}-{number}") in taken:
        number += 1
    return name


def _options_text(recipe: dict[str, Any]) -> str:
    from fusehub.utils.formats import describe

    said = changed_options(recipe["method"], recipe["parameters"])
    texts = [describe(said)] if said else []
    if recipe["weights"]:
        texts.append("shares " + " : ".join(f"{share:g}" for share in recipe["weights"].values()))
    return ", ".join(texts) or "default options"


def _made_html(visit: Visit) -> str:
    if len(visit.picks) < 2:
        return html.empty("Pick two models or more in step 1 first.")
    if not visit.merges:
        return html.empty("Nothing is merged yet. Choose methods above and press Merge.")
    shown = []
    for made in visit.merges.values():
        notes = "".join(f"<li>{html.esc(note)}</li>" for note in made.notes)
        body = html.facts(
            {
                "Method": METHODS[made.method].title,
                "Options": made.options,
                "Took": html.seconds(made.seconds),
                "Heads": "one for each expert: " + ", ".join(made.parts) if made.parts else None,
            }
        )
        body += (
            f"<details><summary>{html.count(len(made.notes), 'note')}</summary><ul>{notes}</ul></details>"
            if notes
            else ""
        )
        body += f"<details><summary>Recipe</summary>{html.code(made.recipe, 'Recipe of ' + made.name)}</details>"
        delete = html.button("delete", "Delete", made.name, kind="fh-small", says=f"Delete {made.name}")
        shown.append(html.card(made.name, body, action=delete))
    return f"<h3>Merged in this visit</h3>{html.cards(shown, 'Merged models')}"
