"""Big files: streamed on both sides, checked, in parts, by addresses that cannot be forged."""

import hashlib
import os
import subprocess
import sys
import threading
import time

import httpx2
import psutil
import pytest
from huggingface_hub import CommitOperationAdd, HfApi

MB = 2**20


def batch(http, bearer, repo, oid, size, user="alice", transfers=("basic",)):
    body = {
        "operation": "upload",
        "transfers": list(transfers),
        "objects": [{"oid": oid, "size": size}],
        "hash_algo": "sha256",
    }
    return http.post(f"/{repo}.git/info/lfs/objects/batch", json=body, headers=bearer(user))


def upload_address(http, bearer, repo, content):
    oid = hashlib.sha256(content).hexdigest()
    answer = batch(http, bearer, repo, oid, len(content)).json()
    return oid, answer["objects"][0]["actions"]["upload"]["href"]


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def blobs(hub, repo):
    return {path.name for path in (hub.root / "repos" / "models" / repo / "blobs").iterdir()}


class Peak:
    """Highest resident memory of a process while the block runs, in bytes over the start."""

    def __init__(self, pid):
        self.process, self.done = psutil.Process(pid), threading.Event()

    def __enter__(self):
        self.start = self.peak = self.process.memory_info().rss
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self):
        while not self.done.wait(0.01):
            self.peak = max(self.peak, self.process.memory_info().rss)

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    @property
    def grown(self):
        return self.peak - self.start


def test_300_mb_pass_through_the_server_without_staying_in_memory(hub, alice, repo, tmp_path):
    big = tmp_path / "model.safetensors"
    block = os.urandom(MB)
    with open(big, "wb") as file:
        for n in range(300):
            file.write(n.to_bytes(8, "little") + block[8:])
    digest = sha256(big)
    with Peak(hub.pid) as up:
        alice.upload_file(path_or_fileobj=big, path_in_repo="model.safetensors", repo_id=repo)
    big.unlink()
    with Peak(hub.pid) as down:
        path = alice.hf_hub_download(repo, "model.safetensors", cache_dir=tmp_path)
    assert sha256(path) == digest
    assert up.grown < 60 * MB and down.grown < 60 * MB
    alice.delete_repo(repo)


def test_an_upload_in_parts(small_pages, tmp_path):
    api = HfApi(endpoint=small_pages.url, token=small_pages.token("alice"))
    content = os.urandom(5 * 262144 + 17)
    api.create_repo("alice/parts")
    api.upload_file(path_or_fileobj=content, path_in_repo="model.bin", repo_id="alice/parts")
    with open(api.hf_hub_download("alice/parts", "model.bin", cache_dir=tmp_path), "rb") as file:
        assert file.read() == content
    assert not list((small_pages.root / "tmp").glob("parts-*"))


def parted(small_pages, content, name):
    """(client, batch answer of a multipart upload of `content` to a new repository)."""
    token = small_pages.token("alice")
    HfApi(endpoint=small_pages.url, token=token).create_repo(f"alice/{name}", exist_ok=True)
    client = httpx2.Client(base_url=small_pages.url)
    oid = hashlib.sha256(content).hexdigest()
    answer = batch(
        client,
        lambda _: {"Authorization": f"Bearer {token}"},
        f"alice/{name}",
        oid,
        len(content),
        transfers=["basic", "multipart"],
    )
    assert answer.json()["transfer"] == "multipart"
    return client, oid, answer.json()["objects"][0]["actions"]["upload"]


def test_parts_in_any_order_and_twice_and_a_missing_one(small_pages):
    content = os.urandom(3 * 262144)
    client, oid, upload = parted(small_pages, content, "order")
    header = upload["header"]
    for part in ("3", "1", "3"):
        start = (int(part) - 1) * 262144
        answer = client.put(header[part], content=content[start : start + 262144])
        assert answer.status_code == 200 and answer.headers["etag"]
    assert client.post(upload["href"], json={"oid": oid, "parts": []}).status_code == 400
    assert oid not in blobs(small_pages, "alice/order")
    client.close()
    client, _, upload = parted(small_pages, content, "order")
    for part in ("3", "2", "1"):
        start = (int(part) - 1) * 262144
        client.put(upload["header"][part], content=content[start : start + 262144]).raise_for_status()
    assert client.put(upload["header"]["1"], content=b"short").status_code == 400
    client.put(upload["header"]["1"], content=content[:262144]).raise_for_status()
    for _ in range(2):  # a client that did not get the answer asks again
        assert client.post(upload["href"], json={"oid": oid, "parts": []}).status_code == 200
    assert oid in blobs(small_pages, "alice/order")
    client.close()


def test_more_than_announced_is_not_even_read(http, bearer, repo):
    _, address = upload_address(http, bearer, repo, b"the content")
    assert http.put(address, content=b"x" * 100_000).status_code == 413


@pytest.mark.parametrize("content", [b"other content", b"the content, and more", b"the c", b""])
def test_only_the_announced_content_is_taken(hub, http, bearer, repo, content):
    oid, address = upload_address(http, bearer, repo, b"the content")
    answer = http.put(address, content=content)
    assert answer.status_code in (400, 413) and answer.headers["x-error-message"]
    assert oid not in blobs(hub, repo)
    assert http.put(address, content=b"the content").status_code == 200
    assert oid in blobs(hub, repo)
    assert "actions" not in batch(http, bearer, repo, oid, 11).json()["objects"][0]


def test_addresses_cannot_be_forged_altered_or_used_otherwise(hub, http, bearer, repo):
    oid, address = upload_address(http, bearer, repo, b"the content")
    text, signature = address.rsplit("/", 1)[1].split(".")
    for forged in (f"{text[:-2]}AA.{signature}", f"{text}.{'0' * 64}", f"{text}.", text, f"ü{text}.{signature}"):
        assert http.put(f"/_lfs/{forged}", content=b"the content").status_code == 403
    assert http.post(address, json={}).status_code == 403
    assert http.get("/alice", headers={"Cookie": f"fusehub_hub={text}.{signature}"}).status_code == 200
    assert oid not in blobs(hub, repo)


def test_an_expired_address_is_refused(hub, http, bearer, repo):
    from fusehub.localhub.access import Tickets

    tickets = Tickets(hub.root)
    what = {"use": "put", "repo": ["model", repo, "?"], "oid": "0" * 64, "size": 1}
    assert "expired" in http.put(f"/_lfs/{tickets.sign(what, -1)}", content=b"x").json()["error"]


def test_an_address_does_not_outlive_its_repository(alice, http, bearer, repo):
    _, address = upload_address(http, bearer, repo, b"the content")
    alice.delete_repo(repo)
    alice.create_repo(repo)
    assert http.put(address, content=b"the content").status_code == 404


def test_a_hash_alone_gives_no_access_to_anothers_file(alice, bob, http, bearer):
    """The store is by content, but of one repository: else knowing a hash would be enough to read a private file."""
    secret = os.urandom(1000)
    oid = hashlib.sha256(secret).hexdigest()
    alice.create_repo("alice/vault", private=True)
    alice.upload_file(path_or_fileobj=secret, path_in_repo="s.bin", repo_id="alice/vault")
    bob.create_repo("bob/thief")
    assert "actions" in batch(http, bearer, "bob/thief", oid, 1000, user="bob").json()["objects"][0]
    lines = (
        '{"key":"header","value":{"summary":"s"}}\n{"key":"lfsFile","value":{"path":"s.bin","oid":"%s","size":1000}}'
    )
    answer = http.post("/api/models/bob/thief/commit/main", content=lines % oid, headers=bearer("bob"))
    assert answer.status_code == 400


def test_verify_knows_what_is_there(alice, http, bearer, repo):
    alice.upload_file(path_or_fileobj=b"\0abc", path_in_repo="a.bin", repo_id=repo)
    oid = hashlib.sha256(b"\0abc").hexdigest()
    address = f"/{repo}.git/info/lfs/verify"
    assert http.post(address, json={"oid": oid, "size": 4}, headers=bearer("alice")).status_code == 200
    assert http.post(address, json={"oid": oid, "size": 5}, headers=bearer("alice")).status_code == 404
    assert http.post(address, json={"oid": "../repo.json", "size": 5}, headers=bearer("alice")).status_code == 404


def test_the_same_big_file_is_sent_once(hub, alice, repo):
    content = os.urandom(100_000)
    for path in ("a.bin", "b.bin"):
        alice.create_commit(repo, [CommitOperationAdd(path, content)], commit_message=path)
    assert hashlib.sha256(content).hexdigest() in blobs(hub, repo)
    assert len(blobs(hub, repo)) == 2  # and .gitattributes


def test_an_upload_that_breaks_off_leaves_no_blob(hub, http, bearer, repo):
    content = os.urandom(4 * MB)
    oid, address = upload_address(http, bearer, repo, content)
    code = (
        "import sys,time,httpx2\ndef body():\n yield b'x'*2**20\n print('sent',flush=True)\n time.sleep(60)\n"
        "httpx2.put(sys.argv[1],content=body())"
    )
    client = subprocess.Popen([sys.executable, "-c", code, address], stdout=subprocess.PIPE)
    client.stdout.readline()
    client.kill()
    client.wait()
    client.stdout.close()
    deadline = time.time() + 5
    while list((hub.root / "tmp").iterdir()) and time.time() < deadline:
        time.sleep(0.05)
    assert oid not in blobs(hub, repo) and not list((hub.root / "tmp").iterdir())
