"""Looks at a process and all that it starts, again and again, as anybody on the machine can."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import psutil


class Watched:
    """While its `with` block lasts, `lines` takes in the arguments and environments of a process and its children."""

    def __init__(self, pid: int) -> None:
        self.lines: set[str] = set()
        self._top = psutil.Process(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.is_set():
            for process in self._all():
                try:
                    self.lines.add(" ".join(process.cmdline()))
                    self.lines.update(f"{name}={value}" for name, value in process.environ().items())
                except psutil.Error:
                    continue
            time.sleep(0.02)

    def _all(self) -> list[psutil.Process]:
        try:
            return [self._top, *self._top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
