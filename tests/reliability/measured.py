"""A command of FuseHub run in a process of its own, with the processor time and the memory that it took.

The process is forked from one that has imported everything, so that a run costs what its input costs, and no more.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

# What a run may take before it is ended: processor time in seconds, and address space beyond what was there, in bytes.
_WATCHDOG, _ROOM = 300, 12 * 2**30


@dataclass(frozen=True)
class Run:
    """What came of a command: its exit code (negative where it was killed), its words, seconds, and bytes at most."""

    code: int
    said: str
    seconds: float
    nbytes: int

    @property
    def is_refused(self) -> bool:
        """Whether it ended with words of ours, and no traceback."""
        return self.code == 1 and "->" in self.said and "Traceback" not in self.said


def run_command(arguments: Sequence[object], log: Path) -> Run:
    """`fusehub ARGUMENTS` in a forked process; `log` is where its words go."""
    return run_forked(lambda: _command([str(argument) for argument in arguments]), log)


def run_forked(work: Callable[[], int], log: Path) -> Run:
    """`work`, which gives an exit code, in a forked process; `log` is where its words go."""
    figures = log.with_suffix(".figures")
    figures.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        _in_child(work, log, figures)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    said = log.read_text(encoding="utf-8", errors="replace")
    if not figures.is_file():
        return Run(code, said, float("inf"), _ROOM)
    seconds, nbytes = json.loads(figures.read_text())
    return Run(code, said, seconds, nbytes)


def _command(arguments: list[str]) -> int:
    from fusehub.cli.main import app

    try:
        app(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _in_child(work: Callable[[], int], log: Path, figures: Path) -> None:
    """Does the work and ends the process."""
    code = 70
    try:
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8")
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", buffering=1)
        resource.setrlimit(resource.RLIMIT_CPU, (_WATCHDOG, _WATCHDOG))
        room = _status("VmSize") + _ROOM
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
        Path("/proc/self/clear_refs").write_text("5")  # What follows is the peak of this work alone.
        before, started = _status("VmHWM"), _seconds()
        try:
            code = work()
        except BaseException:
            traceback.print_exc()
        figures.write_text(json.dumps([_seconds() - started, max(0, _status("VmHWM") - before)]))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _seconds() -> float:
    """Processor time of this process, and of those that it started and that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _status(key: str) -> int:
    """A figure of this process that Linux keeps, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1]) * 1024
