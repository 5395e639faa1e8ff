"""Statistics that are counted while a merge is made: the texts that they are counted from, and what one layer gave.

A method that `needs_data` is given these in the place of what `fusehub collect` writes. Nothing of them is stored.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusehub.data.examples import load_examples
from fusehub.data.inputs import Inputs
from fusehub.data.tables.hub_datasets import pinned_data
from fusehub.errors import Action, BadRecipe, Incompatible
from fusehub.merging.recipe import ModelEntry, Recipe
from fusehub.merging.sources.source import SourceLayer, StatisticsSource, Wanted
from fusehub.methods.base import Method
from fusehub.models.resolve import ModelRef
from fusehub.models.tasks import task_of
from fusehub.statistics.grams import GramSum, unpack

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fusehub.utils.symmetric import Strip

AT_HAND = "data"


@dataclass(frozen=True)
class DataAtHand(StatisticsSource):
    """An expert's examples, as the model takes them: the statistics are counted while the merge is made."""

    name = AT_HAND
    is_said = False
    place = "counted while merging"

    examples: Inputs
    revision: str | None
    """The commit of the data, or its sha256."""
    source: str

    @classmethod
    def find(cls, wanted: Wanted) -> DataAtHand:
        """The examples, cut into the model's tokens. Raises a `FuseHubError` where they cannot be used.

        A recipe that a merge wrote says which data it was: it must be the same now.
        """
        ref, entry, recipe = wanted.ref, wanted.entry, wanted.recipe
        assert entry.data is not None  # See `require_data`.
        examples = load_examples(
            entry.data,
            task_of(ref.config, ref.name).name,
            limit=recipe.limit,
            seed=recipe.seed,
            text_column=entry.text_column,
            access=wanted.access,
            default_split="train",
        )
        if wanted.data_before is not None and wanted.data_before["revision"] != examples.revision:
            raise Incompatible(
                f"The data of {ref.name}, {entry.data}, is not what it was when this recipe was written.",
                "Give the data of then, or delete `provenance` from the recipe to merge by what is there now.",
            )
        inputs = Inputs.of(ref, examples, max_length=recipe.max_length, seed=recipe.seed)
        return cls(inputs, examples.revision, examples.source)

    @property
    def origin(self) -> str:
        """`data`"""
        return AT_HAND

    @property
    def metadata(self) -> Mapping[str, Any]:
        """`data` (source and revision), `examples` and `tokens`, as those of statistics have them."""
        return {
            "data": {"source": self.source, "revision": self.revision},
            "examples": len(self.examples),
            "tokens": self.examples.tokens,
        }

    @property
    def inputs(self) -> Inputs:
        """The examples."""
        return self.examples

    def words(self) -> str:
        """`counted while merging, from 1,000 examples, 20,000 tokens of reviews.csv`"""
        counts = f"{len(self.examples):,} examples, {self.examples.tokens:,} tokens"
        return f"counted while merging, from {counts} of {self.source}"

    def recorded(self, entry: ModelEntry) -> dict[str, Any]:
        """The data at its commit."""
        assert entry.data is not None
        return {"statistics": entry.statistics, "data": pinned_data(entry.data, self.revision)}

    def open(self) -> AbstractContextManager[dict[str, SourceLayer]]:
        """To be filled while the model is run."""
        return contextlib.nullcontext({})


@dataclass(frozen=True)
class CountedLayer:
    """What was counted of one layer's inputs, as a method wants it; `leader` is the layer that was watched."""

    leader: str
    sums: GramSum
    shift: float = 0.0

    @property
    def stored_as(self) -> str:
        """What layers with the same inputs have in common, and no count of other inputs has."""
        return f"{self.leader} {id(self.sums)}"

    @property
    def rows(self) -> int:
        """How many input rows were counted."""
        return self.sums.rows

    @property
    def size(self) -> int:
        """Inputs of the layer."""
        return self.sums.size

    @property
    def total(self) -> Tensor:
        """The sum of x over the rows: [in], float64."""
        return self.sums.total.cpu()

    def diagonal(self) -> Tensor:
        """The sums of squares of each input: [in], float64."""
        return self.sums.diagonal()

    def strips(self, dtype: torch.dtype, device: str = "cpu") -> Iterator[Strip]:
        """The strips of the sum of x xᵀ over the rows."""
        return self.sums.strips(dtype, device)

    def read_ahead(self) -> None:
        """It is in memory."""

    def gram(self) -> Tensor:
        """The sum of x xᵀ over the rows: [in, in], float64, a new tensor at each call."""
        return unpack(self.sums.packed(), self.size)


def require_data(recipe: Recipe, method: Method, experts: Sequence[ModelRef]) -> None:
    """Raises `BadRecipe` where a method that runs the model lacks data, or one that does not is given some."""
    pairs = list(zip(experts, recipe.models, strict=True))
    if not method.needs_data:
        given = [ref.name for ref, entry in pairs if entry.data is not None]
        text_column = next((entry.text_column for _, entry in pairs if entry.text_column), None)
        others = {"limit": recipe.limit, "max_length": recipe.max_length, "text_column": text_column}
        said = [name for name, value in others.items() if value is not None]
        if given or said:
            what = f"data of {', '.join(given)}" if given else " and ".join(said)
            raise BadRecipe(
                f"{method.title} runs no model while it merges, and the recipe gives {what}.",
                "Leave that out. To merge by RegMean from data: `fusehub collect MODEL --data SOURCE` for each model, "
                "or --method regmean_plus_plus.",
                actions=[Action("choose-method")],
            )
        return
    lacking = [ref.name for ref, entry in pairs if entry.data is None]
    if lacking:
        raise BadRecipe(
            f"{method.title} runs the model over texts of each expert, and there are none of {', '.join(lacking)}.",
            " ".join(f"--data {name}=SOURCE" for name in lacking)
            + " (a file, a folder or user/dataset). Without data, merge by --method regmean.",
            actions=[Action("choose-method")],
        )
    told = [ref.name for ref, entry in pairs if entry.statistics != "auto"]
    if told:
        raise BadRecipe(
            f"{method.title} counts its statistics itself, and the recipe gives some of {', '.join(told)}.",
            "Leave them out, or merge by --method regmean.",
            actions=[Action("choose-method")],
        )
