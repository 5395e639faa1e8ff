"""Results that stay: one line of JSON a result, so that hours of work go on where they were stopped."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class Store:
    """The results of one file, by name; each is written as soon as it is there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                result = json.loads(line)
                self.found[result["name"]] = result

    def done(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result `name`, made where it is not there yet."""
        if name not in self.found:
            started = time.perf_counter()
            result = {"name": name, **make(), "machine": machine()}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
            self.found[name] = result
            print(f"{time.strftime('%H:%M')}  {name}  ({time.perf_counter() - started:.0f} s)", flush=True)
        return self.found[name]

    def all(self) -> list[dict[str, Any]]:
        """All results that are there, in the order of their names."""
        return [self.found[name] for name in sorted(self.found)]


# A process starts with the peak memory of the one that started it, so a small one is put between.
_MEASURE = """
import json, os, subprocess, sys, time
started = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps([time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss]))
sys.exit(os.waitstatus_to_exitcode(status))
"""


def fusehub(*arguments: str) -> dict[str, float]:
    """Runs one command of the command line; what it took, start of the process included.

    `seconds` of wall time, `processor_seconds` over all cores (which other work on the machine hardly changes), and
    `peak_bytes` of resident memory. Raises RuntimeError with all that the command said where it fails.
    """
    command = [sys.executable, "-m", "fusehub", *arguments]
    done = subprocess.run([sys.executable, "-S", "-c", _MEASURE, *command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    seconds, processor, peak = json.loads(done.stdout)
    return {
        "seconds": round(seconds, 1),
        "processor_seconds": round(processor, 1),
        "peak_bytes": peak * (1 if sys.platform == "darwin" else 1024),
    }


def fusehub_here(*arguments: str) -> dict[str, float]:
    """Runs one command in this process, which spares the imports; what it cost is then not known, and nothing is said.

    Raises RuntimeError with all that the command said where it fails.
    """
    from typer.testing import CliRunner

    from fusehub.cli.main import app

    done = CliRunner().invoke(app, arguments)
    if done.exit_code:
        raise RuntimeError(f"fusehub {' '.join(arguments)}\n{done.output}") from done.exception
    return {}


def machine() -> str:
    """What this machine is, in words."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {names[0] if names else platform.processor() or platform.machine()}"


def name_of(parts: Sequence[str]) -> str:
    """Several names as one, for files."""
    return "+".join(parts)
