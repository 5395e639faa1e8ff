"""Statistics that lie somewhere: in the model's repo, in a companion repo, in a folder or a file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.hub.cache import FIX
from fusehub.merging.sources.questioning import question
from fusehub.merging.sources.source import SourceLayer, StatisticsSource, Wanted
from fusehub.models.resolve import ModelRef
from fusehub.statistics.few_texts import few_texts_finding
from fusehub.statistics.missing import missing_bytes
from fusehub.statistics.sources import FoundStatistics, find_statistics, is_of_others, local_files
from fusehub.utils.folders.places import Room

if TYPE_CHECKING:
    from fusehub.statistics.fisher_file import FisherFile


@dataclass(frozen=True)
class Published(StatisticsSource):
    """Statistics that `fusehub collect` or an importer has written."""

    found: FoundStatistics

    @classmethod
    def find(cls, wanted: Wanted) -> Published:
        """Those that the recipe names, or the model's owner has published."""
        found = find_statistics(
            wanted.ref,
            wanted.entry.statistics,
            hashes=wanted.hashes,
            allow_other_weights=wanted.allowed.other_weights,
            fisher=wanted.method.needs_fisher,
        )
        return cls(found)

    @property
    def origin(self) -> str:
        """`user/name@commit`, or the file or folder."""
        return self.found.origin

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the file says of itself."""
        return self.found.metadata

    @property
    def rows(self) -> Mapping[str, int]:
        """How many input rows were counted; aliases included."""
        return self.found.rows

    @property
    def knows_means(self) -> bool:
        """Files of other programs can lack them."""
        return (self.metadata.get("imported") or {}).get("means") is not False

    def words(self) -> str:
        """`user/model@1a2b, 1000 texts`"""
        texts = self.metadata.get("examples")
        return f"{self.origin}, {texts} texts" if texts else self.origin

    def notes(self, wanted: Wanted) -> list[str]:
        """That they are of few texts, of other weights, or less than grams."""
        said = []
        if few := few_texts_finding(self.metadata, wanted.ref.name):
            said.append(few.what)
        if sorted(self.metadata["model"]["weights"].values()) != sorted(wanted.hashes.values()):
            said.append(
                f"The statistics {self.origin} were made for other weights than those of {wanted.ref.name}: used as "
                "--allow-other-weights was said."
            )
        encodings = [layer.get("encoding") for layer in self.metadata.get("layers", {}).values()]
        if "diagonal" in encodings:
            kind = (self.metadata.get("imported") or {}).get("from", "sums of squares")
            said.append(
                f"{wanted.ref.name}: {encodings.count('diagonal')} grams are known by their diagonal alone ({kind}): "
                "they count input by input, whatever alpha."
            )
        return said

    def files(self) -> list[Path]:
        """Those of a folder, or the file."""
        return local_files(self.origin, fisher=bool(self.metadata.get("fisher")))

    def room(self, *, fisher: bool) -> list[Room]:
        """What of the file is not in the cache."""
        missing = missing_bytes(self.found, fisher=fisher)
        return [Room(f"The download of the statistics {self.origin}", missing, self.found.access.cache, FIX)]

    def question(self, ref: ModelRef, model_bytes: int) -> Iterator[str]:
        """Those of others than the model's owner are held against random tokens."""
        if is_of_others(self.origin, ref):
            yield question(self.found, ref, model_bytes)

    @contextlib.contextmanager
    def open(self) -> Iterator[dict[str, SourceLayer]]:
        """The layers of the file, downloaded where it must be."""
        with contextlib.closing(self.found.open()) as statistics:
            yield dict(statistics.layers)

    def open_fisher(self) -> FisherFile:
        """The file of Fisher diagonals beside them."""
        return self.found.open_fisher()
