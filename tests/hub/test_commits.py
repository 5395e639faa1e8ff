"""Commits: all or nothing, on the parent they were made for, from many clients at once."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import BadRequestError, EntryNotFoundError, HfHubHTTPError, RevisionNotFoundError


def put(api, repo, path, content=b"x", **kwargs):
    return api.create_commit(repo, [CommitOperationAdd(path, content)], commit_message=f"Add {path}", **kwargs)


def post(http, bearer, repo, *lines, revision="main", user="alice"):
    body = "\n".join(json.dumps({"key": key, "value": value}) for key, value in lines)
    return http.post(f"/api/models/{repo}/commit/{revision}", content=body, headers=bearer(user))


def test_history_keeps_message_author_and_order(alice, repo):
    for n in range(5):
        alice.create_commit(
            repo,
            [CommitOperationAdd("a.txt", str(n).encode())],
            commit_message=f"Commit {n}",
            commit_description="why",
        )
    commits = alice.list_repo_commits(repo, formatted=True)
    assert [c.title for c in commits] == [*(f"Commit {n}" for n in (4, 3, 2, 1, 0)), "initial commit"]
    assert commits[0].authors == ["alice"] and commits[0].message == "why"


def test_a_commit_on_an_old_parent_is_refused_with_412(alice, repo):
    head = put(alice, repo, "a.txt").oid
    put(alice, repo, "b.txt", parent_commit=head)
    with pytest.raises(HfHubHTTPError) as error:
        put(alice, repo, "c.txt", parent_commit=head)
    assert error.value.response.status_code == 412
    assert "A commit has happened since" in str(error.value)
    assert "c.txt" not in alice.list_repo_files(repo)


def test_of_many_clients_with_one_parent_exactly_one_wins(alice, repo, as_user):
    head = put(alice, repo, "start.txt").oid

    def attempt(n):
        try:
            return put(as_user("alice"), repo, f"{n}.txt", parent_commit=head).oid
        except HfHubHTTPError as error:
            return error.response.status_code

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(attempt, range(8)))
    assert results.count(412) == 7
    assert len([path for path in alice.list_repo_files(repo) if path[0].isdigit()]) == 1


def test_concurrent_commits_without_parent_all_arrive(alice, repo, as_user):
    with ThreadPoolExecutor(8) as pool:
        commits = list(pool.map(lambda n: put(as_user("alice"), repo, f"{n}.bin", bytes([n])).oid, range(16)))
    assert len(set(commits)) == 16
    assert {f"{n}.bin" for n in range(16)} < set(alice.list_repo_files(repo))
    assert set(commits) < {commit.commit_id for commit in alice.list_repo_commits(repo)}


def test_a_commit_is_all_or_nothing(alice, repo, http, bearer):
    answer = post(
        http,
        bearer,
        repo,
        ("header", {"summary": "half"}),
        ("file", {"path": "good.txt", "content": "Z29vZA==", "encoding": "base64"}),
        ("lfsFile", {"path": "bad.bin", "algo": "sha256", "oid": "0" * 64, "size": 3}),
    )
    assert answer.status_code == 400 and "not uploaded" in answer.json()["error"]
    with pytest.raises(EntryNotFoundError):
        operations = [CommitOperationAdd("good.txt", b"x"), CommitOperationDelete("absent.txt", is_folder=False)]
        alice.create_commit(repo, operations, commit_message="half")
    assert alice.list_repo_files(repo) == [".gitattributes"]


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/etc/passwd",
        "a/../../x",
        "a//b",
        "./a",
        "a/.",
        ".git/config",
        "a/.GIT/hooks",
        "a\\b",
        "a\nb",
        "",
        "a/",
        "\x7f",
    ],
)
def test_odd_paths_are_refused(alice, repo, http, bearer, path):
    for operation in (
        ("file", {"path": path, "content": "eA==", "encoding": "base64"}),
        ("lfsFile", {"path": path, "algo": "sha256", "oid": "0" * 64, "size": 1}),
    ):
        answer = post(http, bearer, repo, ("header", {"summary": "odd"}), operation)
        assert answer.status_code == 400 and answer.headers["x-error-code"] == "BadRequest"
    assert alice.list_repo_files(repo) == [".gitattributes"]


@pytest.mark.parametrize(
    "address",
    [
        "/{repo}/resolve/main/../../../../../../etc/passwd",
        "/{repo}/resolve/main/%2e%2e/%2e%2e/repo.json",
        "/{repo}/resolve/main/..%2f..%2frepo.json",
        "/{repo}/resolve/..%2f..%2frepo.json/x",
        "/alice/..%2f..%2f..%2fusers.json/resolve/main/x",
        "/..%2f..%2f/users/resolve/main/x",
        "/%2e%2e/%2e%2e/resolve/main/users.json",
        "/api/models/%2e%2e/%2e%2e",
        "/api/models/alice/%2e%2e/tree/main",
        "/api/models/alice/..%2f..%2fdatasets/tree/main",
        "/{repo}/resolve/main/a%00b",
        "/{repo}/raw/main/%2fetc%2fpasswd",
    ],
)
def test_no_address_leads_out_of_the_repository(repo, hub, bearer, address):
    """Sent on a bare socket: clients would tidy the address up first."""
    import socket

    host, port = hub.url.removeprefix("http://").split(":")
    headers = f"Host: localhost\r\nConnection: close\r\nAuthorization: {bearer('alice')['Authorization']}\r\n\r\n"
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(f"GET {address.format(repo=repo)} HTTP/1.1\r\n{headers}".encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert answer.split()[1] in (b"400", b"404"), answer[:300]
    assert b"root:" not in answer and b"tokens" not in answer and b'"heads"' not in answer


def test_a_file_and_a_folder_cannot_share_a_name(alice, repo):
    put(alice, repo, "a/b.txt")
    with pytest.raises(BadRequestError, match="same name"):
        put(alice, repo, "a")
    with pytest.raises(BadRequestError, match="same name"):
        put(alice, repo, "a/b.txt/c.txt")


def test_only_branches_move(alice, repo):
    head = put(alice, repo, "a.txt").oid
    alice.create_tag(repo, tag="v1")
    for revision in ("v1", head, "absent"):
        with pytest.raises(RevisionNotFoundError):
            put(alice, repo, "b.txt", revision=revision)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [("file", {"path": "a", "content": ""})],
        [("header", {"summary": ""})],
        [("header", {"summary": "x"}), ("file", {"path": "a"})],
        [("header", {"summary": "x"}), ("file", {"path": "a", "content": "%%%", "encoding": "base64"})],
        [("header", {"summary": "x"}), ("explode", {})],
        [("header", {"summary": "x"}), ("file", [1])],
        [("header", {"summary": "x"}), ("header", {"summary": "y"})],
    ],
)
def test_malformed_commits_are_refused_with_a_sentence(repo, http, bearer, lines):
    answer = post(http, bearer, repo, *lines)
    assert answer.status_code == 400 and answer.json()["error"] and answer.headers["x-error-message"]
