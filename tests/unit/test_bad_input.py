"""Statistics that are broken or of something else, and data that does not fit: one message, nothing half-made.

By commands, against a real Hub. What each module says of such files is in its own tests.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fusehub.collecting.collect import collect
from tests.unit.experts import relatives, text_file, texts_of
from tests.unit.tiny import tiny_model

LAYER = "bert.encoder.layer.0.output.dense.weight"
TENSORS, METADATA = "statistics.safetensors", "statistics.json"


def rewritten(folder: Path, change: Callable[[dict], None], **metadata: object) -> None:
    """Statistics with other tensors or metadata, consistent in themselves."""
    file = folder / TENSORS
    with safe_open(file, "pt") as opened:
        told = json.loads(opened.metadata()["fusehub"]) | metadata
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"fusehub": json.dumps(told)})
    (folder / METADATA).write_text(json.dumps(told))


def cut(folder: Path) -> None:
    content = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(content[: len(content) * 2 // 3])


def with_nan(tensors: dict) -> None:
    tensors[f"{LAYER}.S"][5] = float("nan")


def with_impossible_products(tensors: dict) -> None:
    """The second feature's products with the first are more than their squares allow."""
    tensors[f"{LAYER}.S"][1] = 1e4


# What is done to sound statistics, and what is said of it.
BROKEN = {
    "truncated": (cut, "is truncated or corrupt"),
    "nan": (lambda folder: rewritten(folder, with_nan), f"{LAYER}.S holds NaN or infinity"),
    "not positive": (
        lambda folder: rewritten(folder, with_impossible_products),
        f"{LAYER}",
    ),
    "version": (
        lambda folder: rewritten(folder, dict, version=2),
        "has version 2 of the format; this FuseHub reads version 1",
    ),
    "not json": (lambda folder: (folder / METADATA).write_text("{"), f"{METADATA} is not JSON"),
    "something else": (
        lambda folder: rewritten(folder, dict, format="other"),
        "does not hold statistics",
    ),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Two experts, each with statistics of its own beside it."""
    folder = tmp_path_factory.mktemp("work")
    for number, path in enumerate(relatives(folder, layers=1)):
        (path / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
        collect(str(path), text_file(folder, number, texts_of(number, 110)), path / "fusehub", size="full").close()
    return folder


@pytest.fixture
def copies(work, tmp_path):
    """The two experts as folders of this test."""
    return [shutil.copytree(work / f"expert-{number}", tmp_path / f"expert-{number}") for number in range(2)]


def repos(hub) -> set[str]:
    api = HfApi(hub.url, token=hub.token("ann"))
    return {model.id for model in api.list_models(author="ann")}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_statistics_are_refused_by_every_command(case, ann, hub, copies, tmp_path):
    spoil, said = BROKEN[case]
    spoil(copies[1] / "fusehub")
    what, fix = ann.fails("merge", *copies, "--method", "regmean", "--out", tmp_path / "merged")
    assert said in what and fix, what
    what, _ = ann.fails("inspect", copies[1] / "fusehub")
    assert said in what, what
    before = repos(hub)
    what, _ = ann.fails("publish", copies[1], "broken", "--no-private")
    assert said in what and repos(hub) == before, what
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expert-0", "expert-1"], "and nothing is left behind"


@pytest.mark.parametrize("case", ["other weights", "other model"])
def test_statistics_of_something_else_are_refused_with_both_names(case, ann, hub, copies, tmp_path):
    shutil.rmtree(copies[1] / "fusehub")
    if case == "other weights":
        shutil.copytree(copies[0] / "fusehub", copies[1] / "fusehub")
        of = "expert-0"
    else:
        other = tiny_model(tmp_path / "stranger", "distilbert", hidden=16)
        collect(str(other), text_file(tmp_path), copies[1] / "fusehub").close()
        of = "stranger"
    found, _ = ann.fails("merge", *copies, "--method", "regmean", "--out", tmp_path / "merged")
    assert f"{copies[1]}: the statistics there are ({copies[1]}/fusehub) were made for other weights" in found
    named = copies[1] / "fusehub" / TENSORS
    what, fix = ann.fails(
        "merge", *copies, "--method", "regmean", "--statistics", f"{copies[1]}={named}", "--out", tmp_path / "merged"
    )
    assert f"were made for other weights ({of}) than those of {copies[1]}" in what and "--allow-other-weights" in fix
    before = repos(hub)
    what, _ = ann.fails("publish", copies[1], "broken", "--no-private")
    assert f"made for other weights ({of})" in what and repos(hub) == before
    assert not (tmp_path / "merged").exists()


def test_missing_layers_are_listed_and_fall_back(ann, copies, tmp_path):
    """In the plan, in the words after a merge, in the report and on the card."""

    def forget(tensors: dict) -> None:
        for name in [name for name in tensors if name.startswith(f"{LAYER}.")]:
            del tensors[name]

    told = json.loads((copies[1] / "fusehub" / METADATA).read_text())
    rewritten(copies[1] / "fusehub", forget, layers={k: v for k, v in told["layers"].items() if k != LAYER})
    plan = ann.json("merge", *copies, "--method", "regmean", "--dry-run")
    actions = {tensor["name"]: (tensor["action"], tensor["why"]) for tensor in plan["tensors"]}
    assert actions[LAYER] == ("mean", f"no input rows in the statistics of {copies[1]}")
    other = LAYER.replace("output", "intermediate")
    assert actions[other][0] == "solve"
    note = f"1 linear layers have no statistics of every expert and are averaged: {LAYER}"
    assert note in plan["notes"]
    ann("merge", *copies, "--method", "regmean", "--out", tmp_path / "merged")
    merged, *experts = (load_file(path / "model.safetensors") for path in (tmp_path / "merged", *copies))
    mean = {name: (experts[0][name] + experts[1][name]) / 2 for name in (LAYER, other)}
    assert torch.allclose(merged[LAYER], mean[LAYER], atol=1e-6)
    assert not torch.allclose(merged[other], mean[other], atol=1e-3)
    assert note in json.loads((tmp_path / "merged" / "fusehub_report.json").read_text())["notes"]
    assert LAYER in ann("publish", tmp_path / "merged", "merged", "--dry-run").replace("\\_", "_")


# Data that does not fit: (task, rows of a file of JSON lines, what is said of it).
UNFIT = {
    "no text column": ("text-classification", [{"stars": 4, "id": 1}], "stars, id"),
    "no text at all": ("text-classification", [{"text": " "}], "holds no text"),
    "no rows": ("text-classification", [], "is empty"),
    "no context": ("question-answering", [{"text": "Anna lives."}], "a question and a text"),
    "no target": ("text2text-generation", [{"text": "Anna lives."}], "target text"),
    "no image": ("image-classification", [{"image": "nowhere.png"}], "nowhere.png"),
}
ARCHITECTURE = {"text2text-generation": "t5", "image-classification": "vit"}


@pytest.mark.parametrize("case", UNFIT)
def test_data_whose_columns_do_not_fit_makes_no_statistics(case, ann, hub, tmp_path):
    task, rows, said = UNFIT[case]
    model = tiny_model(tmp_path / "model", ARCHITECTURE.get(task, "bert"), task=task, hidden=16, layers=1)
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    what, fix = ann.fails("collect", model, "--data", data, "--out", tmp_path / "statistics")
    assert (said in f"{what} {fix}" and str(data) in what) or "data.jsonl" in what, (what, fix)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.jsonl", "model"]


def test_data_that_does_not_fit_publishes_nothing(ann, hub, work, tmp_path):
    ann("publish", work / "expert-0", "whole", "--no-private")
    api = HfApi(hub.url, token=hub.token("ann"))
    before, commit = repos(hub), api.model_info("ann/whole").sha
    (tmp_path / "data.jsonl").write_text('{"stars": 4}\n')
    few = text_file(tmp_path, texts=["One text.", "Another."])
    for data, said in ((tmp_path / "data.jsonl", "stars"), (few, "of few rows")):
        for where in ((), ("--repo", "whole-statistics")):
            what, fix = ann.fails("collect", "ann/whole", "--data", data, "--publish", *where)
            assert said in f"{what} {fix}"
    assert repos(hub) == before and api.model_info("ann/whole").sha == commit


def test_labels_that_a_model_does_not_know_give_no_scores(ann, work, tmp_path):
    (tmp_path / "data.jsonl").write_text('{"text": "a fine film", "label": "sports"}\n')
    out = tmp_path / "scores.json"
    what, fix = ann.fails("evaluate", work / "expert-0", "--data", f"mine={tmp_path / 'data.jsonl'}", "--out", out)
    assert "sports" in what and "negative" in f"{what} {fix}" and not out.exists()
