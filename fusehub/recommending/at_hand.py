"""What is at hand for a merge: the models' tasks, the base, and the statistics of each; told from headers alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fusehub.checking.configs import base_of, common_base
from fusehub.errors import AccessDenied, FuseHubError, Offline
from fusehub.hub.verified import remembered_hash
from fusehub.models.checkpoints.checkpoint import weight_hashes
from fusehub.models.resolve import ModelRef, ref_of
from fusehub.models.tasks import task_of
from fusehub.statistics.sources import FoundStatistics, find_statistics
from fusehub.utils.frozen import freeze
from fusehub.utils.side_by_side import side_by_side

AUTO, DATA_FREE = "auto", "data-free"


@dataclass(frozen=True)
class AtHand:
    """What there is to merge by.

    Attributes:
        models: The models, as they were named.
        tasks: Their tasks, each once, sorted.
        base: The pretrained model that they share, as it was named, or as all of them name it; None where it is not
            known, or cannot be read.
        base_is_named: Whether whoever asked has named the base.
        statistics: Model -> where its statistics are; models without some are left out.
        fisher: The models whose statistics have Fisher diagonals.
        by_update: The models whose difference to the base is to stand in for their statistics.
        texts: The models of whose kind there are texts.
        problems: Model -> why there are no statistics of it that can be used.
        base_problem: Why the base that all models name cannot be read; empty where it can, or they name none.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    base: str | None = None
    base_is_named: bool = False
    statistics: Mapping[str, str] = field(default_factory=dict)
    fisher: tuple[str, ...] = ()
    by_update: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)
    base_problem: str = ""

    def __post_init__(self) -> None:
        freeze(self, "statistics", "problems")

    def without(self, kept: Sequence[str]) -> tuple[str, ...]:
        """The models that are not among `kept`."""
        return tuple(name for name in self.models if name not in kept)


def at_hand(
    named: Sequence[str],
    refs: Sequence[ModelRef],
    base: str | ModelRef | None,
    statistics: Mapping[str, str],
    texts: Sequence[str],
) -> AtHand:
    """What there is of the models `refs`, which are called `named`; `statistics` as a recipe says them, by model.

    Where somebody names statistics, they must be there; raises what `find_statistics` raises otherwise.
    """
    access = refs[0].access

    def look(one: tuple[str, ModelRef]) -> FoundStatistics | FuseHubError | None:
        name, ref = one
        said = statistics.get(name, AUTO)
        if said == DATA_FREE:
            return None
        try:
            return find_statistics(ref, said, hashes=weight_hashes(ref, remembered_hash))
        except (AccessDenied, Offline):
            raise
        except FuseHubError as error:
            if said != AUTO:
                raise
            return error

    found: dict[str, str] = {}
    problems: dict[str, str] = {}
    fisher: list[str] = []
    by_update: list[str] = []
    for name, own in zip(named, side_by_side(look, zip(named, refs, strict=True)), strict=True):
        if own is None:
            by_update.append(name)
        elif isinstance(own, FuseHubError):
            problems[name] = own.what
        else:
            found[name] = own.origin
            fisher += [name] if own.metadata.get("fisher") else []
    base_problem = ""
    if base is not None:
        known: str | None = ref_of(base, access).name
    else:
        known = common_base([base_of(ref, ref.config) for ref in refs])
        try:
            known = known and ref_of(known, access).name
        except FuseHubError as error:
            # What the models call their base may be gone, or be on nobody's Hub.
            known, base_problem = None, error.what
    return AtHand(
        tuple(named), tuple(sorted({*_tasks(refs)})), known, base is not None, found, tuple(fisher), tuple(by_update),
        tuple(name for name in named if name in texts), problems, base_problem,
    )  # fmt: skip


def _tasks(refs: Sequence[ModelRef]) -> Iterator[str]:
    """The tasks of those models that tell; what speaks against the others, a check says."""
    for ref in refs:
        with contextlib.suppress(FuseHubError):
            yield task_of(ref.config, ref.name).name
