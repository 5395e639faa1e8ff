"""A command in a process of its own, with what it took."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FUSEHUB = (sys.executable, "-m", "fusehub")


@dataclass(frozen=True)
class Taken:
    """Seconds by the clock and of processors, and the most bytes of memory that the process had."""

    seconds: float
    processor: float
    peak: int


def taken_by(command: Sequence[object], environment: Mapping[str, str] | None = None) -> Taken:
    """What `command` takes, by the operating system's own account. Ends this process with its words where it fails."""
    words = [str(part) for part in command]
    started = time.perf_counter()
    process = subprocess.Popen(
        words,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
    )
    assert process.stderr is not None
    complaint = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(words)}\n{complaint.decode(errors='replace')[-3000:]}")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Taken(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, peak)
