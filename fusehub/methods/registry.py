"""The registry of merge methods, and what a method is given and gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from fusehub.errors import BadRecipe, unknown

if TYPE_CHECKING:
    from torch import Tensor


class LayerStatistics(Protocol):
    """One expert's statistics of one linear layer's inputs, read when they are needed."""

    rows: int
    """How many input rows were counted."""
    total: Tensor
    """`s`, the sum of x over the rows: [in], float64."""
    shift: float
    """What the diagonal of `S` must grow by, relative to itself, for `S` to be positive semidefinite; mostly 0."""

    def gram(self) -> Tensor:
        """`S`, the sum of x xᵀ over the rows: [in, in], float64."""


@dataclass(frozen=True)
class Layer:
    """All that a method may know about one tensor of the model.

    `tensors` has one a model in the order of the recipe, in the dtype of the arithmetic. For a method that
    wants statistics they are linear weights, [out, in], with `statistics` and, where the layer has them,
    `biases` beside them; otherwise they have any shape, and may be a slice of the whole tensor.
    """

    name: str
    tensors: Sequence[Tensor]
    coefficients: Sequence[float]
    base: Tensor | None = None
    base_bias: Tensor | None = None
    biases: Sequence[Tensor] | None = None
    statistics: Sequence[LayerStatistics] | None = None
    cache: dict[Any, Any] = field(default_factory=dict)
    """Kept by the caller between layers that have the same statistics (shared inputs, as q, k and v)."""


@dataclass(frozen=True)
class Merged:
    """What a method makes of a layer: the tensor, the bias where it solved one too, and what is worth saying."""

    tensor: Tensor
    bias: Tensor | None = None
    notes: tuple[str, ...] = ()


class Options(BaseModel):
    """Base of every method's options: typed, with defaults and ranges; an unknown one is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Method:
    """One way to merge: what it is called, where it comes from, what it needs, and the function."""

    name: str
    title: str
    summary: str
    paper: str | None
    options: type[Options]
    needs_statistics: bool
    data_free: bool
    """Takes every expert's update in the place of its statistics, whatever the recipe says."""
    merge: Callable[[Layer, Any], Merged]

    def parse(self, options: Mapping[str, Any]) -> Options:
        """`options` as the method's typed options. Raises `BadRecipe` naming the one that is wrong."""
        for name in options:
            if name not in self.options.model_fields:
                raise unknown(f"option of {self.name}", name, self.options.model_fields)
        try:
            return self.options.model_validate(dict(options))
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise BadRecipe(
                f"{self.name}: {name}={first['input']!r} cannot be: {first['msg']}.",
                f"{name}: {self.options.model_fields[first['loc'][0]].description}",
            ) from error


METHODS: dict[str, Method] = {}
ALIASES: dict[str, str] = {}


def merge_method(
    name: str,
    *,
    title: str,
    summary: str,
    paper: str | None,
    options: type[Options],
    needs_statistics: bool = False,
    data_free: bool = False,
    aliases: Sequence[str] = (),
) -> Callable[[Callable[[Layer, Any], Merged]], Callable[[Layer, Any], Merged]]:
    """Registers the decorated function as the method `name`. A name that is taken is an error at import."""

    def register(function: Callable[[Layer, Any], Merged]) -> Callable[[Layer, Any], Merged]:
        for taken in (name, *aliases):
            if taken in METHODS or taken in ALIASES:
                raise ValueError(f"two merge methods are called {taken}")
        METHODS[name] = Method(name, title, summary, paper, options, needs_statistics, data_free, function)
        ALIASES.update(dict.fromkeys(aliases, name))
        return function

    return register


def find_method(name: str) -> Method:
    """The method called `name` (or with that alias). Raises `BadRecipe` naming the closest one."""
    found = METHODS.get(ALIASES.get(name, name))
    if found is None:
        raise unknown("merge method", name, [*METHODS, *ALIASES])
    return found
