"""Answers that are dear to work out and depend on nothing but their question, kept on this machine from run to run.

    known = recall("layouts", question)
    if known is None:
        keep("layouts", question, known := work_out())

Question and answer are JSON. An answer has a file of its own where the Hub's libraries keep what they make
(`HF_ASSETS_CACHE`), named by the hash of its question and with the hash of its own bytes before it: what does not
match is no answer. Where nothing can be written, it is worked out again the next time. The oldest make room for new
ones.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

MOST_BYTES = 64 * 2**20
"""What all answers of one kind may take on the disk."""
MOST_ANSWERS = 1024
"""How many there may be of one kind."""
_BROKEN_OFF = ".tmp"
_ABANDONED_SECONDS = 3600


def recall(kind: str, question: Any) -> Any | None:
    """The answer that was kept for `question`; None where there is none, or one that is not as it was written."""
    path = _path(kind, question)
    try:
        if not _is_own(path):
            return None
        said, _, body = path.read_bytes().partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != said:
            logger.debug("%s is broken", path)
            return None
        os.utime(path)  # The oldest are those that were not asked for the longest.
    except OSError:
        return None
    return json.loads(body)


def keep(kind: str, question: Any, answer: Any) -> None:
    """Keeps the `answer` to `question`, if the disk takes it."""
    path = _path(kind, question)
    body = json.dumps(answer).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(_BROKEN_OFF, dir=path.parent)
        try:
            with open(handle, "wb") as file:
                file.write(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _make_room(path.parent)
    except OSError as error:
        logger.debug("%s cannot be kept: %s", path, error)


@cache
def versions(*packages: str) -> dict[str, str | None]:
    """What is installed of `packages`: an answer that depends on them has this in its question."""
    found: dict[str, str | None] = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


@cache
def code_of(*modules: str) -> str:
    """The hash of the code of modules of this package, for the same purpose: a checkout keeps its version as it
    changes."""
    root = Path(__file__).parents[2]
    codes = (root.joinpath(*module.split(".")).with_suffix(".py").read_bytes() for module in modules)
    return hashlib.sha256(b"\0".join(codes)).hexdigest()


def _path(kind: str, question: Any) -> Path:
    from huggingface_hub.constants import HF_ASSETS_CACHE

    text = json.dumps(question, sort_keys=True)
    return Path(HF_ASSETS_CACHE, "fusehub", kind, f"{hashlib.sha256(text.encode()).hexdigest()}.json")


def _is_own(path: Path) -> bool:
    """Whether the file is this user's or the system's: on a shared disk, others could answer what they like."""
    return not hasattr(os, "getuid") or path.stat().st_uid in (os.getuid(), 0)


def _make_room(folder: Path) -> None:
    """Removes what killed processes left in the folder, and the oldest answers where all take too much."""
    files = []
    for path in folder.iterdir():
        stat = path.stat()
        if path.suffix == _BROKEN_OFF:
            if time.time() - stat.st_mtime > _ABANDONED_SECONDS:
                path.unlink(missing_ok=True)
            continue
        files.append((stat.st_mtime_ns, stat.st_size, path))
    count, left = len(files), sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if count <= MOST_ANSWERS and left <= MOST_BYTES:
            return
        path.unlink(missing_ok=True)
        count, left = count - 1, left - size
