"""What all steps of the way have: a place for messages first, and buttons that lead on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import gradio as gr

from .render import html
from .render.address import GO_ON
from .render.nav import STEPS, is_ready
from .visit import Visit
from .workers.pace import Tell


def folded(label: str, **options: Any) -> gr.Accordion:
    """A part that is closed at first, and whose inputs are on the page all the same.

    What gradio closes with `False` it makes when it is opened, and a frame later, which on a busy machine is a second,
    it writes the first values over what was typed in them meanwhile.
    """
    part = gr.Accordion(label, open=False, **options)
    part.open = 0  # type: ignore[assignment]  # Closed too, and not put off.
    return part


def not_yet(why: str, place: int) -> str:
    """What stands where a step cannot be taken yet: why, and a button to the step `place` where that changes."""
    lead = html.button(GO_ON, f"Go to {STEPS[place]}", str(place), kind="fh-small")
    return f'{html.empty(why)}<p class="fh-offers">{lead}</p>'


class Step(ABC):
    """One step: it makes its components, and says which of them it paints from a visit."""

    title = ""
    intro = ""
    painted: list[Any]
    """What the step shows of a visit; `layout` makes it."""
    result_by_work: Mapping[str, Any] = MappingProxyType({})
    """Kind of work -> the component that shows what comes of it, where that is not the first of `painted`."""

    def __init__(self, frame: Any) -> None:
        # What holds the steps together (`space.frame`), which knows them.
        self.frame = frame
        self.leads: list[tuple[int, gr.Button]] = []
        self.one_goes: list[gr.Button] = []
        # What the step itself does, which is loud until the next step can be taken.
        self.own: list[gr.Button] = []
        self.offering: list[gr.HTML] = []
        self.head = gr.HTML(f"<h2 tabindex='-1'>{self.title}</h2><p class='fh-intro'>{self.intro}</p>")
        self.layout()
        for part in self.painted:
            # By which it is brought into view.
            part.elem_id = part.elem_id or f"part-{part._id}"

    @abstractmethod
    def layout(self) -> None:
        """Makes the step's components."""

    @abstractmethod
    def wire(self) -> None:
        """Connects its events, once all steps are there."""

    @abstractmethod
    def show(self, visit: Visit, token: str | None) -> list[Any]:
        """What `painted` show of a visit."""

    @property
    def is_prepared(self) -> bool:
        """Whether the step has to ask before it can be shown."""
        return type(self).prepare is not Step.prepare

    def prepare(self, visit: Visit, token: str | None, heard: Tell) -> None:
        """Asks what has to be known before the step can be shown; `heard` is told how far it is."""
        return

    @property
    def outputs(self) -> list[Any]:
        return [*self.own, *(press for _, press in self.leads), *self.one_goes, *self.painted]

    def result_of(self, kind: str) -> Any:
        """The component that shows what comes of work of that kind."""
        return self.result_by_work.get(kind, self.painted[0])

    def is_done(self, visit: Visit) -> bool:
        """Whether the step has done what it is for, where no step comes after it."""
        return False

    def comes_first(self, visit: Visit) -> bool:
        """Whether what the step itself does is what the visitor came for: it comes before what it leads to."""
        return False

    def buttons(self, visit: Visit, place: int) -> list[gr.Button]:
        """What `outputs` begin with, of the step at `place`.

        One thing is loud: what comes next, or what the step itself does until then.
        """
        leads_on = not self.comes_first(visit)
        ready = [leads_on and to > place and is_ready(visit, to) for to, _ in self.leads]
        several = len(visit.picks) > 1
        own = gr.Button(variant="secondary" if any(ready) or self.is_done(visit) else "primary")
        leads = [gr.Button(variant="primary" if one else "secondary") for one in ready]
        return [*[own] * len(self.own), *leads, *[gr.Button(visible=several)] * len(self.one_goes)]

    def one_go(self, label: str) -> gr.Button:
        """A button that does all that is left up to the comparison, there as soon as there is something to merge."""
        press = gr.Button(label, elem_classes="fh-lead", visible=False)
        self.one_goes.append(press)
        return press

    def lead(self, label: str, place: int) -> gr.Button:
        """A button that leads to a step: a loud one where that comes next and can be taken."""
        # By which it is told apart: a session has buttons of its own, with other numbers once they were painted.
        name = f"{type(self).__name__.lower()}-leads-to-{STEPS[place].lower()}"
        press = gr.Button(label, elem_classes="fh-lead", elem_id=name)
        self.leads.append((place, press))
        return press
