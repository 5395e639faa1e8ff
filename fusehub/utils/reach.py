"""Where references may lead: anywhere on a person's own machine, to the Hub alone on one that strangers share.

    confine(folder)                     # from now on, in this process and those that it starts
    local_path("reviews.csv")           # None, unless it lies in `folder`: then it can only be a name on the Hub

Every place that turns a word (a model, an adapter's base, data, statistics, an image) into a file of this machine
asks `local_path`, so that whatever form the word has, there is one place that decides. The same places ask
`is_confined` before they fetch anything from a host that is not the Hub, and before they hand out what an earlier
visitor's token brought into the cache.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path, PureWindowsPath

VARIABLE = "FUSEHUB_CONFINED_TO"
"""The environment variable that holds the one folder that may be read, so that processes started later know it."""


def confine(folder: str | Path) -> None:
    """Confines this process, and all that it starts from now on, to the Hub and to `folder`, which exists."""
    os.environ[VARIABLE] = str(Path(folder).resolve(strict=True))


def is_confined() -> bool:
    """Whether references may lead to the Hub alone (and to the folder of the one who confined it)."""
    return bool(os.environ.get(VARIABLE))


def is_path(text: str) -> bool:
    """Whether `text` has the form of a path, of this system or of Windows, and can be no name on the Hub."""
    return text.startswith((".", "/", "~")) or "\\" in text or bool(PureWindowsPath(text).drive)


def local_path(text: str) -> Path | None:
    """The file or folder of this machine that `text` may mean, there or not; None where it may mean none.

    A link that leads out of the folder is seen as what it leads to.
    """
    try:
        path = Path(text).expanduser()
    except (RuntimeError, ValueError):  # ~somebody who has no home here.
        path = Path(text)
    try:
        path.lstat()
    except ValueError:  # Names with a zero byte or half of a character, which no system has.
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return None
    root = os.environ.get(VARIABLE)
    if not root:
        return path
    try:
        inside = path.resolve().is_relative_to(root)
    except (OSError, RuntimeError, ValueError):  # Loops of links, names with a zero byte.
        return None
    # What is not absolute would be looked for in the folder that the server was started in.
    return path if path.is_absolute() and inside else None
