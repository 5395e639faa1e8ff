"""Repositories as files: content-addressed blobs, immutable commits, and one small file that says what is current.

    DIR/repos/models/alice/name/repo.json        refs, visibility, gate: the only file of a repo that changes
                                commits/SHA.json  parents, author, message, and the whole table path -> blob
                                blobs/OID         sha256 for LFS files, git's sha1 for regular ones
                                discussions/N.json
A commit writes its blobs, then its own file, then `repo.json`, each durably: whatever moment the server dies,
`repo.json` names a complete commit. Blobs belong to one repository, so that knowing a hash never gives access to
another's file, and deleting a repository deletes its bytes.
"""

import hashlib
import json
import os
import secrets
import shutil
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from . import disk
from .errors import HubError, bad_request, conflict, repo_not_found, revision_not_found
from .names import KINDS, check_ref_name, is_name, is_namespace

HEX = set("0123456789abcdef")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def git_oid(content: bytes) -> str:
    """The id git gives this content, so that the client can see which files did not change."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def lfs_entry(sha256: str, size: int) -> dict:
    pointer = lfs_pointer(sha256, size)
    return {"oid": git_oid(pointer), "size": size, "lfs": sha256, "pointer": len(pointer)}


class Repo:
    """One repository on disk. Reads need no lock; whoever changes it holds `lock` from reading to writing."""

    def __init__(
        self, folder: Path, kind: str, repo_id: str, temp: Path, lock: threading.RLock, state: dict | None = None
    ) -> None:
        self.folder, self.kind, self.id, self.temp, self.lock = folder, kind, repo_id, temp, lock
        self.namespace, self.name = repo_id.split("/")
        self.state = state or self.read_state()

    def read_state(self) -> dict:
        try:
            return json.loads((self.folder / "repo.json").read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise repo_not_found() from None

    @contextmanager
    def changing(self) -> Iterator[dict]:
        """The current state under the lock; written back durably unless the block raises."""
        with self.lock:
            self.state = self.read_state()
            before = json.dumps(self.state)
            yield self.state
            if json.dumps(self.state) != before:
                disk.write_json(self.folder / "repo.json", self.state, self.temp)

    # -- commits and references

    def resolve(self, revision: str) -> str:
        """The commit a branch, tag, `refs/...` or (abbreviated) sha stands for."""
        state = self.state
        if not isinstance(revision, str):
            raise revision_not_found(str(revision))
        for prefix, refs in (("refs/heads/", "heads"), ("refs/tags/", "tags"), ("refs/pr/", "prs")):
            if revision.startswith(prefix):
                sha = state[refs].get(revision.removeprefix(prefix))
                if sha is None:
                    raise revision_not_found(revision)
                return sha
        sha = state["heads"].get(revision) or state["tags"].get(revision)
        if sha is None and 7 <= len(revision) <= 40 and set(revision.lower()) <= HEX:
            found = [file.stem for file in (self.folder / "commits").glob(f"{revision.lower()}*.json")]
            sha = found[0] if len(found) == 1 else None
        if sha is None:
            raise revision_not_found(revision)
        return sha

    def commit(self, sha: str) -> dict:
        return _read_commit(self.folder, self.state["_id"], sha)

    def files(self, sha: str) -> dict[str, dict]:
        return self.commit(sha)["files"]

    def write_commit(self, files: dict, parents: list[str], author: str, title: str, message: str = "") -> str:
        """Store a commit and return its sha; no reference points to it yet."""
        depth = 1 + max((self.commit(parent)["depth"] for parent in parents), default=0)
        commit = {"parents": parents, "depth": depth, "author": author, "date": now(), "title": title}
        commit |= {"message": message, "salt": secrets.token_hex(8), "files": dict(sorted(files.items()))}
        content = json.dumps(commit, ensure_ascii=False).encode()
        sha = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        disk.write_bytes(self.folder / "commits" / f"{sha}.json", content, self.temp)
        return sha

    def history(self, sha: str) -> list[str]:
        """All ancestors, newest first: a child always comes before its parents."""
        seen, waiting = {sha}, [sha]
        while waiting:
            for parent in self.commit(waiting.pop())["parents"]:
                if parent not in seen:
                    seen.add(parent)
                    waiting.append(parent)
        return sorted(seen, key=lambda s: (self.commit(s)["depth"], self.commit(s)["date"], s), reverse=True)

    # -- blobs

    def blob(self, entry: dict) -> Path:
        return self.folder / "blobs" / (entry.get("lfs") or entry["oid"])

    def lfs_size(self, sha256: str) -> int | None:
        """Size of an uploaded LFS object, None when this repository does not hold it."""
        if len(sha256) != 64 or not set(sha256) <= HEX:
            return None
        try:
            return (self.folder / "blobs" / sha256).stat().st_size
        except FileNotFoundError:
            return None

    def put_regular(self, content: bytes) -> dict:
        entry = {"oid": git_oid(content), "size": len(content)}
        if not self.blob(entry).exists():
            disk.write_bytes(self.blob(entry), content, self.temp)
        return entry

    def read(self, sha: str, path: str, limit: int = 10 * 2**20) -> bytes | None:
        """Content of a small file, None when it is absent or larger than `limit`."""
        entry = self.files(sha).get(path)
        if entry is None or entry["size"] > limit:
            return None
        return self.blob(entry).read_bytes()


class Store:
    """All repositories under one folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.temp, self.repos = root, root / "tmp", root / "repos"
        for folder in (self.temp, *(self.repos / f"{kind}s" for kind in KINDS)):
            folder.mkdir(parents=True, exist_ok=True)
        disk.sweep(self.temp)
        self._locks: dict[str, threading.RLock] = defaultdict(threading.RLock)
        self._creating = threading.Lock()
        self.facts: OrderedDict = OrderedDict()  # what was read from a commit's files, see describe.py

    def _folder(self, kind: str, repo_id: str) -> Path:
        namespace, _, name = repo_id.partition("/")
        if kind not in KINDS or not is_name(namespace) or not is_name(name):
            raise repo_not_found()
        return self.repos / f"{kind}s" / namespace / name

    def repo(self, kind: str, repo_id: str) -> Repo:
        """Raises RepoNotFound for what does not exist and for every name that cannot exist."""
        return Repo(self._folder(kind, repo_id), kind, repo_id, self.temp, self._locks[f"{kind}/{repo_id}"])

    def all(self, kind: str) -> Iterator[Repo]:
        for file in sorted((self.repos / f"{kind}s").glob("*/*/repo.json")):
            try:
                yield self.repo(kind, f"{file.parent.parent.name}/{file.parent.name}")
            except HubError:  # deleted meanwhile
                continue

    def create(self, kind: str, repo_id: str, author: str, files: dict[str, bytes], **settings: object) -> Repo:
        """A new repository with one first commit, complete or not there at all."""
        namespace, _, name = repo_id.partition("/")
        if kind not in KINDS or not is_namespace(namespace) or not is_name(name):
            raise bad_request(f"Invalid repository name: {repo_id!r}")
        target = self._folder(kind, repo_id)
        taken = conflict(f"You already created this {kind} repo: {repo_id}")
        if target.exists():
            raise taken
        draft = self.temp / f"new-{secrets.token_hex(8)}"
        for sub in ("commits", "blobs", "discussions"):
            (draft / sub).mkdir(parents=True)
        state: dict[str, Any] = {"_id": secrets.token_hex(12), "createdAt": now(), "private": False, "gated": False}
        state |= {
            "access": {},
            "likes": [],
            "discussions": 0,
            "heads": {},
            "tags": {},
            "prs": {},
            "merged": {},
            **settings,
        }
        repo = Repo(draft, kind, repo_id, self.temp, threading.RLock(), state)
        entries = {path: repo.put_regular(content) for path, content in files.items()}
        state["heads"]["main"] = repo.write_commit(entries, [], author, "initial commit")
        disk.write_json(draft / "repo.json", state, self.temp)
        with self._creating:
            new_namespace = not target.parent.exists()
            target.parent.mkdir(exist_ok=True)
            if target.exists():
                shutil.rmtree(draft)
                raise taken
            os.rename(draft, target)
            disk.fsync_dir(target.parent)
            if new_namespace:
                disk.fsync_dir(target.parent.parent)
        return self.repo(kind, repo_id)

    def delete(self, repo: Repo) -> None:
        gone = self.temp / f"gone-{secrets.token_hex(8)}"
        with repo.lock, self._creating:
            repo.read_state()
            os.rename(repo.folder, gone)
            disk.fsync_dir(repo.folder.parent)
        shutil.rmtree(gone, ignore_errors=True)

    def move(self, repo: Repo, repo_id: str) -> None:
        if not is_namespace(repo_id.partition("/")[0]):
            raise bad_request(f"Invalid repository name: {repo_id!r}")
        target = self._folder(repo.kind, repo_id)
        with repo.lock, self._creating:
            repo.read_state()
            if target.exists():
                raise conflict(f"{repo_id} already exists")
            target.parent.mkdir(exist_ok=True)
            os.rename(repo.folder, target)
            for folder in (target.parent, target.parent.parent, repo.folder.parent):
                disk.fsync_dir(folder)


def add_reference(repo: Repo, group: str, name: str, revision: str) -> None:
    """A new branch (`heads`) or tag (`tags`) at a revision."""
    check_ref_name(name)
    with repo.changing() as state:
        if name in state[group]:
            raise conflict(f"Reference already exists: {name}")
        state[group][name] = repo.resolve(revision)


def remove_reference(repo: Repo, group: str, name: str) -> None:
    with repo.changing() as state:
        if group == "heads" and name == "main":
            raise bad_request("The main branch cannot be deleted")
        if state[group].pop(name, None) is None:
            raise revision_not_found(name)


@lru_cache(maxsize=256)
def _read_commit(folder: Path, uid: str, sha: str) -> dict:
    """Commits never change; `uid` keeps a repo that was deleted and made again from seeing the old ones."""
    try:
        return json.loads((folder / "commits" / f"{sha}.json").read_bytes())
    except FileNotFoundError:
        raise revision_not_found(sha) from None
