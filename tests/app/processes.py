"""Looks at a process and all that it starts, again and again, as anybody on the machine can."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

import psutil


class Repeated(ABC):
    """Looks at something every few seconds while its `with` block lasts, once at least."""

    def __init__(self, every: float) -> None:
        self._every = every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    @abstractmethod
    def look(self) -> None:
        """Takes in what is there at this moment."""

    def _go_on(self) -> None:
        while True:
            self.look()
            if self._over.wait(self._every):
                return


class Watched(Repeated):
    """While its `with` block lasts, `lines` takes in the arguments and environments of a process and its children."""

    def __init__(self, pid: int) -> None:
        super().__init__(every=0.02)
        self.lines: set[str] = set()
        self._top = psutil.Process(pid)

    def look(self) -> None:
        for process in self._all():
            try:
                self.lines.add(" ".join(process.cmdline()))
                self.lines.update(f"{name}={value}" for name, value in process.environ().items())
            except psutil.Error:
                continue

    def _all(self) -> list[psutil.Process]:
        try:
            return [self._top, *self._top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
