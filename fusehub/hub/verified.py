"""Files of the Hub, held to the hash that the Hub tells of them before anything is read from them.

A bit that flips on the wire or in the cache changes a model, and nobody would see it: the client compares sizes alone.
Large files have a sha256, small ones git's hash; in the client's cache a file is stored under it, so that it is known
offline too. A file that does not match is thrown out of the cache, fetched once more, and then refused.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fusehub.errors import BadFile
from fusehub.hub.access import Access
from fusehub.hub.cache import FIX, cache_errors, remove_broken_off
from fusehub.hub.client import cut_token, is_offline
from fusehub.hub.remembered import keep, recall
from fusehub.hub.small_files import fetch_small
from fusehub.utils.folders.places import Room, require_room


def fetch(
    repo_id: str,
    filename: str,
    *,
    revision: str | None,
    access: Access,
    name: str,
    claim: str | None = None,
    size: int | None = None,
    repo_type: str = "model",
) -> Path:
    """`filename` of a repo, on this machine, with the bytes that the Hub claims; `name` is whose it is, for errors.

    `claim` is their sha256 or git's hash, `size` their number, where they are known already: a small file is then
    asked for once. Raises `BadFile` where they are others, and what the Hub's client raises.
    """
    from huggingface_hub import hf_hub_download

    def download() -> Path:
        with cache_errors(access.cache):
            _require_room(repo_id, filename, revision, access, size, repo_type)
            if revision and claim and size is not None:
                small = fetch_small(repo_id, filename, revision, access, claim=claim, size=size, repo_type=repo_type)
                if small is not None:
                    return small
            path = Path(
                hf_hub_download(
                    repo_id, filename, repo_type=repo_type, revision=revision or None, token=cut_token(access.token),
                    cache_dir=access.cache_dir, local_files_only=access.local_files_only, library_name="fusehub",
                )
            )  # fmt: skip
            remove_broken_off(access.cache, repo_id, repo_type)
            return path

    path = download()
    if holds(path, claim):
        return path
    error = _refused(path, claim, name, filename)
    if path.is_symlink() or path.exists() or access.is_offline:
        raise error
    path = download()
    if holds(path, claim):
        return path
    raise _refused(path, claim, name, filename)


def _require_room(
    repo_id: str, filename: str, revision: str | None, access: Access, size: int | None, repo_type: str
) -> None:
    """Raises `NoSpace` where a file that is `size` bytes large is to be downloaded to a disk that has less left."""
    from huggingface_hub import try_to_load_from_cache

    if not size or access.is_offline or not revision:
        return
    if isinstance(try_to_load_from_cache(repo_id, filename, access.cache, revision, repo_type), str):
        return
    remove_broken_off(access.cache, repo_id, repo_type)  # What they left takes room.
    require_room([Room(f"The download of {repo_id}: {filename}", size, access.cache, FIX)])


def in_cache(path: Path, name: str, claim: str | None = None) -> Path:
    """`path` itself, if it has the bytes of its `claim`, or of the name that the Hub's cache gave it.

    Raises `BadFile` where it has not; then it is thrown out. A file outside of a cache that nothing is claimed of is
    taken as it is.
    """
    if not holds(path, claim):
        raise _refused(path, claim, name, path.name)
    return path


def claimed(path: Path) -> str | None:
    """The hash that the Hub told of a file of its cache: sha256 (64 digits) or git's (40); None of other files."""
    if not path.is_symlink():
        return None
    # One step only: a blob can be a link itself, to where repos share it under yet another hash.
    blob = Path(os.path.normpath(path.absolute().parent / os.readlink(path)))
    is_cached = blob.parent.name == "blobs" and re.match(r"(models|datasets|spaces)--", blob.parent.parent.name)
    return blob.name if is_cached and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name) else None


def holds(path: Path, claim: str | None = None) -> bool:
    """Whether a file has the bytes that are claimed of it; true where nothing is."""
    claim = claim or claimed(path)
    return claim is None or not path.exists() or _hash_of(path, claim) == claim


def file_hash(path: Path) -> str:
    """sha256 of a file, in hexadecimal; remembered until it is written anew."""
    return _hash_with(path, 64)


def remembered_hash(path: Path) -> str:
    """The same, as another command may have found it; for what comes of it nothing is made.

    A bit that turns over on a disk is not seen so: its file was not written.
    """
    started = time.time_ns()
    written = _Written.of(path, 64)
    told = recall("hashes", written)
    if isinstance(told, str):
        return told
    found = file_hash(path)
    # Clocks of file systems are coarse: what is written just after it was hashed can have the same time.
    if started - max(written.mtime, written.ctime) > _COARSE_NS:
        keep("hashes", written, found)
    return found


def known_hashes() -> dict[tuple[Any, ...], str]:
    """What this process has hashed, for another one that reads the same files."""
    return {tuple(written): found for written, found in list(_known.items())}


def learn_hashes(told: Mapping[tuple[Any, ...], str]) -> None:
    """Takes over what another process has hashed: it holds for a file that is the same by all that tells files."""
    for written, found in told.items():
        _learn(_Written(*written), found)


class _Written(NamedTuple):
    """A file as it was last written, and which hash of it is meant, by its digits."""

    path: str
    digits: int
    size: int
    device: int
    inode: int
    mtime: int
    ctime: int

    @classmethod
    def of(cls, path: Path, digits: int) -> _Written:
        stat = path.stat()
        whole = str(path.resolve())
        return cls(whole, digits, stat.st_size, stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns)


_MOST = 4096
_COARSE_NS = 2_000_000_000
_known: dict[_Written, str] = {}


def _learn(written: _Written, found: str) -> None:
    _known[written] = found
    for oldest in list(_known)[: max(0, len(_known) - _MOST)]:
        _known.pop(oldest, None)


def _hash_of(path: Path, claim: str) -> str:
    """The hash of a file, of the kind that `claim` is."""
    return _hash_with(path, len(claim))


def _hash_with(path: Path, digits: int) -> str:
    """sha256 or git's sha1 of a file; remembered in this process until it is written anew."""
    written = _Written.of(path, digits)
    if (known := _known.get(written)) is not None:
        return known
    digest = hashlib.sha256() if digits == 64 else hashlib.sha1(b"blob %d\0" % written.size, usedforsecurity=False)
    with open(written.path, "rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    _learn(written, digest.hexdigest())
    return digest.hexdigest()


def _refused(path: Path, claim: str | None, name: str, filename: str) -> BadFile:
    """The error for a file that has not the bytes of its `claim`, which is thrown out of the cache."""
    claim = claim or claimed(path)
    assert claim is not None  # What nothing is claimed of is not refused.
    found = _hash_of(path, claim)
    if not _throw_out(path):
        fix = "It lies in a cache that cannot be written: have it removed there, or set HF_HOME to a folder of yours."
    elif is_offline():
        fix = "It was thrown out of the cache. Get it again with the network on."
    else:
        fix = "It was thrown out of the cache. Try again; if it stays so, tell the repo's owner."
    return BadFile(
        f"{name}: {filename} is not what the Hub says it is: its hash is {found}, and the Hub's {claim}.", fix
    )


def _throw_out(path: Path) -> bool:
    """Removes a file of the cache: the link, the blob that it leads to, and the one that repos share.

    False where the cache cannot be written, because others own it or it is mounted so.
    """
    try:
        while path.is_symlink():
            target = path.parent / os.readlink(path)
            path.unlink()
            path = target
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True
