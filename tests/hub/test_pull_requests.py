"""Pull requests: both ways to make one, who may, what conflicts, how they are merged."""

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import HfHubHTTPError


@pytest.fixture
def filled(alice, repo):
    add = [CommitOperationAdd("a.txt", b"one\ntwo\n"), CommitOperationAdd("b.txt", b"b")]
    alice.create_commit(repo, add, commit_message="Start")
    return repo


def propose(api, repo, path, content, **kwargs):
    add = [CommitOperationAdd(path, content)]
    return api.create_commit(repo, add, commit_message=f"Change {path}", create_pr=True, **kwargs)


def read(api, repo, path, tmp_path, revision=None):
    with open(api.hf_hub_download(repo, path, revision=revision, cache_dir=tmp_path), "rb") as file:
        return file.read()


def test_a_commit_becomes_a_pull_request_and_is_merged(filled, alice, bob, tmp_path):
    before = alice.model_info(filled).sha
    commit = propose(bob, filled, "a.txt", b"one\nthree\n", commit_description="because")
    assert commit.pr_num == 1 and commit.pr_revision == "refs/pr/1"
    assert alice.model_info(filled).sha == before
    assert read(alice, filled, "a.txt", tmp_path, "refs/pr/1") == b"one\nthree\n"
    details = alice.get_discussion_details(filled, 1)
    assert (details.title, details.status, details.author) == ("Change a.txt", "open", "bob")
    assert details.target_branch == "refs/heads/main" and details.conflicting_files == []
    assert "-two" in details.diff and "+three" in details.diff
    assert any(event.type == "commit" and event.oid == commit.oid for event in details.events)
    alice.merge_pull_request(filled, 1, comment="thanks")
    details = alice.get_discussion_details(filled, 1)
    assert details.status == "merged" and details.merge_commit_oid == alice.model_info(filled).sha
    assert "+three" in details.diff
    assert read(alice, filled, "a.txt", tmp_path) == b"one\nthree\n"
    assert commit.oid in [item.commit_id for item in alice.list_repo_commits(filled)]


def test_an_empty_request_is_committed_to_afterwards(filled, alice, bob, tmp_path):
    request = bob.create_pull_request(filled, "Two commits", description="slowly")
    assert request.status == "draft" and request.git_reference == "refs/pr/1"
    for n in (1, 2):
        add = [CommitOperationAdd(f"{n}.bin", bytes([0, n]))]
        bob.create_commit(filled, add, commit_message=f"Part {n}", revision="refs/pr/1")
    bob.change_discussion_status(filled, 1, "open")
    assert [r.name for r in alice.list_repo_refs(filled, include_pull_requests=True).pull_requests] == ["1"]
    commits = [e for e in alice.get_discussion_details(filled, 1).events if e.type == "commit"]
    assert [event.summary for event in commits] == ["Part 1", "Part 2"]
    alice.merge_pull_request(filled, 1)
    assert {"1.bin", "2.bin"} < set(alice.list_repo_files(filled))


def test_what_main_got_meanwhile_stays(filled, alice, bob):
    propose(bob, filled, "new.txt", b"new")
    alice.create_commit(
        filled, [CommitOperationDelete("b.txt"), CommitOperationAdd("c.txt", b"c")], commit_message="Meanwhile"
    )
    alice.merge_pull_request(filled, 1)
    assert set(alice.list_repo_files(filled)) == {".gitattributes", "a.txt", "c.txt", "new.txt"}


def test_a_conflict_is_named_and_not_merged(filled, alice, bob, tmp_path):
    propose(bob, filled, "a.txt", b"theirs")
    alice.upload_file(path_or_fileobj=b"ours", path_in_repo="a.txt", repo_id=filled)
    assert alice.get_discussion_details(filled, 1).conflicting_files == ["a.txt"]
    with pytest.raises(HfHubHTTPError, match=r"a\.txt") as error:
        alice.merge_pull_request(filled, 1)
    assert error.value.response.status_code == 409
    assert read(alice, filled, "a.txt", tmp_path) == b"ours"


def test_only_the_owner_merges_and_only_the_author_or_owner_adds(filled, alice, bob, as_user):
    propose(bob, filled, "a.txt", b"theirs")
    add = [CommitOperationAdd("x.txt", b"x")]
    for call in (
        lambda: bob.merge_pull_request(filled, 1),
        lambda: as_user("carol").create_commit(filled, add, commit_message="x", revision="refs/pr/1"),
        lambda: as_user("carol").change_discussion_status(filled, 1, "closed"),
    ):
        with pytest.raises(HfHubHTTPError) as error:
            call()
        assert error.value.response.status_code == 403
    bob.change_discussion_status(filled, 1, "closed", comment="never mind")
    with pytest.raises(HfHubHTTPError, match="closed"):
        bob.create_commit(filled, [CommitOperationAdd("y.txt", b"y")], commit_message="y", revision="refs/pr/1")
    with pytest.raises(HfHubHTTPError):
        alice.merge_pull_request(filled, 1)


def test_a_request_on_an_old_parent_is_refused(filled, alice, bob):
    old = alice.model_info(filled).sha
    alice.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=filled)
    with pytest.raises(HfHubHTTPError) as error:
        propose(bob, filled, "a.txt", b"x", parent_commit=old)
    assert error.value.response.status_code == 412
    assert list(alice.get_repo_discussions(filled)) == []


def test_discussions_are_listed_commented_and_renamed(filled, alice, bob):
    bob.create_discussion(filled, "A question", description="Why?")
    propose(bob, filled, "a.txt", b"x")
    alice.comment_discussion(filled, 1, "Because.")
    bob.rename_discussion(filled, 1, "A better question")
    assert [item.num for item in alice.get_repo_discussions(filled)] == [2, 1]
    assert [item.num for item in alice.get_repo_discussions(filled, discussion_type="pull_request")] == [2]
    details = alice.get_discussion_details(filled, 1)
    assert details.title == "A better question" and not details.is_pull_request
    assert [event.content for event in details.events if event.type == "comment"] == ["Why?", "Because."]


def test_upload_folder_with_create_pr(filled, bob, alice, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 1000)
    commit = bob.upload_folder(repo_id=filled, folder_path=tmp_path, create_pr=True)
    assert "model.safetensors" in alice.list_repo_files(filled, revision=commit.pr_revision)
    assert "model.safetensors" not in alice.list_repo_files(filled)
