"""Places that nothing can be written into are told in words, before the work, and nothing is left there."""

import pytest

from fusehub.collecting.collect import collect
from fusehub.errors import BadFile
from fusehub.merging.merge import merge
from fusehub.statistics.adding import add_statistics
from fusehub.statistics.resizing import resize_statistics
from fusehub.utils.places import made_folder, require_place, write_text
from tests.unit.experts import text_file


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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "taken"]


def test_a_folder_behind_one_that_is_not_there_yet_is_made(tmp_path):
    require_place(tmp_path / "new" / ".." / "out")
    assert list(tmp_path.iterdir()) == []
    with made_folder(tmp_path / "new" / ".." / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
