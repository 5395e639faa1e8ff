"""Commits: the NDJSON a client sends becomes a new table of files, a commit, and a moved reference.

    {"key": "header", "value": {"summary": "Add weights", "parentCommit": "..."}}
    {"key": "file", "value": {"path": "config.json", "encoding": "base64", "content": "..."}}
    {"key": "lfsFile", "value": {"path": "model.safetensors", "algo": "sha256", "oid": "...", "size": 123}}
Blobs are written before the repository is locked; the lock covers only "is the parent still the head? then move it".
"""

import base64
import binascii
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .cards import check_card
from .errors import HubError, bad_request, entry_not_found, revision_not_found
from .names import check_path
from .store import Repo, lfs_entry

MAX_LINE = 64 * 2**20


@dataclass
class Change:
    """What one commit wants: entries to put (path -> entry) and paths to remove, in the order sent."""

    title: str
    message: str = ""
    parent: str | None = None
    steps: list[tuple[str, str, dict | None]] = field(default_factory=list)


def read_change(repo: Repo, body: Path) -> Change:
    """Parse an NDJSON body line by line, storing regular files as blobs."""
    change = None
    for key, value in _lines(body):
        if key == "header":
            if change is not None:
                raise bad_request("The commit has two headers")
            change = _header(value)
        elif change is None:
            raise bad_request("The first line of a commit must be its header")
        elif key in ("file", "lfsFile"):
            entry = _regular(repo, value) if key == "file" else _lfs(repo, value)
            change.steps.append(("put", check_path(value.get("path")), entry))
        elif key in ("deletedFile", "deletedEntry", "deletedFolder"):
            path = str(value.get("path") or "").rstrip("/")
            change.steps.append(("folder" if key == "deletedFolder" else "delete", check_path(path), None))
        else:
            raise bad_request(f"Unknown operation in commit: {key!r}")
    if change is None:
        raise bad_request("The commit is empty: it needs at least a header")
    return change


def _lines(body: Path) -> Iterator[tuple[str, dict]]:
    with open(body, "rb") as file:
        while line := file.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                raise HubError(413, "TooLarge", "A regular file is too large for a commit: upload it with LFS")
            if not line.strip():
                continue
            try:
                item = json.loads(line)
                key, value = item["key"], item["value"]
            except (ValueError, KeyError, TypeError, RecursionError):
                raise bad_request("A line of the commit is not {key, value} in JSON") from None
            if not isinstance(value, dict):
                raise bad_request("The value of a line of the commit must be an object")
            yield key, value


def _header(value: dict) -> Change:
    summary, description, parent = (value.get("summary"), value.get("description") or "", value.get("parentCommit"))
    if not isinstance(summary, str) or not summary.strip():
        raise bad_request("The commit needs a summary")
    if not isinstance(description, str) or not isinstance(parent, str | None):
        raise bad_request("Description and parentCommit of a commit are texts")
    return Change(summary.strip(), description, parent)


def _regular(repo: Repo, value: dict) -> dict:
    content = value.get("content")
    if not isinstance(content, str):
        raise bad_request(f"{value.get('path')}: a file needs its content")
    if value.get("encoding", "utf-8") != "base64":
        return repo.put_regular(content.encode())
    try:
        return repo.put_regular(base64.b64decode(content, validate=True))
    except binascii.Error:
        raise bad_request(f"{value.get('path')}: the content is not valid base64") from None


def _lfs(repo: Repo, value: dict) -> dict:
    oid = str(value.get("oid") or "").lower()
    size = repo.lfs_size(oid)
    if value.get("algo", "sha256") != "sha256" or size is None or value.get("size", size) != size:
        raise bad_request(f"{value.get('path')}: the LFS object {oid} was not uploaded to this repository")
    return lfs_entry(oid, size)


def apply(files: dict[str, dict], change: Change, kind: str, repo: Repo) -> dict[str, dict]:
    """The table of files after the change; raises when the change does not fit it."""
    files = dict(files)
    for action, path, entry in change.steps:
        inside = [other for other in files if other.startswith(f"{path}/")]
        if action == "delete":
            if files.pop(path, None) is None:
                raise entry_not_found(path)
        elif action == "folder":
            if not inside:
                raise entry_not_found(path)
            for other in inside:
                del files[other]
        else:
            parts = path.split("/")
            above = next((p for n in range(1, len(parts)) if (p := "/".join(parts[:n])) in files), None)
            if inside or above:
                raise bad_request(f"{path}: a file and a folder cannot have the same name ({above or path})")
            assert entry is not None  # What is put has one.
            files[path] = entry
            if path == "README.md":
                _check_readme(repo, entry, kind)
    return files


def _check_readme(repo: Repo, entry: dict, kind: str) -> None:
    content = repo.blob(entry).read_bytes() if entry["size"] < MAX_LINE else b""
    errors, _ = check_card(content.decode("utf-8", "replace"), kind)
    if errors:
        raise bad_request("Invalid metadata in README.md: " + "; ".join(errors))


def check_parent(change: Change, head: str) -> None:
    if change.parent and not head.startswith(change.parent.lower()):
        message = f"A commit has happened since {change.parent[:12]}: the head is {head}. Refresh and try again."
        raise HubError(412, "PreconditionFailed", message)


def find_ref(state: dict, revision: str) -> tuple[str, str]:
    """(group, name) of the branch or pull request that a commit may move; tags and shas stay."""
    if revision.startswith("refs/pr/") and revision.removeprefix("refs/pr/") in state["prs"]:
        return "prs", revision.removeprefix("refs/pr/")
    name = revision.removeprefix("refs/heads/")
    if name not in state["heads"]:
        raise revision_not_found(revision)
    return "heads", name


def commit_to(repo: Repo, revision: str, change: Change, author: str) -> str:
    """Move a branch or a pull request by one commit and return its sha (the head when nothing changed)."""
    with repo.changing() as state:
        group, name = find_ref(state, revision)
        head = state[group][name]
        check_parent(change, head)
        files = apply(repo.files(head), change, repo.kind, repo)
        if files == repo.files(head):
            return head
        state[group][name] = repo.write_commit(files, [head], author, change.title, change.message)
        return state[group][name]


def common_ancestor(repo: Repo, one: str, other: str) -> str:
    """The newest commit both have; the first commit of a repository is an ancestor of all."""
    theirs = set(repo.history(other))
    return next(sha for sha in repo.history(one) if sha in theirs)


def changed(before: dict, after: dict) -> dict[str, dict | None]:
    """path -> its new entry, or None where it was removed."""
    paths = [path for path in {**before, **after} if before.get(path) != after.get(path)]
    return {path: after.get(path) for path in paths}


def three_way(repo: Repo, ours: str, theirs: str) -> tuple[dict, list[str]]:
    """(files of the merge, paths that both sides changed differently)."""
    base = repo.files(common_ancestor(repo, ours, theirs))
    mine, other = changed(base, repo.files(ours)), changed(base, repo.files(theirs))
    conflicts = [path for path in other if path in mine and mine[path] != other[path]]
    files = dict(repo.files(ours))
    for path, entry in other.items():
        if entry is None:
            files.pop(path, None)
        else:
            files[path] = entry
    folders = {"/".join(path.split("/")[:n]) for path in files for n in range(1, path.count("/") + 1)}
    return files, sorted({*conflicts, *(folders & set(files))})
