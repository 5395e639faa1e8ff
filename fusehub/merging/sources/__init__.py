"""Where the statistics of a merge come from: what a recipe says under `statistics`, as one source an expert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fusehub.errors import BadStatistics, FuseHubError, NotFound, together
from fusehub.merging.recipe import Recipe
from fusehub.merging.sources.data_at_hand import DataAtHand
from fusehub.merging.sources.data_free import DataFree
from fusehub.merging.sources.published import Published
from fusehub.merging.sources.source import StatisticsSource, Wanted
from fusehub.methods import Method
from fusehub.models.resolve import ModelRef
from fusehub.utils.findings import Allowed

AUTO = "auto"
SOURCES: tuple[type[StatisticsSource], ...] = (DataFree, DataAtHand, Published)
"""All kinds; a new one is a line here."""


def source_of(origin: str) -> type[StatisticsSource]:
    """The kind of source whose origin a report says."""
    return next((kind for kind in SOURCES if kind.name == origin), Published)


def source_said(said: str) -> type[StatisticsSource]:
    """The kind of source that a recipe means by its `statistics`."""
    return next((kind for kind in SOURCES if kind.is_said and kind.name == said), Published)


def is_place(said: str) -> bool:
    """Whether a recipe's `statistics` name a file, a folder or a repo."""
    return said != AUTO and source_said(said).place is None


def wanted_of(
    recipe: Recipe,
    method: Method,
    experts: Sequence[ModelRef],
    hashes: Sequence[Mapping[str, str]],
    allowed: Allowed,
    token: str | None,
) -> list[Wanted]:
    """What is wanted of each expert; nothing of any where the method takes no statistics."""
    if not (method.needs_statistics or method.needs_fisher or method.needs_data):
        return []
    before = (recipe.provenance or {}).get("data") or [None] * len(experts)
    together = zip(experts, recipe.models, hashes, before, strict=True)
    return [Wanted(ref, entry, own, recipe, method, allowed, token, data) for ref, entry, own, data in together]


def find_sources(wanted: Sequence[Wanted]) -> list[StatisticsSource]:
    """The source of each expert. Raises an error that names all experts without one."""
    found: list[StatisticsSource] = []
    problems: list[FuseHubError] = []
    for own in wanted:
        try:
            found.append(_kind(own).find(own))
        except (NotFound, BadStatistics) as error:
            problems.append(error)
    if problems:
        raise together(problems)
    return found


def _kind(wanted: Wanted) -> type[StatisticsSource]:
    """Some methods leave no choice."""
    if wanted.method.needs_data:
        return DataAtHand
    return DataFree if wanted.method.data_free else source_said(wanted.entry.statistics)
