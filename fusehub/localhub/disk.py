"""Writing so that a killed server or a lost power line leaves either the old file or the new one, never half.

Everything is written to a temporary file of the same file system, fsynced, renamed, and the folder fsynced:
only then may the server acknowledge it.
"""

import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import IO

from .errors import LocalHubError

DAY = 24 * 3600
PARTS = "parts-"
"""What a large file is called while its parts come, each by a request of its own."""


def fsync_dir(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def lock(file: IO, *, wait: bool = True) -> None:
    """Locks an open file until it is closed. Raises `OSError` where another has it and `wait` is not wanted."""
    try:
        import fcntl
    except ImportError:
        raise LocalHubError(
            "The local Hub needs file locks that this system does not have.",
            "Run it on Linux or macOS; on Windows, in WSL.",
        ) from None
    fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def new_temp(folder: Path) -> Path:
    fd, name = tempfile.mkstemp(dir=folder)
    os.close(fd)
    return Path(name)


def publish(temp: Path, target: Path) -> None:
    """Give a finished temporary file its name, durably."""
    fd = os.open(temp, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(temp, target)
    fsync_dir(target.parent)


def write_bytes(target: Path, content: bytes, temp_folder: Path, mode: int = 0o644) -> None:
    temp = new_temp(temp_folder)
    try:
        temp.write_bytes(content)
        temp.chmod(mode)
        publish(temp, target)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise


def write_json(target: Path, value: object, temp_folder: Path, mode: int = 0o644) -> None:
    content = json.dumps(value, ensure_ascii=False, indent=1).encode()
    write_bytes(target, content, temp_folder, mode)


def sweep(folder: Path, older_than: float = DAY) -> None:
    """Removes what interrupted requests left. Parts of a large file of the last day stay: their upload may go on."""
    limit = time.time() - older_than
    for item in folder.iterdir():
        if item.is_dir():
            shutil.rmtree(item, ignore_errors=True)
        elif not item.name.startswith(PARTS) or item.stat().st_mtime < limit:
            item.unlink(missing_ok=True)
