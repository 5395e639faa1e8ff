"""The Hub's cache on this machine: what its disk says in words, and what killed downloads left in it.

The client downloads into `blobs/HASH.RANDOM.incomplete`, under a lock of that hash, and never looks at it again: each
download that was killed leaves a file as large as it came to be.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fusehub.hub.access import Access
from fusehub.hub.client import hub_errors
from fusehub.utils.folders.holding import Held, try_lock
from fusehub.utils.folders.places import place_errors


def snapshot_of(repo_id: str, revision: str, access: Access) -> Path:
    """The folder of the cache that has a repo at that revision; of no revision, the newest one. Raises `Offline`."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with hub_errors(f"{repo_id}@{revision}" if revision else repo_id):
        try:
            return Path(
                snapshot_download(repo_id, revision=revision or None, cache_dir=access.cache, local_files_only=True)
            )
        except LocalEntryNotFoundError:
            # What was downloaded by its commit alone, as we do, is no branch's in the cache.
            newest = None if revision else _newest_snapshot(repo_id, access)
            if newest is None:
                raise
            return newest


def _newest_snapshot(repo_id: str, access: Access) -> Path | None:
    snapshots = Path(access.cache, f"models--{repo_id.replace('/', '--')}", "snapshots")
    return max(snapshots.glob("*"), key=lambda folder: folder.stat().st_mtime_ns, default=None)


FIX = "Make room there, or set HF_HOME to a folder on another disk that can be written."


@contextmanager
def cache_errors(cache: Path) -> Iterator[None]:
    """Turns what is wrong with the cache's disk into a `FuseHubError` that says so."""
    with place_errors(cache, fix=FIX):
        yield


def remove_broken_off(cache: Path, repo_id: str, repo_type: str) -> None:
    """Removes what killed downloads of a repo's files left, but nothing that a process is at work on."""
    from huggingface_hub.file_download import repo_folder_name

    name = repo_folder_name(repo_id=repo_id, repo_type=repo_type)
    for path in (cache / name / "blobs").glob("*.incomplete"):
        lock = None
        with suppress(Held, OSError):
            lock = try_lock(cache / ".locks" / name / f"{path.name.partition('.')[0]}.lock")
            if lock is not None:
                path.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)
