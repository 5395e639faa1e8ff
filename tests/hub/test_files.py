"""Listing, reading and downloading files at a revision."""

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

DATA = bytes(range(256)) * 400
FILES = {"config.json": b'{"a": 1}', "weights.bin": DATA, "deep/er/notes.txt": b"notes", "deep/x.txt": b"x"}


@pytest.fixture
def filled(alice, repo):
    operations = [CommitOperationAdd(path, content) for path, content in FILES.items()]
    commit = alice.create_commit(repo, operations, commit_message="Fill it")
    return repo, commit.oid


def test_the_tree_has_sizes_hashes_and_folders(alice, filled):
    repo, sha = filled
    items = {item.path: item for item in alice.list_repo_tree(repo, recursive=True)}
    assert set(items) == {*FILES, ".gitattributes", "deep", "deep/er"}
    assert items["weights.bin"].lfs.size == items["weights.bin"].size == len(DATA)
    assert items["config.json"].lfs is None
    assert [item.path for item in alice.list_repo_tree(repo, "deep")] == ["deep/er", "deep/x.txt"]
    with pytest.raises(EntryNotFoundError):
        list(alice.list_repo_tree(repo, "nowhere"))
    expanded = {item.path: item.last_commit for item in alice.list_repo_tree(repo, recursive=True, expand=True)}
    assert expanded["deep/er"].oid == sha and expanded[".gitattributes"].title == "initial commit"


def test_ids_are_those_of_git(alice, filled, tmp_path):
    """`git hash-object` is the oracle; of an LFS file git knows the pointer."""
    import subprocess

    repo, _ = filled
    (tmp_path / "file").write_bytes(FILES["config.json"])
    oid = subprocess.check_output(["git", "hash-object", "--no-filters", tmp_path / "file"], text=True).strip()
    [item] = alice.get_paths_info(repo, ["config.json"])
    assert item.blob_id == oid
    [item] = alice.get_paths_info(repo, ["weights.bin"])
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{item.lfs.sha256}\nsize {item.size}\n"
    (tmp_path / "file").write_text(pointer)
    oid = subprocess.check_output(["git", "hash-object", "--no-filters", tmp_path / "file"], text=True).strip()
    assert item.blob_id == oid and item.lfs.pointer_size == len(pointer)


def test_paths_info_leaves_out_what_is_not_there(alice, filled):
    repo, sha = filled
    items = alice.get_paths_info(repo, ["config.json", "deep", "nope"], expand=True)
    assert [item.path for item in items] == ["config.json", "deep"]
    assert items[0].last_commit.oid == sha


def test_downloads_are_byte_for_byte_at_every_revision(alice, filled, tmp_path):
    repo, first = filled
    alice.create_tag(repo, tag="v1")
    second = alice.upload_file(path_or_fileobj=b"new", path_in_repo="weights.bin", repo_id=repo).oid
    for revision, content in (
        (None, b"new"),
        ("v1", DATA),
        (first, DATA),
        (second[:10], b"new"),
        ("refs/heads/main", b"new"),
    ):
        path = alice.hf_hub_download(repo, "weights.bin", revision=revision, cache_dir=tmp_path / str(revision))
        with open(path, "rb") as file:
            assert file.read() == content, revision
    with pytest.raises(RevisionNotFoundError):
        alice.hf_hub_download(repo, "weights.bin", revision="v2", cache_dir=tmp_path)
    with pytest.raises(EntryNotFoundError):
        alice.hf_hub_download(repo, "absent.bin", cache_dir=tmp_path)


def test_a_snapshot_is_complete(alice, filled, tmp_path):
    repo, sha = filled
    folder = alice.snapshot_download(repo, cache_dir=tmp_path)
    assert folder.endswith(sha)
    for path, content in FILES.items():
        with open(f"{folder}/{path}", "rb") as file:
            assert file.read() == content


def test_head_tells_what_the_client_caches_by(alice, filled, http):
    repo, sha = filled
    answer = http.head(f"/{repo}/resolve/main/weights.bin")
    assert answer.headers["x-repo-commit"] == sha and answer.headers["content-length"] == str(len(DATA))
    [item] = alice.get_paths_info(repo, ["weights.bin"])
    assert answer.headers["etag"] == answer.headers["x-linked-etag"] == f'"{item.lfs.sha256}"'
    assert answer.headers["x-linked-size"] == str(len(DATA)) and "x-xet-hash" not in answer.headers
    [item] = alice.get_paths_info(repo, ["config.json"])
    assert http.head(f"/{repo}/resolve/main/config.json").headers["etag"] == f'"{item.blob_id}"'
    missing = http.head(f"/{repo}/resolve/main/nope")
    assert (missing.status_code, missing.headers["x-error-code"]) == (404, "EntryNotFound")
    assert missing.headers["x-repo-commit"] == sha


@pytest.mark.parametrize(
    ("range_header", "start", "end"),
    [("bytes=0-9", 0, 10), ("bytes=100-", 100, None), ("bytes=-7", -7, None), ("bytes=5-9999999", 5, None)],
)
def test_ranges(filled, http, range_header, start, end):
    repo, _ = filled
    answer = http.get(f"/{repo}/resolve/main/weights.bin", headers={"Range": range_header})
    assert answer.status_code == 206 and answer.content == DATA[start:end]
    assert answer.headers["content-range"].endswith(f"/{len(DATA)}")


def test_a_range_past_the_end_is_refused_with_the_headers(filled, http):
    repo, _ = filled
    answer = http.get(f"/{repo}/resolve/main/weights.bin", headers={"Range": "bytes=99999999-"})
    assert answer.status_code == 416 and answer.headers["content-range"] == f"bytes */{len(DATA)}"
    assert answer.headers["x-error-code"] and answer.headers["x-error-message"]


def test_names_with_spaces_percent_signs_and_other_scripts(alice, repo, tmp_path):
    names = ["a b.txt", "100%.txt", "50%2F.txt", "Größe/文.txt", "q?#&+.txt", "refs/pr/1/x.txt"]
    alice.create_commit(repo, [CommitOperationAdd(n, n.encode()) for n in names], commit_message="names")
    assert set(names) < set(alice.list_repo_files(repo))
    for name in names[:-1]:
        with open(alice.hf_hub_download(repo, name, cache_dir=tmp_path), encoding="utf-8") as file:
            assert file.read() == name


def test_unchanged_files_are_not_committed_again(alice, filled):
    repo, sha = filled
    operations = [CommitOperationAdd(path, content) for path, content in FILES.items()]
    assert alice.create_commit(repo, operations, commit_message="Again").oid == sha
    assert len(alice.list_repo_commits(repo)) == 2


@pytest.mark.parametrize(
    ("path", "content", "mode"),
    [
        ("a.safetensors", b"text", "lfs"),
        ("a.parquet", b"text", "lfs"),
        ("README.md", b"text", "regular"),
        ("a.dat", b"\0binary", "lfs"),
        ("a.dat", b"\xff\xfe\xfd", "lfs"),
        ("a.txt", ("x" + "ü" * 600).encode(), "regular"),
        ("a.json", b"1" * 10_000_001, "lfs"),
        ("empty.bin", b"", "regular"),
    ],
)
def test_which_files_are_lfs(alice, repo, path, content, mode):
    operation = CommitOperationAdd(path, content)
    alice.create_commit(repo, [operation], commit_message="one")
    assert operation._upload_mode == mode
    [item] = alice.get_paths_info(repo, [path])
    assert (item.lfs is not None) == (mode == "lfs") and item.size == len(content)


def test_gitignore_is_honoured(alice, repo, tmp_path):
    (tmp_path / ".gitignore").write_text("*.log\n/build/\n!keep.log\n# comment\n")
    for name in ("a.log", "keep.log", "build/x.txt", "src/build/x.txt", "b.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    alice.upload_folder(repo_id=repo, folder_path=tmp_path)
    assert set(alice.list_repo_files(repo)) == {".gitattributes", ".gitignore", "keep.log", "src/build/x.txt", "b.txt"}


def test_copies_and_deletions(alice, filled):
    repo, _ = filled
    operations = [
        CommitOperationCopy("weights.bin", "copy.bin"),
        CommitOperationCopy("config.json", "copy.json"),
        CommitOperationDelete("deep/", is_folder=True),
        CommitOperationDelete("weights.bin"),
    ]
    alice.create_commit(repo, operations, commit_message="Tidy")
    assert set(alice.list_repo_files(repo)) == {".gitattributes", "config.json", "copy.bin", "copy.json"}
    with pytest.raises(EntryNotFoundError):
        alice.delete_file("nope.txt", repo)


def test_html_of_a_repository_never_runs_on_this_site(alice, repo, http):
    page = b"<script>alert(1)</script>"
    operations = [CommitOperationAdd("evil.html", page), CommitOperationAdd("evil.svg", page)]
    alice.create_commit(repo, operations, commit_message="evil")
    for name in ("evil.html", "evil.svg"):
        answer = http.get(f"/{repo}/resolve/main/{name}")
        assert answer.headers["content-type"].startswith("text/plain")
        assert "sandbox" in answer.headers["content-security-policy"]


def test_the_public_address_of_a_file(filled, hub, http):
    repo, _ = filled
    assert http.get(hf_hub_url(repo, "deep/er/notes.txt", endpoint=hub.url)).content == b"notes"
