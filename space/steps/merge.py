"""Step 4: the recommended way and others, their options as the registry has them, shares of models; then the work."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from fusehub.errors import BadRecipe, FuseHubError
from fusehub.merging.preconditions import require_shares
from fusehub.merging.sources import source_said
from fusehub.methods import METHODS, Method
from fusehub.recommending.recommendation import NEEDS, need_of, sentence_of

from ..access import require_all
from ..events import EACH_PRESS, any_of
from ..render import html
from ..render.reproduce import merge_command
from ..step import Step, folded, not_yet
from ..visit import COMPARE, MERGE, PICK, Made, Visit, statistics_of
from ..workers.jobs import Part
from ..workers.pace import Tell
from .advice import advice_html, advise, need_html, offered, suggested, wants_more, ways
from .check import check, refusal_html, ways_out
from .made import made_html, pressed, same_as
from .options import changed_options, options_of


class Merge(Step):
    """One recommended way and the mean, all others by what they need, options, shares, and what was merged."""

    title = "Merge"
    intro = "One way is recommended for your models, with the reason. Others can be chosen beside it, to compare."

    def layout(self) -> None:
        known = offered()
        self.advice = gr.HTML("", js_on_load=html.PRESS)
        self.offering = [self.advice]
        with gr.Column(visible=False) as self.form:
            with gr.Column(elem_id="methods"):
                self.first = gr.Checkbox(label="The recommended way", value=True, elem_id="recommended")
                self.second = gr.Checkbox(label="The mean", value=True, elem_id="baseline")
                with folded("Other ways to merge", elem_id="other-ways"):
                    self.groups: dict[str, gr.HTML] = {}
                    self.others: dict[str, gr.Checkbox] = {}
                    for need in NEEDS:
                        own = [name for name, method in known.items() if need_of(method) == need]
                        if own:
                            self.groups[need] = gr.HTML("", js_on_load=html.PRESS)
                        for name in own:
                            self.others[name] = gr.Checkbox(
                                label=known[name].title, info=f"{sentence_of(known[name])} In code: {name}."
                            )
            self.offering += self.groups.values()
            self.options: dict[tuple[str, str], Any] = {}
            self.boxes: dict[str, gr.Accordion] = {}
            # What needs nothing but the models, as the mean, is there to compare with.
            for name, method in sorted(known.items(), key=lambda own: need_of(own[1]) == "weights"):
                with folded(f"{method.title}: options", visible=False) as self.boxes[name]:
                    gr.HTML(_about_html(method))
                    for option, field in options_of(method).items():
                        self.options[name, option] = option_input(option, field)
            with folded("How much each model counts"):
                gr.HTML("<p class='fh-intro'>Only the proportions count: 2 and 1 give the first model two thirds.</p>")
                self.shares = [
                    gr.Slider(
                        0, 2, value=1, step=0.05, label=f"Model {place + 1}", visible=False, elem_id=f"share-{place}"
                    )
                    for place in range(self.frame.setting.most_models)
                ]
            with gr.Row(elem_classes="fh-actions"):
                self.go = gr.Button("Merge", variant="primary", elem_id="merge")
                self.lead("Compare the results", COMPARE)
        self.own = [self.go]
        self.made = gr.HTML("", js_on_load=html.PRESS)
        self.choices = [self.first, self.second, *self.others.values()]
        self.painted = [
            self.advice, self.form, *self.choices, *self.groups.values(), *self.boxes.values(),
            self.made, *self.shares,
        ]  # fmt: skip

    def wire(self) -> None:
        any_of([choice.input for choice in self.choices])(
            self._choose, [self.frame.key, *self.choices], list(self.boxes.values()), trigger_mode="always_last",
            **self.frame.hidden,
        )  # fmt: skip
        self.frame.on(self.go.click, self, self._merge, [*self.choices, *self.options.values(), *self.shares])
        self.frame.on(self.made.click, self, self._press, show_progress="hidden", **EACH_PRESS)

    def prepare(self, visit: Visit, token: str | None, heard: Tell) -> None:
        if len(visit.picks) > 1 and check(self.frame, visit, token, heard)["ok"]:
            advise(self.frame, visit, token, heard)

    def show(self, visit: Visit, token: str | None) -> list:
        """Where nothing can be merged, it says why, and there is nothing to choose."""
        made = made_html(visit, self.frame.setting.undo)
        rest: list[Any] = [gr.skip()] * (len(self.painted) - len(self.shares) - 3)
        if len(visit.picks) < 2:
            nothing = not_yet("Pick two models or more first.", PICK)
            return [nothing, gr.Column(visible=False), *rest, made, *[gr.skip()] * len(self.shares)]
        report = check(self.frame, visit, token)
        if not report["ok"]:
            why = "\n".join(finding["what"] for finding in report["findings"] if finding["level"] == "error")
            nothing = refusal_html(report, why, html.offers(ways_out(report), loud=True))
            return [nothing, gr.Column(visible=False), *rest, made, *[gr.skip()] * len(self.shares)]
        advice = advise(self.frame, visit, token)
        first = suggested(advice)
        if visit.linked is not None:
            visit.chosen, visit.linked = visit.linked, None
        chosen = first if visit.chosen is None else visit.chosen
        known = ways(advice)
        second = first[-1] if len(first) > 1 else ""
        choices = [
            gr.Checkbox(label=known[first[0]]["title"], value=first[0] in chosen, info="The recommended way."),
            gr.Checkbox(
                label=known[second]["title"] if second else "", value=second in chosen, visible=bool(second),
                info="To see what the recommended way is worth.",
            ),
            *(
                gr.Checkbox(value=name in chosen, visible=name not in first, interactive=known[name]["can_run"])
                for name in self.others
            ),
        ]  # fmt: skip
        groups = [need_html(need, advice["alternatives"].get(need, ())) for need in self.groups]
        empty = [need for need in self.groups if not advice["alternatives"].get(need)]
        shares = [
            gr.Slider(visible=True, label=visit.picks[place].name)
            if place < len(visit.picks)
            else gr.Slider(visible=False)
            for place in range(len(self.shares))
        ]
        return [
            advice_html(advice), gr.Column(visible=True), *choices,
            *("" if need in empty else group for need, group in zip(self.groups, groups, strict=True)),
            *(gr.Accordion(visible=name in chosen) for name in self.boxes), made, *shares,
        ]  # fmt: skip

    def _chosen(self, visit: Visit, first: bool, second: bool, *others: bool) -> list[str]:
        """The methods that are ticked, the recommended one first."""
        named = suggested(visit.advice) if visit.advice else []
        ticked = [name for name, on in zip(named, (first, second), strict=False) if on]
        return ticked + [name for name, on in zip(self.others, others, strict=True) if on and name not in named]

    def _choose(self, key: str, *values: bool) -> list[Any]:
        """Options are there of what is ticked."""
        visit = self.frame.visits.of(key)
        visit.chosen = self._chosen(visit, *values)
        return [gr.Accordion(visible=name in visit.chosen) for name in self.boxes]

    def _merge(self, visit: Visit, token: str | None, data: Any, *values: Any) -> str | None:
        count = len(self.choices)
        chosen = visit.chosen = self._chosen(visit, *values[:count])
        if visit.advice is None:
            raise FuseHubError(
                "The models were changed meanwhile.", "See what is recommended for them now, then merge."
            )
        if not chosen:
            raise BadRecipe("No method was chosen.", "Choose at least one.")
        options = dict(zip(self.options, values[count : count + len(self.options)], strict=True))
        shares = values[count + len(self.options) :]
        weights = {pick.name: float(share) for pick, share in zip(visit.picks, shares, strict=False)}
        parameters = {
            name: {
                option: plain(value, options_of(METHODS[name])[option])
                for (of, option), value in options.items()
                if of == name and value not in (None, "")
            }
            for name in chosen
        }
        best = visit.advice["recommended"]
        if best["method"] in parameters:
            own = parameters[best["method"]]
            parameters[best["method"]] = own | {
                option: value
                for option, value in best["options"].items()
                if option not in changed_options(best["method"], own)
            }
        there = start_merges(self.frame, visit, parameters, weights, token)
        visit.options = {name: changed_options(name, own) for name, own in parameters.items()}
        visit.shares = weights
        if not there:
            return None
        names = " and ".join(made.name for made in there)
        return html.notice(
            f"You have {names} already: of the same models, by the same options. Nothing was made twice."
        )

    def _press(self, visit: Visit, token: str | None, data: Any) -> None:
        pressed(visit, data.act, data.id, data.value)


def start_merges(
    frame: Any,
    visit: Visit,
    parameters: dict[str, dict[str, Any]],
    weights: dict[str, float],
    token: str | None,
) -> list[Made]:
    """Puts merges of the visit's models into the queue: `parameters` has the options by method.

    Those that the visit has already are not made again, and returned.
    """
    part, there = merging(frame, visit, parameters, weights, token)
    if part is not None:
        titles = " and ".join(METHODS[recipe["method"]].title for recipe in part.arguments["recipes"])
        frame.start_parts(visit, "merge", f"Merging by {titles}", lambda job: iter([part]), token)
    return there


def merging(
    frame: Any,
    visit: Visit,
    parameters: dict[str, dict[str, Any]],
    weights: dict[str, float],
    token: str | None,
) -> tuple[Part | None, list[Made]]:
    """The work of making those merges that the visit has not, if there are any; and those that it has."""
    setting = frame.setting
    require_offered(parameters)
    for method in parameters:
        if weights:
            require_shares(METHODS[method], list(weights.values()))
    recipes: list[dict[str, Any]] = []
    for method, own in parameters.items():
        name = _free_name(visit, method, [recipe["name"] for recipe in recipes])
        recipes.append(
            {
                "name": name,
                "method": method,
                "models": visit.names(),
                "parameters": own,
                "weights": weights if set(weights.values()) != {1.0} else {},
                "statistics": _sources(visit, METHODS[method]),
                "labels": visit.labels,
                "heads": visit.heads,
                "base_model": visit.base if visit.base and _takes_base(visit, METHODS[method], own) else None,
                "out": str(visit.new_folder(name)),
                "made": _made_here(visit, METHODS[method]),
            }
        )
    bases = {recipe["base_model"] for recipe in recipes if recipe["base_model"]}
    require_all([*visit.names(), *bases], token)
    there = [made for recipe in recipes if (made := same_as(visit, recipe)) is not None]
    recipes = [recipe for recipe in recipes if same_as(visit, recipe) is None]
    if not recipes:
        return None, there
    if len(visit.merges) + len(visit.deleted) + len(recipes) > setting.most_merges:
        raise FuseHubError(
            f"A visit keeps at most {setting.most_merges} merges, those among them that can be brought back.",
            "Delete some that you do not need for good, in step 4.",
        )
    command = merge_command(recipes[0])
    if visit.report and visit.report.get("cost"):
        cost = visit.report["cost"]
        setting.require_room(
            cost["memory_bytes"], cost["download_bytes"], cost["output_bytes"] * len(recipes), command
        )

    def keep(result: dict[str, Any]) -> None:
        asked = {recipe["name"]: recipe for recipe in recipes}
        for made in result["made"]:
            recipe = asked[made["name"]]
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
        visit.notices[MERGE] = "".join(
            frame.problem(error.retold(f"{METHODS[asked[name]['method']].title} was left out: {error.what}"))
            for name, error in result["failed"]
        )

    arguments = {"models": visit.names(), "recipes": recipes, "room": (setting.memory(), command)}
    return Part("merge", arguments, keep), there


def require_offered(methods: Iterable[str]) -> None:
    """Raises `BadRecipe` for a method that only the command line has all for."""
    for name in methods:
        if wants_more(METHODS[name]):
            raise BadRecipe(
                f"{METHODS[name].title} needs more than the app can give it.",
                "Choose another way, or use the command line.",
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
        name: {option: known[option] for option in ("data", "dataset", "limit", "fisher", "text_column")}
        for name, known in visit.statistics.items()
        if name in _sources(visit, method) and not known.get("free")
    }


def _about_html(method: Method) -> str:
    link = f' <a href="{html.esc(method.paper)}" target="_blank" rel="noopener">The paper</a>' if method.paper else ""
    return f"<p class='fh-intro'>{html.esc(method.summary)} {html.esc(method.when)}{link}</p>"


def option_input(name: str, field: Any) -> Any:
    """The input for one option of a method, by its type: what it may be, its default, and its sentence."""
    kind, default = field.annotation, field.default
    said = {"label": f"{field.title or name.replace('_', ' ')} ({name})", "info": field.description}
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
    taken = {*visit.merges, *visit.deleted, *others}
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
