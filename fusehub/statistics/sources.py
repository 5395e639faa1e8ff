"""Where a model's statistics are: in its own repo, in a companion repo, or in a local file.

`find_statistics(ref)` looks in the model's repo under `fusehub/` (at its commit, then on the main branch), then in
repos of the same user or organisation tagged `fusehub-statistics` whose `base_model` is the model. Anybody can tag a
repo so, and statistics decide merged weights: those of others are listed, and used only where they are named.

What it finds is checked against the sha256 of the weights, which the Hub tells without a download, so that statistics
of other weights are never used by mistake.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.errors import AccessDenied, Action, BadFile, BadStatistics, NotFound
from fusehub.hub.access import STORED, Access
from fusehub.hub.answers import Question
from fusehub.hub.cache import snapshot_of
from fusehub.hub.client import client, hub_errors
from fusehub.hub.verified import fetch, in_cache
from fusehub.models.resolve import ModelRef
from fusehub.statistics.file import (
    FILENAME,
    INDEX_FILENAME,
    METADATA_FILENAME,
    REMAKE,
    Statistics,
    check_metadata,
    require_weights,
)
from fusehub.statistics.fisher_file import FISHER_FILENAME, FisherFile
from fusehub.statistics.shards import shards_in
from fusehub.utils.folders.places import require_ordinary
from fusehub.utils.frozen import freeze, thawed
from fusehub.utils.reach import local_path
from fusehub.utils.side_by_side import side_by_side
from fusehub.utils.untrusted.documents import read_object

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

TAG = "fusehub-statistics"
FOLDER = "fusehub"
# Anybody can tag a repo as the companion of a model: so many, the most downloaded first, are looked at.
_MOST_COMPANIONS = 20
# So many of them are listed at once, whoever's they are.
_MOST_LISTED = 100
# Metadata of thousands of layers take a few megabytes; what a stranger calls so is not downloaded at any size.
_LARGEST_METADATA = 64 * 2**20


@dataclass(frozen=True)
class FoundStatistics:
    """Statistics that were found: their metadata at once, the file itself (maybe large) when it is opened."""

    origin: str
    metadata: Mapping[str, Any]
    access: Access = field(default=STORED, repr=False)

    def __post_init__(self) -> None:
        freeze(self, "metadata")

    @property
    def rows(self) -> dict[str, int]:
        """How many input rows were counted, by the weight's name in the checkpoint; aliases included."""
        layers, aliases = self.metadata["layers"], self.metadata["aliases"]
        own = {name: layer["rows"] for name, layer in layers.items()}
        return own | {name: own[target] for name, target in aliases.items() if target in own}

    def open_fisher(self) -> FisherFile:
        """The Fisher diagonals beside them, which the metadata tells of, downloaded where they must be."""
        return FisherFile(locate_fisher(self.origin, self.access), self.origin, self.metadata["fisher"])

    def open(self) -> Statistics:
        """The file, downloaded where it must be. Raises `BadStatistics` where it is not what its metadata told."""
        statistics = open_statistics(self.origin, self.access)
        if statistics.metadata != thawed(self.metadata):
            statistics.close()
            raise BadStatistics(
                f"{self.origin}: {METADATA_FILENAME} says something else than the file beside it.",
                "Download or copy both again.",
            )
        return statistics


def find_statistics(
    ref: ModelRef,
    source: str = "auto",
    *,
    hashes: Mapping[str, str],
    allow_other_weights: bool = False,
    fisher: bool = False,
) -> FoundStatistics:
    """The statistics of `ref`, whose weight files have the sha256 `hashes`.

    `fisher` says that its Fisher diagonals are what is wanted. `source` is `auto`, a file or folder, or a repo
    `user/name[@revision]`. Raises `NotFound` where there are none,
    `BadStatistics` where those there are were made for other weights (unless `allow_other_weights`).
    """
    if source != "auto":
        source = _pinned(source, ref.access)
        found = FoundStatistics(source, _metadata(source, ref.access), ref.access)
        if not allow_other_weights:
            require_weights(found.metadata, source, ref.name, hashes)
        return found
    others, problems = [], []
    for candidate in _candidates(ref):
        try:
            found = FoundStatistics(candidate, _metadata(candidate, ref.access), ref.access)
        except BadStatistics as error:
            # Those that cannot be read must not hide the others.
            problems.append(error.what)
            continue
        if _are_of(found, hashes):
            return found
        others.append(found)
    if others and allow_other_weights:
        return others[0]
    command = f"fusehub collect {ref.name} --data DATA{' --fisher' if fisher else ''} --out DIR"
    make = f"`{command}`, then `--statistics {ref.name}=DIR`."
    if others:
        problems.append(
            f"the statistics there are ({', '.join(found.origin for found in others)}) were made for other weights."
        )
    offered = offered_statistics(ref, hashes)
    if offered:
        listed = ", ".join(f"{source.partition('@')[0]} (by {owner_of(source)})" for source in offered)
        problems.append(f"statistics of these weights that others made are not used unasked: {listed}.")
        make += f" If you trust who made them: `--statistics {ref.name}={offered[0]}`."
    if others or (problems and not offered):
        raise BadStatistics(
            f"{ref.name}: {' '.join(problems)}",
            f"Make new ones where the data is: {make}",
            actions=[Action("collect-fisher" if fisher else "collect-statistics", (ref.name,))],
        )
    raise NotFound(
        f"{ref.name} has no published statistics{' of its owner' if offered else ''}."
        + "".join(f" {said[0].upper()}{said[1:]}" for said in problems),
        f"Make them where the data is: {make} Without data: "
        + ("" if fisher else f"`--statistics {ref.name}=data-free --base BASE`, or ")
        + "--method mean.",
        actions=[Action("collect-fisher" if fisher else "collect-statistics", (ref.name,))],
    )


def offered_statistics(ref: ModelRef, hashes: Mapping[str, str]) -> list[str]:
    """Repos of others that say that they hold statistics of these very weights, at their newest commit."""
    if ref.repo_id is None or ref.access.is_offline:
        return []
    offered = []
    for source in _companions(ref, own=False):
        try:
            if _has_metadata(source, ref.access) and _are_of(
                FoundStatistics(source, _metadata(source, ref.access), ref.access), hashes
            ):
                offered.append(source)
        except (BadStatistics, BadFile):
            continue
    return offered


def _are_of(found: FoundStatistics, hashes: Mapping[str, str]) -> bool:
    return sorted(found.metadata["model"]["weights"].values()) == sorted(hashes.values())


def open_statistics(source: str, access: Access = STORED) -> Statistics:
    """The statistics at `source` (a file, a folder or a repo), of whatever weights they are."""
    return Statistics(_locate_tensors(source, access), source)


def local_files(source: str, *, fisher: bool) -> list[Path]:
    """The files of this machine that the statistics at `source` are, with their Fisher diagonals; none of a repo."""
    path = local_path(source)
    if path is None or not path.exists():
        return []
    folder = path.parent if path.is_file() else path if (path / METADATA_FILENAME).is_file() else path / FOLDER
    index = folder / INDEX_FILENAME
    tensors = [index, *(folder / name for name in shards_in(index))] if index.is_file() else [folder / FILENAME]
    named = [path] if path.is_file() else [*tensors, folder / METADATA_FILENAME]
    return [*named, *([folder / FISHER_FILENAME] if fisher else [])]


def has_statistics(ref: ModelRef) -> bool:
    """Whether the model's own repo or folder holds statistics (of whatever weights), as a merge would find them."""

    def is_there(name: str) -> bool:
        return f"{FOLDER}/{name}" in ref.files if ref.folder is None else (ref.folder / FOLDER / name).is_file()

    return is_there(METADATA_FILENAME) and any(map(is_there, (FILENAME, INDEX_FILENAME)))


def _candidates(ref: ModelRef) -> Iterator[str]:
    """Sources that may hold statistics of `ref` by those whose model it is, the nearest first."""
    if ref.folder is not None and (ref.folder / FOLDER / METADATA_FILENAME).is_file():
        yield str(ref.folder / FOLDER)
    if ref.repo_id is None or ref.access.is_offline:
        return
    seen = set()
    for source in itertools.chain(_own_commits(ref), _companions(ref, own=True)):
        if source not in seen and _has_metadata(source, ref.access):
            yield source
        seen.add(source)


def _has_metadata(source: str, access: Access) -> bool:
    try:
        return _download(source, METADATA_FILENAME, access) is not None
    except AccessDenied:
        return False  # A gated companion, whose owner has not let us in.


def _pinned(source: str, access: Access) -> str:
    """`source` with the commit that it stands for now, where it is a repo: all its files are read at that one."""
    path = local_path(source)
    if (path is not None and path.exists()) or not _may_be_repo(source) or access.is_offline:
        return source
    repo_id, _, revision = source.partition("@")
    with hub_errors(source):
        return f"{repo_id}@{access.info(repo_id, revision).sha}"


def _own_commits(ref: ModelRef) -> Iterator[str]:
    """The model's repo at its commit, then at its newest one: statistics may have come later."""
    assert ref.repo_id is not None
    yield f"{ref.repo_id}@{ref.commit}"
    with hub_errors(ref.name):
        newest = ref.access.info(ref.repo_id).sha
    yield f"{ref.repo_id}@{newest}"


def _companions(ref: ModelRef, *, own: bool) -> Iterator[str]:
    """Repos that say they hold statistics of `ref`: those of its user or organisation, or only those of others."""

    def info_of(name: str) -> ModelInfo:
        with hub_errors(name):
            return ref.access.info(name)

    for info in side_by_side(info_of, _tagged(ref, own=own)):
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        if sizes.get(f"{FOLDER}/{METADATA_FILENAME}", math.inf) <= _LARGEST_METADATA:
            yield f"{info.id}@{info.sha}"


def _tagged(ref: ModelRef, *, own: bool) -> list[str]:
    """The most downloaded of the repos that name `ref` as the model that they hold statistics of."""
    assert ref.repo_id is not None
    repo_id, owner = ref.repo_id, owner_of(ref.repo_id)

    def listed(author: str | None) -> list[str]:
        def ask() -> list[str]:
            with hub_errors(ref.name):
                found = client(ref.access.token).list_models(
                    filter=[TAG, f"base_model:{repo_id}"], sort="downloads", author=author
                )
                return [info.id for info in itertools.islice(found, _MOST_LISTED)]

        return ref.access.once(Question(f"statistics by {author or 'anybody'}", repo_id), ask)

    names = listed(None)
    if own and len(names) == _MOST_LISTED:
        names = listed(owner)  # Strangers must not crowd the owner out.
    fitting = [name for name in names if name != repo_id and is_same_owner(name, repo_id) == own]
    return fitting[:_MOST_COMPANIONS]


def is_of_others(source: str, ref: ModelRef) -> bool:
    """Whether statistics come from a repo of another user or organisation than the model."""
    path = local_path(source)
    if (path is not None and path.exists()) or not _may_be_repo(source):
        return False
    return ref.repo_id is None or not is_same_owner(source, ref.repo_id)


def owner_of(source: str) -> str:
    """The user or organisation of a repo."""
    return source.partition("/")[0]


def is_same_owner(one: str, other: str) -> bool:
    """Whether two repos are of one user or organisation: then who may write to one decides over both."""
    return owner_of(one).casefold() == owner_of(other).casefold()


def _metadata(source: str, access: Access) -> dict[str, Any]:
    """The metadata of the statistics at `source`: the JSON beside the file, or in its header."""
    path = _where(source, access)
    if path is not None and path.is_file():
        statistics = open_statistics(source, access)
        statistics.close()
        return statistics.metadata
    located = _locate(source, METADATA_FILENAME, access)
    if (
        path is not None
        and path.is_dir()
        and not any((located.parent / name).is_file() for name in (FILENAME, INDEX_FILENAME))
    ):
        raise NotFound(f"There are no statistics in {located.parent}.", f"A folder of them holds {FILENAME}.")
    try:
        return check_metadata(read_object(located, source), source)
    except BadFile as error:
        raise BadStatistics(error.what, REMAKE) from error


def _locate(source: str, filename: str, access: Access) -> Path:
    """`filename` of the statistics at `source` (a file, a folder or a repo), on this machine."""
    path = _where(source, access)
    if path is not None and path.is_file():
        return in_cache(path, source)
    for folder in (path, path / FOLDER) if path is not None else ():
        if (folder / filename).is_file():
            return in_cache(folder / filename, source)
    if (path is not None and path.is_dir()) or not _may_be_repo(source):
        raise NotFound(f"There are no statistics in {source}.", f"A folder of statistics holds {FILENAME}.")
    found = _download(source, filename, access)
    if found is None:
        raise NotFound(
            f"{source} holds no statistics ({FOLDER}/{filename}).", "Give a file, a folder or a repo that does."
        )
    return found


def locate_fisher(source: str, access: Access = STORED) -> Path:
    """The file of Fisher diagonals beside the statistics at `source`, on this machine."""
    path = local_path(source)
    # A file of statistics that was named itself has its Fisher diagonals beside it.
    return _locate(str(path.parent) if path is not None and path.is_file() else source, FISHER_FILENAME, access)


def _locate_tensors(source: str, access: Access) -> Path:
    """What `Statistics` opens at `source`, on this machine: the file, or the index of shards that lie beside it."""
    path = _where(source, access)
    if path is not None and path.is_file():
        return in_cache(path, source)
    for here in (path / INDEX_FILENAME, path / FOLDER / INDEX_FILENAME) if path is not None else ():
        if here.is_file():
            for shard in shards_in(here):
                in_cache(here.parent / shard, source)
            return in_cache(here, source)
    # Anything that is certainly not a repo is looked for as a folder, which says what is missing.
    index = (
        None
        if (path is not None and path.exists()) or not _may_be_repo(source)
        else _download(source, INDEX_FILENAME, access)
    )
    if index is None:
        return _locate(source, FILENAME, access)
    for shard in shards_in(index):
        if _download(source, shard, access) is None:
            raise BadStatistics(f"{source}: {shard} is missing.", "Ask their owner to publish them again.")
    return index


def _where(source: str, access: Access) -> Path | None:
    """The file or folder of this machine that `source` means: of a repo, where no request may be made, the one of the
    cache. Raises `BadFile` for a pipe and the like."""
    path = local_path(source)
    if path is not None:
        require_ordinary(path)
    if not access.is_offline or (path is not None and path.exists()) or not _may_be_repo(source):
        return path
    repo_id, _, revision = source.partition("@")
    return snapshot_of(repo_id, revision, access)


def is_in_repo(source: str) -> bool:
    """Whether `source` is a repo, and no file or folder of this machine."""
    path = local_path(source)
    return (path is None or not path.exists()) and _may_be_repo(source)


def _may_be_repo(source: str) -> bool:
    return "/" in source and not source.startswith(("/", ".", "~")) and not source.endswith(".safetensors")


def _download(source: str, filename: str, access: Access) -> Path | None:
    """`fusehub/<filename>` of a repo, on this machine; None where the repo has no such file."""
    from huggingface_hub.errors import RemoteEntryNotFoundError

    repo_id, _, revision = source.partition("@")
    path = f"{FOLDER}/{filename}"
    with hub_errors(source):
        if access.is_offline:
            try:
                return fetch(repo_id, path, revision=revision, access=access, name=source)
            except RemoteEntryNotFoundError:
                return None
        info = access.info(repo_id, revision)
        # A file that somebody else's token brought into the cache is taken from there unasked.
        access.require_readable(info)
        told = next((file for file in info.siblings or [] if file.rfilename == path), None)
        if told is None:
            return None
        claim = told.lfs.sha256 if told.lfs else told.blob_id
        return fetch(repo_id, path, revision=info.sha, access=access, name=source, claim=claim, size=told.size)
