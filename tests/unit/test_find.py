"""Finding models on a real server."""

import json
import os
import subprocess
from pathlib import Path
from urllib.request import urlopen

os.environ["HF_HUB_DISABLE_XET"] = "1"

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants

from fusehub.localhub import running
from tests.warm import python

# The client reads the environment once: set it also where another test imported it first.
constants.HF_HUB_DISABLE_XET = True

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {"text-classification": "BertForSequenceClassification", "multiple-choice": "BertForMultipleChoice"}
CONFIG["token-classification"] = "BertForTokenClassification"
# name -> (task, front matter, whether its statistics lie in it, downloads)
MODELS = {
    "ann/base": ("multiple-choice", {"license": "mit"}, False, 9),
    "ann/sentiment-films": ("text-classification", {"base_model": "ann/base", "license": "mit"}, True, 2),
    "ann/sentiment-news": ("text-classification", {"base_model": ["ann/base"]}, False, 3),
    "bob/sentiment-other": ("text-classification", {"base_model": "cat/elsewhere"}, False, 7),
    "bob/names": ("token-classification", {"base_model": "ann/base", "license": "Apache-2.0"}, False, 1),
    "cat/merged": (
        "text-classification",
        {"base_model": ["ann/sentiment-films", "ann/sentiment-news"], "base_model_relation": "merge"},
        False,
        0,
    ),
    "cat/merged-twice": ("multiple-choice", {"base_model": ["cat/merged", "bob/names", "ann/base"]}, False, 0),
    "cat/mixed": ("multiple-choice", {"base_model": ["ann/sentiment-films", "bob/sentiment-other"]}, False, 0),
    "ann/news-statistics": (None, {"base_model": ["ann/sentiment-news"], "tags": ["fusehub-statistics"]}, True, 5),
    "cat/names-statistics": (None, {"base_model": ["bob/names"], "tags": ["fusehub-statistics"]}, True, 0),
    "bob/empty-statistics": (None, {"base_model": ["bob/names"], "tags": ["fusehub-statistics"]}, False, 0),
    "cat/lost-statistics": (None, {"base_model": ["cat/gone"], "tags": ["fusehub-statistics"]}, True, 0),
}
SCRIPT = """
import json, sys
from fusehub.errors import FuseHubError
from fusehub.finding import find
for line in sys.stdin:
    try:
        print(json.dumps([model.to_dict() for model in find(**json.loads(line))]), flush=True)
    except FuseHubError as error:
        print(json.dumps([type(error).__name__, error.what]), flush=True)
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with running(tmp_path_factory.mktemp("hub"), 0, "--page-size", "3") as server:
        for name, (task, card, statistics, downloads) in MODELS.items():
            api = HfApi(server.url, token=server.token(name.partition("/")[0]))
            api.create_repo(name)
            front = "\n".join(f"{key}: {json.dumps(value)}" for key, value in card.items())
            files = {"README.md": f"---\n{front}\n---\n"}
            if task:
                files["config.json"] = json.dumps({"model_type": "bert", "architectures": [CONFIG[task]]})
            if statistics:
                files["fusehub/statistics.safetensors"] = "x"
            operations = [CommitOperationAdd(path, text.encode()) for path, text in files.items()]
            api.create_commit(name, operations, commit_message="x")
            for _ in range(downloads if task else 0):
                urlopen(f"{server.url}/{name}/resolve/main/config.json").read()
        yield server


@pytest.fixture(scope="module")
def find(hub, tmp_path_factory):
    """`find(query=..., ...)` in a process that uses the hub, as ann."""
    env = hub.env("ann", home=tmp_path_factory.mktemp("home")) | {"PYTHONPATH": str(ROOT)}
    env.pop("HF_HUB_OFFLINE", None)
    with subprocess.Popen(
        [*python(), "-c", SCRIPT], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def ask(**wanted):
            process.stdin.write(json.dumps(wanted) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield ask
        process.stdin.close()


def ids(found):
    return [model["id"] for model in found]


def test_models_that_can_be_merged_are_listed_by_downloads(find):
    found = find()
    names = ["bob/sentiment-other", "ann/sentiment-news", "ann/sentiment-films", "bob/names", "cat/merged"]
    assert ids(found) == names
    assert [model["downloads"] for model in found] == [7, 3, 2, 1, 0]


def test_what_is_told_of_a_model(find):
    [films] = find(query="films")
    assert films.pop("updated").startswith("20")
    assert films == {
        "id": "ann/sentiment-films",
        "task": "text-classification",
        "base": "ann/base",
        "downloads": 2,
        "likes": 0,
        "license": "mit",
        "gated": False,
        "private": False,
        "parameters": None,
        "statistics_at": "ann/sentiment-films",
        "offered_at": [],
        "parents": [],
        "statistics": True,
        "weight_bytes": None,
    }


def test_by_base(find):
    assert ids(find(base="ann/base")) == ["ann/sentiment-news", "ann/sentiment-films", "bob/names"]
    kind, what = find(base="ann/none")
    assert kind == "NotFound" and what.startswith("ann/none does not exist")


def test_a_merge_has_the_base_of_the_models_in_it(find):
    """Which its card does not name: it names the models in it, the first of which is not its base."""
    [merged] = find(query="merged", task="text-classification")
    assert merged["base"] == "ann/base"
    assert merged["parents"] == ["ann/sentiment-films", "ann/sentiment-news"]
    others = {model["id"]: model["base"] for model in find(task="multiple-choice", author="cat")}
    assert others == {"cat/merged-twice": "ann/base", "cat/mixed": None}


def test_by_task_author_and_name(find):
    assert ids(find(task="token-classification")) == ["bob/names"]
    assert ids(find(task="multiple-choice", limit=1)) == ["ann/base"], "asked for, so shown though it cannot be merged"
    assert ids(find(author="bob")) == ["bob/sentiment-other", "bob/names"]
    assert ids(find(query="sentiment", base="ann/base")) == ["ann/sentiment-news", "ann/sentiment-films"]
    assert find(query="nothing like it") == []


def test_any_task_shows_models_but_no_repos_of_statistics(find):
    assert ids(find(task="any", author="ann")) == ["ann/base", *ids(find(author="ann"))]


def test_with_statistics_the_models_are_listed_and_where_they_are(find):
    found = find(with_statistics=True)
    assert {model["id"]: model["statistics_at"] for model in found} == {
        "ann/sentiment-news": "ann/news-statistics",
        "ann/sentiment-films": "ann/sentiment-films",
    }
    assert ids(find(with_statistics=True, query="news", base="ann/base")) == ["ann/sentiment-news"]
    # Somebody else's are told, and are not the model's.
    assert find(with_statistics=True, task="token-classification") == []
    [names] = find(task="token-classification")
    assert not names["statistics"] and names["statistics_at"] is None
    assert names["offered_at"] == ["cat/names-statistics"]
    assert ids(find(with_statistics=True, author="ann", limit=1)) == ["ann/sentiment-news"]


def test_the_limit_counts_what_is_shown(find):
    assert ids(find(limit=2)) == ids(find())[:2]
    assert ids(find(limit=1, with_statistics=True, query="films")) == ["ann/sentiment-films"]


def test_a_model_with_a_companion_is_found_far_down_the_list(hub, tmp_path):
    """However many models come before it: the companion itself names it."""
    env = hub.env("ann", home=tmp_path) | {"PYTHONPATH": str(ROOT)}
    code = "import fusehub.finding as f; f._MOST = 3; print([m.id for m in f.find(with_statistics=True, task='any')])"
    done = subprocess.run([*python(), "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "['ann/sentiment-news']", done.stderr[-2000:]


def test_without_the_hub(hub, tmp_path):
    env = hub.env("ann", home=tmp_path) | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([*python(), "-c", SCRIPT], env=env, input="{}\n", capture_output=True, text=True)
    assert json.loads(done.stdout)[0] == "Offline", done.stderr[-2000:]


def test_a_merge_fits_what_comes_from_the_base_of_the_models_in_it(hub, tmp_path):
    # Last of all: a model that is read is one that was downloaded.
    env = hub.env("ann", home=tmp_path) | {"PYTHONPATH": str(ROOT)}
    code = """
from fusehub.checking.configs import different_bases
from fusehub.models.resolve import resolve
for others in (["bob/names"], ["ann/sentiment-films"], ["bob/sentiment-other"]):
    print(different_bases([resolve(name) for name in ["cat/merged", *others]]))
"""
    done = subprocess.run([*python(), "-c", code], env=env, capture_output=True, text=True)
    told = "{'cat/merged': 'ann/base', 'bob/sentiment-other': 'cat/elsewhere'}"
    assert done.stdout.splitlines() == ["{}", "{}", told], done.stderr[-2000:]
