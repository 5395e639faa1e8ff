"""What lies between an event of the page and what answers it: errors in words, texts as they came, one paint after the
other.
"""

from __future__ import annotations

import functools
import queue
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, Literal, TypedDict

import gradio as gr

from fusehub.errors import FuseHubError

from .render import html, offers
from .step import Step
from .visit import Visit
from .workers.jobs import RUNNING, Job
from .workers.tasks import bug

# What the outputs of an event show one after the other. The last of it is returned: it alone says that all is done;
# nothing, where another event shows what comes.
Pieces = Generator[list[Any], None, list[Any] | None]

# For a piece of several buttons, each with its own to do: gradio drops a press while another is being answered.
EACH_PRESS: dict[str, Any] = {"trigger_mode": "multiple"}

# What gradio gives for a token where it runs on nobody's Space.
MOCK = "mock-oauth-token-for-local-dev"
# Seconds that preparing a step may take before it is said how far that is.
_MOMENT = 0.4


class Hidden(TypedDict):
    """What an event does that shows no progress and is no endpoint.

    The page tells each part that progress is shown on that it waits, and looks for it among all parts. By default
    these are all outputs, which took the browser more than all else of a press; one is enough to hide it on.
    """

    show_progress: Literal["hidden"]
    show_progress_on: list[Any]
    api_visibility: Literal["private"]


def shown(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` whose `FuseHubError`s are shown as a message, where no step can show them: a visit that has ended."""

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        with _messages():
            return function(*args)

    return run


def in_turn(function: Callable[..., Iterator[list[Any]]]) -> Callable[..., Iterator[list[Any]]]:
    """The same of a function that gives the page one thing to show after the other."""

    @functools.wraps(function)
    def run(*args: Any) -> Iterator[list[Any]]:
        with _messages():
            yield from function(*args)

    return run


def at_end(function: Callable[..., Iterator[list[Any]]]) -> Callable[..., list[Any]]:
    """The same, with the last of them alone as the answer, which costs the page less."""

    @functools.wraps(function)
    def run(*args: Any) -> list[Any]:
        with _messages():
            *_, last = function(*args)
            return last

    return run


def with_more(pieces: Pieces, more: list[Any]) -> Pieces:
    """`pieces` for more outputs, all but the last."""
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            return end.value
        yield [*piece, *more]


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


def token_of(oauth: gr.OAuthToken | None) -> str | None:
    """The visitor's own token; None: nobody's on a shared machine, the one stored for its user on a laptop."""
    return None if oauth is None or oauth.token == MOCK else oauth.token


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


def any_of(events: Sequence[Callable[..., Any]]) -> Callable[..., Any]:
    """One event for what is done in the same way when any of these happens.

    As the page comes up, the browser goes through all events for each of its parts.
    """
    return functools.partial(gr.on, list(events))
