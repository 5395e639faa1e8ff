"""Pipes and devices where a file is wanted: refused by name, and never opened, for that may last for ever."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fusehub.data.images import open_pictures
from fusehub.errors import FuseHubError
from tests.unit.experts import text_file

# Every option and argument of the command line that may name a file of this machine: (its ending, the command).
PLACES = {
    "model": ("", "check {path} {expert}"),
    "adapter": ("", "check {expert}+{path} {expert}"),
    "texts to collect": (".txt", "collect {expert} --data {path} --out {out}"),
    "texts without an ending": ("", "collect {expert} --data {path} --out {out}"),
    "importance matrix": (".gguf", "collect {expert} --import {path} --out {out}"),
    "statistics to add": ("", "collect {expert}/fusehub {path} --add --out {out}"),
    "statistics to make smaller": (".safetensors", "collect --from {path} --size tiny --out {out}"),
    "statistics to inspect": (".safetensors", "inspect {path}"),
    "model to inspect against": ("", "inspect {expert} --against {path}"),
    "recipe": (".yaml", "merge {path} --out {out}"),
    "plan": (".json", "merge {path} --out {out}"),
    "plan to save": (".json", "merge {expert} {expert} --method mean --save-plan {path}"),
    "plugin": (".py", "merge {expert} {expert} --plugin {path} --method own --out {out}"),
    "base": ("", "merge {expert} {expert} --method task_arithmetic --base {path} --out {out}"),
    "statistics of a merge": (".safetensors", "merge {expert} {expert} --statistics {expert}={path} --out {out}"),
    "texts of a merge": (
        ".csv",
        "merge {expert} {other} --method regmean_plus_plus --data {expert}={path} --data {other}={texts} --out {out}",
    ),
    "texts to tune by": (
        ".jsonl",
        "merge {expert} {expert} --method mean --tune-weights --tune a={path} --out {out}",
    ),
    "texts to compare on": (".txt", "compare {expert} {expert} --data {path}"),
    "texts to score on": (".csv", "evaluate {expert} --data films={path}"),
    "scores to write": (".json", "evaluate {expert} --data films={texts} --out {path}"),
    "scores to publish": (".json", "publish {expert} ann/merged --results {path}"),
    "folder to publish": ("", "publish {path} ann/merged"),
}


@contextmanager
def unopened(pipe: Path) -> Iterator[None]:
    """A pipe at `pipe`, of which it is asserted that nobody opens it; who does is not left to wait."""
    os.mkfifo(pipe)
    opened = threading.Event()

    def write() -> None:
        descriptor = os.open(pipe, os.O_WRONLY)  # Until somebody reads.
        opened.set()
        os.close(descriptor)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        yield
        assert not opened.is_set(), "the pipe was opened"
        assert pipe.is_fifo(), "something else was put in its place"
    finally:
        if pipe.is_fifo():
            # Open until the writer is through: it may not have begun yet.
            reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
            writer.join()
            os.close(reader)


def told(command: str) -> str:
    from fusehub.cli.main import app

    ran = CliRunner().invoke(app, command.split())
    assert ran.exit_code == 1, (ran.output, ran.exception)
    return " ".join(ran.stderr.split())


@pytest.mark.parametrize("place", PLACES)
def test_a_pipe_and_a_device_are_refused_wherever_a_file_is_named(experts, tmp_path, place):
    ending, command = PLACES[place]
    expert, other = experts()
    words = {"expert": expert, "other": other, "out": tmp_path / "out", "texts": text_file(tmp_path)}
    unless = {"folder to publish": "There is no finished model"}
    unless |= dict.fromkeys(("model", "adapter", "model to inspect against", "base"), "There is no folder")
    with unopened(pipe := tmp_path / f"pipe{ending}"):
        said = told(command.format(path=pipe, **words))
        assert unless.get(place, "is a pipe") in said and pipe.name in said
    (device := tmp_path / f"device{ending}").symlink_to("/dev/null")
    said = told(command.format(path=device, **words))
    assert unless.get(place, "is a device") in said and device.name in said
    assert device.is_symlink() and not (tmp_path / "out").exists()


def test_a_pipe_is_no_table_of_images(tmp_path):
    with unopened(pipe := tmp_path / "pictures.csv"), pytest.raises(FuseHubError, match="is a pipe"):
        open_pictures(str(pipe))
    with unopened(pipe := tmp_path / "pictures"), pytest.raises(FuseHubError, match="is a pipe"):
        open_pictures(str(pipe))
