"""Making, describing, changing and deleting repositories."""

import json

import numpy as np
import pytest
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, RepositoryNotFoundError
from safetensors.numpy import save_file


def test_whoami_tells_what_the_oauth_mock_of_gradio_reads(alice, hub, http):
    me = alice.whoami()
    assert (me["type"], me["name"], me["fullname"]) == ("user", "alice", "Alice")
    assert me["auth"]["accessToken"]["role"] == "write"
    assert me["avatarUrl"].startswith(hub.url)
    assert http.get(me["avatarUrl"]).headers["content-type"].startswith("image/svg")


def test_whoami_of_a_read_only_token_says_so(as_user):
    assert as_user("alice", "read").whoami()["auth"]["accessToken"]["role"] == "read"


def test_a_repository_can_be_made_once_and_again_only_when_that_is_fine(alice, hub):
    assert alice.create_repo("alice/once") == f"{hub.url}/alice/once"
    with pytest.raises(HfHubHTTPError) as error:
        alice.create_repo("alice/once")
    assert error.value.response.status_code == 409
    assert alice.create_repo("alice/once", exist_ok=True).repo_id == "alice/once"


def test_a_name_without_namespace_is_the_callers(alice):
    assert alice.create_repo("bare").repo_id == "alice/bare"


def test_deleting_a_repository_removes_its_bytes(alice, hub, repo):
    alice.upload_file(path_or_fileobj=b"\0" * 5000, path_in_repo="model.bin", repo_id=repo)
    folder = hub.root / "repos" / "models" / repo
    assert folder.exists()
    alice.delete_repo(repo)
    assert not folder.exists() and not alice.repo_exists(repo)
    with pytest.raises(RepositoryNotFoundError):
        alice.delete_repo(repo)
    alice.delete_repo(repo, missing_ok=True)


def test_a_repository_made_again_under_the_same_name_knows_nothing_of_the_old_one(alice, repo):
    old = alice.upload_file(path_or_fileobj=b"old", path_in_repo="a.txt", repo_id=repo).oid
    assert alice.model_info(repo, revision=old).sha == old
    alice.delete_repo(repo)
    alice.create_repo(repo)
    assert alice.list_repo_files(repo) == [".gitattributes"]
    assert not alice.revision_exists(repo, old)


def test_the_three_kinds_do_not_mix(alice):
    alice.create_repo("alice/kinds", repo_type="dataset")
    alice.create_repo("alice/kinds", repo_type="space", space_sdk="gradio")
    assert not alice.repo_exists("alice/kinds")
    assert alice.repo_exists("alice/kinds", repo_type="dataset")
    space = alice.space_info("alice/kinds")
    assert space.sdk == "gradio" and "README.md" in [file.rfilename for file in space.siblings]
    assert alice.get_space_runtime("alice/kinds").stage == "STOPPED"
    assert [item.id for item in alice.list_datasets(author="alice", search="kinds")] == ["alice/kinds"]


@pytest.mark.parametrize("name", ["..", "a..b", "a--b", ".hidden", "x.git", "a/b/c", "", "ü", "a b", "x" * 200])
def test_odd_names_are_refused(http, bearer, hub, name):
    before = sorted(path.name for path in (hub.root / "repos" / "models").rglob("*") if path.is_dir())
    answer = http.post("/api/repos/create", json={"name": name}, headers=bearer("alice"))
    assert answer.status_code == 400 and answer.headers["x-error-code"] == "BadRequest"
    assert sorted(p.name for p in (hub.root / "repos" / "models").rglob("*") if p.is_dir()) == before


def test_model_info_reads_card_config_and_safetensors(alice, repo, tmp_path):
    save_file({"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float16)}, tmp_path / "model.safetensors")
    config = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "hidden_size": 7}
    (tmp_path / "config.json").write_text(json.dumps(config))
    card = "---\nlicense: mit\nbase_model: [a/one, a/two]\ntags: [mine]\ndatasets: imdb\nlanguage: en\n---\n# Card\n"
    (tmp_path / "README.md").write_text(card)
    commit = alice.upload_folder(repo_id=repo, folder_path=tmp_path)
    info = alice.model_info(repo, files_metadata=True, securityStatus=True)
    assert info.sha == commit.oid and info.author == "alice"
    assert info.safetensors.parameters == {"F32": 12, "F16": 5} and info.safetensors.total == 17
    assert info.config == {"architectures": config["architectures"], "model_type": "bert"}
    assert info.pipeline_tag == "text-classification" and info.library_name == "transformers"
    assert info.card_data.base_model == ["a/one", "a/two"] and info.card_data.license == "mit"
    wanted = {"base_model:a/one", "base_model:merge:a/two", "mine", "dataset:imdb", "license:mit", "en", "safetensors"}
    assert wanted <= set(info.tags)
    weights = next(file for file in info.siblings if file.rfilename == "model.safetensors")
    assert weights.size == weights.lfs.size == (tmp_path / "model.safetensors").stat().st_size
    assert alice.get_safetensors_metadata(repo).parameter_count == {"F32": 12, "F16": 5}


def test_sharded_safetensors_are_counted_over_their_shards(alice, repo, tmp_path):
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    for tensor, name in names.items():
        save_file({tensor: np.zeros((2, 3), np.float32)}, tmp_path / name)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    alice.upload_folder(repo_id=repo, folder_path=tmp_path)
    assert alice.model_info(repo).safetensors.total == 12
    assert alice.get_safetensors_metadata(repo).weight_map == names
    assert alice.get_sharded_safetensors_metadata(repo).weight_map == names


def test_expand_gives_these_fields_and_no_others(alice, repo):
    info = alice.model_info(repo, expand=["downloads", "likes", "tags", "baseModels", "childrenModelCount", "gated"])
    assert info.downloads == 0 and info.likes == 0 and info.gated is False
    assert info.sha is None and info.siblings is None
    assert info.children_model_count == {"adapter": 0, "merge": 0, "quantized": 0, "finetune": 0}


def test_a_download_counts_once_and_by_its_config(alice, repo, tmp_path):
    files = {"config.json": b"{}", "vocab.txt": b"a"}
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    alice.create_commit(repo, operations, commit_message="files")
    alice.snapshot_download(repo, cache_dir=tmp_path)
    assert alice.model_info(repo).downloads == 1


def test_likes_of_two_users(alice, bob, repo, http, bearer):
    for name in ("alice", "bob", "bob"):
        http.post(f"/api/models/{repo}/like", headers=bearer(name)).raise_for_status()
    assert alice.model_info(repo).likes == 2
    bob.unlike(repo)
    assert alice.model_info(repo).likes == 1


def test_settings_change_visibility_and_gate(alice, repo):
    alice.update_repo_settings(repo, gated="manual", private=True)
    info = alice.model_info(repo)
    assert info.gated == "manual" and info.private
    alice.update_repo_settings(repo, gated=False, visibility="public")
    info = alice.model_info(repo)
    assert info.gated is False and not info.private


def test_moving_a_repository_keeps_its_files(alice, repo):
    alice.upload_file(path_or_fileobj=b"kept", path_in_repo="a.txt", repo_id=repo)
    alice.move_repo(repo, f"{repo}-moved")
    assert not alice.repo_exists(repo) and alice.file_exists(f"{repo}-moved", "a.txt")
    with pytest.raises(HfHubHTTPError, match="rights"):
        alice.move_repo(f"{repo}-moved", "bob/stolen")


def test_branches_and_tags(alice, repo):
    first = alice.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id=repo).oid
    alice.create_tag(repo, tag="v1", tag_message="first")
    alice.create_branch(repo, branch="side/one")
    second = alice.upload_file(path_or_fileobj=b"2", path_in_repo="a.txt", repo_id=repo, revision="side/one").oid
    refs = alice.list_repo_refs(repo)
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": first, "side/one": second}
    assert [(ref.name, ref.ref, ref.target_commit) for ref in refs.tags] == [("v1", "refs/tags/v1", first)]
    for call in (lambda: alice.create_tag(repo, tag="v1"), lambda: alice.create_branch(repo, branch="side/one")):
        with pytest.raises(HfHubHTTPError) as error:
            call()
        assert error.value.response.status_code == 409
    alice.create_tag(repo, tag="v1", exist_ok=True)
    alice.delete_tag(repo, tag="v1")
    alice.delete_branch(repo, branch="side/one")
    refs = alice.list_repo_refs(repo)
    assert [ref.name for ref in refs.branches] == ["main"] and refs.tags == []
    with pytest.raises(BadRequestError):
        alice.delete_branch(repo, branch="main")
    with pytest.raises(BadRequestError):
        alice.create_branch(repo, branch="../../escape")


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ("---\ntags: [a\n---\n", "YAML"),
        ("---\nlicense: no\n---\n", "license"),
        ("---\nbase_model: [a/b, 3]\n---\n", "base_model"),
        ("---\nbase_model: ../etc\n---\n", "base_model"),
        ("---\nbase_model_relation: child\n---\n", "base_model_relation"),
        ("---\n- a\n---\n", "mapping"),
        ("---\nmodel-index: [{name: x}]\n---\n", "results"),
    ],
)
def test_a_bad_card_is_refused_before_and_at_the_commit(alice, repo, http, bearer, card, words):
    with pytest.raises(ValueError, match=words):
        alice.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=repo)
    lines = [
        {"key": "header", "value": {"summary": "card"}},
        {"key": "file", "value": {"path": "README.md", "content": card, "encoding": "utf-8"}},
    ]
    body = "\n".join(json.dumps(line) for line in lines)
    answer = http.post(f"/api/models/{repo}/commit/main", content=body, headers=bearer("alice"))
    assert answer.status_code == 400 and words in answer.json()["error"]
    assert not alice.file_exists(repo, "README.md")


def test_yaml_aliases_cannot_blow_up_the_server(alice, repo):
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{n}: &{n} [{','.join(['*' + p] * 9)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)
    )
    with pytest.raises(ValueError, match="too large"):
        alice.upload_file(path_or_fileobj=f"---\n{bomb}---\n".encode(), path_in_repo="README.md", repo_id=repo)


def test_a_card_without_metadata_only_warns(alice, repo):
    with pytest.warns(UserWarning, match="empty or missing"):
        alice.upload_file(path_or_fileobj=b"# Hello", path_in_repo="README.md", repo_id=repo)
    assert alice.model_info(repo).card_data is None
