"""Layers solved beside each other.

    with Lanes(2) as lanes:
        future = lanes.submit(system, solve)

To solve a layer is a chain of products that are too small for a second thread to help much: another layer beside it
takes that thread's time better. Layers with the same system share its factor, and are solved one after the other, in
the order in which they came, while threads go on with others.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from fusehub.merging.cost import beside_the_process, layers_beside
from fusehub.merging.plan import Plan
from fusehub.utils.memory import memory_of

T = TypeVar("T")


def lanes_of(plan: Plan, device: str) -> int:
    """How many layers of a plan are solved at a time: on a CPU one each thread of torch's, as many as are small enough
    and there is memory for."""
    import torch

    if device != "cpu" or plan.method.needs_data:
        return 1  # A device is given all of a layer; what runs the model has its own order.
    there = memory_of(device)
    if there is not None and there < beside_the_process(plan.cost):
        return 1
    threads = torch.get_num_threads()
    return 1 + layers_beside(plan.tensors.values(), plan.method, len(plan.experts), threads).count


class Lanes:
    """So many threads. When it is left, those at work end what they are at; the rest is not begun."""

    def __init__(self, count: int) -> None:
        self._threads = ThreadPoolExecutor(count)
        self._lock = threading.Lock()
        self._behind: dict[Hashable, deque[Callable[[], None]]] = {}
        """What waits for a thread that is at its system; a system is there as long as one is."""

    def __enter__(self) -> Lanes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        with self._lock:
            for waiting in self._behind.values():
                waiting.clear()
        self._threads.shutdown(cancel_futures=True)

    def submit(self, system: Hashable, solve: Callable[[], T]) -> Future[T]:
        """What `solve` will give. Of the same system, one is called after the other."""
        future: Future[T] = Future()

        def settle() -> None:
            try:
                made = solve()
            except BaseException as error:  # For whoever waits, as of any future.
                future.set_exception(error)
            else:
                future.set_result(made)

        self._threads.submit(self._run, system, settle)
        return future

    def _run(self, system: Hashable, settle: Callable[[], None]) -> None:
        with self._lock:
            if system in self._behind:
                self._behind[system].append(settle)
                return
            self._behind[system] = deque()
        while True:
            settle()
            with self._lock:
                if not self._behind[system]:
                    del self._behind[system]
                    return
                settle = self._behind[system].popleft()
