"""What a merge asks of statistics, wherever they come from.

A plan has one source an expert, made from what the recipe says of it; nothing asks which kind it is. A new kind
is a file beside this one and a line in `fusehub.merging.sources`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from fusehub.hub.access import Access
from fusehub.merging.recipe import ModelEntry, Recipe
from fusehub.methods import Method
from fusehub.methods.base import LayerStatistics
from fusehub.models.resolve import ModelRef
from fusehub.utils.findings import Allowed

if TYPE_CHECKING:
    from fusehub.data.inputs import Inputs
    from fusehub.statistics.fisher_file import FisherFile
    from fusehub.utils.folders.places import Room


@dataclass(frozen=True)
class Wanted:
    """One expert whose statistics a plan wants, and what may be used of it."""

    ref: ModelRef
    entry: ModelEntry
    hashes: Mapping[str, str]
    """The sha256 of its weight files."""
    recipe: Recipe
    method: Method
    allowed: Allowed
    access: Access
    data_before: Mapping[str, Any] | None = None
    """The data that a merge of this recipe was made with before, where the recipe says so."""


class SourceLayer(LayerStatistics, Protocol):
    """One layer's statistics, as a source opens them."""

    @property
    def size(self) -> int:
        """How many inputs the layer has."""

    @property
    def stored_as(self) -> str:
        """What layers with the same inputs have in common, and no statistics of other inputs have."""

    def read_ahead(self) -> None:
        """Has the system read what is not in memory yet, where it can: the layer is solved soon."""


class StatisticsSource(ABC):
    """Statistics of one expert: what is known of them at once, and the numbers when the source is opened."""

    name: ClassVar[str | None] = None
    """Its origin in reports where it has but one; None where it is a place: a file, a folder or a repo."""
    is_said: ClassVar[bool] = True
    """Whether a recipe may name it."""
    place: ClassVar[str | None] = None
    """What a card says in the place of a link to it; None where its origin is a place."""
    stands_by_update: ClassVar[bool] = False
    """Nothing was counted, and the expert's difference to the base stands in: the base must be there."""
    update_products: ClassVar[int] = 0
    """How many products of the weight's size each layer costs before it is solved."""

    @classmethod
    @abstractmethod
    def find(cls, wanted: Wanted) -> StatisticsSource:
        """Those of an expert. Raises `NotFound` or `BadStatistics` where there are none that can be used."""

    @property
    @abstractmethod
    def origin(self) -> str:
        """Where they are, as a recipe says it."""

    @property
    @abstractmethod
    def metadata(self) -> Mapping[str, Any]:
        """What is said of them: `data`, `examples`, `tokens`, and what the file format has; never to be changed."""

    @property
    def rows(self) -> Mapping[str, int]:
        """How many input rows were counted, by the weight's name in the checkpoint; empty before they are."""
        return {}

    @property
    def knows_means(self) -> bool:
        """Whether they tell the mean of what layers are given, which biases are solved from."""
        return True

    @property
    def inputs(self) -> Inputs:
        """The examples that the model is run over. Raises `TypeError` where statistics are counted already."""
        raise TypeError(f"the statistics {self.origin} are of texts that are not here")

    @abstractmethod
    def words(self) -> str:
        """What a person reads of them."""

    def notes(self, wanted: Wanted) -> list[str]:
        """What a person must know of a merge that uses them."""
        return []

    def recorded(self, entry: ModelEntry) -> dict[str, Any]:
        """What the recipe of the merge says of them, so that it finds the same ones again."""
        return {"statistics": self.origin, "data": None}

    def files(self) -> list[Path]:
        """The files of this machine that they are; what a commit names is not among them."""
        return []

    def room(self, *, fisher: bool) -> list[Room]:
        """What of them, or of their `fisher` diagonals, has yet to be downloaded, and whereto."""
        return []

    def question(self, ref: ModelRef, model_bytes: int) -> Iterator[str]:
        """What has to be said of them once they were held against the model, of `model_bytes` in float32.

        Raises `BadStatistics` where they cannot be of it. Those of the model's own owner are not questioned.
        """
        yield from ()

    @abstractmethod
    def open(self) -> AbstractContextManager[dict[str, SourceLayer]]:
        """The statistics of each layer, by the weight's name in the checkpoint."""

    def open_fisher(self) -> FisherFile:
        """The Fisher diagonals. Raises `TypeError` where the metadata tells of none."""
        raise TypeError(f"the statistics {self.origin} have no Fisher diagonals")
