"""Step 1: find models on the Hub as one types, or name them; each becomes a card that says what it is."""

from __future__ import annotations

import gradio as gr

from fusehub.errors import FuseHubError, together
from fusehub.finding import FoundModel

from ..frame import Step
from ..render import html
from ..visits import CHECK, Picked, Visit

_FOUND = 12
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

        self.picked = gr.HTML("", js_on_load=html.PRESS)
        with gr.Row(elem_classes="fh-actions"):
            self.example = gr.Button("Fill in an example", elem_id="example")
            self.lead("Check these models", CHECK)
        gr.HTML("<h3>Find models on the Hub</h3>")
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
        self.results = gr.HTML("", js_on_load=html.PRESS)
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
        self.painted = [self.picked, self.results, self.named]

    def wire(self) -> None:
        frame, asked = self.frame, [self.query, self.task, self.base, self.only]
        for component, event in (
            (self.query, self.query.input),
            (self.task, self.task.input),
            (self.base, self.base.input),
            (self.only, self.only.input),
        ):
            frame.on(
                event, self, self._search, asked, paints=[self.results], show_progress="hidden",
                trigger_mode="always_last", concurrency_limit=10,
            )  # fmt: skip
            del component
        frame.on(self.results.click, self, self._add_found, paints=[self.picked], concurrency_limit=10)
        frame.on(self.picked.click, self, self._remove, paints=[self.picked], show_progress="hidden")
        for event in (self.add.click, self.named.submit):
            frame.on(event, self, self._add_named, [self.named], paints=[self.picked], concurrency_limit=10)
        frame.on(self.example.click, self, self._fill, paints=[self.picked], concurrency_limit=10)

    def show(self, visit: Visit, token: str | None) -> list:
        return [
            _picked_html(visit),
            _found_html(visit),
            gr.Textbox(value="") if not visit.notices.get(0) else gr.skip(),
        ]

    def first_search(self, visit: Visit, token: str | None) -> None:
        """What is shown before anything was typed: models whose statistics are there, or else the most downloaded."""
        from fusehub import find

        try:
            visit.found = find(with_statistics=True, limit=_FOUND, token=token) or find(limit=_FOUND, token=token)
        except FuseHubError as error:
            visit.notices[0] = html.problem(error)

    def _search(
        self, visit: Visit, token: str | None, data: gr.EventData, query: str, task: str, base: str, only: bool
    ) -> None:
        from fusehub import find

        visit.found = find(
            query.strip() or None,
            task=task or None,
            base=base.strip() or None,
            with_statistics=only,
            limit=_FOUND,
            token=token,
        )

    def _add_found(self, visit: Visit, token: str | None, data: gr.EventData) -> None:
        self._add(visit, [data.id], token)

    def _add_named(self, visit: Visit, token: str | None, data: gr.EventData, text: str) -> None:
        names = [name for line in text.splitlines() for name in line.split(",") if name.strip()]
        if not names:
            raise FuseHubError("No model was named.", "Write user/name, or paste the address of a model's page.")
        if len(names) > self.frame.setting.most_models:
            most = self.frame.setting.most_models
            raise FuseHubError(f"{len(names)} models are too many: {most} fit here.", "Name fewer at once.")
        self._add(visit, names, token)

    def _fill(self, visit: Visit, token: str | None, data: gr.EventData) -> None:
        visit.picks = []
        self._add(visit, self._examples(token), token)

    def _examples(self, token: str | None) -> list[str]:
        """The models that the app was started with; else those with statistics that belong together."""
        if self.frame.setting.examples:
            return list(self.frame.setting.examples)
        from fusehub import find

        groups: dict[tuple, list[str]] = {}
        for model in find(with_statistics=True, limit=50, token=token):
            groups.setdefault((model.task, model.base), []).append(model.id)
        largest = max(groups.values(), key=len, default=[])
        return largest[:3] if len(largest) > 1 else list(_EXAMPLE)

    def _add(self, visit: Visit, names: list[str], token: str | None) -> None:
        problems = []
        for name in names:
            if len(visit.picks) >= self.frame.setting.most_models:
                problems.append(
                    FuseHubError(
                        f"{self.frame.setting.most_models} models are as many as fit here.",
                        "Remove one, or merge more with the command line.",
                    )
                )
                break
            try:
                name = self.frame.setting.require_name(name)
                new = describe(name, token)
                if all(new.id != pick.id for pick in visit.picks):
                    visit.picks.append(new)
                    visit.changed_models()
            except FuseHubError as error:
                problems.append(error)
        if problems:
            raise together(problems)

    def _remove(self, visit: Visit, token: str | None, data: gr.EventData) -> None:
        visit.picks = [pick for pick in visit.picks if pick.id != data.id]
        visit.changed_models()


def describe(name: str, token: str | None) -> Picked:
    """What the card of a model says. Raises a `FuseHubError` where the visitor may not read it."""
    from fusehub.checking.configs import base_of
    from fusehub.hub.licenses import license_of
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
    )


def _picked_html(visit: Visit) -> str:
    if not visit.picks:
        return html.empty("Nothing is picked yet. Find models below, name them, or fill in the example.")
    shown = []
    for pick in visit.picks:
        labels = ", ".join(pick.labels[:6]) + (f" and {len(pick.labels) - 6} more" if len(pick.labels) > 6 else "")
        body = html.facts(
            {
                "Task": pick.task.replace("-", " ") if pick.task else "unknown",
                "Base": pick.base or "not said",
                "Size": html.amount(pick.size, "bytes") if pick.size else "?",
                "Licence": pick.license or "not said",
                "Downloads": html.number(pick.downloads) if pick.downloads is not None else None,
                "Labels": labels or None,
            }
        ) + _tags(bool(pick.statistics), pick.gated)
        remove = html.button("remove", "Remove", pick.id, kind="fh-small", says=f"Remove {pick.name}")
        shown.append(html.card(pick.name, body, link=pick.url, action=remove, kind="fh-picked"))
    more = "" if len(visit.picks) > 1 else html.empty("Pick at least one more: a merge takes two.")
    return f"<h3>Your models</h3>{html.cards(shown, 'Your models')}{more}"


def _found_html(visit: Visit) -> str:
    from fusehub.hub.client import endpoint

    taken = {pick.name.partition("@")[0] for pick in visit.picks}
    found = [model for model in visit.found if model.id not in taken]
    if visit.found and not found:
        return html.empty("All models that were found are picked. Search for others, or name one below.")
    if not found:
        return html.empty("No model matches. Use fewer words, another task, or name a model below.")
    why = {model.id: _misfit(model, visit.picks) for model in found}
    shown = []
    for model in sorted(found, key=lambda model: bool(why[model.id])):
        body = html.facts(
            {
                "Task": (model.task or "unknown").replace("-", " "),
                "Base": model.base or "not said",
                "Size": f"{model.parameters / 1e6:,.1f} M parameters" if model.parameters else "?",
                "Licence": model.license or "not said",
                "Downloads": html.number(model.downloads),
            }
        ) + _tags(model.statistics, model.gated or model.private)
        if why[model.id]:
            body += f'<p class="fh-misfit">Does not fit: {html.esc(why[model.id])}</p>'
        add = html.button("add", "Add", model.id, kind="fh-small", says=f"Add {model.id}")
        kind = "fh-unfit" if why[model.id] else ""
        shown.append(html.card(model.id, body, link=f"{endpoint()}/{model.id}", action=add, kind=kind))
    return html.cards(shown, "Models found")


def _misfit(model: FoundModel, picks: list[Picked]) -> str:
    """Why a model that was found would not go with those that are picked; empty where nothing speaks against it."""
    for pick in picks:
        if model.task and pick.task and model.task != pick.task:
            return f"it is for {model.task.replace('-', ' ')}, {pick.short} for {pick.task.replace('-', ' ')}."
        if model.base and pick.base and html.short(model.base).casefold() != html.short(pick.base).casefold():
            return f"it comes from {model.base}, {pick.short} from {pick.base}."
    return ""


def _tags(statistics: bool, gated: bool) -> str:
    said = html.tag("statistics published", "fh-good") if statistics else html.tag("no statistics yet")
    return f"<p>{said}{html.tag('gated or private') if gated else ''}</p>"
