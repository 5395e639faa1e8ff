"""What of models' weights is not on this machine yet, and whether the disk of the cache takes it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fusehub.errors import FuseHubError
from fusehub.hub.cache import FIX
from fusehub.models.ref import ModelRef
from fusehub.utils.folders.places import Room


def missing_bytes(ref: ModelRef) -> int:
    """Bytes of weights that have to be downloaded before the model can be read."""
    return sum(_missing(ref).values())


def has_weights(repo_id: str, cache: Path) -> bool:
    """Whether weights of a repo are in a cache, at whatever commit: enough to say how long something may take."""
    from huggingface_hub.file_download import repo_folder_name

    commits = cache / repo_folder_name(repo_id=repo_id, repo_type="model") / "snapshots"
    return any(found.suffix in (".safetensors", ".bin") for found in commits.glob("*/*"))


def room_of_downloads(refs: Iterable[ModelRef]) -> list[Room]:
    """What the caches must take before all of these models can be read; what several share is told once."""
    wanted: dict[Path, dict[tuple[str, str], int]] = {}
    names: dict[Path, list[str]] = {}
    for ref in refs:
        if missing := _missing(ref):
            wanted.setdefault(ref.access.cache, {}).update(missing)
            names.setdefault(ref.access.cache, []).append(ref.name)
    return [
        Room(f"The download of {', '.join(dict.fromkeys(names[cache]))}", sum(files.values()), cache, FIX)
        for cache, files in wanted.items()
    ]


def _missing(ref: ModelRef) -> dict[tuple[str, str], int]:
    """The bytes of each file of weights that is not here, by its model and name."""
    try:
        names = ref.weight_files()
    except FuseHubError:
        return {}
    found = ((ref.owner(name), name) for name in names)
    return {(owner.id, name): ref.files[name].size for owner, name in found if not _is_here(owner, name)}


def _is_here(owner: ModelRef, name: str) -> bool:
    """Whether a file is on this machine; what is in a folder takes no import to be told."""
    if owner.repo_id is None or owner.folder is not None:
        return True
    from huggingface_hub import try_to_load_from_cache

    known = try_to_load_from_cache(
        owner.repo_id, owner.inside(name), cache_dir=owner.access.cache, revision=owner.commit
    )
    return isinstance(known, str)
