"""A process that stays, with the libraries and the last models in memory, and answers what takes a moment.

    worker.ask("compare", {"models": [...], "texts": [...]}, token)

The page's own process imports nothing heavy, so it paints at once and never stands still. Questions of several
visitors are answered side by side. Should the process die, the next question starts another.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from fusehub.errors import FuseHubError
from space import gpu
from space.jobs import processes

_PATIENCE = 300.0


class Worker:
    """The process and the questions that it has not answered yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._process: Any = None
        self._pipe: Any = None
        self._open: dict[int, Future] = {}

    def start(self) -> None:
        """Starts the process in the background, if it does not run."""
        threading.Thread(target=self._ensure, daemon=True).start()

    def ask(self, kind: str, arguments: Mapping[str, Any], token: str | None = None) -> Any:
        """The answer of `space.work.answer`. Raises the `FuseHubError` that it raises."""
        if gpu.is_lent_for(kind):
            return gpu.answer(kind, dict(arguments), token)
        question = (next(self._numbers), kind, dict(arguments), token)
        with self._lock:
            self._ensure_locked()
            try:
                future = self._send(question)
            except OSError:
                # It died in this moment, and has not heard the question: another can answer it.
                self._process = None
                self._ensure_locked()
                future = self._send(question)
        try:
            return future.result(_PATIENCE)
        except TimeoutError:
            raise FuseHubError(
                f"No answer came within {_PATIENCE:.0f} seconds.", "Try again, with fewer or smaller models."
            ) from None

    def close(self) -> None:
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._process.join(3)
                self._process = None

    def _send(self, question: tuple) -> Future:
        future = self._open[question[0]] = Future()
        self._pipe.send(question)
        return future

    def _ensure(self) -> None:
        with self._lock:
            self._ensure_locked()

    def _ensure_locked(self) -> None:
        if self._process is not None and self._process.is_alive():
            return
        from space.work import serve

        context = processes()
        self._pipe, theirs = context.Pipe()
        # A dictionary for each process: whoever hears of the end of one must not answer what another was asked.
        self._open = {}
        self._process = context.Process(target=serve, args=(theirs,), name="fusehub-answers", daemon=True)
        self._process.start()
        theirs.close()
        threading.Thread(target=self._listen, args=(self._pipe, self._open), daemon=True).start()

    def _listen(self, pipe: Any, open_: dict[int, Future]) -> None:
        try:
            while True:
                number, kind, content = pipe.recv()
                future = open_.pop(number, None)
                if future is None:
                    continue
                future.set_result(content) if kind == "result" else future.set_exception(content)
        except (EOFError, OSError):
            with self._lock:
                # Its end is heard here before the system tells of it: no more is asked of it.
                if self._pipe is pipe:
                    self._process = None
            for number in list(open_):
                if future := open_.pop(number, None):
                    future.set_exception(_ended())


def _ended() -> FuseHubError:
    return FuseHubError(
        "The process that answers was ended: most likely the machine had too little memory.",
        "Try again, with fewer or smaller models.",
    )
