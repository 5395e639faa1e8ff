"""What a statistics file holds, and whether it is sound: as its metadata say, finite, and sums of squares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.errors import BadFile, BadStatistics
from fusehub.hub.access import Access
from fusehub.models.resolve import ModelRef, ref_of
from fusehub.statistics.encodings import SIZES, encoding_of
from fusehub.statistics.few_texts import few_texts_finding
from fusehub.statistics.file import METADATA_FILENAME, REMAKE, Statistics, StoredLayer, stored_bytes
from fusehub.statistics.plausible import Likeness, compare_with_random
from fusehub.statistics.sources import open_statistics
from fusehub.utils.findings import Finding
from fusehub.utils.progress import silent
from fusehub.utils.untrusted.documents import read_object

if TYPE_CHECKING:
    from torch import Tensor

# An eigenvalue this far below zero, relative to the largest, is more than the rounding of float32 sums.
_NEGATIVE = 1e-6


@dataclass(frozen=True)
class LayerSummary:
    """One stored gram: its size, the rows counted, how it is stored, its numerical rank and condition, who shares it,
    and its standard error by the texts, relative to itself, where the file tells it.

    Rank and condition are of the correlations, so that features of unlike scales do not hide each other; of an
    encoding that loses something, they are what is left.
    """

    name: str
    size: int
    rows: int
    encoding: str
    nbytes: int
    rank: int
    condition: float
    aliases: tuple[str, ...]
    standard_error: float | None


@dataclass(frozen=True)
class StatisticsSummary:
    """A statistics file that was read as a whole and found sound.

    `of_weights` is its size as a part of the model's weights, where the metadata tell theirs; `smaller` has the bytes
    of the sizes that it can be made into.
    """

    origin: str
    nbytes: int
    of_weights: float | None
    smaller: dict[str, int]
    metadata: dict[str, Any]
    layers: list[LayerSummary]
    findings: tuple[Finding, ...] = ()
    """What one should know before one merges by them."""
    likeness: Likeness | None = None
    """How they compare with what the model's layers are given for random tokens, where that was asked for."""

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain data, for `--json`.

        Returns:
            Each attribute by its name.
        """
        return asdict(self)


def inspect(
    source: str,
    *,
    against: str | ModelRef | None = None,
    token: bool | str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    progress: Callable[[int, int, str], None] = silent,
) -> StatisticsSummary:
    """Reads every layer of the statistics at `source`.

    Args:
        source: A file, a folder or a repo.
        against: A model, which is run on random tokens: statistics that cannot be its are refused.
        token: The Hub's token; None for the one of `hf auth login` if there is one, True where there must be, False
            for none.
        cache_dir: Where downloads lie; the Hub's cache of this machine where nothing is said.
        local_files_only: Read what is in the cache already, and ask the Hub for nothing.
        progress: Called with (done, total, what).

    Returns:
        What they hold, layer by layer, and how large they are.

    Raises:
        NotFound: There are none.
        BadStatistics: A layer is not sound; it is named.

    Examples:
        >>> summary = fusehub.inspect("user/expert-1")
        >>> summary.layers[0].rank <= summary.layers[0].size
        True
    """
    access = Access(token, cache_dir, local_files_only)
    statistics = open_statistics(source, access)
    try:
        _check_beside(statistics)
        stored = [layer for layer in statistics.layers.values() if layer.name == layer.stored_as]
        summaries = []
        errors = statistics.metadata.get("standard_errors") or {}
        for number, layer in enumerate(stored, 1):
            sharing = (name for name, target in statistics.aliases.items() if target == layer.name)
            summaries.append(_summary(layer, tuple(sorted(sharing)), source, errors.get(layer.name)))
            progress(number, len(stored), "layers")
        told = statistics.metadata
        weights = told["model"].get("bytes")
        return StatisticsSummary(
            statistics.origin,
            statistics.nbytes,
            statistics.nbytes / weights if weights else None,
            {
                size: sum(stored_bytes(encoding_of(layer.name, layer, size), layer.size) for layer in stored)
                for size in SIZES[SIZES.index(told["size"]) + 1 :]
            },
            told,
            summaries,
            tuple(filter(None, [few_texts_finding(told)])),
            _held_against(statistics, against, access) if against else None,
        )
    finally:
        statistics.close()


def _held_against(statistics: Statistics, model: str | ModelRef, access: Access) -> Likeness:
    ref = ref_of(model, access)
    likeness = compare_with_random(statistics, ref)
    likeness.require_possible(statistics.origin, ref.name)
    return likeness


def require_sound(statistics: Statistics) -> None:
    """Reads every layer. Raises `BadStatistics` naming the first that is not finite or no sum of squares.

    Faster than `inspect`, which tells more: a factorization succeeds where all eigenvalues are positive.
    """
    import torch

    _check_beside(statistics)
    for layer in statistics.layers.values():
        if layer.name != layer.stored_as:
            continue
        correlations = _correlations(layer)
        correlations.diagonal().add_(layer.shift + _NEGATIVE)
        if torch.linalg.cholesky_ex(correlations).info:
            _summary(layer, (), statistics.origin, None)


def _check_beside(statistics: Statistics) -> None:
    """Raises `BadStatistics` where the JSON beside the file, which merges are planned from, says something else."""
    beside = statistics.path.parent / METADATA_FILENAME
    try:
        same = not beside.is_file() or read_object(beside, statistics.origin) == statistics.metadata
    except BadFile as error:
        raise BadStatistics(error.what, REMAKE) from error
    if not same:
        raise BadStatistics(
            f"{statistics.origin}: {METADATA_FILENAME} says something else than the file beside it.",
            "Download or copy both again.",
        )


def _correlations(layer: StoredLayer) -> Tensor:
    """The gram with every feature scaled to length 1: [in, in], float64."""
    import torch

    gram = layer.gram()
    layer.total  # noqa: B018 - read so that it is checked, too.
    scale = torch.where(gram.diagonal() > 0, gram.diagonal().rsqrt(), 0.0)
    return gram.mul_(scale[:, None]).mul_(scale)


def _summary(layer: StoredLayer, aliases: tuple[str, ...], source: str, error: float | None) -> LayerSummary:
    import torch

    # What rounding has made of it, with the shift that makes up for it.
    values = torch.linalg.eigvalsh(_correlations(layer))
    least, largest = float(values[0]), float(values[-1])
    if least < -layer.shift - _NEGATIVE * max(largest, 1.0):
        part = {"triangle": "S", "correlations": "C"}.get(layer.encoding.name, "d")
        raise BadStatistics(
            f"{source}: {layer.name}.{part} is no sum of squares: its correlations have the eigenvalue {least:.3g} "
            f"beside {largest:.3g}.",
            f"The file is broken. {REMAKE}",
        )
    floor = max(layer.size * torch.finfo(torch.float32).eps * largest, layer.shift)
    kept = values[values > floor]
    return LayerSummary(
        layer.name,
        layer.size,
        layer.rows,
        str(layer.encoding),
        stored_bytes(layer.encoding, layer.size),
        len(kept),
        float(kept[-1] / kept[0]) if len(kept) else float("inf"),
        aliases,
        error,
    )
