"""What a merge method is: what it is given, what it gives back, and the facts of it that the rest goes by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from fusehub.errors import BadRecipe, shortly, unknown
from fusehub.methods.cost import Cost, of_pieces, of_solving, of_whole
from fusehub.utils.frozen import freeze

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fusehub.utils.symmetric import Strip


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
                f"In {method}, {name}={shortly(first['input'])} cannot be: {first['msg']}.",
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

    @property
    def rows(self) -> int:
        """How many input rows were counted."""

    @property
    def total(self) -> Tensor:
        """`s`, the sum of x over the rows: [in], float64."""

    @property
    def shift(self) -> float:
        """What the diagonal of `S` must grow by, relative to itself, for `S` to be positive semidefinite; mostly 0."""

    def diagonal(self) -> Tensor:
        """The diagonal of `S`: [in], float64."""

    def strips(self, dtype: torch.dtype, device: str = "cpu") -> Iterator[Strip]:
        """The strips of `S` (see `fusehub.utils.symmetric`), in float32 or float64, on a device that has that."""

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
    start: int = 0
    """The place of the first element in the whole tensor, of which this can be a slice."""
    surveyed: Sequence[Any] = ()
    """For a slice of what the method must see as a whole: what its `survey` found of each model's tensor."""
    seed: int = 0
    cache: dict[Any, Any] = field(default_factory=dict)
    """Kept by the caller between layers that have the same statistics (shared inputs, as q, k and v)."""
    device: str = "cpu"
    """Where it is worth computing what takes long. Tensors come and go on the CPU."""

    @property
    def needed_base(self) -> Tensor:
        """The base's tensor, for a method that needs a base."""
        assert self.base is not None
        return self.base

    def random(self, index: int) -> torch.Generator:
        """Random numbers that depend on the recipe's seed, the tensor's name and the model's place alone."""
        import hashlib

        import torch

        digest = hashlib.sha256(f"{self.seed}/{self.name}/{index}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@dataclass(frozen=True)
class Note:
    """What is worth saying of one layer. Notes of one `kind` are told once, of however many layers they are said."""

    kind: str
    text: str


@dataclass(frozen=True)
class Merged:
    """What a method makes of a layer: the tensor, the bias where it solved one too, and what is worth saying."""

    tensor: Tensor
    bias: Tensor | None = None
    notes: tuple[Note, ...] = ()
    precision: str | None = None
    """The arithmetic that it took, where a method chooses it layer by layer (`linear_system.PRECISIONS`)."""


BaseRole = Literal["optional", "needed", "origin", "end"]
"""What a method takes the base for: `optional`, nothing but `scale` (or an option); `needed`, it adds differences to
the base to it; `origin`, it does so where a base is said; `end`, it is one of the models, the one that the way begins
at."""

WantedStatistics = Literal["nothing", "grams", "updates", "texts", "fisher"]
"""What a method wants of each expert beside its weights: the `grams` of its linear layers' inputs; its `updates`, the
differences to the base, in their place; `texts` that the model is run over while it is merged, to count the grams;
or the diagonal of its `fisher` matrix."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to merge: what it is called, where it comes from, the function, and the facts that the rest goes by.

    Facts that depend on options are given as the options that make them so: `{"affine": True}` means where that is
    said, `{}` always, and None never. Raises `ValueError` for facts that no method can have.
    """

    name: str
    title: str
    summary: str
    when: str = ""
    """When to use it, and when not: one or two sentences."""
    paper: str | None = None
    options: type[Options] = Options
    own_options: type[Options] = Share
    """What a recipe may say about each model: `weight`, and what else the method wants, as `density`."""
    merge: Callable[[Layer, Any], Merged]
    statistics: WantedStatistics = "nothing"
    base: BaseRole = "optional"
    base_with: Mapping[str, Any] | None = None
    """The options with which it needs a base that it can do without otherwise."""
    biases_with: Mapping[str, Any] | None = None
    """The options with which it solves a layer's bias together with its weight, from the mean of the inputs."""
    factors: Callable[[Layer, Any], Sequence[float]] | None = None
    """Where the result is a weighted sum of the models (of the updates, where the base is `needed`): what each one is
    multiplied by, from the coefficients and the options; the layer has no tensors then. So that a merge of adapters
    can be written as an adapter."""
    whole_tensor: bool = False
    """Must see a tensor as a whole: it ranks its elements, takes its norm, or draws random numbers for it."""
    survey: Callable[[Callable[[], Iterator[Tensor]], int, Any, Any], Any] | None = None
    """Where a base is `needed` and all that it must see as a whole is each task vector for itself: what it must know
    of one, so that tensors pass in pieces after all. From a function that gives the vector's elements in a row, part
    by part and each time anew, how many they are, the model's own options, and the method's."""
    negative_weights: bool = False
    absolute_weights_with: Mapping[str, Any] | None = None
    """The options with which more counts of the weights than their proportions. (Of updates always more does.)"""
    models: tuple[int, int | None] = (2, None)
    """The fewest and the most models that it merges, the base not counted unless it is an `end`."""
    tune_over: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """The options that tuning tries, with their values, unless it is told which."""
    cost: Callable[[int, int, int], Cost] | None = None
    """What one tensor costs, by the number of models, its elements and its layer's inputs (0 where it is none's);
    None: as the facts say (`fusehub.methods.cost`)."""
    plugin: str | None = None
    """The file that it comes from, where it is the user's own."""

    def __post_init__(self) -> None:
        freeze(self, "base_with", "biases_with", "absolute_weights_with", "tune_over")
        for fact, value, known in (
            ("statistics", self.statistics, get_args(WantedStatistics)),
            ("base", self.base, get_args(BaseRole)),
        ):
            if value not in known:
                raise ValueError(f"{self.name}: {fact} is one of {', '.join(known)}, not {value!r}")
        if self.survey is not None and not (self.whole_tensor and self.base == "needed"):
            raise ValueError(f"{self.name}: a survey is of task vectors that it must see as a whole")
        for said in (self.base_with, self.biases_with, self.absolute_weights_with):
            if unknown_ones := [name for name in said or {} if name not in self.options.fields()]:
                raise ValueError(f"{self.name} has no option {', '.join(unknown_ones)}, which one of its facts names")
        if self.biases_with is not None and self.statistics not in ("grams", "texts"):
            raise ValueError(f"{self.name}: biases are solved from the mean inputs, which only grams and texts tell")

    @property
    def needs_statistics(self) -> bool:
        """Whether it solves linear layers, each from grams of its inputs or what stands in for them."""
        return self.statistics in ("grams", "updates", "texts")

    @property
    def needs_data(self) -> bool:
        """Whether it counts the statistics itself, from texts of each expert's own, while it merges."""
        return self.statistics == "texts"

    @property
    def needs_fisher(self) -> bool:
        """Whether it merges element by element with each expert's Fisher diagonal, which its statistics must have."""
        return self.statistics == "fisher"

    @property
    def data_free(self) -> bool:
        """Whether every expert's update takes the place of its statistics, whatever the recipe says."""
        return self.statistics == "updates"

    @property
    def is_elementwise(self) -> bool:
        """Whether a tensor can be merged in pieces, as each element depends on the same one of the models alone."""
        return not self.needs_statistics and not self.whole_tensor

    def needs_base(self, options: Options) -> bool:
        """Whether it can do nothing without a base.

        Args:
            options: What `parse` gives.

        Returns:
            The answer for these options.
        """
        return self.base == "needed" or _are_said(self.base_with, options)

    def solves_biases(self, options: Options) -> bool:
        """Whether it solves biases together with weights.

        Args:
            options: What `parse` gives.

        Returns:
            The answer for these options.
        """
        return _are_said(self.biases_with, options)

    def has_absolute_weights(self, options: Options) -> bool:
        """Whether more counts of the models' weights than their proportions.

        Args:
            options: What `parse` gives.

        Returns:
            The answer for these options.
        """
        return self.base == "needed" or _are_said(self.absolute_weights_with, options)

    def cost_of(self, models: int, numel: int, inputs: int) -> Cost:
        """What merging one tensor costs.

        Args:
            models: How many are merged.
            numel: The elements of the tensor.
            inputs: Those of the linear layer that it is the weight of; 0 for any other tensor.

        Returns:
            Operations and memory.
        """
        if self.cost is not None:
            return self.cost(models, numel, inputs)
        if self.needs_statistics and inputs:
            return of_solving(models, numel, inputs)
        return of_whole(models, numel, inputs) if self.whole_tensor else of_pieces(models, numel, inputs)

    def parse(self, options: Mapping[str, Any]) -> Options:
        """Options of the method, checked.

        Args:
            options: Values by name, as recipes write them.

        Returns:
            All options, with their defaults where nothing was said.

        Raises:
            BadRecipe: Naming the one that is wrong.
        """
        return self.options.parse(self.name, options)


def option_words(options: Mapping[str, Any]) -> str:
    """`affine=true`, as a user says it; nothing where there are no options."""
    return " ".join(f"{name}={value_words(value)}" for name, value in options.items())


def value_words(value: Any) -> str:
    """An option's value as recipes write it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _are_said(wanted: Mapping[str, Any] | None, options: Options) -> bool:
    if wanted is None:
        return False
    said = options.model_dump()
    return all(said[name] == value for name, value in wanted.items())
