"""Places that nothing can be written into are told in words, before the work, and nothing is left there."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from fusehub.collecting.collect import collect
from fusehub.errors import BadFile, OutputExists
from fusehub.merging.merge import merge
from fusehub.statistics.adding import add_statistics
from fusehub.statistics.resizing import resize_statistics
from fusehub.utils.folders.holding import held
from fusehub.utils.folders.places import made_folder, require_place
from fusehub.utils.folders.unfinished import write_text
from tests.unit.experts import leftovers, run_python, text_file


@pytest.fixture
def taken(tmp_path):
    """A file where a folder is wanted."""
    (tmp_path / "taken").write_text("mine")
    return tmp_path / "taken"


def bad_places(taken):
    return [taken / "out", taken / "deep" / "out", taken.parent / ("x" * 300), taken.parent / ("x" * 300) / "out"]


def test_no_result_goes_where_nothing_can_be_written(experts, taken):
    paths, data = [str(path) for path in experts()], text_file(taken.parent)
    for out in bad_places(taken):
        for make in (
            lambda out: merge(paths, out, method="mean"),
            lambda out: collect(paths[0], data, out),
            lambda out: add_statistics(paths, out),
            lambda out: resize_statistics(paths[0], out, size="tiny"),
        ):
            with pytest.raises(BadFile, match="Name a place that can be used"):
                make(out)
    with pytest.raises(BadFile):
        collect(paths[0], data, taken)
    assert taken.read_text() == "mine"


def test_a_folder_of_the_system_is_refused_in_words(experts):
    with pytest.raises(BadFile, match="/proc: "):
        merge([str(path) for path in experts()], "/proc/merged", method="mean")


def test_folders_that_were_made_for_a_failed_result_are_removed(tmp_path):
    require_place(tmp_path / "a" / "b")
    with pytest.raises(KeyError), made_folder(tmp_path / "a" / "b"):
        raise KeyError
    assert not any(tmp_path.iterdir())
    with pytest.raises(KeyError), made_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "kept").write_text("")
        raise KeyError
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path, taken):
    write_text(tmp_path / "new" / "scores.json", "{}")
    assert (tmp_path / "new" / "scores.json").read_text() == "{}"
    for path in (tmp_path / "new", taken / "scores.json", tmp_path / ("x" * 300)):
        with pytest.raises(BadFile):
            write_text(path, "{}")
    assert leftovers(tmp_path) == ["new", "taken"]
    (tmp_path / "link").symlink_to(tmp_path / "new" / "scores.json")
    write_text(tmp_path / "link", "[]")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "new" / "scores.json").read_text() == "[]"


KILLED = """
import os, signal, sys
from pathlib import Path
from fusehub.utils.folders.unfinished import write_text
os.replace = lambda source, to: os.kill(os.getpid(), signal.SIGKILL)
write_text(Path(sys.argv[1]), "half")
"""


def test_what_a_killed_run_left_of_a_file_is_cleared_by_the_next(tmp_path):
    target = tmp_path / "scores.json"
    write_text(target, "before")
    assert run_python(KILLED, target).returncode < 0
    assert target.read_text() == "before" and leftovers(tmp_path) == [".scores.json.partial", "scores.json"]
    write_text(target, "after")
    assert target.read_text() == "after" and leftovers(tmp_path) == ["scores.json"]


def test_a_file_that_another_run_is_writing_is_left_to_it(tmp_path):
    with held(tmp_path / ".scores.json.partial"), pytest.raises(OutputExists, match="is writing"):
        write_text(tmp_path / "scores.json", "{}")
    assert leftovers(tmp_path) == []


def test_a_folder_behind_one_that_is_not_there_yet_is_made(tmp_path):
    require_place(tmp_path / "new" / ".." / "out")
    assert list(tmp_path.iterdir()) == []
    with made_folder(tmp_path / "new" / ".." / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_processes_that_look_at_the_same_place_are_not_in_each_others_way(tmp_path):
    """What one has made to look at it, another may remove in that moment."""
    place = tmp_path / "out"

    def look(_: int) -> None:
        require_place(place)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(look, range(1000)))
    assert leftovers(place.parent) in ([], [place.name]) and not any(place.glob("*"))
