"""What a hostile input is, and how a module lists its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Command = list[object]
Make = Callable[[Path, Path], Command]


@dataclass(frozen=True)
class Hostile:
    """An input by its name, the limit that it is beyond, what is said of it, and what came of it before.

    That was at 7af6baa, or when the limit was set. `is_cut` says that it is read as far as a model looks.
    """

    name: str
    limit: str
    make: Make
    says: str
    before: str = ""
    is_cut: bool = False


def listed(inputs: list[Hostile]) -> Callable[..., Callable[[Make], Make]]:
    """A decorator that puts what a function makes among `inputs`."""

    def hostile(name: str, limit: str, says: str, before: str = "", *, is_cut: bool = False) -> Callable[[Make], Make]:
        def put(make: Make) -> Make:
            inputs.append(Hostile(name, limit, make, says, before, is_cut))
            return make

        return put

    return hostile
