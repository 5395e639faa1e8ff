"""Long work in processes of their own, in a queue: it can be waited for, looked at and cancelled.

    job = jobs.submit("merge", "Merging", {...}, token, on_done=keep)
    job.state, job.done, job.total           # "running", 12, 200
    jobs.cancel(job)                          # its process is ended, and what was half-made goes

Work of several parts, each in a process of its own, is one job with one share of the whole (`submit_parts`).

The token goes to the process through a pipe, never into its arguments, its environment or a file.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import psutil

from fusehub.errors import FuseHubError

from .tasks import bug, run

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"
_GRACE = 3.0
# Work that takes back what it has begun at the Hub, a repo that is empty yet, and the seconds that the Hub may take.
_AT_HUB, _TAKING_BACK = ("push", "recipe"), 60.0
# Seconds between two looks at work that says nothing, and for how long it may say nothing.
_LOOK = 1.0
_SILENT = 900.0
# The part of the whole by which one can tell how long it takes.
_TELLING = 0.02
# What a process of work needs, imported once by the server that all of them are forked from.
_PRELOAD = [f"{__package__}.preload"]


# What may stand after the temporary folder in the path of the socket by which processes are forked, and the longest
# such path that every system takes (macOS 103 bytes, Linux 107).
_SOCKET = "/pymp-12345678/listener-12345678"
_LONGEST_SOCKET = 103


def processes() -> Any:
    """How processes are started: forked from one that has the libraries already, where the system can do that."""
    can_fork = "forkserver" in multiprocessing.get_all_start_methods()
    fits = len(os.fsencode(tempfile.gettempdir() + _SOCKET)) <= _LONGEST_SOCKET
    method = "forkserver" if can_fork and fits else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(_PRELOAD)
    return context


@dataclass(frozen=True)
class Part:
    """A part of a job: what `tasks` knows by `kind`, and `keep`, which takes in what comes of it.

    It takes about `seconds`, and all that comes after it in the same job about `rest`.
    """

    kind: str
    arguments: Mapping[str, Any]
    keep: Callable[[Any], None]
    seconds: float = 1.0
    rest: float = 0.0


@dataclass
class Job:
    """Work of one visit. `done` of `total` `unit`s of the present `step` are done, and `share` in [0, 1] of the whole
    where that is known. `begun_at` is the step of the app where it was begun, `place` the one that the present part
    belongs to, `told` whether it has been said there how it ended; `parts` is how many of its parts are done. Of work
    at the Hub that was cancelled, `cleared` says whether nothing of it is left there."""

    kind: str
    title: str
    state: str = WAITING
    step: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    error: FuseHubError | None = None
    result: Any = None
    started: float | None = None
    ended: float | None = None
    share: float | None = None
    begun_at: int = 0
    place: int = 0
    told: bool = False
    parts: int = 0
    cleared: bool = True
    span: tuple[float, float] = field(default=(0.0, 1.0), repr=False)
    """Where in the whole the present part begins, and how much of the whole it is."""
    measured: tuple[float, float] | None = field(default=None, repr=False)
    """When the share was first known, and what it was then."""
    heard_at: float = 0.0
    process: Any = field(default=None, repr=False)
    starting: threading.Lock = field(default_factory=threading.Lock, repr=False)
    """Held while its process comes to be: who cancels it meanwhile would find none to end."""
    cancelled: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def is_at_hub(self) -> bool:
        """Whether it makes something at the Hub."""
        return self.kind in _AT_HUB

    @property
    def is_open(self) -> bool:
        return self.state in (WAITING, RUNNING)

    @property
    def seconds_left(self) -> float | None:
        """How long the whole will still take, if it goes on as it did; None before there is anything to tell by."""
        if self.share is None or self.measured is None:
            return None
        since, first = self.measured
        if self.share - first < _TELLING:
            return None
        whole = (self.heard_at - since) * (1 - first) / (self.share - first)
        return max(0.0, since + whole - time.monotonic())

    def heard(self, step: str, done: int, total: int, unit: str, share: float | None) -> None:
        """Takes in how far the work is. What was done of the whole is not taken back."""
        self.step, self.done, self.total, self.unit = step, done, total, unit
        if share is None:
            return
        begin, length = self.span
        share = begin + share * length
        now = time.monotonic()
        self.measured = self.measured or (now, share)
        if self.share is None or share > self.share:
            self.share, self.heard_at = share, now

    def begin(self, part: Part) -> None:
        """Takes in that a part begins: it and the rest share what is left of the whole by the time that they take."""
        left = 1.0 - (sum(self.span) if self.parts else 0.0)
        whole = part.seconds + part.rest
        self.span = (1.0 - left, left * part.seconds / whole if whole else 0.0)
        self.done = self.total = 0

    def complete(self) -> None:
        """Takes in that the present part is done."""
        self.parts += 1
        self.heard(self.step, self.total, self.total, self.unit, 1.0)


class Jobs:
    """The queue: `running` jobs at a time, the others wait their turn.

    A job goes on for as long as it gives signs of life: a step done, or bytes read or written. After `silent` seconds
    without any it is ended, so that the others do not wait for ever.
    """

    def __init__(self, running: int, waiting: int, silent: float = _SILENT) -> None:
        self.running, self.waiting, self.silent = running, waiting, silent
        self._open: list[Job] = []
        self._turn = threading.Condition()
        self.context = processes()

    def submit(
        self,
        kind: str,
        title: str,
        arguments: Mapping[str, Any],
        token: str | None,
        on_done: Callable[[Job], None],
    ) -> Job:
        """Puts work of one part into the queue. `on_done` is called when it succeeded, before the job is said to be
        done."""

        def parts(job: Job) -> Iterator[Part]:
            yield Part(kind, arguments, lambda result: on_done(job))

        return self.submit_parts(Job(kind, title), parts, token)

    def submit_parts(self, job: Job, parts: Callable[[Job], Iterator[Part]], token: str | None) -> Job:
        """Puts work into the queue, one part after the other. A `FuseHubError` of `parts`, or of what takes in a
        result, ends it; what came of the parts before stays."""
        with self._turn:
            if len(self._open) >= self.running + self.waiting:
                raise FuseHubError(
                    f"{len(self._open)} others have work going on here, and no more can wait.",
                    "Try again in a few minutes, or run the app on your own machine.",
                )
            self._open.append(job)
        threading.Thread(target=self._run, args=(job, parts(job), token), daemon=True).start()
        return job

    def before(self, job: Job) -> int:
        """How many jobs have to end before this one begins."""
        with self._turn:
            return max(0, self._open.index(job) - self.running + 1) if job in self._open else 0

    def cancel(self, job: Job) -> None:
        """Ends the job's process, at once if it does not go by itself. Returns when it is gone, but for work that has
        to take something back at the Hub first: that goes on until it has."""
        if job.cancelled.is_set():
            return
        job.cancelled.set()
        with self._turn:
            self._turn.notify_all()
        with job.starting:
            process = job.process
        if process is not None and job.is_at_hub:
            job.step = f"{job.title}: taking back what was begun"
            threading.Thread(target=_end, args=(process, _TAKING_BACK), daemon=True).start()
        elif process is not None:
            _end(process)

    def wait(self, job: Job, seconds: float) -> None:
        """Returns when the job has ended, or after that time."""
        end = time.monotonic() + seconds
        with self._turn:
            while job.is_open and (left := end - time.monotonic()) > 0:
                self._turn.wait(left)

    def close(self) -> None:
        ending = list(self._open)
        for job in ending:
            self.cancel(job)
        for job in ending:
            self.wait(job, _GRACE)

    def _run(self, job: Job, parts: Iterator[Part], token: str | None) -> None:
        with self._turn:
            while self._open.index(job) >= self.running and not job.cancelled.is_set():
                self._turn.wait()
        state = CANCELLED
        try:
            if not job.cancelled.is_set():
                job.state, job.started, state = RUNNING, time.monotonic(), DONE
                for part in parts:
                    # Who cancelled while a result was taken in found no process to end.
                    state = CANCELLED if job.cancelled.is_set() else self._do(job, part, token)
                    if state != DONE:
                        break
        except FuseHubError as error:
            job.error, state = error, FAILED
        except Exception:
            job.error, state = bug(), FAILED
        finally:
            job.process = None
            with self._turn:
                job.ended = time.monotonic()
                job.state = CANCELLED if job.cancelled.is_set() and state != DONE else state
                self._open.remove(job)
                self._turn.notify_all()

    def _do(self, job: Job, part: Part, token: str | None) -> str:
        """Does a part, takes in what comes of it, and says how it ended."""
        job.begin(part)
        state = self._follow(job, self._events(job, part, token))
        if state == DONE:
            part.keep(job.result)
            job.complete()
        return state

    def _events(self, job: Job, part: Part, token: str | None) -> Iterable[tuple]:
        from . import zero_gpu

        if zero_gpu.is_lent_for(part.kind):
            return zero_gpu.carry_out(part.kind, dict(part.arguments), token)
        return self._in_process(job, part, token)

    def _in_process(self, job: Job, part: Part, token: str | None) -> Iterator[tuple]:
        with job.starting:
            if job.cancelled.is_set():
                return
            mine, theirs = self.context.Pipe()
            job.process = self.context.Process(target=run, args=(theirs,), name=f"fusehub-{part.kind}", daemon=True)
            job.process.start()
        theirs.close()
        try:
            mine.send((part.kind, dict(part.arguments), token))
            life = _Life(job.process.pid)
            while True:
                while not mine.poll(_LOOK):
                    if life.seconds_silent() > self.silent:
                        _end(job.process)
                        yield "error", _stuck(job, self.silent)
                yield mine.recv()
                life.heard()
        except (EOFError, ConnectionError, psutil.NoSuchProcess):  # It was ended, maybe before it began.
            job.process.join()
        finally:
            mine.close()

    def _follow(self, job: Job, events: Iterable[tuple]) -> str:
        """Takes in what the work tells until it ends, and says how it ended."""
        for kind, *content in events:
            if kind in ("begun", "cleared"):
                job.cleared = kind == "cleared" and content[0]
            elif job.cancelled.is_set() and kind != "result":
                continue
            elif kind == "progress":
                job.heard(*content)
            elif kind == "result":
                job.result = content[0]
                return DONE
            elif kind == "error":
                job.error = content[0]
                return FAILED
        if not job.cancelled.is_set():
            job.error = FuseHubError(
                "The work was ended from outside: most likely the machine had too little memory for it.",
                "Take fewer or smaller models, or do it on a larger machine with the command line.",
            )
        return FAILED


def _end(process: Any, grace: float = _GRACE) -> None:
    """Ends a process, at once if it does not go by itself within `grace` seconds. Returns when it is gone."""
    if process.is_alive():
        process.terminate()
        process.join(grace)
    if process.is_alive():
        process.kill()
        process.join(_GRACE)


class _Life:
    """How long ago a process gave a sign of life. Where the system does not tell what it reads, it always does."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._moved = -1
        self.heard()

    def heard(self) -> None:
        self._since = time.monotonic()

    def seconds_silent(self) -> float:
        try:
            told = self._process.io_counters()
            moved = told.read_chars + told.write_chars
        except (psutil.Error, AttributeError):
            moved = -1
        if moved < 0 or moved != self._moved:
            self._moved = moved
            self.heard()
        return time.monotonic() - self._since


def _stuck(job: Job, seconds: float) -> FuseHubError:
    at = f" at '{job.step}'" if job.step else ""
    return FuseHubError(
        f"{job.title} stood still{at} for {seconds / 60:.0f} minutes, and was ended.",
        "Take smaller models or other texts, and leave out what you do not know: its files may be made to take long.",
    )
