"""Hidden folders that results are made in: who has one, what killed runs left, how a folder with files is filled."""

import fcntl
import json
import shutil
import tempfile

import pytest

from fusehub.errors import BadFile, NoSpace, OutputExists
from fusehub.utils.folders import holding
from fusehub.utils.folders.holding import SCRATCH, Held, held, hold, scratch
from fusehub.utils.folders.unfinished import output
from tests.unit.experts import leftovers, run_python

KILLED = """
import os, signal, sys
from pathlib import Path
from fusehub.utils.folders.unfinished import output
import fusehub.utils.folders.unfinished
target, at = Path(sys.argv[1]), int(sys.argv[2])
replace, moved = os.replace, 0
def counted(source, to):
    global moved
    if Path(to).parent == target:
        moved += 1
        if moved == at:
            os.kill(os.getpid(), signal.SIGKILL)
    replace(source, to)
os.replace = counted
with output(target, replaces=(lambda name: name.startswith("new")) if sys.argv[3:] else None, last="new-2") as folder:
    for number in range(3):
        (folder / f"new-{number}").write_text("complete")
if at > 3:
    os.kill(os.getpid(), signal.SIGKILL)
"""


def filled(target, **options):
    with output(target, last="new-2", **options) as folder:
        for number in range(3):
            (folder / f"new-{number}").write_text("again")


def texts(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


AGAIN = {f"new-{number}": "again" for number in range(3)}


@pytest.mark.parametrize("at", [1, 2, 3])
def test_files_that_a_killed_run_moved_into_a_folder_that_stays_are_taken_back(tmp_path, monkeypatch, at):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    run_python(KILLED, tmp_path / "link", at)
    assert len(leftovers(tmp_path / "real")) == at, "the hidden folder, and what was moved"
    filled(tmp_path / "link")
    assert texts(tmp_path / "real") == AGAIN


@pytest.mark.parametrize("at", [1, 2, 3])
def test_what_replaces_files_among_others_is_finished_by_the_next_run(tmp_path, at):
    target = tmp_path / "out"
    target.mkdir()
    for name in ("new-0", "new-9", "mine"):
        (target / name).write_text("old")
    run_python(KILLED, target, at, "replaces")
    assert (target / "mine").read_text() == "old"
    with pytest.raises(KeyError), output(target, replaces=lambda name: name.startswith("new"), last="new-2"):
        raise KeyError
    done = {f"new-{number}": "complete" for number in range(3)}
    assert texts(target) == done | {"mine": "old"}, "what the killed run had complete"
    filled(target, replaces=lambda name: name.startswith("new"))
    assert texts(target) == AGAIN | {"mine": "old"}


def test_a_run_that_fails_leaves_what_was_there(tmp_path):
    target = tmp_path / "out"
    filled(target)
    with pytest.raises(KeyError), output(target, replaces=lambda name: True) as folder:
        (folder / "new-0").write_text("half")
        raise KeyError
    assert texts(target) == AGAIN and leftovers(tmp_path) == ["out"]


def test_a_list_of_moves_leads_nowhere_else(tmp_path):
    """Whoever hands a folder on can put a list into it."""
    target = tmp_path / "out"
    (target / ".out.partial").mkdir(parents=True)
    (tmp_path / "mine").write_text("mine")
    moves = {"names": ["x", "../mine", str(tmp_path / "mine")], "gone": ["../mine"]}
    for replaces in (None, lambda name: False):
        (target / ".out.partial" / "moves.json").write_text(json.dumps(moves))
        (target / ".out.partial" / "x").write_text("")
        (target / "other").write_text("")
        try:
            with output(target, replaces=replaces):
                pass
        except OutputExists:
            pass
        assert (tmp_path / "mine").read_text() == "mine"
        (target / ".out.partial").mkdir(exist_ok=True)


def test_a_folder_is_had_by_one_and_let_go_with_its_process(tmp_path):
    with held(tmp_path / "own"):
        with pytest.raises(Held):
            hold(tmp_path / "own")
        told = run_python(
            "import sys; from pathlib import Path; from fusehub.utils.folders.holding import *\n"
            "try: hold(Path(sys.argv[1]))\nexcept Held: print('held')",
            tmp_path / "own",
        )
        assert told.stdout == "held\n", told.stderr
    assert leftovers(tmp_path) == []
    run_python(
        "import os, signal, sys; from pathlib import Path; from fusehub.utils.folders.holding import *\n"
        "hold(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)",
        tmp_path / "own",
    )
    assert leftovers(tmp_path) == ["own"]
    hold(tmp_path / "own").remove()
    assert leftovers(tmp_path) == []


def test_scratch_folders_of_killed_processes_are_removed_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"{SCRATCH}dead" / "deep").mkdir(parents=True)
    (tmp_path / "others").mkdir()
    with scratch() as alive:
        with scratch() as second:
            assert set(leftovers(tmp_path)) == {alive.parent.name, second.parent.name, "others"}
        assert alive.is_dir() and not second.exists()
    assert leftovers(tmp_path) == ["others"]
    with pytest.raises(NoSpace, match="TMPDIR") as told, scratch() as folder:
        full = NoSpace("The disk takes no more.", "Name another place.")
        full.place = folder / "merged"
        raise full
    assert "Name another place" not in str(told.value)
    # What is not there elsewhere in the temporary folder is not what the scratch folder lacks.
    with pytest.raises(FileNotFoundError, match="others"), scratch():
        (tmp_path / "others" / "gone").read_bytes()
    with pytest.raises(BadFile, match="No such file"), scratch() as folder:
        (folder / "gone").read_bytes()


def test_a_result_made_in_a_scratch_folder_is_not_taken_for_what_a_killed_process_left(tmp_path, monkeypatch):
    """A result takes the place of the folder that it is given, which must not be the one with the lock."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch() as folder:
        filled(folder)
        env = {"TMPDIR": str(tmp_path)}
        code = "from fusehub.utils.folders.holding import scratch\nwith scratch(): pass"
        assert run_python(code, env=env).returncode == 0
        assert leftovers(folder) == ["new-0", "new-1", "new-2"]


def test_where_nothing_can_be_locked_nobody_is_taken_for_dead(tmp_path, monkeypatch):
    """As on Windows, and on network file systems without locks, or with locks that are granted to everybody."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def refused(descriptor, how):
        raise OSError(holding.errno.ENOLCK, "No locks available")

    for flock in (refused, lambda descriptor, how: None):
        monkeypatch.setattr(fcntl, "flock", flock)
        (tmp_path / f"{SCRATCH}alive").mkdir()
        (tmp_path / ".out.partial").mkdir()
        (tmp_path / ".out.partial" / "weights").write_text("")
        with scratch() as own:
            filled(tmp_path / "out")
            assert set(leftovers(tmp_path)) == {own.parent.name, f"{SCRATCH}alive", ".out.partial", "out"}
        assert leftovers(tmp_path / ".out.partial") == ["weights"]
        for path in tmp_path.iterdir():
            shutil.rmtree(path)


def test_a_hidden_folder_that_vanishes_is_said(tmp_path):
    with pytest.raises(BadFile, match=r"was taken away while .*out was made"), output(tmp_path / "out") as folder:
        shutil.rmtree(folder)
        (folder / "weights").write_text("")
    with pytest.raises(BadFile, match=r"was taken away while .*out was made"), output(tmp_path / "out") as folder:
        shutil.rmtree(folder)
    assert leftovers(tmp_path) == []


def test_an_error_of_another_place_is_not_laid_to_the_result(tmp_path):
    with pytest.raises(FileNotFoundError), output(tmp_path / "out"):
        (tmp_path / "texts.txt").read_text()
