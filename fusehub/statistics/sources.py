"""Where a model's statistics are: in its own repo, in somebody's companion repo, or in a local file.

`find_statistics(ref)` looks in the model's repo under `fusehub/` (at its commit, then on the main branch), then in
repos tagged `fusehub-statistics` whose `base_model` is the model. What it finds is checked against the sha256 of the
weights, which the Hub tells without a download, so that statistics of other weights are never used by mistake.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from fusehub.errors import BadStatistics, FuseHubError, NotFound
from fusehub.hub import client, hub_errors, is_offline
from fusehub.refs import ModelRef
from fusehub.statistics.format import FILENAME, METADATA_FILENAME, Statistics

TAG = "fusehub-statistics"
FOLDER = "fusehub"


def find_statistics(
    ref: ModelRef, source: str = "auto", *, hashes: Mapping[str, str], force: bool = False
) -> Statistics:
    """The statistics of `ref`, whose weight files have the sha256 `hashes`.

    `source` is `auto`, a file or folder, or a repo `user/name[@revision]`. Raises `NotFound` where there are none,
    `BadStatistics` where those there are were made for other weights (unless `force`).
    """
    if source != "auto":
        statistics = _open(source, ref.token)
        if not force:
            statistics.require_weights_of(ref, hashes)
        return statistics
    others = []
    for candidate, metadata in _candidates(ref):
        if sorted(metadata.get("model", {}).get("weights", {}).values()) == sorted(hashes.values()):
            return _open(candidate, ref.token)
        others.append(candidate)
    command = f"fusehub collect {ref.name} --data DATA --out DIR"
    if others:
        raise BadStatistics(
            f"{ref.name}: the statistics there are ({', '.join(others)}) were made for other weights.",
            f"Make new ones where the data is: `{command}`, or give them with --statistics.",
        )
    raise NotFound(
        f"{ref.name} has no published statistics.",
        f"Make them where the data is: `{command}`, then `--statistics {ref.name}=DIR`; or use --method mean.",
    )


def has_statistics(ref: ModelRef) -> bool:
    """Whether the model's own repo or folder holds statistics (of whatever weights)."""
    if ref.folder is not None:
        return (ref.folder / FOLDER / FILENAME).is_file()
    return f"{FOLDER}/{FILENAME}" in ref.files


def _candidates(ref: ModelRef) -> Iterator[tuple[str, dict]]:
    """Sources that may hold statistics of `ref`, with their metadata, the nearest first."""
    if ref.folder is not None:
        path = ref.folder / FOLDER / METADATA_FILENAME
        if path.is_file():
            yield str(path.parent), _metadata(path)
    if ref.repo_id is None or is_offline():
        return
    for source in dict.fromkeys((f"{ref.repo_id}@{ref.commit}", ref.repo_id)):
        path = _download(source, METADATA_FILENAME, ref.token)
        if path is not None:
            yield source, _metadata(path)
    with hub_errors(ref.name):
        tagged = list(client(ref.token).list_models(filter=[TAG, f"base_model:{ref.repo_id}"]))
    for info in tagged:
        path = _download(info.id, METADATA_FILENAME, ref.token)
        if path is not None:
            yield info.id, _metadata(path)


def _open(source: str, token: str | None) -> Statistics:
    """The statistics in a file, a folder or a repo."""
    path = Path(source).expanduser()
    if path.is_dir():
        nested = path / FOLDER / FILENAME
        path = nested if nested.is_file() else path / FILENAME
    if path.is_file():
        return Statistics(path, str(source))
    if path.parent.is_dir() and (path.name == FILENAME or path.suffix == ".safetensors"):
        raise NotFound(f"There are no statistics in {source}.", f"A folder of statistics holds {FILENAME}.")
    found = _download(source, FILENAME, token)
    if found is None:
        raise NotFound(f"{source} holds no statistics ({FOLDER}/{FILENAME}).", "Give a file, a folder or a repo that does.")
    return Statistics(found, source)


def _download(source: str, filename: str, token: str | None) -> Path | None:
    """`fusehub/<filename>` of a repo, on this machine; None where the repo has no such file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    repo_id, _, revision = source.partition("@")
    with hub_errors(source):
        try:
            return Path(
                hf_hub_download(
                    repo_id, f"{FOLDER}/{filename}", revision=revision or None, token=token, library_name="fusehub"
                )
            )
        except EntryNotFoundError:
            return None


def _metadata(path: Path) -> dict:
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise FuseHubError(f"{path.name} is not JSON ({error}).", "Make the statistics again.") from error
    return metadata if isinstance(metadata, dict) else {}
