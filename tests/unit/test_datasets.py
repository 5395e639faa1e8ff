"""Datasets on a Hub: read at a commit, by split, as far as rows are asked for."""

import json
import os
import subprocess

import pytest

from tests.warm import python

HUB_TEST = """
import json, sys
from fusehub.data.examples import load_examples
from fusehub.errors import FuseHubError
from fusehub.hub.access import Access

def show(source, task="text-classification", token=None, **options):
    try:
        found = load_examples(source, task, access=Access(token=token), **options)
        print(json.dumps(vars(found)))
    except FuseHubError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))

for call in json.loads(sys.argv[1]):
    show(call.pop("source"), **call)
"""


@pytest.fixture(scope="module")
def dataset_hub(tmp_path_factory):
    """A hub with alice/films (two splits), alice/langs (two configs) and the private alice/secret."""
    from datasets import ClassLabel, Dataset, Features, Value
    from huggingface_hub import CommitOperationAdd, HfApi, constants

    from fusehub.localhub import running

    constants.HF_HUB_DISABLE_XET = True
    folder = tmp_path_factory.mktemp("data")
    features = Features(text=Value("string"), label=ClassLabel(names=["neg", "pos"]))
    Dataset.from_dict({"text": ["t1", "t2"], "label": [0, 1]}, features=features).to_parquet(folder / "train.parquet")
    Dataset.from_dict({"text": ["e1", "e2"], "label": [1, -1]}, features=features).to_parquet(folder / "test.parquet")
    many = {
        "text": [f"{number:05}" for number in range(20_000)],
        "label": [number // 10_000 for number in range(20_000)],
    }
    # As the Hub stores large sets: several files of many row groups.
    for part in range(2):
        half = {name: values[part * 10_000 : (part + 1) * 10_000] for name, values in many.items()}
        Dataset.from_dict(half, features=features).to_parquet(folder / f"many-{part}.parquet", batch_size=100)
    langs = (
        "---\nconfigs:\n- config_name: en\n  data_files: [{split: test, path: en.csv}]\n"
        "- config_name: de\n  data_files: [{split: test, path: de.csv}]\n---\n"
    )
    repos = {
        "alice/films": {
            f"data/{split}-00000-of-00001.parquet": folder / f"{split}.parquet" for split in ("train", "test")
        },
        "alice/langs": {"README.md": langs.encode(), "en.csv": b"text\nhello\n", "de.csv": b"text\nhallo\n"},
        "alice/many": {f"data/train-{part:05}-of-00002.parquet": folder / f"many-{part}.parquet" for part in range(2)},
        "alice/secret": {"train.csv": b"text\nhidden\n"},
        "alice/script": {"script.py": b"raise SystemExit('ran')\n"},
        "alice/nothing": {"notes.bin": b"x"},
    }
    with running(tmp_path_factory.mktemp("hub")) as hub:
        api = HfApi(endpoint=hub.url, token=hub.token("alice"))
        for repo, files in repos.items():
            api.create_repo(repo, repo_type="dataset", private=repo.endswith("secret"))
            api.create_commit(
                repo,
                [CommitOperationAdd(name, content) for name, content in files.items()],
                commit_message="data",
                repo_type="dataset",
            )
        yield hub, api


def ask_hub(dataset_hub, home, *calls, token=None):
    hub, _ = dataset_hub
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    environment |= {"HF_TOKEN": token} if token else {}
    done = subprocess.run(
        [*python(), "-c", HUB_TEST, json.dumps(calls)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_datasets_on_a_hub(dataset_hub, tmp_path):
    train, test, labelled, named, config = ask_hub(
        dataset_hub,
        tmp_path,
        {"source": "alice/films"},
        {"source": "alice/films", "default_split": "test"},
        {"source": "alice/films/test", "need_labels": True},
        {"source": "alice/films/train@main", "limit": 1},
        {"source": "alice/langs:de"},
    )
    commit = dataset_hub[1].dataset_info("alice/films").sha
    assert (train["texts"], train["labels"], train["names"]) == (["t1", "t2"], ["neg", "pos"], ["neg", "pos"])
    assert (train["source"], train["split"], train["revision"]) == ("alice/films/train", "train", commit)
    assert (test["texts"], test["labels"]) == (["e1", "e2"], None)
    assert (labelled["texts"], labelled["labels"]) == (["e1"], ["pos"])
    assert len(named["texts"]) == 1 and named["revision"] == commit
    assert (config["texts"], config["source"]) == (["hallo"], "alice/langs:de/test")


def test_what_can_go_wrong_with_datasets_on_a_hub(dataset_hub, tmp_path):
    cases = {
        "alice/nowhere": ("NotFound", "alice/nowhere"),
        "alice/films@v9": ("NotFound", "no such revision"),
        "alice/films/final": ("NotFound", "Its splits are train, test"),
        "alice/langs": ("NotFound", "Name one of en, de"),
        "alice/langs:fr": ("NotFound", "Name one of en, de"),
        "alice/secret": ("NotFound", "private"),
        "alice/nothing": ("BadData", "cannot be read as a dataset"),
        "alice/script": ("BadData", ""),
    }
    answers = ask_hub(dataset_hub, tmp_path, *({"source": source} for source in cases))
    for (source, (kind, words)), answer in zip(cases.items(), answers, strict=True):
        assert answer["error"] == kind, (source, answer)
        assert words in answer["message"], (source, answer)


def test_private_datasets_need_the_token_of_who_may_read_them(dataset_hub, tmp_path):
    token = dataset_hub[0].token("alice")
    (by_argument,) = ask_hub(dataset_hub, tmp_path, {"source": "alice/secret", "token": token})
    (by_environment,) = ask_hub(dataset_hub, tmp_path, {"source": "alice/secret"}, token=token)
    assert by_argument["texts"] == by_environment["texts"] == ["hidden"]


def test_a_sample_is_drawn_from_parts_all_over_a_large_dataset(dataset_hub, tmp_path):
    drawn, again, other, more = ask_hub(
        dataset_hub,
        tmp_path,
        *({"source": "alice/many", "limit": 200, "seed": seed} for seed in (0, 0, 1)),
        {"source": "alice/many", "limit": 5000},
    )
    assert drawn["texts"] == again["texts"] != other["texts"]
    # 200 row groups, each of one label, and the second label begins after 100 of them.
    groups = {int(text) // 100 for text in drawn["texts"]}
    assert 40 <= len(groups) <= 64, "of 64 row groups"
    assert max(after - before for before, after in zip(sorted(groups), sorted(groups)[1:], strict=False)) <= 9
    assert 80 <= drawn["labels"].count("pos") <= 120
    assert len(set(more["texts"])) == 5000, "more row groups are read where 64 have too few rows"


def test_of_several_configs_and_splits_the_first_is_looked_at(dataset_hub, tmp_path):
    """Where nothing is said: a name of one of them is what stands for the data then."""
    from tests.unit.tiny import tiny_model

    code = f"""
import json
from fusehub import preview_data
from fusehub.data.preview import with_parts
from fusehub.errors import NotFound
model = {str(tiny_model(tmp_path / "model"))!r}
for source, split in (("alice/langs", "train"), ("alice/langs:de", "test"), ("alice/films@main", "train")):
    print(json.dumps(preview_data(source, [model], default_split=split, labelled="films" in source).to_dict()))
for wrong in ("alice/langs:fr", "alice/films/dev"):
    try:
        preview_data(wrong, [model])
    except NotFound as error:
        print(json.dumps([error.part, error.among]))
print(json.dumps([with_parts("alice/langs@main", "de"), with_parts("alice/langs:en", split="test")]))
"""
    hub, _ = dataset_hub
    environment = hub.env(home=tmp_path / "home") | {"PYTHONPATH": os.environ.get("PYTHONPATH", os.getcwd())}
    done = subprocess.run([*python(), "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, named, films, config, split, parts = map(json.loads, done.stdout.splitlines())
    assert (first["source"], first["config"], first["configs"]) == ("alice/langs:en", "en", ["en", "de"])
    assert (first["split"], first["splits"], first["rows"]) == ("test", ["test"], [{"text": "hello"}])
    assert (named["source"], named["config"], named["rows"]) == ("alice/langs:de", "de", [{"text": "hallo"}])
    # What can be read as it is named stays as it is named.
    assert (films["source"], films["split"], films["splits"]) == ("alice/films@main", "train", ["train", "test"])
    assert films["rows"][1] == {"text": "t2", "label": "1 (pos)"} and films["label_column"] == "label"
    assert "neg, pos" in films["problems"][0]["what"] and not films["ok"]
    assert config == ["config", ["en", "de"]] and split == ["split", ["train", "test"]]
    assert parts == ["alice/langs:de@main", "alice/langs:en/test"]
