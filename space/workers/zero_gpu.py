"""ZeroGPU: a Space that borrows a GPU for the length of one call, of a function that is marked for it.

Where the `spaces` package is, what runs models is done in a function that is marked; without it nothing changes. On
ZeroGPU a marked function already runs in a process of its own, so that work is not put into another one there. All
other work goes the way that it goes everywhere: it would only use up a visitor's time on the GPU, and be ended after
what one call may take.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])
# Seconds that one call may keep the GPU.
_DURATION = 120
# The kinds of work and of questions (see `space.workers.tasks`) that run models.
_ON_GPU = ("statistics", "evaluate", "compare")


def marked(function: Function) -> Function:
    """`function`, which gets a GPU for its call where ZeroGPU lends one."""
    try:
        import spaces
    except ImportError:
        return function
    return spaces.GPU(duration=_DURATION)(function)


def is_lent_for(kind: str) -> bool:
    """Whether this is a Space on ZeroGPU, and work of this kind runs models."""
    return kind in _ON_GPU and bool(os.environ.get("SPACES_ZERO_GPU"))


@marked
def carry_out(kind: str, arguments: Mapping[str, Any], token: str | None) -> Iterator[tuple]:
    """The events of one piece of work (see `space.workers.tasks.carry_out`)."""
    from .tasks import carry_out

    yield from carry_out(kind, arguments, token)


@marked
def answer(kind: str, arguments: Mapping[str, Any], token: str | None) -> Any:
    """The answer to one short question (see `space.workers.tasks.answer`), which says nothing meanwhile."""
    from .tasks import answer

    return answer(kind, arguments, token)
