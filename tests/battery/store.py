"""Results that stay: one JSON file a result, so that hours of work go on where they were stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Store:
    """A folder of results by name."""

    folder: Path

    def done(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result `name`, made where it is not there yet."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            started = time.perf_counter()
            result = make()
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            os.replace(partial, path)
            print(f"{time.strftime('%H:%M')}  {name}  ({time.perf_counter() - started:.0f} s)", flush=True)
        return json.loads(path.read_text(encoding="utf-8"))

    def all(self) -> Iterator[dict[str, Any]]:
        """All results that are there, in the order of their names."""
        for path in sorted(self.folder.rglob("*.json")):
            yield json.loads(path.read_text(encoding="utf-8"))


def fusehub(*arguments: str) -> tuple[float, int]:
    """Runs one command of the command line: wall seconds and peak resident bytes, start of the process included."""
    command = [sys.executable, "-m", "fusehub", *arguments]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{said}")
    return time.perf_counter() - started, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def name_of(parts: Sequence[str]) -> str:
    """Several names as one, for files."""
    return "+".join(parts)
