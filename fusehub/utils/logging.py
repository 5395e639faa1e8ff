"""How much the package says, in the manner of transformers and huggingface_hub; public as `fusehub.logging`.

    fusehub.logging.set_verbosity_info()        # or, from outside: FUSEHUB_VERBOSITY=info

Where nobody says anything, Python shows warnings and errors on stderr, or whatever the program has set up is used.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

VARIABLE = "FUSEHUB_VERBOSITY"
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
_FORMAT = logging.Formatter("%(levelname)s: %(message)s")
_gathering: ContextVar[list[str] | None] = ContextVar("gathering", default=None)


def get_logger(name: str | None = None) -> logging.Logger:
    """The logger of that name, or the one of the whole package."""
    return logging.getLogger(name or "fusehub")


def warn(logger: logging.Logger, message: str, *arguments: object) -> None:
    """Says a warning in the log, and to whoever gathers what is said here."""
    logger.warning(message, *arguments)
    if (gathered := _gathering.get()) is not None:
        gathered.append(message % arguments)


@contextmanager
def gathering() -> Iterator[list[str]]:
    """The warnings that `warn` says in this block, whatever the verbosity: what is computed by it tells them too."""
    gathered: list[str] = []
    before = _gathering.set(gathered)
    try:
        yield gathered
    finally:
        _gathering.reset(before)


def get_verbosity() -> int:
    """The level from which on something is said, as `logging` counts."""
    return get_logger().getEffectiveLevel()


def set_verbosity(verbosity: int) -> None:
    """Says what is of that level of `logging` or graver; on stderr, unless the program has a handler."""
    logger = get_logger()
    logger.setLevel(verbosity)
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(_FORMAT)
        logger.addHandler(handler)


def set_verbosity_debug() -> None:
    """Says everything."""
    set_verbosity(logging.DEBUG)


def set_verbosity_info() -> None:
    """Says what is done, too."""
    set_verbosity(logging.INFO)


def set_verbosity_warning() -> None:
    """Says what one should know: what holds where nothing is set."""
    set_verbosity(logging.WARNING)


def set_verbosity_error() -> None:
    """Says errors alone."""
    set_verbosity(logging.ERROR)


def speak(verbosity: int) -> None:
    """For the command line: all goes to what is stderr now, from `verbosity` on where FUSEHUB_VERBOSITY is not set."""
    handler = logging.StreamHandler()
    handler.setFormatter(_FORMAT)
    get_logger().handlers[:] = [handler]
    set_verbosity(verbosity)
    from_environment()


def from_environment() -> None:
    """Sets what FUSEHUB_VERBOSITY says, if it says something."""
    said = os.environ.get(VARIABLE, "").strip().lower()
    if said in LEVELS:
        set_verbosity(LEVELS[said])
    elif said:
        get_logger().warning("%s=%s is none of %s.", VARIABLE, said, ", ".join(LEVELS))


from_environment()
