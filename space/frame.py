"""What holds the steps together: the visit behind the page, the way from step to step, and the work that goes on.

A step is a class that makes its components, says which of them it paints (`outputs`), and paints them from a visit
(`show`), for which it may ask the Hub with the visitor's token. `Frame.on` connects an event with a function that
changes the visit; what it raises as a `FuseHubError` is said in the bar at the bottom (`dock`), and the step is
painted anew.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypedDict

import gradio as gr

from fusehub.errors import LOG_IN, Action, FuseHubError

from . import dock
from .public_models import Recent
from .render import html, offers
from .render.nav import is_ready, nav_html
from .setting import Setting
from .shelves import Shelves
from .visits import CHECK, Visit, Visits
from .workers.jobs import DONE, FAILED, Jobs
from .workers.tasks import bug
from .workers.worker import Worker

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
    shelves: Shelves = field(default_factory=Shelves)
    steps: list[Any] = field(default_factory=list)
    presses: int = 0

    def layout(self) -> None:
        """Key, navigation, and the panel of work. Called once, inside the page."""
        self.key = gr.State("")
        self.nav = gr.HTML(nav_html(None), js_on_load=html.PRESS, elem_classes="fh-nav-box")
        with gr.Column(elem_classes="fh-dock"):
            gr.HTML(dock.BUSY)
            self.message = gr.HTML("", js_on_load=dock.MESSAGE, elem_classes="fh-maybe")
            self.work = gr.HTML("", js_on_load=html.PRESS, elem_classes="fh-maybe")
        self.timer = gr.Timer(_TICK, active=False)
        self.columns: list[gr.Column] = []

    @property
    def outputs(self) -> list[Any]:
        return [self.nav, self.message, self.work, self.timer]

    def visit_of(self, request: gr.Request, key: str) -> Visit:
        """The visit behind what a page asks for. Raises `NotFound` where it has ended."""
        return self.visits.of(key, request.session_hash)

    def paint(self, visit: Visit) -> list[Any]:
        """What `outputs` show for this visit."""
        job = visit.job if visit.job is not None and visit.job.is_open else None
        said = visit.notices.get(visit.step, "")
        work = dock.running(job, self.jobs.before(job)) if job else ""
        # Only a tick ends the ticking: what was painted before a press may arrive after its answer.
        return [nav_html(visit), said, work, gr.Timer(active=True) if job else gr.skip()]

    def _take_in(self, visit: Visit) -> None:
        """Work that has ended says how, where it was begun and, if the visitor is elsewhere by now, there too."""
        job = visit.job
        if job is None or job.is_open or job.told:
            return
        job.told = True
        if job.state == DONE:
            said = dock.message(dock.ended(job), selector(self.steps[job.place].result_of(job.kind)))
        elif job.state == FAILED and job.error is not None:
            said = dock.message(self.problem(job.error))
        else:
            said = dock.message(html.notice(f"{job.title} was cancelled. Nothing half-made is left.", "warning"))
        visit.notices[job.place] = visit.notices[visit.step] = said

    def wire(self) -> None:
        """Connects navigation, cancelling and the ticking while work goes on. Called when all steps are there."""
        everything = [*self.outputs, *self.columns, *(output for step in self.steps for output in step.outputs)]

        def go(oauth: gr.OAuthToken | None, request: gr.Request, data: gr.EventData, key: str) -> list[Any]:
            place = min(max(int(data.id), 0), len(self.steps) - 1)
            return self._at(self.visit_of(request, key), place, token_of(oauth))

        hidden: _Hidden = {"show_progress": "hidden", "api_visibility": "private"}
        self._busy(self.nav.click, shown(go), [self.key], everything, "One moment", **hidden)
        for step in self.steps:
            for place, press in step.leads:
                words = "Checking the models" if place == CHECK else "One moment"
                self._busy(press.click, self._leading(place), [self.key], everything, words, **hidden).then(
                    None, None, None, js="() => window.scrollTo({top: 0})"
                )

        def answer(oauth: gr.OAuthToken | None, request: gr.Request, data: gr.EventData, key: str) -> list[Any]:
            """Does what a button of an error, or of what cannot be done yet, offers; or takes the message away."""
            visit = self.visit_of(request, key)
            action = offers.pressed(data.act, data.id)
            if action is not None:
                return self._at(visit, offers.OFFERS[action.code].step or 0, token_of(oauth), action)
            if data.act == dock.CLOSE:
                visit.notices.pop(visit.step, None)
                return [gr.skip(), "", *[gr.skip()] * (len(everything) - 2)]
            return [gr.skip()] * len(everything)

        for box in (self.message, *(box for step in self.steps for box in step.offering)):
            box.click(shown(answer), [self.key], everything, **hidden)

        def cancel(oauth: gr.OAuthToken | None, request: gr.Request, key: str) -> list[Any]:
            visit = self.visit_of(request, key)
            if visit.job is not None:
                self.jobs.cancel(visit.job)
                self.jobs.wait(visit.job, 5)
            return self.paint_all(visit, token_of(oauth))

        def tick(oauth: gr.OAuthToken | None, request: gr.Request, key: str) -> list[Any]:
            visit = self.visit_of(request, key)
            if visit.job is not None and visit.job.is_open:
                work = dock.running(visit.job, self.jobs.before(visit.job))
                return [gr.skip(), gr.skip(), work, *[gr.skip()] * (len(everything) - 3)]
            painted = self.paint_all(visit, token_of(oauth))
            painted[everything.index(self.timer)] = gr.Timer(active=False)
            return painted

        self.work.click(shown(cancel), [self.key], everything, **hidden)
        self.timer.tick(shown(tick), [self.key], everything, queue=False, **hidden)
        self.everything = everything

    def _leading(self, place: int) -> Callable[..., list[Any]]:
        def lead(oauth: gr.OAuthToken | None, request: gr.Request, key: str) -> list[Any]:
            return self._at(self.visit_of(request, key), place, token_of(oauth))

        return shown(lead)

    def _at(self, visit: Visit, place: int, token: str | None, wanted: Action | None = None) -> list[Any]:
        """The visit goes to a step, with what is `wanted` there. What the one that it leaves had to say is said."""
        if visit.step != place:
            visit.notices.pop(visit.step, None)
        visit.step, visit.wanted = place, wanted
        return self.paint_all(visit, token)

    def paint_all(self, visit: Visit, token: str | None) -> list[Any]:
        """What `everything` shows: of the steps, the one that the visit is at."""
        self._take_in(visit)
        columns = [gr.Column(visible=place == visit.step) for place in range(len(self.steps))]
        painted: list[Any] = []
        for place, step in enumerate(self.steps):
            here = place == visit.step
            painted += self._show(step, place, visit, token) if here else [gr.skip()] * len(step.outputs)
        # After the steps: what they found out is ticked above.
        return [*self.paint(visit), *columns, *painted]

    def paint_step(self, step: Any, visit: Visit, token: str | None) -> list[Any]:
        """What `outputs` and those of one step show."""
        self._take_in(visit)
        painted = self._show(step, self.steps.index(step), visit, token)
        return [*self.paint(visit), *painted]

    def _show(self, step: Any, place: int, visit: Visit, token: str | None) -> list[Any]:
        try:
            painted = step.show(visit, token)
        except FuseHubError as error:
            visit.notices[place] = dock.message(self.problem(error))
            # What stood there belongs to what was asked before.
            painted = ["", *[gr.skip()] * (len(step.painted) - 1)]
        # Now that the step has found out what it can.
        loud = [to > place and is_ready(visit, to) for to, _ in step.leads]
        return [*(gr.Button(variant="primary" if one else "secondary") for one in loud), *painted]

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
        busy: str = "One moment",
        shows: Any = None,
        **options: Any,
    ) -> Any:
        """`change(visit, token, data, *values)` when `event` happens; it returns what the step has to say, or nothing.

        `data` is what was pressed (act, id). Then the step and the frame are painted. Unless progress is hidden, the
        bar at the bottom says `busy` meanwhile; the component `shows` is brought into view when it succeeds.
        """
        place = self.steps.index(step)
        outputs = [*self.outputs, *step.outputs]

        def run(
            oauth: gr.OAuthToken | None, request: gr.Request, data: gr.EventData, key: str, *values: Any
        ) -> list[Any]:
            visit, token = self.visit_of(request, key), token_of(oauth)
            values = tuple(
                _text(value) if isinstance(box, gr.Textbox) else value
                for box, value in zip(inputs, values, strict=True)
            )
            # What work has to say comes before what this press has.
            self._take_in(visit)
            try:
                visit.notices[place] = dock.message(change(visit, token, data, *values) or "")
            except FuseHubError as error:
                visit.notices[place] = dock.message(self.problem(error))
            return self.paint_step(step, visit, token)

        named: dict[str, Any] = {
            "show_progress": show_progress,
            "show_progress_on": paints or [step.painted[0]],
            "api_visibility": "private",
            **options,
        }
        if show_progress == "hidden":
            return event(shown(run), [self.key, *inputs], outputs, **named)
        result = selector(shows) if shows is not None else None
        return self._busy(event, shown(run), [self.key, *inputs], outputs, busy, shows=result, **named)

    def _busy(
        self,
        event: Callable[..., Any],
        function: Callable[..., Any],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        words: str,
        *,
        shows: str | None = None,
        **options: Any,
    ) -> Any:
        """The event, of which the bar at the bottom says that it goes on until it is answered."""
        self.presses += 1
        place = f"press-{self.presses}"
        started = event(function, inputs, outputs, js=dock.begin(place, words, len(inputs)), **options)
        return started.then(None, None, None, js=dock.end(place, shows))

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
            raise FuseHubError(f"{visit.job.title} is still going on.", "Wait for it, or cancel it.")
        visit.notices[visit.step] = ""
        visit.job = self.jobs.submit(kind, title, arguments, token, lambda job: keep(visit, job.result))
        visit.job.place = visit.step

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


def selector(component: Any) -> str:
    """How a component of a step is found on the page."""
    return f"#{component.elem_id}"


def shown(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` whose `FuseHubError`s are shown as a message, where no step can show them: a visit that has ended."""
    import functools

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        try:
            return function(*args)
        except FuseHubError as error:
            said = html.told(error)
        except Exception:
            said = bug()
        raise gr.Error(f"{said.what} {offers.fix_of(said)}", duration=10, print_exception=False)

    return run


def _text(value: str | None) -> str:
    """What a text box gives: nothing at all where it is not on the page, hidden or in a closed part.

    Browsers send halves of characters too, of a text that was cut; nothing that has one can be sent on or written.
    """
    return (value or "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def typed(box: gr.Textbox) -> Any:
    """The event of a text box whose text was changed, in whatever way: typed, deleted, pasted, cut, undone.

    Its `input` is heard for keys that make a character alone where the box has one line. Connect what does no harm if
    the page itself sets the text, and with `trigger_mode="always_last"`.
    """
    return box.change


# --- pieces that several steps have ---------------------------------------------------------------------------------


class Step(ABC):
    """What all steps have: a place for messages first, and buttons that lead on."""

    title = ""
    intro = ""
    painted: list[Any]
    """What the step shows of a visit; `layout` makes it."""
    result_by_work: Mapping[str, Any] = MappingProxyType({})
    """Kind of work -> the component that shows what comes of it, where that is not the first of `painted`."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.leads: list[tuple[int, gr.Button]] = []
        self.offering: list[gr.HTML] = []
        self.head = gr.HTML(f"<h2>{self.title}</h2><p class='fh-intro'>{self.intro}</p>")
        self.layout()
        for part in self.painted:
            # By which it is brought into view.
            part.elem_id = part.elem_id or f"part-{part._id}"

    @abstractmethod
    def layout(self) -> None:
        """Makes the step's components."""

    @property
    def outputs(self) -> list[Any]:
        return [*(press for _, press in self.leads), *self.painted]

    def result_of(self, kind: str) -> Any:
        """The component that shows what comes of work of that kind."""
        return self.result_by_work.get(kind, self.painted[0])

    def lead(self, label: str, place: int) -> gr.Button:
        """A button that leads to a step: a loud one where that comes next and can be taken."""
        press = gr.Button(label, elem_classes="fh-lead")
        self.leads.append((place, press))
        return press
