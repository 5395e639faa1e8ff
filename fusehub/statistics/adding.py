"""Statistics of the same weights on different data, added: what one run over all of the data would have counted.

    add_statistics(["statistics-paris", "statistics-london"], "statistics")

Sums add: `S`, `s` and `n` layer by layer. What must agree is whatever decides which rows a layer sees: the weights,
the architecture, the task, the vocabulary. Data, maximum length, seed and versions may differ, and are recorded for
each part.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.errors import BadStatistics
from fusehub.hub.access import Access
from fusehub.hub.client import software
from fusehub.statistics.encodings import DEFAULT_SIZE, coarsest
from fusehub.statistics.file import Statistics, write_statistics
from fusehub.statistics.fisher_file import encode_fisher, write_fisher
from fusehub.statistics.sources import FoundStatistics, open_statistics
from fusehub.utils.folders.places import require_place

if TYPE_CHECKING:
    from torch import Tensor

    from fusehub.statistics.file import StoredLayer

logger = logging.getLogger(__name__)

# What is said of each part in the metadata of the sum.
_OF_A_PART = ("data", "examples", "tokens", "labels", "max_length", "seed", "noise", "imported", "software")


@dataclass(frozen=True)
class AddedLayer:
    """The sums of one layer over the parts that counted it; read part by part when they are asked for."""

    layers: Sequence[StoredLayer]

    @property
    def size(self) -> int:
        """Inputs of the layer."""
        return self.layers[0].size

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(layer.rows for layer in self.layers)

    @property
    def total(self) -> Tensor:
        """`s` of all parts: [in], float64."""
        return functools.reduce(operator.add, (layer.total for layer in self.layers))

    @property
    def is_diagonal(self) -> bool:
        """Whether only the diagonal of `S` is known of all parts."""
        return all(layer.is_diagonal for layer in self.layers)

    def packed(self) -> Tensor:
        """The upper triangle of `S` of all parts: [in * (in + 1) / 2], float32, summed in float64."""
        return functools.reduce(operator.add, (layer.packed().double() for layer in self.layers)).float()


def add_statistics(
    sources: Sequence[str],
    out: str | Path,
    *,
    size: str = DEFAULT_SIZE,
    disjoint: bool = False,
    token: bool | str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Statistics:
    """The sum of the statistics at `sources`, written into the folder `out` and opened.

    Of the same data and perhaps of other texts of it: a warning. A layer that only some of them counted has the rows
    of those.

    Args:
        sources: Two or more files, folders or repos.
        out: A folder, new or empty.
        size: How finely grams are stored, never finer than the coarsest of the parts.
        disjoint: Whether they are of different people's texts, none of which is in two of them: noise then keeps the
            weakest promise of them, where otherwise what each of them tells of a text adds up.
        token: The Hub's token; None for the one of `hf auth login` if there is one, True where there must be, False
            for none.
        cache_dir: Where downloads lie; the Hub's cache of this machine where nothing is said.
        local_files_only: Read what is in the cache already, and ask the Hub for nothing.

    Returns:
        The sum, open.

    Raises:
        BadStatistics: They are not of the same weights (it says what differs), are the same statistics or of the same
            texts twice, or are `disjoint` and name the same data.

    Examples:
        >>> more = fusehub.collect("user/expert-1", "user/texts/test", "more", limit=10)
        >>> both = fusehub.add_statistics(["user/expert-1", "more"], "both")
        >>> both.metadata["examples"] - more.metadata["examples"]  # of those that are published
        24
    """
    if len(sources) < 2:
        raise BadStatistics("One set of statistics cannot be added.", "Give two or more.")
    require_place(Path(out))
    with contextlib.ExitStack() as opened:
        access = Access(token, cache_dir, local_files_only)
        parts = [opened.enter_context(contextlib.closing(open_statistics(source, access))) for source in sources]
        for part in parts[1:]:
            _require_same_model(parts[0], part)
        _require_different(parts)
        _require_other_texts(parts, disjoint)
        sums, aliases = _added(parts)
        # What was stored coarsely is not made finer by being stored again.
        size = coarsest(size, *(part.metadata["size"] for part in parts))
        metadata = _metadata(parts, {*sums, *aliases}, disjoint)
        beside = None
        if all(part.metadata.get("fisher") for part in parts):
            means, described = _added_fisher(sources, parts, access)
            stored, metadata["fisher"] = encode_fisher(means, described, size)
            beside = functools.partial(
                write_fisher, stored=stored, described=metadata["fisher"], model=metadata["model"]
            )
        path = write_statistics(Path(out), sums, aliases, metadata, size=size, beside=beside)
    return Statistics(path)


def _added(parts: Sequence[Statistics]) -> tuple[dict[str, AddedLayer], dict[str, str]]:
    """The sums, and the layers that share theirs: those that share one in every part."""
    sums: dict[str, AddedLayer] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[str | None, ...], str] = {}
    names = {name for part in parts for name in part.layers}
    for name in sorted(names, key=lambda name: (name in parts[0].aliases, name)):
        own = [part.layers.get(name) for part in parts]
        stored = tuple(layer.stored_as if layer else None for layer in own)
        if stored in first:
            aliases[name] = first[stored]
        else:
            first[stored] = name
            sums[name] = AddedLayer([layer for layer in own if layer])
    return sums, aliases


def _added_fisher(
    sources: Sequence[str], parts: Sequence[Statistics], access: Access
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The Fisher diagonals over the examples of all parts, and what is said of them."""
    facts = [part.metadata["fisher"] for part in parts]
    examples = [fact["examples"] for fact in facts]
    means: dict[str, Tensor] = {}
    for source, part, fact in zip(sources, parts, facts, strict=True):
        with contextlib.closing(FoundStatistics(source, part.metadata, access).open_fisher()) as file:
            for name in fact["exponents"]:
                share = file.read(name).mul_(fact["examples"] / sum(examples))
                means[name] = means[name].add_(share) if name in means else share
    drawn = {fact["samples"] for fact in facts}
    described = {
        "kind": "exact" if all(fact["kind"] == "exact" for fact in facts) else "sampled",
        "samples": drawn.pop() if len(drawn) == 1 else None,
        "seed": None,
        "examples": sum(examples),
    }
    return means, described


def _require_same_model(one: Statistics, other: Statistics) -> None:
    """Raises `BadStatistics` naming everything in which the models of two statistics differ."""
    a, b = one.metadata, other.metadata
    differing = []
    if sorted(a["model"]["weights"].values()) != sorted(b["model"]["weights"].values()):
        differing.append(f"weights ({_model(a)}; {_model(b)})")
    pairs = [("architecture", a["model"].get("architecture"), b["model"].get("architecture"))]
    pairs += [("task", a.get("task"), b.get("task"))]
    known, others = a.get("tokenizer") or {}, b.get("tokenizer") or {}
    # A tokenizer's config can change (its chat template) without a word being cut differently.
    names = [name for name in known if name in others and not name.endswith("_config.json")]
    pairs += [(name, known[name][:8], others[name][:8]) for name in names]
    differing += [f"{what} ({x}; {y})" for what, x, y in pairs if x != y and x and y]
    for name, layer in one.layers.items():
        if name in other.layers and other.layers[name].size != layer.size:
            differing.append(f"inputs of {name} ({layer.size}; {other.layers[name].size})")
    if differing:
        raise BadStatistics(
            f"{one.origin} and {other.origin} cannot be added: they differ in {', '.join(differing[:5])}.",
            "Add statistics of the same weights: collect each part of the data with the same model.",
        )


def _model(metadata: Mapping[str, Any]) -> str:
    model = metadata["model"]
    return model["id"] + (f" at {model['commit'][:8]}" if model.get("commit") else "")


def _require_different(parts: Sequence[Statistics]) -> None:
    """Raises `BadStatistics` where two parts are the same, whose rows would count twice."""
    for number, part in enumerate(parts):
        for other in parts[:number]:
            if _is_same(part, other):
                raise BadStatistics(
                    f"{other.origin} and {part.origin} hold the same sums: their rows would count twice.",
                    "Give each of them once.",
                )


def _require_other_texts(parts: Sequence[Statistics], disjoint: bool) -> None:
    """Raises `BadStatistics` where two parts, or parts of them, are of the same texts; warns where some may be."""
    told = [(part, fact) for part in parts for fact in _told(part.metadata)]
    for (one, a), (other, b) in itertools.combinations(told, 2):
        if one is other or not _is_same_data(a, b):
            continue
        data = f"{one.origin} and {other.origin} are both of {a['data'].get('source') or 'the same data'}"
        if disjoint:
            raise BadStatistics(
                f"{data}, in the same version: they are not disjoint.",
                "Leave out --disjoint (in Python disjoint=True), and what each tells of a text adds up.",
            )
        # Of statistics with noise, nobody knows which texts they are of.
        counts = [(fact.get("examples"), fact.get("tokens"), fact.get("max_length")) for fact in (a, b)]
        if counts[0] == counts[1] and a.get("tokens"):
            raise BadStatistics(
                f"{data}, with {a['examples']} examples and {a['tokens']} tokens each: their rows would count twice.",
                "Give each part of the data once.",
            )
        logger.warning("%s, in the same version: texts that are in both count twice.", data)


def _told(metadata: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The facts of each part of statistics that were added; of others, their own."""
    return metadata.get("parts") or [_part(metadata)]


def _is_same_data(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two parts name the same files by their sha256, or the same data set at the same commit."""
    a, b = one.get("data") or {}, other.get("data") or {}
    revision = a.get("revision")
    if not revision or revision != b.get("revision"):
        return False
    # A commit holds many splits, a file's hash is of all that was read.
    return len(revision) == 64 or a.get("source") == b.get("source")


def _is_same(one: Statistics, other: Statistics) -> bool:
    import torch

    layers = one.metadata["layers"]
    if layers != other.metadata["layers"] or not layers:
        return False
    smallest = min(layers, key=lambda name: layers[name]["size"])
    return torch.equal(one.layers[smallest].packed(), other.layers[smallest].packed())


def _metadata(parts: Sequence[Statistics], counted: set[str], disjoint: bool) -> dict[str, Any]:
    first = parts[0].metadata
    every = [part.metadata for part in parts]
    told = [part for metadata in every for part in _told(metadata)]
    sources = list(dict.fromkeys((metadata.get("data") or {}).get("source") or "unknown" for metadata in every))
    lengths = [metadata["max_length"] for metadata in every if metadata.get("max_length")]
    return {
        "model": first["model"],
        "task": first.get("task"),
        "tokenizer": first.get("tokenizer") or {},
        "data": {"source": " + ".join(sources), "revision": None},
        "examples": _sum(metadata.get("examples") for metadata in every),
        "tokens": _sum(metadata.get("tokens") for metadata in every),
        "max_length": max(lengths, default=None),
        "seed": None,
        "uncounted": sorted({name for metadata in every for name in metadata.get("uncounted", ())} - counted),
        "noise": _noise(every, disjoint),
        "software": software("torch"),
        "parts": told,
    }


def _part(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {key: metadata[key] for key in _OF_A_PART if key in metadata}


def _noise(every: Sequence[Mapping[str, Any]], disjoint: bool) -> dict[str, Any] | None:
    """How private the sum is for a text that may be in all of the parts; None unless all have noise.

    Releases of the same text add up: ε and δ each (Dwork and Roth, "The Algorithmic Foundations of Differential
    Privacy", theorem 3.16). A text in one of them alone has that one's: of disjoint parts the largest holds for all.
    """
    noises = [noise for metadata in every if (noise := metadata.get("noise"))]
    if len(noises) < len(every):
        return None
    whole = max if disjoint else math.fsum
    promised = {key: whole([noise[key] for noise in noises]) for key in ("epsilon", "delta")}
    return {**noises[0], **promised, "clip": None, "composition": "parallel" if disjoint else "sequential"}


def _sum(values: Any) -> int | None:
    """The sum, unless one is not told."""
    values = list(values)
    return None if None in values else sum(values)
