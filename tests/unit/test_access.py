"""How the Hub is asked: revision and subfolder, tokens, the cache, and not at all; for all functions alike."""

import inspect
import json
import socket
import subprocess
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

import fusehub
from fusehub.collecting.collect import collect
from fusehub.errors import NotFound
from fusehub.hub.client import cut_token
from fusehub.localhub import running
from fusehub.models.resolve import resolve
from tests.unit.experts import relatives, text_file, texts_of
from tests.warm import python

ROOT = Path(__file__).resolve().parents[2]
PRELUDE = """
import json, sys
import fusehub
from pathlib import Path
from fusehub.errors import FuseHubError

def told(call):
    try:
        return call()
    except FuseHubError as error:
        return [type(error).__name__, error.what, error.fix]

out, cache = Path(sys.argv[1]), sys.argv[2]
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """anna's Hub: two experts with statistics, one at two revisions; a repo of two heads; a private one."""
    folder = tmp_path_factory.mktemp("models")
    parts = relatives(folder, layers=1, hidden=16)
    for number, part in enumerate(parts):
        collect(str(part), text_file(folder, number, texts_of(number, count=70)), part / "fusehub").close()
    constants.HF_HUB_DISABLE_XET = True
    with running(tmp_path_factory.mktemp("hub")) as server:
        api = HfApi(endpoint=server.url, token=server.token("anna"))
        for number, part in enumerate(parts):
            api.create_repo(f"anna/expert-{number}")
            commit = api.upload_folder(repo_id=f"anna/expert-{number}", folder_path=part).oid
        api.create_branch("anna/expert-1", branch="feature/x")
        api.upload_file(repo_id="anna/expert-1", path_or_fileobj=b"later", path_in_repo="notes.txt")
        server.commit = commit
        for name, private in (("heads", False), ("private", True)):
            api.create_repo(f"anna/{name}", private=private)
        for head, part in zip(("films", "food"), parts, strict=True):
            api.upload_folder(repo_id="anna/heads", folder_path=part, path_in_repo=head, ignore_patterns="fusehub/*")
        api.upload_folder(repo_id="anna/private", folder_path=parts[0])
        server.token("bert")
        yield server


def run(hub, home, code, *arguments, user="bert", **env):
    """What a script tells, in a process of that user (None: of nobody)."""
    environment = hub.env(user, home=home) | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | env
    for name in ("HF_HUB_OFFLINE", *(("HF_TOKEN",) if user is None else ())):
        environment.pop(name, None)
    done = subprocess.run(
        [*python(), "-c", f"{PRELUDE}\n{code}\nprint(json.dumps(found))", *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


RESOLVE = """
resolve = fusehub.resolve
found = {
    "newest": resolve("anna/expert-1").commit,
    "branch": resolve("anna/expert-1", revision="feature/x").commit,
    "head": resolve("anna/heads", subfolder="films").name,
    "both": resolve("anna/heads", revision="main", subfolder="food").name,
    "twice": told(lambda: resolve("anna/expert-1@main", revision="feature/x")),
    "folders": told(lambda: resolve("anna/heads/films", subfolder="food")),
    "none": told(lambda: resolve("anna/heads", subfolder="news")),
    "again": told(lambda: fusehub.check([resolve("anna/expert-0"), "anna/expert-1"], token=False).ok),
    "own": resolve("anna/private").repo_id,
    "anonymous": told(lambda: resolve("anna/private", token=False)),
    "stored": resolve("anna/private", token=True).repo_id,
    "heads": sorted(fusehub.load_heads("anna/heads", ["films"], revision="main").heads),
}
"""


def test_revision_and_subfolder_are_said_beside_the_name_and_a_token_may_be_refused(hub, tmp_path):
    found = run(hub, tmp_path, RESOLVE, tmp_path / "out", tmp_path / "cache", user="anna")
    assert found["branch"] == hub.commit != found["newest"]
    assert (found["head"], found["both"]) == ("anna/heads/films", "anna/heads/food@main")
    assert found["twice"][0] == found["folders"][0] == "NotFound" and "Say it once" in found["twice"][2]
    assert "which folder is meant" in found["folders"][1] and "it holds films, food" in found["none"][1]
    assert found["again"] is True and found["heads"] == ["films"]
    assert found["own"] == found["stored"] == "anna/private"
    assert found["anonymous"][0] == "NotFound" and "or is private" in found["anonymous"][1]


CACHED = """
merge = dict(method="regmean", cache_dir=cache)
result = fusehub.merge(["anna/expert-0", fusehub.resolve("anna/expert-1", revision="feature/x")], out, **merge)
found = {
    "models": [entry.model for entry in result.plan.recipe.models],
    "no token": told(lambda: fusehub.resolve("anna/expert-0", token=True)),
    "mine": fusehub.resolve("anna/private", token=sys.argv[3]).repo_id,
}
"""
LOCAL = """
how = dict(cache_dir=cache, local_files_only=True)
experts = ["anna/expert-0", fusehub.resolve("anna/expert-1", **how)]
absent = dict(subfolder="films", **how)
data = out.parent / "data.csv"
data.write_text("text,label\\na good film,positive\\nan awful plot,negative\\n")
places = (out.parent / f"statistics-{number}" for number in range(9))
plan = fusehub.Recipe.of(experts, "mean")
found = {
    "elsewhere": told(lambda: fusehub.resolve("anna/expert-0", local_files_only=True)),
    "download": fusehub.check(experts, **how).download,
    "data": told(lambda: fusehub.evaluate(experts, {"films": "anna/films"}, **how)),
    "layers": fusehub.inspect("anna/expert-0", **how).metadata["examples"],
    "there": {
        "resolve": fusehub.resolve("anna/expert-0", **how).commit,
        "check": fusehub.check(experts, **how).ok,
        "recommend": fusehub.recommend(experts, **how).recommended.method,
        "plan_merge": fusehub.plan_merge(plan, **how) is not None,
        "merge": str(fusehub.merge(experts, out, method="regmean", **how).folder),
        "compare": fusehub.compare(experts, ["a text"], **how).texts != [],
        "evaluate": fusehub.evaluate(experts, {"films": str(data)}, **how).scores != [],
        "tune": fusehub.tune(
            experts, fusehub.Tuning({"films": str(data)}, over={"alpha": [0.5]}), method="regmean", **how
        ).plan is not None,
        "inspect": fusehub.inspect("anna/expert-0", **how).layers != [],
        "preview_data": fusehub.preview_data(str(data), experts, **how).text_columns != (),
        "collect": fusehub.collect("anna/expert-0", str(data), next(places), **how).close() is None,
        "add_statistics": fusehub.add_statistics(
            ["anna/expert-0", str(out.parent / "statistics-0")], next(places), disjoint=True, **how
        ).close() is None,
        "layer_changes": fusehub.layer_changes(str(out), **how).of_outputs,
        "resize_statistics": fusehub.resize_statistics(
            "anna/expert-0", next(places), size="tiny", **how
        ).close() is None,
    },
    "absent": {
        "resolve": told(lambda: fusehub.resolve("anna/heads", **absent)),
        "load_heads": told(lambda: fusehub.load_heads("anna/heads", ["films"], **how)),
        "import_statistics": told(lambda: fusehub.import_statistics("anna/heads", data, next(places), **absent)),
        "collect": told(lambda: fusehub.collect("anna/heads", str(data), next(places), **absent)),
    },
}
"""


def test_everything_lies_in_the_cache_that_was_named_and_is_read_there_without_a_request(hub, tmp_path):
    cache, home = tmp_path / "cache", tmp_path / "home"
    found = run(hub, home, CACHED, tmp_path / "merged", cache, hub.token("anna"), user=None)
    assert found["models"][1] == f"anna/expert-1@{hub.commit}" and found["mine"] == "anna/private"
    assert found["no token"][0] == "AccessDenied" and "there is none" in found["no token"][1]
    names = {path.name for path in cache.rglob("*")}
    assert {"model.safetensors", "tokenizer.json", "statistics.safetensors"} <= names
    assert not [path for path in home.rglob("models--*") if path.parent.name != ".locks"]
    with socket.socket() as closed:
        # Whoever asks here gets no answer.
        closed.bind(("127.0.0.1", 0))
        nowhere = {"HF_ENDPOINT": f"http://127.0.0.1:{closed.getsockname()[1]}"}
        found = run(hub, home, LOCAL, tmp_path / "again", cache, user=None, **nowhere)
    assert found["elsewhere"][0] == found["data"][0] == "Offline"
    assert "only what is on this machine may be read" in found["data"][1]
    assert all(found["there"].values()) and found["download"] == 0 and found["layers"] == 70
    assert {name: said[0] for name, said in found["absent"].items()} == dict.fromkeys(found["absent"], "Offline")
    assert {*found["there"], *found["absent"]} == set(readers())
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "merged" / "model.safetensors"
    ).read_bytes()


def test_a_folder_has_no_revisions_and_may_hold_models(tmp_path):
    parts = relatives(tmp_path, layers=1)
    assert resolve(str(tmp_path), subfolder="expert-1").folder == parts[1] == resolve(parts[1]).folder
    with pytest.raises(NotFound, match="has no revisions"):
        resolve(parts[0], revision="main")
    with pytest.raises(NotFound, match="is resolved already"):
        collect(resolve(parts[0]), "texts.txt", tmp_path / "out", revision="main")
    with pytest.raises(NotFound, match="names two models"):
        resolve(f"{parts[0]}+{parts[1]}", revision="main")


def test_a_token_can_be_wanted_or_refused():
    assert cut_token(True) is True and cut_token(False) is False


_NAMING_ONE, _NAMING_MORE = ("model",), ("models", "source", "sources", "recipe")


def readers() -> dict[str, inspect.Signature]:
    """Every public function that is given models, statistics or a recipe of them first, and what it takes."""
    functions = {name: getattr(fusehub, name) for name in fusehub.__all__}
    said = {name: inspect.signature(own) for name, own in functions.items() if inspect.isfunction(own)}
    first = {name: next(iter(own.parameters), "") for name, own in said.items()}
    return {name: said[name] for name, own in first.items() if own in (*_NAMING_ONE, *_NAMING_MORE)}


@pytest.mark.parametrize("name", readers())
def test_every_function_that_reads_a_model_has_the_clients_parameters(name):
    said = readers()[name].parameters
    wanted = {"token": None, "cache_dir": None, "local_files_only": False}
    wanted |= {"revision": None, "subfolder": None} if next(iter(said)) in _NAMING_ONE else {}
    assert {key: said[key].default for key in wanted if key in said} == wanted
    assert said["token"].annotation == "bool | str | None" and said["cache_dir"].annotation == "str | Path | None"


def test_whatever_takes_a_token_is_known_to_read_or_to_write():
    """No function that asks the Hub is passed over by the test above."""
    asking = {
        name for name in fusehub.__all__
        if inspect.isfunction(own := getattr(fusehub, name)) and "token" in inspect.signature(own).parameters
    }  # fmt: skip
    assert asking == {*readers(), "find", "publish", "publish_recipe", "publish_statistics"}


def test_no_public_function_takes_what_is_not_named():
    functions = [name for name in fusehub.__all__ if inspect.isfunction(getattr(fusehub, name))]
    assert "merge" in functions
    for name in functions:
        kinds = [parameter.kind for parameter in inspect.signature(getattr(fusehub, name)).parameters.values()]
        assert inspect.Parameter.VAR_KEYWORD not in kinds, name
