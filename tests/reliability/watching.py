"""What an app in a process of its own takes: memory, open files, threads, processes and files, again and again.

with Watching(app, every=30) as watching:
    ...
watching.samples[-1]["page: memory"]      # bytes that no other process shares
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.app.conftest import Served
from tests.app.processes import Repeated

Sample = dict[str, float]
MEMORY = "memory"
BUSY = "processes on this machine that want a core"


class Watching(Repeated):
    """Samples of an app and of all that it started, one each `every` seconds while the `with` block lasts."""

    def __init__(self, app: Served, every: float) -> None:
        super().__init__(every)
        self.samples: list[Sample] = []
        self._app = app

    def look(self) -> None:
        self.samples.append(sample(self._app))


def sample(app: Served) -> Sample:
    """What the app takes now: memory, handles and threads of each process that stays, and what lies on disk."""
    page = psutil.Process(app.process.pid)
    found: Sample = {}
    everyone = page.children(recursive=True)
    server = next((child for child in page.children() if "forkserver" in " ".join(_arguments(child))), None)
    # What answers was forked before all work, and outlives it.
    forked = sorted(server.children(), key=lambda child: child.create_time()) if server else []
    for name, process in (("page", page), ("start of processes", server), ("answers", next(iter(forked), None))):
        if process is None:
            continue
        try:
            found[f"{name}: {MEMORY}"] = process.memory_full_info().uss
            found[f"{name}: handles"] = process.num_fds()
            found[f"{name}: threads"] = process.num_threads()
        except psutil.Error:  # It ended while it was looked at.
            continue
    found["processes"] = 1 + len(everyone)
    found["temporary files"], found["temporary bytes"] = _held(app.temporary)
    found["cache bytes"] = _held(app.log.parent / "home")[1]
    found[BUSY] = os.getloadavg()[0]
    found["log bytes"] = app.log.stat().st_size
    return found


def thirds(samples: Sequence[Sample], name: str) -> list[float]:
    """The medians of one measure in the first, second and last third of the samples."""
    values = [sample[name] for sample in samples if name in sample]
    third = max(1, len(values) // 3)
    return [statistics.median(part) for part in (values[:third], values[third : -third or None], values[-third:])]


def wait_until(holds, seconds: float) -> bool:
    """Whether `holds()` came true in that time."""
    end = time.monotonic() + seconds
    while not (true := holds()) and time.monotonic() < end:
        time.sleep(min(1, seconds / 20))
    return true


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _held(folder: Path) -> tuple[int, int]:
    """How many files and folders lie in a folder, and their bytes."""
    count = size = 0
    for path in folder.rglob("*"):
        try:
            count, size = count + 1, size + path.lstat().st_size
        except FileNotFoundError:  # It went while the folder was walked.
            continue
    return count, size
