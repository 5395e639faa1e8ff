"""Step 1: find models on the Hub as one types, or name them; each becomes a card that says what it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from fusehub.errors import FuseHubError, together
from fusehub.finding import FoundModel
from fusehub.hub.access import Access
from fusehub.hub.origins import called
from fusehub.utils.formats import size

from .. import dock
from ..events import EACH_PRESS, any_of, typed
from ..render import html
from ..render.first import first_html, links
from ..shelves import Shelf
from ..step import Step, folded
from ..visit import CHECK, PICK, Picked, Visit
from .way import said_of_way, seconds_expected, seconds_of_way

_FOUND = 12
_STATISTICS = (
    "Its owner has published sums of what its layers saw: all that RegMean needs to know of its texts. Nothing has to "
    "be made for a merge."
)
_ASKING = "Asking the Hub about the models"
# What is found is seen: its form goes to the top of the window where it is far down.
_SHOW_FOUND = "window.fusehub.show('#find');"
# Where the Hub has no models with statistics yet: three sentiment models of one base.
_EXAMPLE = (
    "textattack/bert-base-uncased-imdb",
    "textattack/bert-base-uncased-yelp-polarity",
    "textattack/bert-base-uncased-rotten-tomatoes",
)


class Pick(Step):
    """Search, cards, and the models that were picked."""

    title = "Pick models"
    intro = "Two or more models that were fine-tuned from the same base. They are merged into one, without their data."

    def layout(self) -> None:
        from fusehub.models.tasks import TASKS

        self.first = gr.HTML(first_html(links()))
        with gr.Row(elem_classes="fh-actions"):
            self.example = gr.Button("Try the example", variant="primary", elem_id="example")
            self.about = gr.HTML(self._about(None), elem_id="example-about")
        self.picked = gr.HTML(_picked_html(Visit("", Path())), js_on_load=html.PRESS)
        with gr.Row(elem_classes="fh-actions"):
            self.lead("Check these models", CHECK)
            self.one_go("Merge and compare in one go")
        self.one_go_about = gr.HTML("")
        gr.HTML("<h3>Find models on the Hub</h3>", elem_id="find")
        with gr.Row():
            self.query = gr.Textbox(
                label="Words of the name", max_lines=1, placeholder="sentiment", scale=2, elem_id="query"
            )
            self.task = gr.Dropdown(
                [("Any that can be merged", ""), *((name.replace("-", " "), name) for name in TASKS)],
                value="",
                label="Task",
                elem_id="task",
            )
        with gr.Row():
            self.base = gr.Textbox(
                label="Fine-tuned from",
                max_lines=1,
                placeholder="google-bert/bert-base-uncased",
                scale=2,
                elem_id="base",
            )
            self.only = gr.Checkbox(label="Only with published statistics", elem_id="only-statistics")
        self.results = gr.HTML(html.empty("Looking for models on the Hub…"), js_on_load=html.PRESS)
        where = "Name, link or folder" if not self.frame.setting.shared else "Name or link"
        gr.HTML("<h3>Or name one</h3>")
        with gr.Row(elem_classes="fh-inline"):
            self.named = gr.Textbox(
                label=where,
                info="user/name, user/name@revision, or the address of its page; several with commas between them.",
                scale=4,
                elem_id="named",
            )
            self.add = gr.Button("Add", scale=1, elem_id="add")
        with folded("Or open a recipe", elem_id="recipe-form"):
            self.recipe = gr.Textbox(
                label="A recipe", lines=5, max_lines=12, elem_id="recipe", placeholder="merge_method: regmean",
                info="Its text (YAML, FuseHub's or mergekit's), or the repo that holds one. What it says is filled "
                "in, in the place of the models above.",
            )  # fmt: skip
            with gr.Row(elem_classes="fh-actions"):
                self.open_recipe = gr.Button("Fill in what it says", elem_id="open-recipe")
        self.painted = [
            self.picked, self.results, self.named, self.first, self.example, self.about, self.task, self.one_go_about
        ]  # fmt: skip

    def wire(self) -> None:
        frame, asked = self.frame, [self.query, self.task, self.base, self.only]
        sought = [typed(self.query), self.task.input, typed(self.base), self.only.input]
        frame.on(
            any_of(sought), self, self._search, asked, paints=[self.results], show_progress="hidden",
            trigger_mode="always_last", concurrency_limit=10, before=_SHOW_FOUND,
        )  # fmt: skip
        frame.on(
            self.results.click, self, self._press_found, asked, paints=[self.picked], busy=_ASKING,
            concurrency_limit=10, **EACH_PRESS,
        )  # fmt: skip
        frame.on(self.picked.click, self, self._remove, paints=[self.picked], show_progress="hidden", **EACH_PRESS)
        frame.on(
            any_of([self.add.click, self.named.submit]), self, self._add_named, [self.named], paints=[self.picked],
            busy=_ASKING, shows=self.picked, concurrency_limit=10,
        )  # fmt: skip
        frame.on(self.example.click, self, self._fill, paints=[self.picked], busy=_ASKING, concurrency_limit=10)

    def show(self, visit: Visit, token: str | None) -> list:
        # What was named is a card by now; what was not taken stays, to be mended.
        named = gr.skip() if visit.left_over is None else gr.Textbox(value=visit.left_over)
        visit.left_over = None
        begins = not visit.picks
        example = gr.Button(
            "Try the example" if begins else "Take the example instead",
            variant="primary" if begins else "secondary",
            visible=begins or visit.names() != visit.example,
        )
        about = self._about(visit.found) if begins else ""
        task = gr.skip() if visit.task is None else gr.Dropdown(value=visit.task)
        in_one_go = _one_go_html(visit) if len(visit.picks) > 1 else ""
        return [
            _picked_html(visit), _found_html(visit), named, gr.HTML(visible=begins), example, about, task, in_one_go
        ]  # fmt: skip

    def _about(self, found: list[Shelf] | None) -> str:
        """What the example is, and how long it takes, as far as that is known."""
        from fusehub.models.checkpoints.downloads import has_weights

        known = {model.id: model for shelf in found or () for model in shelf.models}
        names = list(self.frame.setting.examples) or _belonging(list(known.values()))
        if not names:
            return "<p class='fh-intro'>Models that belong together, to see each step with. Nothing is kept.</p>"
        models = [known[name] for name in names if name in known]
        task = {model.task.replace("-", " ") for model in models if model.task}
        kind = f" for {task.pop()}" if len(task) == 1 else ""
        sizes = [model.weight_bytes or 4 * (model.parameters or 0) for model in models]
        takes = ""
        if len(models) == len(names) and all(sizes):
            cache = Access(None).cache
            missing = [size for name, size in zip(names, sizes, strict=True) if not has_weights(name, cache)]
            takes = f", and takes {html.roughly(seconds_expected(sizes, sum(missing)))}"
        listed = ", ".join(html.short(name) for name in names)
        count = html.count(len(names), "model")
        said = f"Picks {count}{kind}: {listed}. To check, merge and compare them then is one more press{takes}."
        return f"<p class='fh-intro'>{html.esc(said)}</p>"

    def first_search(self, visit: Visit, token: str | None) -> None:
        """What is shown before anything was typed."""
        try:
            found = self.frame.shelves.of(token)
        except FuseHubError as error:
            found, visit.notices[PICK] = [], dock.message(html.problem(error))
        if visit.found is None:
            # Unless something was typed meanwhile, and found.
            visit.found = found

    def _search(
        self, visit: Visit, token: str | None, data: gr.EventData, query: str, task: str, base: str, only: bool
    ) -> None:
        from fusehub import find

        setting, visit.task, visit.sought = self.frame.setting, None, {}
        if not (query.strip() or task or base.strip() or only):
            visit.found = self.frame.shelves.of(token)
            return
        words, base = setting.require_words(query), setting.require_name(base) if base.strip() else ""
        visit.sought = {"query": words, "task": task, "base": base, "with_statistics": only}
        found = find(
            words or None, task=task or None, base=base or None, with_statistics=only, limit=_FOUND, token=token
        )
        visit.found = [Shelf("Found", "Models found", found)] if found else []

    def _press_found(
        self, visit: Visit, token: str | None, data: gr.EventData, query: str, task: str, base: str, only: bool
    ) -> None:
        """A model is added, or models of a task are looked for."""
        if data.act == "task":
            self._search(visit, token, data, query, data.id, base, only)
            visit.task = data.id
        else:
            self._add(visit, [data.id], token)

    def _add_named(self, visit: Visit, token: str | None, data: gr.EventData, text: str) -> None:
        names = [name for line in text.splitlines() for name in line.split(",") if name.strip()]
        if not names:
            raise FuseHubError("No model was named.", "Write user/name, or paste the address of a model's page.")
        if len(names) > self.frame.setting.most_models:
            most = self.frame.setting.most_models
            raise FuseHubError(f"{len(names)} models are too many: {most} fit here.", "Name fewer at once.")
        left: list[str] = []
        try:
            self._add(visit, names, token, left)
        finally:
            visit.left_over = ", ".join(name.strip() for name in left)

    def _fill(self, visit: Visit, token: str | None, data: gr.EventData) -> None:
        examples = self._examples(token)
        before, visit.picks = visit.picks, []
        try:
            self._add(visit, examples, token)
        finally:
            # Of an example that cannot be had, nothing takes the place of what was there.
            visit.picks = visit.picks or before
        visit.example = visit.names()

    def _examples(self, token: str | None) -> list[str]:
        """The models that the app was started with; else those with statistics that belong together."""
        if self.frame.setting.examples:
            return list(self.frame.setting.examples)
        from fusehub import find

        return _belonging(find(with_statistics=True, limit=50, token=token)) or list(_EXAMPLE)

    def _add(self, visit: Visit, names: list[str], token: str | None, left: list[str] | None = None) -> None:
        """Picks what can be picked, and raises what was wrong with the others, which are `left`."""
        problems, left = [], [] if left is None else left
        for place, name in enumerate(names):
            if len(visit.picks) >= self.frame.setting.most_models:
                problems.append(
                    FuseHubError(
                        f"{self.frame.setting.most_models} models are as many as fit here.",
                        "Remove one, or merge more with the command line.",
                    )
                )
                left += names[place:]
                break
            try:
                new = describe(self.frame.setting.require_name(name), token)
                if all(new.id != pick.id for pick in visit.picks):
                    visit.picks.append(new)
                    visit.changed_models()
            except FuseHubError as error:
                problems.append(error)
                left.append(name)
        if problems:
            raise together(problems)

    def _remove(self, visit: Visit, token: str | None, data: gr.EventData) -> None:
        visit.picks = [pick for pick in visit.picks if pick.id != data.id]
        visit.changed_models()


def _belonging(models: Sequence[FoundModel]) -> list[str]:
    """Of models with statistics, up to three that are of one task and one base; none where no two are."""
    groups: dict[tuple, list[str]] = {}
    for model in models:
        if model.statistics:
            groups.setdefault((model.task, model.base), []).append(model.id)
    largest = max(groups.values(), key=len, default=[])
    return largest[:3] if len(largest) > 1 else []


def describe(name: str, token: str | None) -> Picked:
    """What the card of a model says. Raises a `FuseHubError` where the visitor may not read it."""
    from fusehub.checking.configs import base_of
    from fusehub.data.tables.hub_datasets import trained_on
    from fusehub.hub.licenses import license_of
    from fusehub.models.checkpoints.downloads import missing_bytes
    from fusehub.models.resolve import resolve
    from fusehub.models.tasks import labels_of, task_of
    from fusehub.statistics.sources import has_statistics

    # Which asks the Hub whether the visitor may read the model, and the base of an adapter.
    ref = resolve(name, token=token)
    config = ref.config
    try:
        task, labels = task_of(config, ref.name).name, tuple(labels_of(config, ref.name))
    except FuseHubError:
        task, labels = None, ()
    try:
        weights = sum(ref.files[file].size for file in ref.weight_files() if file in ref.files)
    except FuseHubError:
        weights = None
    own = ref.repo_id or str(ref.folder)
    return Picked(
        name=ref.name.partition("@")[0] if ref.repo_id and "@" not in name else ref.name,
        id=ref.id,
        task=task,
        base=base_of(ref, config),
        size=weights,
        license=license_of(ref.card),
        downloads=ref.downloads,
        labels=labels,
        gated=ref.gated or ref.private,
        statistics=own if has_statistics(ref) else None,
        url=ref.url,
        datasets=tuple(trained_on(ref.card)),
        missing=missing_bytes(ref),
    )


def _picked_html(visit: Visit) -> str:
    if not visit.picks:
        return html.empty("Nothing is picked yet. Find models below, name them, or try the example.")
    shown = []
    for pick in visit.picks:
        labels = ", ".join(pick.labels[:6]) + (f" and {len(pick.labels) - 6} more" if len(pick.labels) > 6 else "")
        body = html.facts(
            {
                "Task": pick.task.replace("-", " ") if pick.task else "unknown",
                "Base": pick.base or "not said",
                "Size": size(pick.size) if pick.size else "?",
                "License": pick.license or "not said",
                "Trained on": ", ".join(pick.datasets[:3]) or None,
                "Downloads": html.number(pick.downloads) if pick.downloads is not None else None,
                "Labels": labels or None,
            }
        ) + _tags(bool(pick.statistics), pick.gated)
        remove = html.button("remove", "Remove", pick.id, kind="fh-small", says=f"Remove {pick.name}")
        shown.append(html.card(pick.name, body, link=pick.url, action=remove, kind="fh-picked"))
    more = "" if len(visit.picks) > 1 else html.empty("Pick at least one more: a merge takes two.")
    return f"<h3>Your models</h3>{html.cards(shown, 'Your models')}{more}"


def _one_go_html(visit: Visit) -> str:
    takes = html.roughly(seconds_of_way(visit))
    return (
        f"<p class='fh-intro'>In one go: they are checked, {html.esc(said_of_way(visit))}. That takes {takes}; "
        "each step stays open behind it.</p>"
    )


def _found_html(visit: Visit) -> str:
    if visit.found is None:
        return html.empty("Looking for models on the Hub…")
    taken = {pick.name.partition("@")[0] for pick in visit.picks}
    shown = []
    for shelf in visit.found:
        if left := [model for model in shelf.models if model.id not in taken]:
            shown.append(f"<h4>{html.esc(shelf.title)}</h4>" + _cards_html(left, shelf.label, visit.picks))
    if not visit.found:
        shown = [html.empty("No model matches. Use fewer words, another task, or name a model below.")]
    elif not shown:
        shown = [html.empty("All models that were found are picked. Search for others, or name one below.")]
    return "".join(shown) + _tasks_html()


def _tasks_html() -> str:
    from fusehub.models.tasks import TASKS

    buttons = "".join(html.button("task", name.replace("-", " "), name, kind="fh-small") for name in TASKS)
    return f'<h4>By task</h4><p class="fh-chips">{buttons}</p>'


def _cards_html(models: Sequence[FoundModel], label: str, picks: list[Picked]) -> str:
    from fusehub.hub.client import endpoint

    why = {model.id: misfit(model, picks) for model in models}
    shown = []
    for model in sorted(models, key=lambda model: bool(why[model.id])):
        body = html.facts(
            {
                "Task": (model.task or "unknown").replace("-", " "),
                "Base": model.base or ("several" if model.parents else "not said"),
                "Size": size(model.weight_bytes) if model.weight_bytes else "?",
                "License": model.license or "not said",
                "Downloads": html.number(model.downloads),
            }
        ) + _tags(model.statistics, model.gated or model.private)
        if why[model.id]:
            body += f'<p class="fh-misfit">Does not fit: {html.esc(why[model.id])}</p>'
        elif model.task and any(pick.task and pick.task != model.task for pick in picks):
            body += '<p class="fh-fix">For another task: each model would keep its own head.</p>'
        add = html.button("add", "Add", model.id, kind="fh-small", says=f"Add {model.id}")
        kind = "fh-unfit" if why[model.id] else ""
        shown.append(html.card(model.id, body, link=f"{endpoint()}/{model.id}", action=add, kind=kind))
    return html.cards(shown, label)


def misfit(model: FoundModel, picks: list[Picked]) -> str:
    """Why a model that was found would not go with those that are picked; empty where nothing speaks against it.

    Models for different tasks go together where they are of one base: the body is merged.
    """
    for pick in picks:
        if model.base and pick.base:
            if called(model.base) != called(pick.base):
                return f"it comes from {model.base}, {pick.short} from {pick.base}."
        elif model.task and pick.task and model.task != pick.task:
            return f"it is for {model.task.replace('-', ' ')}, {pick.short} for {pick.task.replace('-', ' ')}."
    return ""


def _tags(statistics: bool, gated: bool) -> str:
    said = html.tag("statistics published", "fh-good", _STATISTICS) if statistics else html.tag("no statistics yet")
    return f'<p class="fh-tags">{said}{html.tag("gated or private") if gated else ""}</p>'
