"""A merge that was killed after it had written some of its files goes on from them, and never from another's."""

import json
import os
import shutil
import signal
import subprocess

import pytest

import fusehub
from fusehub.errors import FuseHubError, OutputExists
from fusehub.merging.engine.begun import RECORD
from tests.unit.experts import relatives, with_statistics
from tests.warm import python

SHARDS = 6_000
KILLED = """
import json, os, signal, sys
from pathlib import Path
import fusehub

*models, out, method, heads, shards = sys.argv[1:]
record = Path(out).parent / f".{Path(out).name}.partial" / "begun.json"

def progress(done, total, unit):
    if record.is_file() and len(json.loads(record.read_text())["files"]) >= 3:
        os.kill(os.getpid(), signal.SIGKILL)

fusehub.merge(models, out, method=method, heads=heads, max_shard_size=int(shards), progress=progress)
"""
FORMS = [("regmean", "merge"), ("mean", "merge"), ("mean", "keep")]


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    home = tmp_path_factory.mktemp("experts")
    with_statistics(relatives(home))
    return [str(home / f"expert-{number}") for number in range(2)]


def merged(experts, out, method="regmean", heads="merge", **options):
    return fusehub.merge(experts, out, method=method, heads=heads, max_shard_size=SHARDS, **options)


@pytest.fixture(scope="module", params=FORMS, ids="-".join)
def killed(request, experts, tmp_path_factory):
    """What a killed merge leaves, with three files complete, and the same merge whole."""
    home = tmp_path_factory.mktemp("killed")
    ended = subprocess.run(
        [*python(), "-c", KILLED, *experts, str(home / "out"), *request.param, str(SHARDS)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    return home / ".out.partial", request.param, merged(experts, home / "whole", *request.param)


@pytest.fixture
def partial(killed, tmp_path):
    return shutil.copytree(killed[0], tmp_path / ".out.partial")


def told_apart(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_goes_on_from_the_files_that_are_complete(killed, partial, experts, tmp_path):
    _, form, whole = killed
    complete = list(json.loads((partial / RECORD).read_text())["files"])
    before = {name: (partial / name).stat().st_ino for name in complete}
    assert len(complete) == 3
    result = merged(experts, tmp_path / "out", *form)
    assert {name: (tmp_path / "out" / name).stat().st_ino for name in complete} == before
    ours, theirs = told_apart(tmp_path / "out"), told_apart(whole.folder)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert (result.hashes, result.precision, result.notes) == (whole.hashes, whole.precision, whole.notes)
    assert os.listdir(tmp_path) == ["out"]


def test_a_file_that_is_not_what_was_completed_is_made_again(killed, partial, experts, tmp_path):
    _, form, whole = killed
    name = next(iter(json.loads((partial / RECORD).read_text())["files"]))
    content = bytearray((partial / name).read_bytes())
    content[-1] ^= 1
    (partial / name).write_bytes(content)
    assert merged(experts, tmp_path / "out", *form).hashes == whole.hashes
    assert told_apart(tmp_path / "out") == told_apart(whole.folder)


@pytest.mark.parametrize(
    "change", [{"method": "task_arithmetic", "base_model": "base"}, {"out_dtype": "bfloat16"}, {"weights": (1, 2)}]
)
def test_another_merge_neither_goes_on_from_it_nor_takes_it_away(killed, partial, experts, tmp_path, change):
    _, (method, heads), _ = killed
    found = told_apart(partial)
    other = {"method": method, "heads": heads} | change
    if "base_model" in change:
        other["base_model"] = experts[0].replace("expert-0", "base")
    if "weights" in change:
        other["weights"] = dict(zip(experts, change["weights"], strict=True))
    with pytest.raises(OutputExists, match=f"3 complete files of another merge.*{method} of") as refused:
        merged(experts, tmp_path / "out", **other)
    assert str(partial) in refused.value.fix
    assert told_apart(partial) == found


def test_what_fails_before_it_goes_on_leaves_it_for_the_next(killed, partial, experts, tmp_path):
    found = told_apart(partial)
    with pytest.raises(FuseHubError):
        merged([*experts, str(tmp_path / "nowhere")], tmp_path / "out", *killed[1])
    assert told_apart(partial) == found


@pytest.mark.parametrize("record", ["", "{", '{"format": "fusehub-begun", "plan": 1}', "outside"])
def test_a_record_that_says_nothing_is_cleared_and_leads_nowhere_else(experts, tmp_path, record):
    partial, other = tmp_path / ".out.partial", tmp_path / "other.safetensors"
    partial.mkdir()
    other.write_text("mine")
    if record == "outside":
        files = {"../other.safetensors": {"sha256": "0" * 64, "notes": {}, "precision": {}}}
        record = json.dumps({"format": "fusehub-begun", "plan": "x", "what": "y", "files": files})
    (partial / RECORD).write_text(record)
    (partial / "model.safetensors").write_text("half")
    merged(experts, tmp_path / "out", "mean")
    assert sorted(os.listdir(tmp_path)) == ["other.safetensors", "out"]
    assert other.read_text() == "mine"
