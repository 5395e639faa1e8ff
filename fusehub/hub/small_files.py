"""Small files of a commit, brought into the client's cache by one request each.

`hf_hub_download` asks twice for a file, the first time for what a model's listing has told of it already: its hash and
its size. What git calls by the same hash is the same file: experts of one base have one tokenizer, which is asked for
once, whosever repo it lies in. (Whoever asks has been told the hash by the Hub, as part of a repo that they may read.)
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import uuid
import weakref
from pathlib import Path

from fusehub.hub.access import Access
from fusehub.hub.client import fusehub_version, session

LARGEST = 10 * 2**20
"""Bytes up to which a file is small: with larger ones, the client can go on where a download broke off."""
_MOST = 4096
# Files on this machine, by git's hash. (Not by sha256: a repo can name a large file by it that it does not have.)
_known: dict[str, Path] = {}
_turns: weakref.WeakValueDictionary[str, _Turn] = weakref.WeakValueDictionary()
_lock = threading.Lock()


class _Turn:
    """Whose turn it is to ask for a file: one thread at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


def fetch_small(
    repo_id: str, filename: str, commit: str, access: Access, *, claim: str, size: int, repo_type: str
) -> Path | None:
    """`filename` of a repo at a commit, with the hash `claim` and `size` bytes, in the cache of this machine.

    None where the client has to see to it: the file is large, no request may be made, or the Hub's answer is not the
    file. Whoever calls holds what is there to its hash. Raises `Offline` where the Hub cannot be reached.
    """
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(repo_id, filename, access.cache, commit, repo_type)
    if isinstance(cached, str):
        return Path(cached)
    is_path = "\\" in filename  # On some systems.
    if access.is_offline or size > LARGEST or is_path or not re.fullmatch(r"[0-9a-f]{40}", commit):
        return None
    is_gits = len(claim) == 40
    with _lock:
        turn = _turns.setdefault(claim, _Turn())
    with turn.lock:
        content = _read(_known[claim], claim) if is_gits and claim in _known else None
        if content is None:
            content = _asked(repo_id, filename, commit, access, size, repo_type)
        if content is None:
            return None
        path = _put(access.cache, repo_id, filename, commit, content, claim, repo_type)
        if is_gits and _git_hash(content) == claim:
            if len(_known) >= _MOST:
                _known.clear()
            _known[claim] = path
    return path


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _read(path: Path, claim: str) -> bytes | None:
    """The bytes of a file that was written here with the hash `claim`; None where they are no longer those."""
    try:
        content = path.read_bytes()
    except OSError:
        return None  # The cache was emptied.
    return content if _git_hash(content) == claim else None


def _asked(repo_id: str, filename: str, commit: str, access: Access, size: int, repo_type: str) -> bytes | None:
    """The bytes that the Hub answers with; None for any answer that is not the file."""
    import httpx2
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    sending, token = session(access.token)
    url = hf_hub_url(repo_id, filename, repo_type=repo_type, revision=commit)
    headers = build_hf_headers(token=token, library_name="fusehub", library_version=fusehub_version())
    headers["Accept-Encoding"] = "identity"  # Or its length would not tell whether it is whole.
    try:
        response = sending.get(url, headers=headers, follow_redirects=True, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
    except httpx2.RequestError:
        return None  # The client tells what is wrong.
    return response.content if response.status_code == 200 and len(response.content) == size else None


def _put(cache: Path, repo_id: str, filename: str, commit: str, content: bytes, claim: str, repo_type: str) -> Path:
    """Writes a file into the cache, where and as the client does."""
    from huggingface_hub.file_download import are_symlinks_supported, repo_folder_name
    from huggingface_hub.utils import WeakFileLock

    name = repo_folder_name(repo_id=repo_id, repo_type=repo_type)
    blob = cache / name / "blobs" / claim
    pointer = cache / name / "snapshots" / commit / filename
    lock = cache / ".locks" / name / f"{claim}.lock"
    for folder in (lock.parent, blob.parent, pointer.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        is_linked = are_symlinks_supported(cache)
        target = blob if is_linked else pointer
        if not target.exists():
            written = blob.with_name(f"{claim}.{uuid.uuid4().hex}.incomplete")
            try:
                written.write_bytes(content)
                written.replace(target)
            except BaseException:  # The disk is full.
                written.unlink(missing_ok=True)
                raise
        if is_linked and not pointer.exists():
            pointer.unlink(missing_ok=True)
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    return pointer
