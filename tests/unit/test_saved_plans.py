"""A plan is a value: it does not change, can be read, saved and carried out later, and not in another world."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from huggingface_hub import HfApi
from typer.testing import CliRunner

from fusehub.cli.main import app
from fusehub.errors import BadFile, BadRecipe, Outdated
from fusehub.merging.merge import merge
from fusehub.merging.plan import Plan, plan_merge
from tests.unit.at_hub import session
from tests.unit.experts import WEIGHTS, edit_json, files_of, recipe_of, relatives, save_weights, weights_of
from tests.unit.tiny import tiny_model


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    """Two small experts beside their base."""
    return relatives(tmp_path, layers=1)


@pytest.fixture
def counted(experts, tmp_path: Path) -> list[Path]:
    """Two experts with statistics in their folders, as copies that a test may change."""
    return [Path(shutil.copytree(path, tmp_path / path.name)) for path in experts("bert")[:2]]


def mutable(value: Any, where: str = "plan") -> Iterator[str]:
    """Where in a value something can be changed."""
    if isinstance(value, dict | list | set | bytearray):
        yield where
    elif isinstance(value, MappingProxyType):
        for key, own in value.items():
            yield from mutable(own, f"{where}[{key!r}]")
    elif isinstance(value, tuple):
        for number, own in enumerate(value):
            yield from mutable(own, f"{where}[{number}]")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        if not type(value).__dataclass_params__.frozen:
            yield where
        for field in dataclasses.fields(value):
            # What is not compared is no part of the value: a token, and what is remembered.
            if field.compare:
                yield from mutable(getattr(value, field.name), f"{where}.{field.name}")


def test_nothing_in_a_plan_can_be_changed(counted):
    plan = plan_merge(recipe_of(counted, parameters={"alpha": [0.1, 0.9]}))
    assert list(mutable(plan)) == []
    with pytest.raises(TypeError):
        plan.tensors["classifier.weight"] = None
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.notes = ()


def test_a_saved_plan_gives_the_same_files(counted, tmp_path):
    plan = plan_merge(recipe_of(counted, weights=[1, 2], parameters={"alpha": [0.1, 0.9]}))
    plan.save(tmp_path / "plan.json")
    merge(plan, tmp_path / "now")
    result = merge(tmp_path / "plan.json", tmp_path / "later")
    assert files_of(tmp_path / "now") == files_of(tmp_path / "later")
    assert result.plan.to_dict() == plan.to_dict()
    # What it was made from is named, by hash.
    record = json.loads((tmp_path / "plan.json").read_text())
    assert record["weights"][0] == dict(plan.hashes[0])
    assert any(name.endswith("statistics.safetensors") for name in record["files"])


def _other_weights(folder: Path) -> Path:
    tensors = weights_of(folder)
    tensors["classifier.bias"] += 1e-3
    save_weights(folder, tensors)
    return folder / WEIGHTS


def _other_config(folder: Path) -> Path:
    edit_json(folder / "config.json", my_own_key=1)
    return folder / "config.json"


def _no_tokenizer(folder: Path) -> Path:
    (folder / "tokenizer.json").unlink()
    return folder / "tokenizer.json"


@pytest.mark.parametrize("change", [_other_weights, _other_config, _no_tokenizer])
@pytest.mark.parametrize("whose", ["expert-1", "base"])
def test_a_plan_is_not_carried_out_where_a_folder_has_changed(pair, tmp_path, change, whose):
    plan = plan_merge(recipe_of(pair, "task_arithmetic", base_model=str(tmp_path / "base")))
    plan.save(tmp_path / "plan.json")
    changed = change(tmp_path / whose)
    for source in (plan, tmp_path / "plan.json"):
        with pytest.raises(Outdated) as caught:
            merge(source, tmp_path / "out")
        assert caught.value.what.startswith(str(changed))
        assert not (tmp_path / "out").exists()
    with pytest.raises(Outdated):
        plan.save(tmp_path / "again.json")


def test_a_plan_is_not_carried_out_where_statistics_have_changed(counted, tmp_path):
    plan = plan_merge(recipe_of(counted))
    plan.save(tmp_path / "plan.json")
    changed = counted[0] / "fusehub" / "statistics.safetensors"
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    for source in (plan, tmp_path / "plan.json"):
        with pytest.raises(Outdated) as caught:
            merge(source, tmp_path / "out")
        assert caught.value.what.startswith(str(changed))
    changed.unlink()
    with pytest.raises(Outdated, match="is gone"):
        Plan.load(tmp_path / "plan.json")


def test_a_file_that_was_copied_is_the_same_file(pair, tmp_path):
    plan_merge(recipe_of(pair, "mean")).save(tmp_path / "plan.json")
    weights = pair[0] / WEIGHTS
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content)
    merge(tmp_path / "plan.json", tmp_path / "out")


def test_how_a_plan_was_tuned_is_kept(pair, tmp_path):
    data = {"name": "films", "source": "films.csv", "split": None, "revision": "1a2b", "examples": 3}
    trial = {"values": {"scale": 0.5}, "weights": None, "scores": {"films": 0.5}, "mean": 0.5}
    searched = {"over": {"scale": [0.5]}, "weights": None, "most_trials": 3, "complete": True}
    tuning = {"data": [data], "metric": "accuracy", **searched, "trials": [trial], "chosen": 0}
    plan = dataclasses.replace(plan_merge(recipe_of(pair, "mean")), tuning=tuning)
    plan.save(tmp_path / "plan.json")
    # In the same order, too: the report is the same to the byte.
    assert json.dumps(Plan.load(tmp_path / "plan.json").to_dict()) == json.dumps(plan.to_dict())
    record = json.loads((tmp_path / "plan.json").read_text())
    record["planned"]["tuning"]["trials"] = "many"
    (tmp_path / "plan.json").write_text(json.dumps(record))
    with pytest.raises(BadFile, match=r"planned\.tuning.*trials"):
        Plan.load(tmp_path / "plan.json")


def test_what_would_be_done_otherwise_is_named(pair, tmp_path):
    plan_merge(recipe_of(pair, "mean")).save(tmp_path / "plan.json")
    record = json.loads((tmp_path / "plan.json").read_text())
    record["planned"]["tensors"][2]["action"] = "copy"
    record["fusehub"] = "0.0.1"
    (tmp_path / "plan.json").write_text(json.dumps(record))
    with pytest.raises(Outdated) as caught:
        Plan.load(tmp_path / "plan.json")
    assert f"tensor {record['planned']['tensors'][2]['name']}" in caught.value.what
    assert "FuseHub 0.0.1" in caught.value.what


@pytest.mark.parametrize("content", ["{}", "[", '{"format": "fusehub-plan", "version": 2}'])
def test_another_file_is_no_plan(tmp_path, content):
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(BadFile, match=r"plan\.json"):
        Plan.load(tmp_path / "plan.json")


def test_a_plan_is_read_by_people(counted, tmp_path):
    base = tiny_model(tmp_path / "base", hidden=16)
    plan = plan_merge(recipe_of(counted, base_model=str(base), statistics=["auto", "data-free"]))
    text = str(plan)
    assert str(counted[0]) in text and f"base: {base}" in text and "alpha" in text
    assert f"statistics of {counted[1]}: none" in text
    assert all(f"{tensor.action} {name} " in text for name, tensor in plan.tensors.items())


def test_on_the_command_line(pair, tmp_path):
    def run(*arguments: object):
        return CliRunner().invoke(app, list(map(str, arguments)))

    file = tmp_path / "plan.json"
    planned = run("merge", *pair, "--method", "mean", "--save-plan", file)
    assert planned.exit_code == 0 and f"fusehub merge {file}" in planned.stderr
    refused = run("merge", file, "--weight", f"{pair[0]}=2", "--out", tmp_path / "out")
    assert refused.exit_code == 2 and "--weight" in refused.stderr
    done = run("merge", file, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["sha256"]
    with pytest.raises(BadRecipe, match="as it is"):
        merge(file, tmp_path / "other", scale=0.5)


def test_commits_are_those_of_the_plan_and_a_repo_that_is_gone_is_named(hub, tmp_path):
    api = HfApi(hub.url, token=hub.token("ann"))
    paths = relatives(tmp_path / "models", layers=1)
    for number, path in enumerate(paths):
        api.create_repo(f"ann/later{number}")
        api.upload_folder(repo_id=f"ann/later{number}", folder_path=path)
    with session(hub, "ann", tmp_path / "home") as run:
        home = tmp_path / "home"
        run("merge", "ann/later0", "ann/later1", "--method", "mean", "--out", "now")
        run("merge", "ann/later0", "ann/later1", "--method", "mean", "--save-plan", "plan.json")
        assert hub.token("ann") not in (home / "plan.json").read_text()
        changed = _other_weights(paths[1])
        api.upload_file(repo_id="ann/later1", path_or_fileobj=changed, path_in_repo=WEIGHTS)
        run("merge", "plan.json", "--out", "later")
        assert files_of(home / "now") == files_of(home / "later")
        api.delete_repo("ann/later1")
        what, _ = run.fails("merge", "plan.json", "--out", "gone")
        assert "ann/later1" in what
