"""Listing and reading files of a repository: tree, paths-info, resolve."""

import hashlib
import mimetypes
from urllib.parse import quote

from starlette.responses import FileResponse

from ..errors import entry_not_found
from ..store import Repo

# What counts as one download of a model, as on the Hub; of other kinds every file counts.
COUNTED = ("config.json", "config.yaml", "hyperparams.yaml", "params.json", "meta.yaml", "adapter_config.json")
# Shown by a browser as what they are; everything else as plain text or a download, never as a page of this site.
SHOWN = ("image/png", "image/jpeg", "image/gif", "image/webp", "application/json", "application/pdf", "text/plain")


class BlobResponse(FileResponse):
    """A blob streamed in pieces of 1 MB; the framework sees to HEAD and ranges."""

    chunk_size = 2**20


def folders(files: dict) -> dict[str, str]:
    """Every folder and an id that changes with what is in it."""
    digests: dict[str, hashlib._Hash] = {}
    for path, entry in files.items():
        parts = path.split("/")
        for depth in range(1, len(parts)):
            digest = digests.setdefault("/".join(parts[:depth]), hashlib.sha1(usedforsecurity=False))
            digest.update(f"{path}\0{entry['oid']}\n".encode())
    return {folder: digest.hexdigest() for folder, digest in digests.items()}


def _item(path: str, entry: dict) -> dict:
    item = {"type": "file", "oid": entry["oid"], "size": entry["size"], "path": path}
    if "lfs" in entry:
        item["lfs"] = {"oid": entry["lfs"], "size": entry["size"], "pointerSize": entry["pointer"]}
    return item


def _folder_item(path: str, oid: str) -> dict:
    return {"type": "directory", "oid": oid, "size": 0, "path": path}


def tree(repo: Repo, sha: str, folder: str, recursive: bool) -> list[dict]:
    """Files and folders below `folder`, by path; raises EntryNotFound when there is no such folder."""
    files = repo.files(sha)
    all_folders = folders(files)
    if folder and folder not in all_folders:
        raise entry_not_found(folder, sha)
    start = f"{folder}/" if folder else ""
    items = [_item(path, entry) for path, entry in files.items() if path.startswith(start)]
    items += [_folder_item(path, oid) for path, oid in all_folders.items() if path.startswith(start)]
    if not recursive:
        items = [item for item in items if "/" not in item["path"][len(start) :]]
    return sorted(items, key=lambda item: item["path"])


def paths_info(repo: Repo, sha: str, paths: list[str]) -> list[dict]:
    """The same for named paths; those that do not exist are left out."""
    files = repo.files(sha)
    all_folders = folders(files)
    items = []
    for path in dict.fromkeys(path.strip("/") for path in paths):
        if path in files:
            items.append(_item(path, files[path]))
        elif path in all_folders:
            items.append(_folder_item(path, all_folders[path]))
    return items


def add_last_commits(repo: Repo, sha: str, items: list[dict]) -> list[dict]:
    """`expand=true`: the commit that last touched each item."""
    waiting = {item["path"]: item for item in items}
    for commit_sha in repo.history(sha):
        if not waiting:
            break
        commit = repo.commit(commit_sha)
        before = [repo.files(parent) for parent in commit["parents"]] or [{}]
        touched = [path for path, entry in commit["files"].items() if all(b.get(path) != entry for b in before)]
        gone = [path for path in before[0] if path not in commit["files"]]
        for path in touched + gone:
            parts = path.split("/")
            for depth in range(1, len(parts) + 1):
                if item := waiting.pop("/".join(parts[:depth]), None):
                    item["lastCommit"] = {"id": commit_sha, "title": commit["title"], "date": commit["date"]}
    return items


def resolve(repo: Repo, sha: str, path: str) -> BlobResponse:
    """A file as the client downloads it: ETag, commit, and for LFS files their real hash and size."""
    entry = repo.files(sha).get(path)
    if entry is None:
        raise entry_not_found(path, sha)
    blob = repo.blob(entry)
    etag = f'"{entry.get("lfs") or entry["oid"]}"'
    headers = {"ETag": etag, "X-Repo-Commit": sha, "X-Content-Type-Options": "nosniff"}
    headers |= {"Content-Security-Policy": "default-src 'none'; sandbox", "Cache-Control": "no-cache"}
    headers["Content-Disposition"] = f"inline; filename*=UTF-8''{quote(path.rsplit('/', 1)[-1])}"
    if "lfs" in entry:
        headers |= {"X-Linked-Size": str(entry["size"]), "X-Linked-Etag": etag}
    return BlobResponse(blob, headers=headers, media_type=media_type(path), stat_result=blob.stat())


def media_type(path: str) -> str:
    guess = mimetypes.guess_type(path)[0] or "application/octet-stream"
    if guess in SHOWN:
        return guess
    textual = guess.startswith("text/") or guess.endswith(("+xml", "/xml", "javascript"))
    return "text/plain" if textual or path.endswith((".md", ".yaml", ".yml", ".jsonl")) else "application/octet-stream"


def counts_as_download(repo: Repo, path: str) -> bool:
    return path.rsplit("/", 1)[-1] in COUNTED if repo.kind == "model" else True
