"""Big files: which ones are big, the LFS batch that hands out upload addresses, and the uploads themselves.

An address is `/_lfs/{ticket}`: the ticket is signed and names repository, hash, size and part, since the client sends
no token there. Bytes stream to a temporary file while they are hashed; only what has the announced sha256 and size
becomes a blob. A multipart upload writes its parts at their places in one file, hashed at the end.
"""

import base64
import binascii
import hashlib
import os
import secrets
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import ceil
from pathlib import Path
from typing import BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from . import disk
from .access import Tickets
from .errors import HubError, bad_request, repo_not_found
from .store import HEX, Repo, Store

# The Hub's default .gitattributes; pictures and other binaries are known by their content.
_BINARY = """7z arrow bin bz2 ckpt ftz gguf gz h5 joblib lfs.* mlmodel model msgpack npy npz onnx ot parquet pb
    pickle pkl pt pth rar safetensors tar tflite tgz wasm xz zip zst"""
EXTENSIONS = _BINARY.split()
ATTRIBUTES = "".join(f"*.{ext} filter=lfs diff=lfs merge=lfs -text\n" for ext in EXTENSIONS).encode()
REGULAR_LIMIT = 10_000_000
EXPIRES = 6 * 3600
BUFFER = 2**20


def upload_mode(path: str, size: int, sample: bytes) -> str:
    """`lfs` for what is big, has the ending of weights or media, or does not look like text; else `regular`."""
    if size == 0:
        return "regular"
    name = path.rsplit("/", 1)[-1].lower()
    if size > REGULAR_LIMIT or any(fnmatchcase(name, f"*.{ext}") for ext in EXTENSIONS):
        return "lfs"
    if b"\0" in sample:
        return "lfs"
    try:
        sample.decode()
    except UnicodeDecodeError as error:
        # A sample may end inside a character of several bytes: that is text all the same.
        return (
            "regular" if error.end == len(sample) and len(sample) - error.start < 4 and size > len(sample) else "lfs"
        )
    return "regular"


def ignored(path: str, rules: str) -> bool:
    """Whether a `.gitignore` hides the path: `*.log`, `/build/`, `docs/*.tmp`, `!keep.log`."""
    hidden = False
    for rule in rules.splitlines():
        rule = rule.strip()
        if not rule or rule.startswith("#"):
            continue
        negative, rule = rule.startswith("!"), rule.lstrip("!")
        if _rule_matches(rule, path):
            hidden = not negative
    return hidden


def _rule_matches(rule: str, path: str) -> bool:
    only_folders, anchored = rule.endswith("/"), "/" in rule.rstrip("/")
    rule = rule.strip("/").replace("**/", "*")
    parts = path.split("/")
    for depth in range(1, len(parts) + (0 if only_folders else 1)):
        target = "/".join(parts[:depth]) if anchored else parts[depth - 1]
        # In an anchored rule `*` stays within its folder.
        if fnmatchcase(target, rule) and (not anchored or "**" in rule or target.count("/") == rule.count("/")):
            return True
    return False


def preupload(repo: Repo, revision: str, body: dict) -> dict:
    """How each file is to be sent, and the id of what is there already under its path."""
    asked = body.get("files")
    if not isinstance(asked, list):
        raise bad_request("preupload needs a list of files")
    sha = repo.resolve(revision)
    files = repo.files(sha)
    rules = body.get("gitIgnore")
    if not isinstance(rules, str):
        rules = (repo.read(sha, ".gitignore") or b"").decode("utf-8", "replace")
    answer = []
    for item in asked:
        try:
            path, size = str(item["path"]), int(item["size"])
            sample = base64.b64decode(item.get("sample") or "")
        except (KeyError, TypeError, ValueError, binascii.Error, AttributeError):
            raise bad_request("Each file of preupload needs path, size and sample") from None
        mode = upload_mode(path, size, sample)
        known = files.get(path, {})
        entry = {"path": path, "uploadMode": mode, "shouldIgnore": ignored(path, rules)}
        if known:
            entry["oid"] = known.get("lfs") or known["oid"]
        answer.append(entry)
    return {"files": answer}


@dataclass(frozen=True)
class Uploads:
    """Hands out addresses and takes what is sent to them."""

    store: Store
    tickets: Tickets
    part_size: int

    def batch(self, repo: Repo, body: dict, base: str, verify: str) -> dict:
        """Answer of the LFS batch: an upload address for each object the repository lacks."""
        if body.get("operation") != "upload":
            raise bad_request("This hub takes LFS uploads; download files from their resolve address")
        transfers = body.get("transfers") or ["basic"]
        objects = body.get("objects")
        if not isinstance(objects, list) or body.get("hash_algo", "sha256") != "sha256":
            raise bad_request("The LFS batch needs a list of objects with sha256")
        answers = [self._offer(repo, item, base, verify, "multipart" in transfers) for item in objects]
        multi = any("chunk_size" in a.get("actions", {}).get("upload", {}).get("header", {}) for a in answers)
        return {"transfer": "multipart" if multi else "basic", "objects": answers}

    def _offer(self, repo: Repo, item: dict, base: str, verify: str, multipart: bool) -> dict:
        oid, size = (item.get("oid"), item.get("size")) if isinstance(item, dict) else (None, None)
        if not isinstance(oid, str) or len(oid) != 64 or not set(oid) <= HEX or type(size) is not int or size < 0:
            raise bad_request("An LFS object needs its sha256 as oid, and its size")
        if repo.lfs_size(oid) == size:
            return {"oid": oid, "size": size}
        what = {"repo": [repo.kind, repo.id, repo.state["_id"]], "oid": oid, "size": size}
        header = {}
        if multipart and size > self.part_size:
            what["temp"] = f"{disk.PARTS}{secrets.token_hex(12)}"
            href = self._address(base, what | {"use": "finish"})
            for part in range(ceil(size / self.part_size)):
                length = min(self.part_size, size - part * self.part_size)
                place = {"use": "part", "offset": part * self.part_size, "length": length}
                header[str(part + 1)] = self._address(base, what | place)
            header["chunk_size"] = str(self.part_size)
        else:
            href = self._address(base, what | {"use": "put"})
        actions = {"upload": {"href": href, "header": header}, "verify": {"href": verify}}
        return {"oid": oid, "size": size, "authenticated": True, "actions": actions}

    def _address(self, base: str, what: dict) -> str:
        return f"{base}/_lfs/{self.tickets.sign(what, EXPIRES)}"

    def _repo(self, what: dict) -> Repo:
        kind, repo_id, uid = what["repo"]
        repo = self.store.repo(kind, repo_id)
        if repo.state["_id"] != uid:
            raise repo_not_found()
        return repo

    async def put(self, request: Request, ticket: str) -> str:
        """Take a whole object, or one part of it; returns the ETag."""
        what = self.tickets.open(ticket, "put", "part")
        repo = await run_in_threadpool(self._repo, what)
        if what["use"] == "part":
            return await self._put_part(request, what)
        temp = disk.new_temp(self.store.temp)
        try:
            with open(temp, "wb") as file:
                digest, size = await _receive(request, file, what["size"])
            _check_content(what, digest, size)
            await run_in_threadpool(disk.publish, temp, repo.folder / "blobs" / what["oid"])
        finally:
            temp.unlink(missing_ok=True)
        return what["oid"]

    async def _put_part(self, request: Request, what: dict) -> str:
        temp = self.store.temp / what["temp"]
        fd = os.open(temp, os.O_RDWR | os.O_CREAT, 0o644)
        with os.fdopen(fd, "r+b") as file:
            file.seek(what["offset"])
            digest, size = await _receive(request, file, what["length"])
            if size != what["length"]:
                raise bad_request(f"A part of {what['length']} bytes was announced, {size} came")
            await run_in_threadpool(os.fsync, file.fileno())
        return digest

    def finish(self, ticket: str) -> None:
        """All parts are there: check the whole and make it a blob. Asking twice is not an error."""
        what = self.tickets.open(ticket, "finish")
        repo = self._repo(what)
        if repo.lfs_size(what["oid"]) == what["size"]:
            return
        temp = self.store.temp / what["temp"]
        if not temp.exists():
            raise bad_request("No part of this upload arrived; start it again")
        with open(temp, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        try:
            _check_content(what, digest, temp.stat().st_size)
            disk.publish(temp, repo.folder / "blobs" / what["oid"])
        finally:
            temp.unlink(missing_ok=True)


async def _receive(request: Request, file: BinaryIO, limit: int) -> tuple[str, int]:
    """Stream a request body into an open file; (sha256, size). Stops at once when it is longer than `limit`."""
    digest, size, buffer = hashlib.sha256(), 0, bytearray()

    def flush() -> None:
        digest.update(buffer)
        file.write(buffer)
        buffer.clear()

    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise HubError(413, "TooLarge", f"More than the announced {limit} bytes were sent")
        buffer += chunk
        if len(buffer) >= BUFFER:
            await run_in_threadpool(flush)
    await run_in_threadpool(flush)
    file.flush()
    return digest.hexdigest(), size


def _check_content(what: dict, digest: str, size: int) -> None:
    if size != what["size"]:
        raise bad_request(f"{what['size']} bytes were announced, {size} came")
    if digest != what["oid"]:
        raise bad_request(f"The content has sha256 {digest}, but {what['oid']} was announced")


def verify(repo: Repo, body: dict) -> dict:
    """The last step of an upload: is the object really here?"""
    if repo.lfs_size(str(body.get("oid"))) != body.get("size"):
        raise HubError(404, "NotFound", f"The LFS object {body.get('oid')} is not here")
    return {}


async def spool(request: Request, temp_folder: Path, limit: int) -> Path:
    """A request body of any size as a temporary file, which the caller removes."""
    temp = disk.new_temp(temp_folder)
    try:
        with open(temp, "wb") as file:
            await _receive(request, file, limit)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
    return temp
