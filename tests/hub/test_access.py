"""Who may see, read and write what."""

from pathlib import Path

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import BadRequestError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError


@pytest.fixture
def nobody(hub):
    return HfApi(endpoint=hub.url, token=False)


@pytest.fixture
def private(alice, repo):
    alice.upload_file(path_or_fileobj=b"secret", path_in_repo="a.txt", repo_id=repo)
    alice.update_repo_settings(repo, private=True)
    return repo


@pytest.fixture
def gated(alice, repo):
    alice.upload_file(path_or_fileobj=b"gated", path_in_repo="a.txt", repo_id=repo)
    alice.update_repo_settings(repo, gated="manual")
    return repo


def status_of(call):
    with pytest.raises(HfHubHTTPError) as error:
        call()
    return error.value.response.status_code


def test_a_private_repository_does_not_exist_for_others(private, bob, nobody, http, bearer, tmp_path):
    for path in ("", "/tree/main", "/refs", "/commits/main", "/discussions", "/auth-check"):
        hidden = http.get(f"/api/models/{private}{path}", headers=bearer("bob"))
        absent = http.get(f"/api/models/alice/absent{path}", headers=bearer("bob"))
        assert hidden.status_code == absent.status_code == 404
        assert hidden.json() == absent.json() and hidden.headers["x-error-code"] == "RepoNotFound"
        hidden, absent = http.get(f"/api/models/{private}{path}"), http.get(f"/api/models/alice/absent{path}")
        assert hidden.status_code == absent.status_code == 401 and hidden.json() == absent.json()
    for api in (bob, nobody):
        for call in (api.model_info, api.list_repo_files, api.list_repo_refs):
            with pytest.raises(RepositoryNotFoundError):
                call(private)
        with pytest.raises(RepositoryNotFoundError):
            api.hf_hub_download(private, "a.txt", cache_dir=tmp_path)
        assert private not in [item.id for item in api.list_models(author="alice")]
    with pytest.raises(RepositoryNotFoundError):
        bob.upload_file(path_or_fileobj=b"x", path_in_repo="b.txt", repo_id=private)
    assert http.get(f"/{private}", headers={"Accept": "text/html"}).status_code == 401


def test_a_private_repository_is_there_for_its_owner(private, alice, as_user, tmp_path):
    assert private in [item.id for item in alice.list_models(author="alice")]
    assert Path(as_user("alice", "read").hf_hub_download(private, "a.txt", cache_dir=tmp_path)).read_text() == "secret"


def test_a_new_repository_can_be_private_at_once(alice, bob):
    alice.create_repo("alice/born-private", private=True)
    assert alice.model_info("alice/born-private").private and not bob.repo_exists("alice/born-private")


def test_a_gated_repository_shows_everything_but_its_files(gated, bob, nobody, tmp_path):
    for api in (bob, nobody):
        assert api.model_info(gated).gated == "manual"
        assert "a.txt" in api.list_repo_files(gated)
        with pytest.raises(GatedRepoError):
            api.hf_hub_download(gated, "a.txt", cache_dir=tmp_path)
        with pytest.raises(GatedRepoError):
            api.auth_check(gated)


def test_gates_answer_403_to_those_who_signed_in_and_401_to_others(gated, http, bearer):
    for path in ("resolve/main/a.txt", "raw/main/a.txt", "blob/main/a.txt"):
        known, unknown = http.get(f"/{gated}/{path}", headers=bearer("bob")), http.get(f"/{gated}/{path}")
        assert (known.status_code, unknown.status_code) == (403, 401)
        assert known.headers["x-error-code"] == unknown.headers["x-error-code"] == "GatedRepo"


def test_what_a_pull_request_changes_in_a_gated_repository_is_not_shown_either(gated, alice, bob, http, bearer):
    add = [CommitOperationAdd("a.txt", b"changed")]
    sha = alice.create_commit(gated, add, commit_message="pr", create_pr=True).oid
    alice.merge_pull_request(gated, 1)
    assert "-gated" in alice.get_discussion_details(gated, 1).diff
    assert bob.get_discussion_details(gated, 1).diff is None
    for path in ("discussions/1", f"commit/{sha}"):
        page = {name: http.get(f"/{gated}/{path}", headers=bearer(name)).text for name in ("alice", "bob")}
        assert "-gated" in page["alice"] and "-gated" not in page["bob"]


def test_access_is_asked_granted_and_taken_back(gated, alice, bob, http, bearer, tmp_path):
    http.post(f"/{gated}/ask-access", headers=bearer("bob")).raise_for_status()
    assert [request.username for request in alice.list_pending_access_requests(gated)] == ["bob"]
    with pytest.raises(GatedRepoError):
        bob.hf_hub_download(gated, "a.txt", cache_dir=tmp_path)
    alice.accept_access_request(gated, "bob")
    assert Path(bob.hf_hub_download(gated, "a.txt", cache_dir=tmp_path)).read_text() == "gated"
    bob.auth_check(gated)
    alice.reject_access_request(gated, "bob", rejection_reason=None)
    with pytest.raises(GatedRepoError):
        bob.auth_check(gated)
    assert status_of(lambda: list(bob.list_pending_access_requests(gated))) == 403


def test_a_grant_needs_no_request_and_an_automatic_gate_no_owner(gated, alice, bob, http, bearer):
    alice.grant_access(gated, "bob")
    bob.auth_check(gated)
    with pytest.raises(BadRequestError):
        alice.grant_access(gated, "bob")
    assert status_of(lambda: alice.grant_access(gated, "nobody-known")) == 404
    alice.update_repo_settings(gated, gated="auto")
    http.post(f"/{gated}/ask-access", headers=bearer("carol")).raise_for_status()
    assert http.get(f"/{gated}/resolve/main/a.txt", headers=bearer("carol")).content == b"gated"


def test_a_read_only_token_changes_nothing(repo, as_user):
    reader = as_user("alice", "read")
    add = [CommitOperationAdd("a.txt", b"x")]
    for call in (
        lambda: reader.create_repo("alice/by-reader"),
        lambda: reader.create_commit(repo, add, commit_message="x"),
        lambda: reader.create_commit(repo, add, commit_message="x", create_pr=True),
        lambda: reader.create_tag(repo, tag="v1"),
        lambda: reader.create_branch(repo, branch="b"),
        lambda: reader.create_pull_request(repo, "title"),
        lambda: reader.update_repo_settings(repo, private=True),
        lambda: reader.delete_repo(repo),
        lambda: reader.move_repo(repo, "alice/elsewhere"),
        lambda: reader.auth_check(repo, write=True),
    ):
        assert status_of(call) == 403
    reader.auth_check(repo)
    assert reader.list_repo_files(repo) == [".gitattributes"]


def test_another_users_write_token_changes_nothing_either(repo, bob):
    for call in (
        lambda: bob.create_repo("alice/by-bob"),
        lambda: bob.upload_file(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id=repo),
        lambda: bob.upload_file(path_or_fileobj=b"\0x", path_in_repo="a.bin", repo_id=repo),
        lambda: bob.create_tag(repo, tag="v1"),
        lambda: bob.update_repo_settings(repo, private=True),
        lambda: bob.delete_repo(repo),
        lambda: bob.auth_check(repo, write=True),
    ):
        assert status_of(call) == 403


def test_without_a_token_nothing_can_be_written(repo, nobody):
    add = [CommitOperationAdd("a.txt", b"x")]
    assert status_of(lambda: nobody.create_commit(repo, add, commit_message="x")) == 401
    assert status_of(lambda: nobody.create_repo("alice/anonymous")) == 401
    assert status_of(lambda: nobody.delete_repo(repo)) == 401
    assert nobody.model_info(repo).id == repo


def test_an_invalid_token_is_said_to_be_one_everywhere(repo, http):
    wrong = {"Authorization": "Bearer not-a-token"}
    for path in ("/api/whoami-v2", f"/api/models/{repo}", f"/{repo}/resolve/main/.gitattributes", "/api/models"):
        answer = http.get(path, headers=wrong)
        assert answer.status_code == 401 and "Invalid user token" in answer.json()["error"]
        assert "Invalid user token" in answer.headers["x-error-message"]
        assert answer.headers["x-error-code"] != "RepoNotFound"


def test_organisations_by_their_members_roles(hub, alice, bob, as_user):
    carol = as_user("carol")
    hub.add_org("acme", {"alice": "admin", "bob": "read"})
    assert {org["name"]: org["roleInOrg"] for org in alice.whoami()["orgs"]} == {"acme": "admin"}
    alice.create_repo("acme/model", private=True)
    assert bob.model_info("acme/model").private and not carol.repo_exists("acme/model")
    assert status_of(lambda: bob.create_tag("acme/model", tag="v1")) == 403
    assert status_of(lambda: carol.create_repo("acme/other")) == 403
    alice.upload_file(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id="acme/model")
    assert alice.get_organization_overview("acme").num_models == 1


def test_every_refusal_has_both_headers(http, repo, bearer):
    for answer in (
        http.get("/api/models/alice/absent"),
        http.get("/api/models/absent"),
        http.get("/api/nothing/here"),
        http.get("/api/whoami-v2"),
        http.put(f"/api/models/{repo}"),
        http.get(f"/api/models/{repo}/tree/absent"),
        http.get(f"/{repo}/resolve/main/absent"),
        http.post("/api/repos/create", content=b"{", headers=bearer("alice")),
        http.post("/api/repos/create", content=b"[]", headers=bearer("alice")),
        http.put("/_lfs/forged.ticket", content=b"x"),
        http.get("/api/models?sort=age"),
        http.get("/api/models?cursor=%21"),
    ):
        assert 400 <= answer.status_code < 500
        assert answer.headers["x-error-code"] and answer.headers["x-error-message"], answer.url


def test_an_unknown_id_without_namespace_is_a_repository_not_found(nobody, tmp_path):
    with pytest.raises(RepositoryNotFoundError):
        nobody.model_info("gpt2")
    with pytest.raises(RepositoryNotFoundError):
        nobody.hf_hub_download("gpt2", "config.json", cache_dir=tmp_path)


def test_the_file_of_users_is_for_its_owner_only(hub):
    assert (hub.root / "users.json").stat().st_mode & 0o777 == 0o600
    assert (hub.root / "secret").stat().st_mode & 0o777 == 0o600


def test_a_browser_session_reads_but_never_writes(private, hub, bearer):
    import httpx2

    token = bearer("alice")["Authorization"].split()[1]
    with httpx2.Client(base_url=hub.url) as browser:
        answer = browser.post("/login", data={"token": token, "next": "//evil.example"})
        assert answer.status_code == 303 and answer.headers["location"] == "/"
        cookie = answer.headers["set-cookie"]
        assert token not in cookie and "HttpOnly" in cookie and "samesite=lax" in cookie.lower()
        assert browser.get(f"/{private}/resolve/main/a.txt").content == b"secret"
        assert browser.get(f"/{private}").status_code == 200
        assert browser.post("/api/repos/create", json={"name": "by-cookie"}).status_code == 401
        assert browser.request("DELETE", "/api/repos/delete", json={"name": "x"}).status_code == 401
        browser.post("/logout")
        assert browser.get(f"/{private}/resolve/main/a.txt").status_code == 401
        assert "failed" in browser.post("/login", data={"token": "wrong"}).headers["location"]
        # Whoever follows a link to a private page signs in there, and sees it.
        refused = browser.get(f"/{private}", headers={"Accept": "text/html"})
        assert refused.status_code == 401 and f'name="next" value="/{private}"' in refused.text
        answer = browser.post("/login", data={"token": token, "next": f"/{private}"})
        assert browser.get(answer.headers["location"]).status_code == 200


OWN = ["localhost", "127.0.0.1", "[::1]:80", "192.168.1.7:8730"]
STRANGE = ["rebound.example", "localhost.evil.example", "127.0.0.1.evil.example", ""]


@pytest.mark.parametrize("host", [*OWN, *STRANGE])
def test_only_the_address_that_is_served_is_answered(hub, host):
    """A stranger's page can have its own name lead here (DNS rebinding): the browser takes it for the same site."""
    found = httpx2.get(f"{hub.url}/api/models", headers={"Host": host})
    assert found.status_code == (200 if host in OWN else 421)
