"""Models as people name them: folders here, and repos of a Hub in a process that knows only its address."""

import json
import os
import re
import socket
import subprocess
from dataclasses import replace
from itertools import pairwise

import pytest

from fusehub.errors import BadFile, NotFound
from fusehub.models.ref import short_names
from fusehub.models.resolve import resolve
from tests.unit.experts import WEIGHTS, relatives
from tests.warm import python

# --- folders ------------------------------------------------------------------------------------------------------


def test_a_folder_is_resolved_to_its_files(experts):
    path = experts()[0]
    ref = resolve(str(path))
    assert ref.folder == path and ref.repo_id is None and ref.commit is None and ref.url is None
    assert ref.id == ref.name == str(path)
    assert ref.weight_files() == [WEIGHTS] and ref.files[WEIGHTS].size == (path / WEIGHTS).stat().st_size
    assert ref.path("config.json") == path / "config.json" and ref.download() == path
    assert ref.side_files() == ["tokenizer.json", "tokenizer_config.json"]
    with pytest.raises(NotFound, match=r"has no file other\.json"):
        ref.path("other.json")


def test_a_folder_is_found_from_where_the_command_runs(experts, monkeypatch):
    monkeypatch.chdir(experts()[0].parent)
    for name in ("expert-0", "./expert-0", "../" + experts()[0].parent.name + "/expert-0"):
        assert resolve(name).config["model_type"] == "bert"
    monkeypatch.setenv("HOME", str(experts()[0].parent))
    assert resolve("~/expert-1").config["model_type"] == "bert"


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "~/nowhere", "a/b/c/d", "C:\\models\\x"])
def test_a_folder_that_is_not_there_is_named(name):
    with pytest.raises(NotFound, match="There is no folder"):
        resolve(name)


@pytest.mark.parametrize("name", ["", "   "])
def test_an_empty_name_is_refused(name):
    with pytest.raises(NotFound, match="empty name"):
        resolve(name)


@pytest.mark.parametrize(
    ("filename", "said"),
    [
        ("adapter_model.safetensors", "Give a repo or folder that"),
        ("model-Q4_K_M.gguf", "It holds GGUF files"),
        ("notes.txt", "Give a repo or folder that"),
    ],
)
def test_a_folder_of_something_else_is_told_what_it_is(tmp_path, filename, said):
    (tmp_path / filename).write_text("x")
    with pytest.raises(NotFound, match=rf"(?s)has no config\.json.*{said}"):
        resolve(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(NotFound, match=rf"(?s)holds no weights.*{said}"):
        resolve(str(tmp_path)).weight_files()


def test_json_that_is_none_is_refused(tmp_path):
    for content in (b"{", b"\xff\xfe", b""):
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(BadFile, match=r"config\.json is not JSON"):
            _ = resolve(str(tmp_path)).config


def test_a_card_is_read_and_a_broken_one_is_none(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    aliases = "".join(f"{new}: &{new} [*{old}, *{old}]\n" for old, new in pairwise("abcdefghijklmnopqrstu"))
    for text, expected in (
        ("---\nlicense: mit\n---\nText\n", {"license": "mit"}),
        ("---\r\nlicense: mit\r\n---\r\n", {"license": "mit"}),
        ("no front matter", {}),
        ("---\n: [\n---\n", {}),
        ("---\n- a\n---\n", {}),
        ("---\n---\n", {}),
        ("---\nday: 2020-99-99\n---\n", {"day": "2020-99-99"}),
        ("---\nnone: !!int ''\n---\n", {}),
        ("---\n" + "[" * 5000 + "\n---\n", {}),
        (f"---\na: &a [x, x]\n{aliases}---\n", {}),
        # What an expression would go back and forth in for a minute.
        ("---" + " \n" * 30_000, {}),
    ):
        (tmp_path / "README.md").write_bytes(text.encode())
        assert resolve(str(tmp_path)).card == expected, text[:100]


def test_a_card_that_cannot_be_read_is_told(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("---\nlicense: [mit\n---\n")
    found = resolve(str(tmp_path))
    assert found.card == {} and "README.md is not YAML" in found.card_trouble


def test_json_of_a_wrong_kind_is_refused_by_name(tmp_path):
    for content, said in (
        ("[1]", "holds a list, and no JSON object"),
        ("null", "holds nothing, and no JSON object"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"architectures": "BertModel"}', 'architectures in config.json is "BertModel"'),
        ('{"problem_type": 7}', "problem_type in config.json is 7"),
        ('{"a": {"vocab": [%s]}}' % ("9" * 400), "vocab in config.json is a number of more than 18 digits"),
        ('{"num_hidden_layers": 1000000000}', "counts 1,000,000,000, and no model has more than 512"),
    ):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(BadFile, match=re.escape(said)):
            _ = resolve(str(tmp_path)).config


def test_a_token_is_in_no_text(experts):
    ref = resolve(str(experts()[0]), token="hf_secret")
    assert "hf_secret" not in repr(ref) + str(ref)


def test_short_names_are_different(tmp_path):
    folders = []
    for name in ("a/model", "b/model", "b/other name"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        folders.append(resolve(str(folder)))
    assert short_names(folders) == ["model", "model-2", "other-name"]
    # On the Hub they are told apart by their owners, as one knows them; in a folder's name there is no slash.
    repos = [replace(ref, repo_id=name, name=name) for ref, name in zip(folders, ("ann/m", "bob/m"), strict=False)]
    assert short_names(repos) == ["ann/m", "bob/m"]
    assert short_names(repos, folders=True) == ["ann--m", "bob--m"]


# --- a Hub --------------------------------------------------------------------------------------------------------

SHOW = """
import json, sys
from fusehub.errors import FuseHubError
from fusehub.models.resolve import resolve
results = []
for name in sys.argv[1:]:
    try:
        ref = resolve(name)
        results.append({"id": ref.id, "files": sorted(ref.files), "private": ref.private, "gated": ref.gated,
            "sha256": {n: f.sha256 for n, f in ref.files.items() if f.sha256}, "card": dict(ref.card), "url": ref.url,
            "read": ref.path("config.json").is_file(), "weights": ref.weight_files()})
    except FuseHubError as error:
        results.append({"error": type(error).__name__, "what": error.what, "fix": error.fix})
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A Hub with anna's models: a public one at two revisions, a private one, and a gated one."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    from fusehub.localhub import running

    folder = tmp_path_factory.mktemp("models")
    expert = relatives(folder, layers=1)[0]
    (expert / "README.md").write_text("---\nlicense: mit\n---\n# Expert\n")
    with running(tmp_path_factory.mktemp("hub")) as server:
        api = huggingface_hub.HfApi(endpoint=server.url, token=server.token("anna"))
        commits = {}
        # The client looks at the environment once: no test of the Hub here goes through Xet.
        huggingface_hub.constants.HF_HUB_DISABLE_XET = True
        for name in ("public", "private", "gated"):
            api.create_repo(f"anna/{name}", private=name == "private")
            commits[name] = api.upload_folder(repo_id=f"anna/{name}", folder_path=expert).oid
        (expert / "generation_config.json").write_text("{}")
        commits["second"] = api.upload_file(
            path_or_fileobj=expert / "generation_config.json",
            path_in_repo="generation_config.json",
            repo_id="anna/public",
        ).oid
        api.create_tag("anna/public", tag="v1", revision=commits["public"])
        api.update_repo_settings("anna/gated", gated="manual")
        server.token("bert")
        server.commits, server.expert = commits, expert
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


def show(hub, home, *names, user="bert", code=SHOW, **env):
    """What `resolve` makes of each name, in a process of that user (None: of nobody)."""
    environment = hub.env(user, home=home) | {"OMP_NUM_THREADS": "1"} | env
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN") if user is None else ("HF_HUB_OFFLINE",):
        if name not in env:
            environment.pop(name, None)
    done = subprocess.run(
        [*python(), "-c", code, *names], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_repos_are_resolved_to_a_commit_whatever_they_are_called_by(hub, home):
    commits = hub.commits
    names = {
        "anna/public": commits["second"],
        "hf://anna/public": commits["second"],
        f"{hub.url}/anna/public": commits["second"],
        "https://huggingface.co/anna/public/tree/v1": commits["public"],
        "https://hf.co/anna/public/": commits["second"],
        "anna/public@v1": commits["public"],
        "anna/public@main": commits["second"],
        f"anna/public@{commits['public']}": commits["public"],
    }
    for found, commit in zip(show(hub, home, *names), names.values(), strict=True):
        assert found["id"] == f"anna/public@{commit}" and found["read"]
        assert ("generation_config.json" in found["files"]) == (commit == commits["second"])
        assert found["url"] == f"{hub.url}/anna/public/tree/{commit}"
        assert found["weights"] == [WEIGHTS] and found["card"] == {"license": "mit"}
    from fusehub.models.tensor_files import sha256_of

    assert found["sha256"][WEIGHTS] == sha256_of(hub.expert / WEIGHTS), "the Hub tells it without a download"


def test_what_is_not_there_or_not_allowed_is_told(hub, home):
    missing, revision, private, gated, odd = show(
        hub, home, "anna/nothing", "anna/public@v9", "anna/private", "anna/gated", "anna/a b"
    )
    assert missing["error"] == "NotFound" and "anna/nothing does not exist" in missing["what"]
    assert revision["error"] == "NotFound" and "anna/public@v9: there is no such revision" in revision["what"]
    assert private["error"] == "NotFound" and "or is private" in private["what"] and "hf auth login" in private["fix"]
    assert gated["error"] == "AccessDenied" and "anna/gated is gated" in gated["what"] and hub.url in gated["fix"]
    assert odd["error"] == "NotFound" and "is not the name of a repo" in odd["what"]


def test_the_owner_sees_what_others_do_not(hub, tmp_path):
    private, gated = show(hub, tmp_path, "anna/private", "anna/gated", user="anna")
    assert private["private"] and private["read"] and gated["gated"] and gated["read"]


def test_a_token_that_is_wrong_is_told(hub, tmp_path):
    (found,) = show(hub, tmp_path, "anna/public", HF_TOKEN="hf_wrong")
    assert found["error"] == "AccessDenied" and "token" in found["what"] and "hf_wrong" not in json.dumps(found)


def test_offline_uses_what_is_in_the_cache_and_says_what_is_not(hub, tmp_path):
    download = "import sys\nfrom fusehub.models.resolve import resolve\nresolve(sys.argv[1]).download()\nprint('[]')"
    show(hub, tmp_path, "anna/public", code=download)
    cached, pinned, absent = show(
        hub,
        tmp_path,
        "anna/public",
        f"anna/public@{hub.commits['second']}",
        "anna/gated",
        HF_HUB_OFFLINE="1",
    )
    assert cached["id"] == pinned["id"] == f"anna/public@{hub.commits['second']}"
    assert cached["sha256"][WEIGHTS] and cached["read"]
    assert absent["error"] == "Offline" and "anna/gated is not in the cache" in absent["what"]


def test_a_hub_that_does_not_answer_is_told_by_its_address(hub, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        (found,) = show(hub, tmp_path, "anna/public", HF_ENDPOINT=address)
    assert found["error"] == "Offline" and address in found["what"]


MERGE = """
import json, os, sys
from fusehub.models.checkpoints.checkpoint import headers
from fusehub.merging.merge import merge
from fusehub.merging.recipe import Recipe
from fusehub.models.resolve import resolve
from huggingface_hub import try_to_load_from_cache
ref = resolve("anna/public@v1")
shapes = {name: [info.dtype, list(info.shape)] for name, info in headers(ref).items()}
here = try_to_load_from_cache("anna/public", "model.safetensors", revision=ref.commit)
models = [{"model": name} for name in ("anna/public@v1", "anna/private")]
merge(Recipe.parse({"merge_method": "mean", "models": models}), sys.argv[1])
print(json.dumps([shapes, here]))
"""


def test_models_of_a_hub_are_merged_at_their_commits_and_headers_cost_no_download(hub, tmp_path):
    from safetensors.torch import load_file

    shapes, here = show(hub, tmp_path / "home", str(tmp_path / "out"), user="anna", code=MERGE)
    tensors = load_file(hub.expert / WEIGHTS)
    assert shapes == {name: ["F32", list(value.shape)] for name, value in tensors.items()} and here is None
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (hub.expert / WEIGHTS).read_bytes()
    recipe = (tmp_path / "out" / "fusehub_recipe.yaml").read_text()
    assert f"anna/public@{hub.commits['public']}" in recipe and f"anna/private@{hub.commits['private']}" in recipe
    everything = "".join(path.read_text(errors="replace") for path in (tmp_path / "out").iterdir())
    assert hub.token("anna") not in everything and os.path.realpath(tmp_path) not in everything
