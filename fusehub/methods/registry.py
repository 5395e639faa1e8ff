"""The registry of merge methods, and what a method is given and gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from fusehub.errors import BadRecipe, unknown
from fusehub.methods.mergekit import require_here

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Options(BaseModel):
    """Base of every method's options: typed, with defaults and ranges; an unknown one is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)

    @classmethod
    def fields(cls) -> dict[str, FieldInfo]:
        """The options by the names that recipes use."""
        return {field.alias or name: field for name, field in cls.model_fields.items()}

    @classmethod
    def parse(cls, method: str, options: Mapping[str, Any]) -> Options:
        """`options` of the method called `method`. Raises `BadRecipe` naming the one that is wrong."""
        fields = cls.fields()
        for name in options:
            if name not in fields:
                raise unknown(f"option of {method}", name, fields)
        try:
            return cls.model_validate(dict(options))
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            raise BadRecipe(
                f"{method}: {name}={first['input']!r} cannot be: {first['msg']}.",
                f"{name}: {fields[name].description}",
            ) from error


class Share(Options):
    """What may be said of each model: its coefficient."""

    weight: float = Field(
        1.0, allow_inf_nan=False, description="the model's share; only the proportions to the others' count."
    )


class NoShare(Options):
    """For methods in which no model counts for more than another by anybody's choice."""

    weight: ClassVar[float] = 1.0


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

    `tensors` has one a model in the order of the recipe, in the dtype of the arithmetic; a method may overwrite them.
    For a method that wants statistics they are linear weights, [out, in], with `statistics` and, where the layer has
    them, `biases` beside them; otherwise they have any shape, and may be a slice of the whole tensor.
    """

    name: str
    tensors: Sequence[Tensor]
    coefficients: Sequence[float]
    base: Tensor | None = None
    base_bias: Tensor | None = None
    biases: Sequence[Tensor] | None = None
    statistics: Sequence[LayerStatistics] | None = None
    shares: Sequence[float] | None = None
    """For a matrix of a mixture of experts: the share of each model's tokens that its statistics are of."""
    fishers: Sequence[Tensor] | None = None
    """For a method that needs them: each model's Fisher diagonal of the tensor, in its shape, float64."""
    fisher_sizes: Sequence[float] = ()
    """The root of the mean square of all of each model's Fisher values."""
    own: Sequence[Any] = ()
    """The method's options of each model (its `own_options`)."""
    seed: int = 0
    cache: dict[Any, Any] = field(default_factory=dict)
    """Kept by the caller between layers that have the same statistics (shared inputs, as q, k and v)."""

    def random(self, index: int) -> torch.Generator:
        """Random numbers that depend on the recipe's seed, the tensor's name and the model's place alone."""
        import hashlib

        import torch

        digest = hashlib.sha256(f"{self.seed}/{self.name}/{index}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@dataclass(frozen=True)
class Merged:
    """What a method makes of a layer: the tensor, the bias where it solved one too, and what is worth saying."""

    tensor: Tensor
    bias: Tensor | None = None
    notes: tuple[str, ...] = ()


BaseRole = Literal["optional", "needed", "origin", "end"]
"""What a method takes the base for: `optional`, nothing but `scale` (or an option); `needed`, it works on differences
to it; `origin`, it does so where a base is said; `end`, it is one of the models, the one that the way begins at."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to merge: what it is called, where it comes from, what it needs, and the function."""

    name: str
    title: str
    summary: str
    when: str
    """When to use it, and when not: one or two sentences."""
    paper: str | None
    options: type[Options]
    own_options: type[Options]
    """What a recipe may say about each model: `weight`, and what else the method wants, as `density`."""
    merge: Callable[[Layer, Any], Merged]
    needs_statistics: bool = False
    needs_fisher: bool = False
    """Element by element, with each expert's Fisher diagonal, which its statistics must have."""
    data_free: bool = False
    """Takes every expert's update in the place of its statistics, whatever the recipe says."""
    needs_data: bool = False
    """Counts the statistics itself, from texts of each expert's own that the model is run over while it is merged."""
    base: BaseRole = "optional"
    whole_tensor: bool = False
    """Must see a tensor as a whole: it ranks its elements, takes its norm, or draws random numbers for it."""
    negative_weights: bool = False
    models: tuple[int, int | None] = (2, None)
    """The fewest and the most models that it merges, the base not counted unless it is an `end`."""
    plugin: str | None = None
    """The file that it comes from, where it is the user's own."""

    def parse(self, options: Mapping[str, Any]) -> Options:
        """`options` as the method's typed options. Raises `BadRecipe` naming the one that is wrong."""
        return self.options.parse(self.name, options)


METHODS: dict[str, Method] = {}
ALIASES: dict[str, str] = {}


def merge_method(
    name: str,
    *,
    title: str,
    summary: str,
    paper: str | None = None,
    when: str = "",
    options: type[Options] = Options,
    own_options: type[Options] = Share,
    needs_statistics: bool = False,
    needs_fisher: bool = False,
    data_free: bool = False,
    needs_data: bool = False,
    base: BaseRole = "optional",
    whole_tensor: bool = False,
    negative_weights: bool = False,
    models: tuple[int, int | None] = (2, None),
    aliases: Sequence[str] = (),
) -> Callable[[Callable[[Layer, Any], Merged]], Callable[[Layer, Any], Merged]]:
    """Registers the decorated function as the method `name`; see `Method` for what is said of it.

    Raises `ValueError` for a name that is taken.
    """

    def register(function: Callable[[Layer, Any], Merged]) -> Callable[[Layer, Any], Merged]:
        for taken in (name, *aliases):
            if taken in METHODS or taken in ALIASES:
                raise ValueError(f"two merge methods are called {taken}")
        METHODS[name] = Method(
            name=name,
            title=title,
            summary=summary,
            when=when,
            paper=paper,
            options=options,
            own_options=own_options,
            merge=function,
            needs_statistics=needs_statistics,
            needs_fisher=needs_fisher,
            data_free=data_free,
            needs_data=needs_data,
            base=base,
            whole_tensor=whole_tensor,
            negative_weights=negative_weights,
            models=models,
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
