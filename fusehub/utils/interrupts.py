"""Ctrl-C and SIGTERM: the work is unwound, what was half-made is removed, one line is said, and the process ends.

    interrupts.listen()                          # by the command line, and by processes of the app's work
    with cleared(make_folder, remove_folder) as folder:
        ...                                      # removed at the end, whatever ends it
    interrupts.end_now()                         # at once: what is not unwound yet is removed first

Python raises `KeyboardInterrupt` wherever the main thread happens to be. That may be in a destructor, which swallows
it, or in a pool that waits for its threads: so it is raised again, and after `GRACE` seconds not waited for any more.
Whoever waits for that is told so, and that a second Ctrl-C ends it.
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

SAID = "Interrupted. Nothing half-made was left behind."
GRACE = 8.0
"""Seconds for the work to be unwound: a repo that was just made is taken back, downloads stop at their next piece."""
WAITS = "Waiting for what goes on to end. Once more, and it ends at once."
SHIELDED = 2.0
"""Seconds that a second Ctrl-C leaves to steps that belong together, such as taking that repo back."""
_PATIENCE = 1.0
"""Seconds after which it is said that the work is still being unwound: a Hub that does not answer holds it up."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

T = TypeVar("T")


class _State:
    """What this process was told. Signals are a matter of the whole process, and so is this."""

    def __init__(self, *, of_program: bool = False, at_once: bool = False, grace: float | None = GRACE) -> None:
        self.grace = grace
        self.of_program = of_program
        """Whether the process is there for one command, and ends with it."""
        self.at_once = at_once
        """Whether a signal finds nothing to be unwound: the program is starting, or its command is done."""
        self.number: signal.Signals | None = None
        self.shields = 0
        self.is_waiting = False
        self.is_raised = False
        self.is_said = False
        self.actions: list[Callable[[], None]] = []
        self.left: list[str] = []


_state = _State()


def listen(*, at_once: bool = False, grace: float | None = GRACE) -> None:
    """From now on a signal raises `KeyboardInterrupt`, and the work has `grace` seconds to be unwound (None: as many
    as it takes); or, where nothing is made yet or any more, it ends the process `at_once`.

    Signals that the process was started to ignore stay ignored. Does nothing outside of the main thread: whoever
    called us from there keeps their own handling.
    """
    global _state
    if threading.current_thread() is not threading.main_thread():
        return
    _state = _State(of_program=at_once or _state.of_program, at_once=at_once, grace=grace)
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _told)
    sys.unraisablehook = _swallowed


def rest() -> None:
    """The command is done: a signal that comes now finds nothing to be unwound, if the process was there for it."""
    _state.at_once = _state.of_program


def is_ending() -> bool:
    """Whether the process was told to end: threads then stop where they can."""
    return _state.number is not None


def exit_code() -> int:
    """130 after Ctrl-C, 143 after SIGTERM, as shells have it."""
    return 128 + (_state.number or signal.SIGINT)


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """A few steps that belong together: a signal that comes meanwhile is heard after them, and one that comes when
    another was heard before ends the process if they take long."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _state.shields += 1
    try:
        yield
    finally:
        _state.shields -= 1
        if _state.is_waiting and not _state.shields:
            _state.is_waiting = False
            end_now() if _state.is_raised else _raise()


@contextlib.contextmanager
def leaving(words: str) -> Iterator[None]:
    """A block in which something may be half-made that is not on this machine: `words` are said of it if the process
    ends before the block."""
    _state.left.append(words)
    try:
        yield
    finally:
        _state.left.remove(words)


@contextlib.contextmanager
def cleared(make: Callable[[], T], clear: Callable[[T], None]) -> Iterator[T]:
    """What `make` gives, which `clear` takes away again when the block ends, or the process before it."""
    with shielded():
        made = make()
        action = functools.partial(clear, made)
        _state.actions.append(action)
    try:
        yield made
    finally:
        with shielded():
            action()
            _state.actions.remove(action)


def last_words(error: KeyboardInterrupt) -> str:
    """What is said of an interrupt, once: what it was told on its way up, or that nothing was left."""
    _state.is_said = True
    return " ".join(["Interrupted.", *error.__notes__]) if getattr(error, "__notes__", None) else SAID


def end_now() -> None:
    """Removes what is half-made, says so, and ends the process without waiting for its threads."""
    for action in reversed(list(_state.actions)):
        with contextlib.suppress(Exception):
            action()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        if not _state.is_said:
            _state.is_said = True
            said = " ".join(["Interrupted.", *_state.left]) if _state.left else SAID
            os.write(sys.stderr.fileno(), f"{said}\n".encode())
    # What is ended like this does not end the processes that it started.
    if "multiprocessing" in sys.modules:
        from multiprocessing import active_children

        for child in active_children():
            child.kill()
    os._exit(exit_code())


def _told(number: int, frame: Any) -> None:
    is_second = _state.is_raised
    if _state.number is None and not _state.at_once and _state.grace is not None:
        _later(_state.grace, end_now)
        if _state.of_program:
            _later(_PATIENCE, _say_that_it_waits)
    _state.number = signal.Signals(number)
    if _state.shields:
        if _state.is_raised or _state.is_waiting:
            _later(SHIELDED, end_now)
        _state.is_waiting = True
    elif _state.at_once or is_second:
        end_now()
    else:
        _raise()


def _say_that_it_waits() -> None:
    if not _state.is_said:
        with contextlib.suppress(OSError, ValueError):
            os.write(sys.stderr.fileno(), f"{WAITS}\n".encode())


def _raise() -> None:
    _state.is_raised = True
    raise KeyboardInterrupt


def _swallowed(unraisable: Any) -> None:
    """An exception in a destructor or the like, which goes nowhere: an interrupt is not to be lost there."""
    if _state.number is None or not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    _state.is_raised = False
    # Not at once: this is still inside of what swallows.
    _later(0.02, functools.partial(_thread.interrupt_main, _state.number))


def _later(seconds: float, action: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()
