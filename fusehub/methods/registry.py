"""The registry of merge methods: one decorator adds one, by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fusehub.errors import unknown
from fusehub.methods.base import BaseRole, Layer, Merged, Method, Options, Share, WantedStatistics
from fusehub.methods.cost import Cost
from fusehub.methods.mergekit import require_here

if TYPE_CHECKING:
    from torch import Tensor

METHODS: dict[str, Method] = {}
ALIASES: dict[str, str] = {}


class NameTaken(ValueError):
    """Another method has the name."""


def merge_method(
    name: str,
    *,
    title: str,
    summary: str,
    paper: str | None = None,
    when: str = "",
    options: type[Options] = Options,
    own_options: type[Options] = Share,
    statistics: WantedStatistics = "nothing",
    base: BaseRole = "optional",
    base_with: Mapping[str, Any] | None = None,
    biases_with: Mapping[str, Any] | None = None,
    factors: Callable[[Layer, Any], Sequence[float]] | None = None,
    whole_tensor: bool = False,
    survey: Callable[[Callable[[], Iterator[Tensor]], int, Any, Any], Any] | None = None,
    negative_weights: bool = False,
    absolute_weights_with: Mapping[str, Any] | None = None,
    models: tuple[int, int | None] = (2, None),
    tune_over: Mapping[str, Sequence[Any]] | None = None,
    cost: Callable[[int, int, int], Cost] | None = None,
    aliases: Sequence[str] = (),
) -> Callable[[Callable[[Layer, Any], Merged]], Callable[[Layer, Any], Merged]]:
    """Registers the decorated function as the method `name`; see `Method` for what is said of it.

    Raises `NameTaken` for a name that another method has, and `ValueError` for facts that no method can have.
    """

    def register(function: Callable[[Layer, Any], Merged]) -> Callable[[Layer, Any], Merged]:
        for taken in (name, *aliases):
            if taken in METHODS or taken in ALIASES:
                raise NameTaken(f"two merge methods are called {taken}")
        METHODS[name] = Method(
            name=name,
            title=title,
            summary=summary,
            when=when,
            paper=paper,
            options=options,
            own_options=own_options,
            merge=function,
            statistics=statistics,
            base=base,
            base_with=base_with,
            biases_with=biases_with,
            factors=factors,
            whole_tensor=whole_tensor,
            survey=survey,
            negative_weights=negative_weights,
            absolute_weights_with=absolute_weights_with,
            models=models,
            tune_over=tune_over or {},
            cost=cost,
        )
        ALIASES.update(dict.fromkeys(aliases, name))
        return function

    return register


def find_method(name: str) -> Method:
    """The method called `name` (or with that alias). Raises `BadRecipe` naming the closest one."""
    found = METHODS.get(ALIASES.get(name, name))
    if found is None:
        require_here(name)
        raise unknown("merge method", name, [*METHODS, *ALIASES])
    return found
