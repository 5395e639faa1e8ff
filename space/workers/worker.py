"""A process that stays, with the libraries and the last models in memory, and answers what takes a moment.

    worker.ask("compare", {"models": [...], "texts": [...]}, token)
    worker.ask("check", {"models": [...]}, token, heard=job.heard)      # told meanwhile how far it is

The page's own process imports nothing heavy, so it paints at once and never stands still. Questions of several
visitors are answered side by side. Should the process die, the next question starts another.

A stranger's model can keep it busy for ever, as by the expressions of its tokenizer. Once a question has waited for
`_BUSY` seconds, the process makes room for another, which is asked what waited in vain. What it had worked on for
long, the culprit among it, is asked again alone, in a process of its own, for `_PATIENCE` seconds more: a large model
that is downloaded goes on from where it was. Then that process is ended.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from fusehub.errors import FuseHubError

from . import zero_gpu
from .jobs import processes
from .pace import Tell, untold

_BUSY = 60.0
_PATIENCE = 300.0
# Questions that are asked alone at one time.
_ALONE = 4


@dataclass(eq=False)
class _Question:
    """What was asked (kind, arguments, token), and its answer once it is there.

    `since` is when a process was last asked it, `begun` whether that one works on it; `heard` is told how far it is.
    """

    asked: tuple[str, dict[str, Any], str | None]
    answer: Future = field(default_factory=Future)
    since: float = 0.0
    begun: bool = False
    heard: Tell = untold


class _Process:
    """A process that answers, and the questions that it has not answered yet. `meek` lets all others go first."""

    def __init__(self, *, meek: bool = False) -> None:
        from .tasks import serve

        context = processes()
        self.open: dict[int, _Question] = {}
        self._numbers = itertools.count()
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, meek), name="fusehub-answers", daemon=True)
        self.process.start()
        theirs.close()
        self.is_heard = True
        threading.Thread(target=self.listen, daemon=True).start()

    def send(self, question: _Question) -> None:
        """Raises OSError where the process has died, which then has not heard the question."""
        number, question.since, question.begun = next(self._numbers), time.monotonic(), False
        self.open[number] = question
        try:
            self._pipe.send((number, *question.asked))
        except OSError:
            del self.open[number]
            raise

    def take(self) -> list[_Question]:
        """The questions that are open, which are no longer this process's to answer."""
        return [question for number in list(self.open) if (question := self.open.pop(number, None))]

    def end(self) -> None:
        self.process.kill()
        self.process.join(3)

    def listen(self) -> None:
        """Hands on the answers until the process ends; what is open then gets none."""
        try:
            while True:
                number, kind, content = self._pipe.recv()
                if kind == "begun":
                    if question := self.open.get(number):
                        question.begun = True
                elif kind == "progress":
                    if question := self.open.get(number):
                        question.heard(*content)
                elif question := self.open.pop(number, None):
                    answer = question.answer
                    answer.set_result(content) if kind == "result" else answer.set_exception(content)
        except (EOFError, OSError):
            # Its end is heard here before the system tells of it: no more is asked of it.
            self.is_heard = False
            for question in self.take():
                question.answer.set_exception(_ended())


class Worker:
    """The process that all ask, and what becomes of questions that take too long. `busy`, `patience`: in seconds."""

    def __init__(self, busy: float = _BUSY, patience: float = _PATIENCE) -> None:
        self.busy, self.patience = busy, patience
        self._lock = threading.Lock()
        self._alone = threading.Semaphore(_ALONE)
        self._process: _Process | None = None

    def start(self) -> None:
        """Starts the process in the background, if it does not run."""
        threading.Thread(target=self._ensure, daemon=True).start()

    def ask(self, kind: str, arguments: Mapping[str, Any], token: str | None = None, heard: Tell = untold) -> Any:
        """The answer of `space.workers.tasks.answer`. Raises the `FuseHubError` that it raises.

        `heard` is called meanwhile, in another thread, and takes no time.
        """
        if zero_gpu.is_lent_for(kind):
            return zero_gpu.answer(kind, dict(arguments), token)
        question = _Question((kind, dict(arguments), token), heard=heard)
        with self._lock:
            self._send_locked(question)
        while True:
            try:
                return question.answer.result(max(0.0, question.since + self.busy - time.monotonic()))
            except TimeoutError:
                if self._has_had_its_time(question):
                    return self._ask_alone(question)

    def close(self) -> None:
        with self._lock:
            if self._process is not None:
                self._process.end()
                self._process = None

    def _has_had_its_time(self, culprit: _Question) -> bool:
        """Whether a question is to be asked alone from now on, for which the process that works on it is replaced."""
        with self._lock:
            now, stuck = time.monotonic(), self._process
            if culprit.answer.done() or now < culprit.since + self.busy:
                return False  # Another process was asked meanwhile.
            if stuck is None or culprit not in stuck.open.values():
                return True
            waiting = [
                question for question in stuck.take() if not question.begun or question.since > now - self.busy / 2
            ]
            stuck.end()
            self._process = None
            for question in waiting:
                self._send_locked(question)
            return culprit not in waiting

    def _ask_alone(self, question: _Question) -> Any:
        if not self._alone.acquire(timeout=self.patience):
            raise _unanswered(self.patience)
        try:
            process = _Process(meek=True)
            try:
                process.send(question)
                return question.answer.result(self.patience)
            except TimeoutError:
                process.take()
                raise _unanswered(self.busy + self.patience) from None
            finally:
                process.end()
        finally:
            self._alone.release()

    def _send_locked(self, question: _Question) -> None:
        try:
            self._ensure_locked().send(question)
        except OSError:
            # It died in this moment, and has not heard the question: another can answer it.
            self._process = None
            self._ensure_locked().send(question)

    def _ensure(self) -> None:
        with self._lock:
            self._ensure_locked()

    def _ensure_locked(self) -> _Process:
        if self._process is None or not self._process.is_heard or not self._process.process.is_alive():
            self._process = _Process()
        return self._process


def _unanswered(seconds: float) -> FuseHubError:
    return FuseHubError(
        f"No answer came within {seconds:.0f} seconds, and what was working on it was ended.",
        "Take fewer or smaller models, and leave out what you do not know: its files may be made to take long.",
    )


def _ended() -> FuseHubError:
    return FuseHubError(
        "The process that answers was ended: most likely the machine had too little memory.",
        "Try again, with fewer or smaller models.",
    )
