"""What lies between an event of the page and what answers it: errors in words, texts as they came, one paint after the
other.
"""

from __future__ import annotations

import functools
import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import gradio as gr

from fusehub.errors import FuseHubError

from .render import html, offers
from .step import Step
from .visit import Visit
from .workers.jobs import RUNNING, Job
from .workers.tasks import bug

# For a piece of several buttons, each with its own to do: gradio drops a press while another is being answered.
EACH_PRESS: dict[str, Any] = {"trigger_mode": "multiple"}

# Seconds that preparing a step may take before it is said how far that is.
_MOMENT = 0.4


def shown(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` whose `FuseHubError`s are shown as a message, where no step can show them: a visit that has ended."""

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        with _messages():
            return function(*args)

    return run


def shown_in_turn(function: Callable[..., Iterator[list[Any]]]) -> Callable[..., Iterator[list[Any]]]:
    """The same of a function that gives the page one thing to show after the other."""

    @functools.wraps(function)
    def run(*args: Any) -> Iterator[list[Any]]:
        with _messages():
            yield from function(*args)

    return run


@contextmanager
def _messages() -> Iterator[None]:
    try:
        yield
        return
    except FuseHubError as error:
        said = html.told(error)
    except Exception:
        said = bug()
    raise gr.Error(f"{said.what} {offers.fix_of(said)}", duration=10, print_exception=False)


def preparing(step: Step, visit: Visit, token: str | None) -> Iterator[Job]:
    """How far the preparation of a step is, whenever that changes, where it takes longer than a moment.

    Raises what preparing raises. It goes on where nobody waits for it: whoever comes back finds it done.
    """
    if not step.is_prepared:
        return
    told: queue.SimpleQueue[tuple | None] = queue.SimpleQueue()
    asking = ThreadPoolExecutor(1)
    prepared = asking.submit(step.prepare, visit, token, lambda *progress: told.put(progress))
    prepared.add_done_callback(lambda _: told.put(None))
    asking.shutdown(wait=False)
    job = Job("prepare", step.title, RUNNING, started=time.monotonic())
    wait([prepared], _MOMENT)
    while not prepared.done() and (progress := told.get()) is not None:
        job.heard(*progress)
        yield job
    prepared.result()


def text_of(value: str | None) -> str:
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
