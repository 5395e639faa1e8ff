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
        if not gpu.is_lent():
            threading.Thread(target=self._ensure, daemon=True).start()

    def ask(self, kind: str, arguments: Mapping[str, Any], token: str | None = None) -> Any:
        """The answer of `space.work.answer`. Raises the `FuseHubError` that it raises."""
        if gpu.is_lent():
            return gpu.answer(kind, dict(arguments), token)
        future: Future = Future()
        with self._lock:
            self._ensure_locked()
            number = next(self._numbers)
            self._open[number] = future
            self._pipe.send((number, kind, dict(arguments), token))
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

    def _ensure(self) -> None:
        with self._lock:
            self._ensure_locked()

    def _ensure_locked(self) -> None:
        if self._process is not None and self._process.is_alive():
            return
        from space.work import serve

        context = processes()
        self._pipe, theirs = context.Pipe()
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
            for number in list(open_):
                open_.pop(number).set_exception(
                    FuseHubError(
                        "The process that answers was ended: most likely the machine had too little memory.",
                        "Try again, with fewer or smaller models.",
                    )
                )
