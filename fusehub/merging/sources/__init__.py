"""Where the statistics of a merge come from: what a recipe says under `statistics`, as one source an expert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fusehub.errors import Action, BadStatistics, FuseHubError, NotFound, together
from fusehub.hub.access import Access
from fusehub.merging.recipe import Recipe
from fusehub.merging.sources.data_at_hand import DataAtHand
from fusehub.merging.sources.data_free import DataFree
from fusehub.merging.sources.published import Published
from fusehub.merging.sources.source import StatisticsSource, Wanted
from fusehub.methods import Method
from fusehub.models.resolve import ModelRef
from fusehub.utils.findings import Allowed
from fusehub.utils.side_by_side import side_by_side

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


def sources_of(
    recipe: Recipe,
    method: Method,
    experts: Sequence[ModelRef],
    hashes: Sequence[Mapping[str, str]],
    allowed: Allowed,
    access: Access,
) -> tuple[tuple[StatisticsSource, ...], tuple[str, ...]]:
    """The source of each expert, and what has to be said of them; none where the method takes no statistics.

    Raises an error that names all experts without one.
    """
    if not (method.needs_statistics or method.needs_fisher or method.needs_data):
        return (), ()
    before = (recipe.provenance or {}).get("data") or [None] * len(experts)
    found: list[StatisticsSource] = []
    notes: list[str] = []
    problems: list[FuseHubError] = []
    everyone = [
        Wanted(ref, entry, own, recipe, method, allowed, access, data)
        for ref, entry, own, data in zip(experts, recipe.models, hashes, before, strict=True)
    ]
    # Data is drawn in the order of the experts; what is published is asked of the Hub for all of them at once.
    look = map if method.needs_data else side_by_side
    for wanted, one in zip(everyone, look(_looked_for, everyone), strict=True):
        if isinstance(one, FuseHubError):
            problems.append(one)
        else:
            found.append(one)
            notes += one.notes(wanted)
    if problems:
        raise together(problems)
    return tuple(found), (*notes, *_run_over(experts, found, method))


def _looked_for(wanted: Wanted) -> StatisticsSource | NotFound | BadStatistics:
    """The source of one expert, or why there is none."""
    try:
        return _found(wanted)
    except (NotFound, BadStatistics) as error:
        return error


def _found(wanted: Wanted) -> StatisticsSource:
    found = _kind(wanted).find(wanted)
    if wanted.method.needs_fisher and not found.metadata.get("fisher"):
        name = wanted.ref.name
        raise NotFound(
            f"{name}: no Fisher diagonals in the statistics {found.origin}.",
            f"Make them where the data is: `fusehub collect {name} --data DATA --fisher --out DIR`, then "
            f"`--statistics {name}=DIR`.",
            actions=[Action("collect-fisher", (name,))],
        )
    return found


def _run_over(experts: Sequence[ModelRef], statistics: Sequence[StatisticsSource], method: Method) -> list[str]:
    """What has to be said of a method that is not content with files."""
    if not method.needs_data:
        return []
    texts = ", ".join(
        f"{found.metadata['examples']:,} examples of {ref.name}"
        for ref, found in zip(experts, statistics, strict=True)
    )
    return [f"{method.title} loads the model and runs it, block by block, over {texts}."]


def _kind(wanted: Wanted) -> type[StatisticsSource]:
    """Some methods leave no choice."""
    if wanted.method.needs_data:
        return DataAtHand
    return DataFree if wanted.method.data_free else source_said(wanted.entry.statistics)
