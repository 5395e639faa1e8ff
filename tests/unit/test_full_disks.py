"""A disk that is full, or cannot be written: the right one is named, with what to do, and nothing half-made stays."""

import subprocess

import pytest
from huggingface_hub import HfApi

from fusehub.collecting.collect import collect
from fusehub.errors import BadFile, NoSpace
from fusehub.merging.merge import merge
from tests.unit.at_hub import session
from tests.unit.experts import leftovers, recipe_of, relatives, text_file

MODELS = ["ann/large-0", "ann/large-1"]


@pytest.fixture(scope="module")
def large(hub, tmp_path_factory):
    """Models that the small disk cannot hold, here and on the Hub."""
    folder = tmp_path_factory.mktemp("large")
    parts = relatives(folder, hidden=64)
    api = HfApi(endpoint=hub.url, token=hub.token("ann"))
    for repo, part in zip(MODELS, parts, strict=True):
        api.create_repo(repo)
        api.upload_folder(repo_id=repo, folder_path=part, commit_message="Model")
    return parts


def fill(folder, but=0):
    """Leaves that many bytes of a disk."""
    with open(folder / "filler", "wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            pass
        file.truncate(file.tell() - but)


def read_only(folder):
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def test_a_cache_that_is_too_small_is_named_and_nothing_is_downloaded(hub, large, tmp_path, small_disk):
    with session(hub, "ann", tmp_path) as ann:
        ann.python(f"import huggingface_hub.constants as c; c.HF_HUB_CACHE = {str(small_disk / 'hub')!r}")
        for command in (
            ("merge", *MODELS, "--method", "mean", "--out", tmp_path / "out"),
            ("collect", MODELS[0], "--data", text_file(tmp_path), "--out", tmp_path / "out"),
        ):
            what, fix = ann.fails(*command)
            assert (
                f"{MODELS[0]}" in what and f"at {small_disk / 'hub'}. The disk there has" in what and "HF_HOME" in fix
            )
            assert not [path for path in small_disk.rglob("*") if "incomplete" in path.name]
        assert "out" not in leftovers(tmp_path)


def test_a_cache_that_cannot_be_written_is_named(hub, large, tmp_path, small_disk):
    read_only(small_disk)
    with session(hub, "ann", tmp_path) as ann:
        ann.python(f"import huggingface_hub.constants as c; c.HF_HUB_CACHE = {str(small_disk / 'hub')!r}")
        what, fix = ann.fails("merge", *MODELS, "--method", "mean", "--out", tmp_path / "out")
    assert f"{small_disk / 'hub'}: Read-only file system" in what and "HF_HOME" in fix


@pytest.mark.parametrize("fisher", [False, True])
def test_statistics_that_the_disk_cannot_hold_are_told_of_their_folder(large, tmp_path, small_disk, fisher):
    texts = text_file(tmp_path)
    (small_disk / "out").mkdir()
    (small_disk / "out" / "statistics.json").write_text("old")
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)

    def progress(*done):
        if not (small_disk / "filler").exists():
            fill(small_disk, but=40_000)

    with pytest.raises(NoSpace, match=rf"The disk of {small_disk}/out takes no more"):
        collect(str(large[0]), texts, small_disk / "out", size="full", fisher=fisher, progress=progress)
    assert (small_disk / "out" / "statistics.json").read_text() == "old"
    assert leftovers(small_disk) == ["filler", "out"] and leftovers(small_disk / "out") == ["statistics.json"]


def test_work_that_cannot_be_saved_is_told_of_its_folder(large, tmp_path, small_disk):
    fill(small_disk, but=40_000)
    texts, work = text_file(tmp_path), small_disk / "work"
    with pytest.raises(NoSpace, match=rf"The disk of {work} takes no more"):
        collect(str(large[0]), texts, tmp_path / "out", work=work, save_every=0)
    assert leftovers(small_disk) == ["filler"] and "out" not in leftovers(tmp_path)


def test_a_result_on_a_disk_that_is_read_only_is_refused_before_the_work(experts, tmp_path, small_disk):
    texts = text_file(tmp_path)
    (small_disk / "there").mkdir()
    read_only(small_disk)
    for out in (small_disk / "new", small_disk / "there"):
        with pytest.raises(BadFile, match="Read-only file system"):
            merge(recipe_of(experts("bert"), "mean"), out)
        with pytest.raises(BadFile, match="Read-only file system"):
            collect(str(experts("bert")[0]), texts, out)


def test_a_full_temporary_folder_is_named(hub, large, tmp_path, small_disk):
    """Statistics that are only published are written there first."""
    fill(small_disk, but=40_000)
    with session(hub, "ann", tmp_path) as ann:
        ann.python(f"import tempfile; tempfile.tempdir = {str(small_disk)!r}")
        options = ("--size", "full", "--publish", "--allow-few-rows")
        what, fix = ann.fails("collect", MODELS[0], "--data", text_file(tmp_path), *options)
    assert "The file of statistics needs" in what and f"at {small_disk}/" in what and "set TMPDIR" in fix
    assert leftovers(small_disk) == ["filler"]
