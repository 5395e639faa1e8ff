"""What a case may not do: write outside of its place, leave something there, take long, or take much memory."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.constants import HF_ASSETS_CACHE, HF_HOME

SECONDS = 20.0
"""The processor time that all the questions of a case may take; a sound repo's take a quarter of one."""
PATIENCE = 200
"""The seconds after which whatever waits for something that does not come is interrupted."""
MEMORY, FACTOR = 2**28, 30
"""Bytes that a case may take beside so many times the size of its files: libraries are loaded, and work on copies."""
_CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.chmod")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_place: str | None = None
_outside: list[str] = []


def install() -> None:
    """Begins to note whatever this process writes; there is no end to it."""
    sys.addaudithook(_note)


def _note(event: str, arguments: tuple) -> None:
    if _place is None:
        return
    if event == "open":
        path, _, flags = arguments
        paths = [path] if isinstance(flags, int) and flags & _WRITES else []
    elif event in _CHANGES:
        paths = [own for own in arguments[:2] if isinstance(own, str | bytes | os.PathLike)]
    else:
        return
    for path in paths:
        if isinstance(path, int):
            continue
        full = os.path.abspath(os.fsdecode(path))
        # `datasets` keeps the pictures that it reads in the Hub's cache, and we what transformers says.
        if not full.startswith((_place, HF_HOME, HF_ASSETS_CACHE, "/dev/", "/proc/")) and "__pycache__" not in full:
            _outside.append(f"{event} {full}")


@contextmanager
def watched(place: Path) -> Iterator[list[str]]:
    """Work in `place`, which has its own temporary and working folder; what it did that it may not is in the list."""
    global _place
    told: list[str] = []
    temporary, here, before = place / "tmp", place / "here", Path.cwd()
    temporary.mkdir()
    here.mkdir()
    tempfile.tempdir = str(temporary)
    os.chdir(here)
    _forget_peak()
    memory, started = _resident("VmRSS"), time.process_time()
    _outside.clear()
    _place = str(place.resolve())
    handler = signal.signal(signal.SIGALRM, _interrupt)
    signal.alarm(PATIENCE)
    try:
        yield told
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        _place = None
        os.chdir(before)
        tempfile.tempdir = None
    taken, most = _resident("VmHWM") - memory, MEMORY + FACTOR * _size(place)
    if (taken_time := time.process_time() - started) > SECONDS:
        told.append(f"slow: {taken_time:.0f} s")
    if taken > most:
        told.append(f"memory: {taken / 1e6:.0f} MB")
    told += [f"outside: {own}" for own in _outside]
    told += [f"left: {own.relative_to(place)}" for folder in (temporary, here) for own in folder.iterdir()]


def _interrupt(*_: object) -> None:
    raise TimeoutError("it hangs")


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _forget_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _resident(what: str) -> int:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(what))
    return int(line.split()[1]) * 1024
