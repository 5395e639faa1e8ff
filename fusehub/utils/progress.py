"""How long work tells whoever started it how far it is: the command line draws a bar, the app another."""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what): 12 of 200 "texts"."""


def silent(done: int, total: int, what: str) -> None:
    """The progress of who does not want to know."""
