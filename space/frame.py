"""What holds the steps together: the visit behind the page, the way from step to step, and the work that goes on.

A step is a class that makes its components, says which of them it paints (`outputs`), and paints them from a visit
(`show`), for which it may ask the Hub with the visitor's token. `Frame.on` connects an event with a function that
changes the visit; what it raises as a `FuseHubError` is shown at the top of the step, which is then painted anew.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

import gradio as gr

from fusehub.errors import LOG_IN, Action, FuseHubError

from .public_models import Recent
from .render import html, offers
from .setting import Setting
from .visits import Visit, Visits
from .workers.jobs import CANCELLED, DONE, FAILED, WAITING, Job, Jobs
from .workers.tasks import bug
from .workers.worker import Worker

STEPS = ("Pick", "Check", "Statistics", "Merge", "Compare", "Push")
MOCK = "mock-oauth-token-for-local-dev"
_TICK = 0.6


def token_of(oauth: gr.OAuthToken | None) -> str | None:
    """The visitor's own token; None: nobody's on a shared machine, the one stored for its user on a laptop."""
    return None if oauth is None or oauth.token == MOCK else oauth.token


class _Hidden(TypedDict):
    """What an event does that shows no progress and is no endpoint."""

    show_progress: Literal["hidden"]
    api_visibility: Literal["private"]


@dataclass
class Frame:
    """The parts that every step needs."""

    setting: Setting
    visits: Visits
    jobs: Jobs
    worker: Worker
    recent: Recent
    steps: list[Any] = field(default_factory=list)

    def layout(self) -> None:
        """Key, navigation, and the panel of work. Called once, inside the page."""
        self.key = gr.State("")
        self.nav = gr.HTML(nav_html(None), js_on_load=html.PRESS, elem_classes="fh-nav-box")
        self.work = gr.HTML("", js_on_load=html.PRESS, elem_classes="fh-maybe")
        self.timer = gr.Timer(_TICK, active=False)
        self.columns: list[gr.Column] = []

    @property
    def outputs(self) -> list[Any]:
        return [self.nav, self.work, self.timer]

    def paint(self, visit: Visit) -> list[Any]:
        """What `outputs` show for this visit."""
        working = visit.job is not None and visit.job.is_open
        return [nav_html(visit), self._work_html(visit), gr.Timer(active=working)]

    def wire(self) -> None:
        """Connects navigation, cancelling and the ticking while work goes on. Called when all steps are there."""
        everything = [*self.outputs, *self.columns, *(output for step in self.steps for output in step.outputs)]

        def go(oauth: gr.OAuthToken | None, data: gr.EventData, key: str) -> list[Any]:
            return self._at(key, min(max(int(data.id), 0), len(self.steps) - 1), oauth)

        hidden: _Hidden = {"show_progress": "hidden", "api_visibility": "private"}
        self.nav.click(_shown(go), [self.key], everything, **hidden)
        for step in self.steps:
            for place, press in step.leads:
                press.click(self._leading(place), [self.key], everything, **hidden).then(
                    None, None, None, js="() => window.scrollTo({top: 0})"
                )

        def cancel(oauth: gr.OAuthToken | None, data: gr.EventData, key: str) -> list[Any]:
            visit = self.visits.of(key)
            if offers.pressed(data.act, data.id):
                return follow(oauth, data, key)
            if visit.job is not None:
                self.jobs.cancel(visit.job)
                self.jobs.wait(visit.job, 5)
            return self.paint_all(visit, token_of(oauth))

        def tick(oauth: gr.OAuthToken | None, key: str) -> list[Any]:
            visit = self.visits.of(key)
            if visit.job is not None and visit.job.is_open:
                return [gr.skip(), self._work_html(visit), *[gr.skip()] * (len(everything) - 2)]
            return self.paint_all(visit, token_of(oauth))

        def follow(oauth: gr.OAuthToken | None, data: gr.EventData, key: str) -> list[Any]:
            """Does what a button of an error, or of what cannot be done yet, offers."""
            action = offers.pressed(data.act, data.id)
            if action is None:
                return [gr.skip()] * len(everything)
            return self._at(key, offers.OFFERS[action.code].step or 0, oauth, action)

        for step in self.steps:
            for box in (step.message, *step.offering):
                box.click(_shown(follow), [self.key], everything, **hidden)
        self.work.click(_shown(cancel), [self.key], everything, **hidden)
        self.timer.tick(_shown(tick), [self.key], everything, queue=False, **hidden)
        self.everything = everything

    def _leading(self, place: int) -> Callable[..., list[Any]]:
        def lead(oauth: gr.OAuthToken | None, key: str) -> list[Any]:
            return self._at(key, place, oauth)

        return _shown(lead)

    def _at(self, key: str, place: int, oauth: gr.OAuthToken | None, wanted: Action | None = None) -> list[Any]:
        """The visit goes to a step, with what is `wanted` there. What the one that it leaves had to say is said."""
        visit = self.visits.of(key)
        if visit.step != place:
            visit.notices.pop(visit.step, None)
        visit.step, visit.wanted = place, wanted
        return self.paint_all(visit, token_of(oauth))

    def paint_all(self, visit: Visit, token: str | None) -> list[Any]:
        """What `everything` shows: of the steps, the one that the visit is at."""
        columns = [gr.Column(visible=place == visit.step) for place in range(len(self.steps))]
        shown: list[Any] = []
        for place, step in enumerate(self.steps):
            here = place == visit.step
            shown += self._show(step, place, visit, token) if here else [gr.skip()] * len(step.outputs)
        # After the steps: what they found out is ticked above.
        return [*self.paint(visit), *columns, *shown]

    def _show(self, step: Any, place: int, visit: Visit, token: str | None) -> list[Any]:
        try:
            return [visit.notices.get(place, ""), *step.show(visit, token)]
        except FuseHubError as error:
            return [self.problem(error), *[gr.skip()] * (len(step.outputs) - 1)]

    def problem(self, error: FuseHubError) -> str:
        """An error as the page says it: where visitors sign in, they do not log in on a command line."""
        return html.problem(error, LOG_IN if not self.setting.signs_in else "Sign in with Hugging Face in step 6.")

    def on(
        self,
        event: Callable[..., Any],
        step: Any,
        change: Callable[..., str | None],
        inputs: Sequence[Any] = (),
        *,
        paints: Sequence[Any] | None = None,
        show_progress: str = "minimal",
        **options: Any,
    ) -> Any:
        """`change(visit, token, data, *values)` when `event` happens; it returns what the step has to say, or nothing.

        `data` is what was pressed (act, id). Then the step and the frame are painted.
        """
        place = self.steps.index(step)
        outputs = [*self.outputs, *step.outputs]

        def run(oauth: gr.OAuthToken | None, data: gr.EventData, key: str, *values: Any) -> list[Any]:
            visit, token = self.visits.of(key), token_of(oauth)
            # A box that is not on the page, hidden or in a closed part, gives nothing at all.
            values = tuple(
                "" if value is None and isinstance(box, gr.Textbox) else value
                for box, value in zip(inputs, values, strict=True)
            )
            try:
                visit.notices[place] = change(visit, token, data, *values) or ""
            except FuseHubError as error:
                visit.notices[place] = self.problem(error)
            shown = self._show(step, place, visit, token)
            return [*self.paint(visit), *shown]

        return event(
            _shown(run),
            [self.key, *inputs],
            outputs,
            show_progress=show_progress,
            show_progress_on=paints or [step.outputs[0]],
            api_visibility="private",
            **options,
        )

    def start(
        self,
        visit: Visit,
        kind: str,
        title: str,
        arguments: dict[str, Any],
        token: str | None,
        keep: Callable[..., Any],
    ) -> None:
        """Puts work of the visit into the queue; `keep(visit, result)` takes in what comes of it."""
        if visit.job is not None and visit.job.is_open:
            raise FuseHubError(f"{visit.job.title} is still going on.", "Wait for it, or cancel it above.")
        visit.notices[visit.step] = ""
        visit.job = self.jobs.submit(kind, title, arguments, token, lambda job: keep(visit, job.result))

    def take_uploads(self, visit: Visit, files: Any) -> list[str]:
        """Uploaded files, moved out of where the server serves files from, into the visit's folder."""
        import shutil

        taken = []
        for file in files if isinstance(files, list) else [files] if files else []:
            source = Path(file)
            target = visit.new_folder(source.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(source, target)
            taken.append(str(target))
        return taken

    def _work_html(self, visit: Visit) -> str:
        job = visit.job
        if job is None or job.state == DONE:
            return ""
        if job.state in (CANCELLED, FAILED):
            if job.state == FAILED and job.error is not None:
                return self.problem(job.error)
            return html.notice(f"{job.title} was cancelled. Nothing half-made is left.", "warning")
        return _running_html(job, self.jobs.before(job))


def _running_html(job: Job, before: int) -> str:
    if job.state == WAITING:
        text = f"{job.title}: waiting" + (f" for {html.count(before, 'other')} to finish" if before else " to begin")
        details = ""
    else:
        text = job.step or f"{job.title}: starting"
        details = _details(job)
    return (
        f'<section class="fh-work" aria-label="Work that goes on"><div><p class="fh-work-title">{html.esc(text)}</p>'
        f'{html.progress(job.done, job.total, job.title)}<p class="fh-work-details">{html.esc(details)}</p></div>'
        f"{html.button('cancel', 'Cancel', says='Cancel: ' + job.title)}</section>"
    )


def _details(job: Job) -> str:
    said = []
    if job.total:
        said.append(f"{html.amount(job.done, job.unit)} of {html.amount(job.total, job.unit)}")
        if job.rate and job.unit not in ("steps", "models"):
            said.append(f"{html.amount(round(job.rate), job.unit)} per second")
        if job.unit not in ("steps", "models") and job.seconds_left is not None:
            said.append(f"{html.seconds(job.seconds_left)} left in this step")
    if job.started is not None:
        said.append(f"{html.seconds(time.monotonic() - job.started)} so far")
    return " · ".join(said)


def nav_html(visit: Visit | None) -> str:
    """The six steps as buttons; what is done is ticked, where one is is marked."""
    at = visit.step if visit else 0
    done = [False] * len(STEPS)
    if visit:
        done = [len(visit.picks) > 1, bool(visit.report and visit.report["ok"]), _has_statistics(visit)]
        done += [bool(visit.merges), bool(visit.comparison or visit.evaluation), visit.published is not None]
    items = []
    for place, name in enumerate(STEPS):
        here = ' aria-current="step"' if place == at else ""
        tick = (
            '<span class="fh-tick" aria-hidden="true">✓</span><span class="fh-sr"> done</span>' if done[place] else ""
        )
        items.append(
            f'<li><button type="button" data-act="go" data-id="{place}"{here}>'
            f'<span class="fh-step">{place + 1}</span> {name}{tick}</button></li>'
        )
    return f'<nav class="fh-nav" aria-label="Steps"><ol>{"".join(items)}</ol></nav>'


def _has_statistics(visit: Visit) -> bool:
    published = (visit.report or {}).get("statistics", {})
    return bool(visit.picks) and all(
        pick.name in visit.statistics or "origin" in (published.get(pick.name) or {}) for pick in visit.picks
    )


def _shown(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` whose `FuseHubError`s are shown as a message, where no step can show them: a visit that has ended."""
    import functools

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        try:
            return function(*args)
        except FuseHubError as error:
            shown = html.told(error)
        except Exception:
            shown = bug()
        raise gr.Error(f"{shown.what} {offers.fix_of(shown)}", duration=10, print_exception=False)

    return run


# --- pieces that several steps have ---------------------------------------------------------------------------------


class Step(ABC):
    """What all steps have: a place for messages first, and buttons that lead on."""

    title = ""
    intro = ""
    painted: list[Any]
    """What the step shows of a visit, besides its message; `layout` makes it."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.leads: list[tuple[int, gr.Button]] = []
        self.offering: list[gr.HTML] = []
        self.head = gr.HTML(f"<h2>{self.title}</h2><p class='fh-intro'>{self.intro}</p>")
        self.message = gr.HTML("", js_on_load=html.PRESS, elem_classes="fh-maybe")
        self.layout()

    @abstractmethod
    def layout(self) -> None:
        """Makes the step's components."""

    @property
    def outputs(self) -> list[Any]:
        return [self.message, *self.painted]

    def lead(self, label: str, place: int, *, primary: bool = True) -> gr.Button:
        press = gr.Button(label, variant="primary" if primary else "secondary", elem_classes="fh-lead")
        self.leads.append((place, press))
        return press
