"""What holds the steps together: the visit behind the page, the way from step to step, and the work that goes on.

A step is a class that makes its components, says which of them it paints (`outputs`), and paints them from a visit
(`show`), for which it may ask the Hub with the visitor's token. `Frame.on` connects an event with a function that
changes the visit; what it raises as a `FuseHubError` is said in the bar at the bottom (`dock`), and the step is
painted anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from fusehub.errors import Action, FuseHubError

from . import dock
from .events import Hidden, Pieces, any_of, preparing, shown, token_of
from .links.link import link_of, read_link
from .presses import Presses
from .public_models import Recent
from .render import html, offers
from .render.address import ADDRESS, AGAIN, BACK, GO_ON, STILL, address_html
from .render.elsewhere import elsewhere_html
from .render.nav import nav_html
from .setting import Setting
from .shelves import Shelves
from .step import Step
from .visit import CHECK, Visit
from .visits import Visits
from .workers.jobs import CANCELLED, DONE, FAILED, Job, Jobs, Part
from .workers.worker import Worker

_TICK = 0.6


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
    address: str = "http://127.0.0.1:7860"
    """Where programs find the app: a Space by its name."""

    def layout(self) -> None:
        """Key, navigation, and the panel of work. Called once, inside the page."""
        self.key = gr.State("")
        self.nav = gr.HTML(nav_html(None), js_on_load=html.PRESS + STILL, elem_classes="fh-nav-box")
        self.address_bar = gr.HTML("", js_on_load=ADDRESS, elem_classes="fh-address")
        with gr.Column(elem_classes="fh-dock"):
            self.busy = gr.HTML(dock.BUSY, js_on_load=dock.NUDGE)
            self.message = gr.HTML("", js_on_load=dock.MESSAGE, elem_classes="fh-maybe")
            self.work = gr.HTML("", js_on_load=html.PRESS, elem_classes="fh-maybe")
            self.ended = gr.HTML("", js_on_load=dock.ENDED, elem_classes="fh-address")
        self.presses = Presses(self.visit_of, self.key, self.ended)
        self.elsewhere = gr.HTML("", render=False, js_on_load=html.PRESS)
        self.timer = gr.Timer(_TICK, active=False)
        self.columns: list[gr.Column] = []

    @property
    def outputs(self) -> list[Any]:
        return [self.nav, self.message, self.work, self.timer, self.elsewhere, self.address_bar]

    def visit_of(self, request: gr.Request, key: str) -> Visit:
        """The visit behind what a page asks for. Raises `NotFound` where it has ended."""
        return self.visits.of(key, request.session_hash)

    def paint(self, visit: Visit, turn: int, *, ticks: bool = False) -> list[Any]:
        """What `outputs` show for this visit. `turn` was drawn before anything that is painted was looked at."""
        job = visit.job if visit.job is not None and visit.job.is_open else None
        said = visit.notices.get(visit.step, "")
        work = dock.running(job, self.jobs.before(job)) if job else ""
        # Only a tick ends the ticking: what was painted before a press may arrive after its answer. How work has ended
        # that was open when it was last looked at is told by the next tick, and by nothing else.
        address = link_of(visit).query() if not visit.opened_by else None
        timer = gr.Timer(active=True) if ticks or (visit.job and not visit.job.told) else gr.skip()
        place = address_html(turn, address)
        return [nav_html(visit), said, work, timer, elsewhere_html(visit, self.address), place]

    def _take_in(self, visit: Visit) -> None:
        """Work that has ended says how, where it was begun and, if the visitor is elsewhere by now, there too."""
        job = visit.job
        if job is None or job.is_open or job.told:
            return
        job.told = True
        leads = job.state != CANCELLED and visit.step == job.begun_at != job.place
        visit.step = job.place if leads else visit.step
        result = selector(self.steps[job.place].result_of(job.kind))
        if job.state == DONE:
            said = dock.message(dock.ended(job), result)
        elif job.state == FAILED and job.error is not None:
            said = dock.message(self.problem(job.error), result if leads else None)
        else:
            said = dock.message(dock.cancelled(job))
        visit.notices[job.place] = visit.notices[visit.step] = said

    def wire(self) -> None:
        """Connects navigation, cancelling and the ticking while work goes on. Called when all steps are there."""
        everything = [*self.outputs, *self.columns, *(output for step in self.steps for output in step.outputs)]

        def go(visit: Visit, token: str | None, data: gr.EventData) -> Pieces:
            if data.act == AGAIN:
                return self.paint_all(visit, token)
            place = read_link(data.id, self.setting).step if data.act == BACK else int(data.id)
            return (yield from self._at(visit, place, token))

        def lead(visit: Visit, token: str | None, data: gr.EventData) -> Pieces:
            return (yield from self._at(visit, places[selector(data.target)], token))

        hidden = self.hidden
        # Whoever does not wait for a step goes to another one.
        at_once: dict[str, Any] = {**hidden, "trigger_mode": "multiple", "concurrency_limit": 40}
        self.presses.connect(self.nav.click, go, [], everything, "One moment", **at_once)
        self.presses.connect(self.address_bar.click, go, [], everything, by_itself=True, **at_once)
        places = {selector(press): place for step in self.steps for place, press in step.leads}
        for words, checks in (("Checking the models", True), ("One moment", False)):
            presses = [press.click for step in self.steps for place, press in step.leads if (place == CHECK) is checks]
            self.presses.connect(any_of(presses), lead, [], everything, words, shows=dock.TOP, **at_once)

        def answer(visit: Visit, token: str | None, data: gr.EventData) -> Pieces:
            """Does what a button of an error, or of what cannot be done yet, offers; or takes the message away."""
            action = offers.pressed(data.act, data.id)
            if action is not None:
                return (yield from self._at(visit, offers.OFFERS[action.code].step or 0, token, action))
            if data.act == GO_ON:
                return (yield from self._at(visit, int(data.id), token))
            skipped = [gr.skip()] * len(everything)
            if data.act == dock.CLOSE:
                visit.notices.pop(visit.step, None)
                return [gr.skip(), "", *skipped[2:]]
            return skipped

        offering = [self.message, *(box for step in self.steps for box in step.offering)]
        self.presses.connect(any_of([box.click for box in offering]), answer, [], everything, **at_once)

        def cancel(visit: Visit, token: str | None, data: gr.EventData) -> Pieces:
            yield from ()
            if visit.job is not None:
                self.jobs.cancel(visit.job)
                self.jobs.wait(visit.job, 5)
            return self.paint_all(visit, token)

        def tick(oauth: gr.OAuthToken | None, request: gr.Request, key: str) -> list[Any]:
            visit = self.visit_of(request, key)
            if visit.job is not None and visit.job.is_open:
                work = dock.running(visit.job, self.jobs.before(visit.job))
                return [gr.skip(), gr.skip(), work, *[gr.skip()] * (len(everything) - 2)]
            painted = self.paint_all(visit, token_of(oauth))
            painted[everything.index(self.timer)] = gr.Timer(active=False)
            return [*painted, self.unasked(visit)]

        self.presses.connect(self.work.click, cancel, [], everything, **hidden)
        self.busy.click(lambda: None, None, None, **hidden)
        self.timer.tick(shown(tick), [self.key], [*everything, self.ended], queue=False, **hidden)
        self.everything = everything

    def unasked(self, visit: Visit) -> str:
        """What `ended` shows with a paint that nobody has asked for."""
        return dock.end(visit.ended, "", None)

    @property
    def hidden(self) -> Hidden:
        return {"show_progress": "hidden", "show_progress_on": [self.work], "api_visibility": "private"}

    def _at(self, visit: Visit, place: int, token: str | None, wanted: Action | None = None) -> Pieces:
        """The visit goes to a step, with what is `wanted` there. What the one that it leaves had to say is said.

        The step is there at once; while it is prepared, the bar at the bottom says how far that is.
        """
        place = min(max(place, 0), len(self.steps) - 1)
        if visit.step != place:
            visit.notices.pop(visit.step, None)
        visit.wanted, stays = wanted, visit.go_to(place)
        failed = None
        try:
            for painted in self._preparing(self.steps[place], visit, token):
                if not stays():
                    break
                yield self._whole(place, painted)
        except FuseHubError as error:
            failed = error
        if not stays():
            return None  # The visitor did not wait, and another press paints.
        if failed is not None:
            visit.notices[place] = dock.message(self.problem(failed))
        return self.paint_all(visit, token, failed=failed is not None)

    def paint_all(self, visit: Visit, token: str | None, *, failed: bool = False) -> list[Any]:
        """What `everything` shows: of the steps, the one that the visit is at; nothing of it where that `failed`."""
        turn = next(visit.turns)
        self._take_in(visit)
        place = visit.step
        painted = self._show(self.steps[place], place, visit, token, failed=failed)
        # After the step: what it found out is ticked above.
        return self._whole(place, [*self.paint(visit, turn), *painted])

    def _whole(self, at: int, painted: list[Any]) -> list[Any]:
        """What `everything` shows, where `painted` is for the frame and for the step `at`, which alone is seen."""
        own, count = painted[: len(self.outputs)], len(self.outputs)
        columns = [gr.Column(visible=place == at) for place in range(len(self.steps))]
        steps = (
            painted[count:] if place == at else [gr.skip()] * len(step.outputs)
            for place, step in enumerate(self.steps)
        )
        return [*own, *columns, *(output for outputs in steps for output in outputs)]

    def _preparing(self, step: Step, visit: Visit, token: str | None) -> Iterator[list[Any]]:
        """What the frame and the step show one after the other while the step is prepared, where that takes longer
        than a moment. Raises what preparing raises."""
        painted = [gr.skip()] * len(step.outputs)
        painted[-len(step.painted)] = html.empty("One moment: the models are being read.")
        for job in preparing(step, visit, token):
            # What the visitor has going on has the place.
            busy = visit.job is not None and visit.job.is_open
            seen = [nav_html(visit), "", gr.skip() if busy else dock.reading(job)]
            yield [*seen, *[gr.skip()] * (len(self.outputs) - len(seen)), *painted]

    def paint_step(self, step: Any, visit: Visit, token: str | None, *, failed: bool = False) -> list[Any]:
        """What `outputs` and those of one step show."""
        turn = next(visit.turns)
        self._take_in(visit)
        painted = self._show(step, self.steps.index(step), visit, token, failed=failed)
        # Work that ended before this was painted may have led to another step, which the next tick shows.
        return [*self.paint(visit, turn, ticks=self.steps[visit.step] is not step), *painted]

    def _show(self, step: Any, place: int, visit: Visit, token: str | None, *, failed: bool = False) -> list[Any]:
        # What stood there belongs to what was asked before.
        painted = ["", *[gr.skip()] * (len(step.painted) - 1)]
        try:
            painted = painted if failed else step.show(visit, token)
        except FuseHubError as error:
            visit.notices[place] = dock.message(self.problem(error))
        # Now that the step has found out what it can.
        return [*step.buttons(visit, place), *painted]

    def problem(self, error: FuseHubError) -> str:
        """An error as the page says it: where visitors sign in, they do not log in on a command line."""
        return html.problem(error, offers.LOG_IN if not self.setting.signs_in else offers.SIGN_IN)

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
        prepares: bool = False,
        **options: Any,
    ) -> Any:
        """`change(visit, token, data, *values)` when `event` happens; it returns what the step has to say, or nothing.

        `data` is what was pressed (act, id). Then the step and the frame are painted. Unless progress is hidden, the
        bar at the bottom says `busy` meanwhile; the component `shows` is brought into view when it succeeds. What
        `prepares` makes the step ask anew, and says how far that is.
        """
        place = self.steps.index(step)
        outputs = [*self.outputs, *step.outputs]

        def pressed(visit: Visit, token: str | None, data: gr.EventData, *values: Any) -> Pieces:
            # What work has to say comes before what this press has.
            self._take_in(visit)
            failed = False
            try:
                visit.notices[place] = dock.message(change(visit, token, data, *values) or "")
                if prepares:
                    failed = True
                    yield from self._preparing(step, visit, token)
                    failed = False
            except FuseHubError as error:
                visit.notices[place] = dock.message(self.problem(error))
            return self.paint_step(step, visit, token, failed=failed)

        named: dict[str, Any] = {
            "show_progress": show_progress,
            "show_progress_on": paints or [step.painted[0]],
            "api_visibility": "private",
            **options,
        }
        words = None if show_progress == "hidden" else busy
        result = selector(shows) if shows is not None else None
        return self.presses.connect(event, pressed, inputs, outputs, words, shows=result, prepares=prepares, **named)

    def answer(
        self,
        event: Callable[..., Any],
        change: Callable[..., list[Any]],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        busy: str,
    ) -> Any:
        """`change(visit, token, *values)` gives what `outputs` show when `event` happens, and nothing else is painted:
        what the step has to say stays."""

        def changed(visit: Visit, token: str | None, data: gr.EventData, *values: Any) -> Pieces:
            yield from ()
            return change(visit, token, *values)

        options: dict[str, Any] = {**self.hidden, "trigger_mode": "always_last", "concurrency_limit": 10}
        return self.presses.connect(event, changed, inputs, outputs, busy, prepares=False, **options)

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
        part = Part(kind, arguments, lambda result: keep(visit, result))
        self.start_parts(visit, kind, title, lambda job: iter([part]), token)

    def start_parts(
        self, visit: Visit, kind: str, title: str, parts: Callable[[Job], Iterator[Part]], token: str | None
    ) -> None:
        """Puts work of several parts into the queue. The visitor is led to the step where it ends, unless they have
        gone to another one by themselves."""
        with visit.starting:
            if visit.job is not None and visit.job.is_open:
                raise FuseHubError(f"{visit.job.title} is still going on.", "Wait for it, or cancel it.")
            visit.notices[visit.step] = ""
            job = Job(kind, title, begun_at=visit.step, place=visit.step)
            visit.job = self.jobs.submit_parts(job, parts, token)


def selector(component: Any) -> str:
    """How a component of a step is found on the page."""
    return f"#{component.elem_id}"
