"""Parameters that are called otherwise now: their old names work for one version more, and say so.

@renamed(pull_request="create_pr", public=Renamed("private", operator.not_))
def publish(folder, repo_id, *, private=True, create_pr=False): ...
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Renamed:
    """What a parameter is called now, and how its value is said there."""

    name: str
    value: Callable[[Any], Any] = lambda value: value


def renamed(**names: str | Renamed) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """A function that takes keywords by their old names too, each with a `FutureWarning`.

    Raises `TypeError` where a parameter is given by both of its names.
    """
    told = {old: Renamed(new) if isinstance(new, str) else new for old, new in names.items()}

    def decorate(function: Callable[_P, _T]) -> Callable[_P, _T]:
        if missing := {new.name for new in told.values()} - set(inspect.signature(function).parameters):
            raise TypeError(f"{function.__name__} has no parameter {', '.join(sorted(missing))}")

        @functools.wraps(function)
        def call(*args: _P.args, **given: _P.kwargs) -> _T:
            for old in told.keys() & given.keys():
                new = told[old]
                if new.name in given:
                    raise TypeError(f"{function.__name__}() got {old}, which is called {new.name} now, and {new.name}")
                value = new.value(given.pop(old))
                warnings.warn(
                    f"{old} is called {new.name} now ({new.name}={value!r}), and will be gone in the next version.",
                    FutureWarning,
                    stacklevel=2,
                )
                given[new.name] = value
            return function(*args, **given)

        return call

    return decorate
