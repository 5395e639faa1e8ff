"""A merge in two processes: the same bytes as in one, and nothing half-made when one of them stops."""

import json
import os
import signal

import pytest

import fusehub
from tests.unit import together
from tests.unit.experts import relatives, with_statistics
from tests.warm import python

# `sys.argv`: two models, the folder, the method, options as JSON, and what happens in the second process at a report.
RUN = """
import json, os, signal, sys
import fusehub
from fusehub.errors import FuseHubError
*models, out, method, options, event = sys.argv[1:]
second = os.environ.get("RANK") == "1"
reports = 0
def progress(done, total, what):
    global reports
    reports += 1
    assert done <= total, (done, total)
    if second and reports == 3 and event == "fail":
        raise FuseHubError("the disk is full", "make room")
    if second and reports == 3 and event == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if not second and event == "killed" and reports == 5:
        os.kill(os.getpid(), signal.SIGKILL)
options = json.loads(options)
if second and event == "other":
    options["scale"] = 0.5
try:
    result = fusehub.merge(models, out, method=method, **options, progress=progress)
except FuseHubError as error:
    print(error.what, flush=True)
    sys.exit(1)
print(json.dumps([dict(result.hashes), dict(result.precision), list(result.remarks), sorted(result.notes)]), reports)
"""
SMALL = 6_000


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    home = tmp_path_factory.mktemp("experts")
    with_statistics(relatives(home))
    return [str(home / f"expert-{number}") for number in range(2)]


def run(experts, out, method, options, event="", count=2):
    return together.ends(
        together.start([*python(), "-c", RUN, *experts, out, method, json.dumps(options), event], count)
    )


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("regmean", {}),
        ("regmean", {"parameters": {"affine": True}, "max_shard_size": SMALL}),
        ("mean", {"heads": "keep", "max_shard_size": SMALL}),
        ("task_arithmetic", {"base_model": "base", "max_shard_size": SMALL}),
        ("regmean", {"dtype": "float8", "max_shard_size": SMALL}),
    ],
    ids=["regmean", "affine", "kept", "arithmetic", "float8"],
)
def test_two_processes_write_the_same_bytes_as_one(experts, tmp_path, method, options):
    if "base_model" in options:
        options = options | {"base_model": experts[0].replace("expert-0", "base")}
    [(code, alone, said)] = run(experts, tmp_path / "one", method, options, count=1)
    assert code == 0, alone + said
    ended = run(experts, tmp_path / "two", method, options)
    assert [code for code, _, _ in ended] == [0, 0], ended
    results, reports = zip(*(out.rsplit(" ", 1) for _, out, _ in ended), strict=True)
    assert results == (alone.rsplit(" ", 1)[0],) * 2
    # Each had something to do.
    assert min(map(int, reports)) > 2
    one, two = content(tmp_path / "one"), content(tmp_path / "two")
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]


@pytest.mark.parametrize(
    ("event", "code", "why"),
    [
        ("fail", 1, "Process 1 of 2 stopped: the disk is full"),
        ("die", -signal.SIGKILL, "A process of 2 is gone"),
        ("other", 1, "Process 1 of 2 stopped: The processes do not plan the same merge."),
    ],
)
def test_when_one_stops_the_other_says_so_and_nothing_is_left(experts, tmp_path, event, code, why):
    options = {"base_model": experts[0].replace("expert-0", "base"), "max_shard_size": SMALL}
    first, second = run(experts, tmp_path / "out", "task_arithmetic", options, event)
    assert (first[0], second[0]) == (1, code)
    assert first[1].startswith(why)
    assert os.listdir(tmp_path) == []


def test_what_two_completed_before_they_were_killed_one_goes_on_with(experts, tmp_path):
    # In float8 files are written in another order than they are hashed.
    options = {"max_shard_size": SMALL, "dtype": "float8"}
    whole = fusehub.merge(experts, tmp_path / "whole", method="mean", **options)
    killed, other = run(experts, tmp_path / "out", "mean", options, "killed")
    assert (killed[0], other[0]) == (-signal.SIGKILL, 1)
    assert other[1].startswith("A process of 2 is gone")
    partial = tmp_path / ".out.partial"
    complete = json.loads((partial / "begun.json").read_text())["files"]
    assert 0 < len(complete) < len(whole.hashes)
    before = {name: (partial / name).stat().st_ino for name in complete}
    assert fusehub.merge(experts, tmp_path / "out", method="mean", **options).hashes == whole.hashes
    assert {name: (tmp_path / "out" / name).stat().st_ino for name in complete} == before
    assert sorted(os.listdir(tmp_path)) == ["out", "whole"]


def test_what_cannot_be_shared_out_is_refused_by_both(experts, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("one two three\n" * 4)
    data = {"data": dict.fromkeys(experts, str(texts))}
    for code, out, _ in run(experts, tmp_path / "out", "regmean_plus_plus", data):
        assert code == 1
        assert out.startswith("RegMean++ solves one layer after the other, and 2 processes were started.")
    assert os.listdir(tmp_path) == ["texts.txt"]


def test_tuning_in_several_processes_is_refused(experts, tmp_path):
    (tmp_path / "set.csv").write_text("text,label\none,positive\ntwo,negative\n")
    tune = ["--tune", f"expert-0={tmp_path / 'set.csv'}", "--out", tmp_path / "out"]
    for code, _, said in together.ends(together.start([*python(), "-m", "fusehub", "merge", *experts, *tune], 2)):
        assert code == 1
        assert "Tuning tries one merge after the other, and 2 processes were started." in said
        assert "--save-plan" in said


def test_the_command_line_speaks_once(experts, tmp_path):
    command = [*python(), "-m", "fusehub", "merge", *experts, "--method", "mean", "--out", tmp_path / "out", "--json"]
    (code, out, said), helper = together.ends(together.start(command, 2))
    assert (code, helper) == (0, (0, "", helper[2])), said
    assert json.loads(out)["folder"] == str(tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()
