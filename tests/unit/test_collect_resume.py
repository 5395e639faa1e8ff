"""Collecting that is killed, goes on, fails in one of several processes, or has no room for its model."""

import contextlib
import json
import os
import shutil
import signal

import pytest

from fusehub.collecting.collect import collect
from fusehub.errors import FuseHubError
from fusehub.utils.processes import Processes
from tests.unit import together
from tests.unit.experts import rel, text_file, texts_of
from tests.unit.tiny import tiny_images, tiny_model
from tests.warm import python

TEXTS = texts_of(1, 40)
# Collects with a save after every batch; `sys.argv`: model, data, out, and what happens at a report.
RUN = """
import os, signal, sys, time
from fusehub.errors import FuseHubError
from fusehub.collecting.collect import collect
model, data, out, event = sys.argv[1:]
data = data.replace("/RANK/", f"/{os.environ.get('RANK')}/")
reports = 0
def progress(done, total, what):
    global reports
    reports += 1
    if reports == 2 and event == "wait":
        print("ready", flush=True)
        time.sleep(100)
    if reports == 1 and event == "fail" and os.environ["RANK"] == "1":
        raise FuseHubError("the disk is full", "make room")
    if reports == 1 and event == "die" and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
try:
    made = collect(model, data, out, batch_tokens=32, save_every=0, progress=progress)
except FuseHubError as error:
    print(error.what, flush=True)
    sys.exit(1)
made and made.close()
"""


def start(count, *arguments):
    """The same in `count` processes."""
    return together.start([*python(), "-c", RUN, *arguments], count)


@pytest.mark.parametrize("count", [1, 2])
def test_a_killed_run_goes_on_where_it_was_with_the_same_bytes(experts, tmp_path, count):
    path, data = experts()[0], text_file(tmp_path, texts=TEXTS)
    whole = together.ends(start(count, path, data, tmp_path / "whole", ""))
    assert [code for code, _, _ in whole] == [0] * count, whole
    killed = start(count, path, data, tmp_path / "out", "wait")
    for process in killed:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    for process in killed:
        process.send_signal(signal.SIGKILL)
    assert [code for code, _, _ in together.ends(killed)] == [-signal.SIGKILL] * count
    work = tmp_path / ".out.collecting"
    saved = sorted(file.name for file in work.glob("*.safetensors"))
    assert saved == [f"process-{index}.safetensors" for index in range(count)]
    assert not (tmp_path / "out").exists()
    again = together.ends(start(count, path, data, tmp_path / "out", ""))
    assert all(code == 0 and "Going on where" in said for code, _, said in again), again
    files = [(tmp_path / name / "statistics.safetensors").read_bytes() for name in ("whole", "out")]
    assert files[0] == files[1]
    assert not work.exists()


def stopped(path, data, out, at=3, **options):
    """Interrupts a run in this process at its report number `at`; the tokens that it had reported."""
    reported = []

    def progress(done, total, what):
        reported.append(done)
        if len(reported) == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(path, data, out, batch_tokens=32, save_every=0, progress=progress, **options)
    return reported


def test_work_that_was_done_is_not_done_again(experts, tmp_path):
    path, data = str(experts()[0]), text_file(tmp_path, texts=TEXTS)
    before = stopped(path, data, tmp_path / "out")
    after = []
    with contextlib.closing(
        collect(
            path, data, tmp_path / "out", batch_tokens=32, save_every=0, progress=lambda done, *_: after.append(done)
        )
    ):
        assert after[0] > before[-1] > 0


@pytest.mark.parametrize("change", ["limit", "data", "broken"])
def test_what_was_saved_for_another_run_is_not_used(experts, tmp_path, caplog, change):
    path, data = str(experts()[0]), text_file(tmp_path, texts=TEXTS)
    stopped(path, data, tmp_path / "out")
    options = {"batch_tokens": 32, "save_every": 0} | ({"limit": 20} if change == "limit" else {})
    if change == "data":
        data = text_file(tmp_path, texts=TEXTS[::-1])
    if change == "broken":
        file = tmp_path / ".out.collecting" / "process-0.safetensors"
        file.write_bytes(file.read_bytes()[:-7])
    with contextlib.closing(collect(path, data, tmp_path / "out", **options)) as made:
        gram = next(iter(made.layers.values())).gram()
    assert "starting anew" in caplog.text
    assert ("(data)" in caplog.text) == (change != "broken")
    with contextlib.closing(collect(path, data, tmp_path / "fresh", **options)) as fresh:
        assert rel(gram, next(iter(fresh.layers.values())).gram()) == 0


@pytest.mark.parametrize("kind", ["files", "parquet", "the scaling"])
def test_work_on_other_images_is_not_gone_on_with(tmp_path, caplog, kind):
    """As many images, of the same names and labels; or the same ones, given to the model otherwise."""
    model = tiny_model(tmp_path / "vit", "vit", task="image-classification", labels=["cat", "dog"])
    folders = [tiny_images(tmp_path / str(seed) / "pets", count=20, seed=seed) for seed in range(2)]
    first, second = map(str, folders)
    if kind == "parquet":
        first, second = (as_parquet(folder) for folder in folders)
    stopped(str(model), first, tmp_path / "out", at=2)
    if kind == "the scaling":
        second = first
        file = model / "preprocessor_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"image_mean": [0.1, 0.1, 0.1]}))
    options = {"batch_tokens": 32, "save_every": 0}
    with contextlib.closing(collect(str(model), second, tmp_path / "out", **options)) as made:
        gram = next(iter(made.layers.values())).gram()
    assert "starting anew" in caplog.text and "(data)" in caplog.text
    with contextlib.closing(collect(str(model), second, tmp_path / "fresh", **options)) as fresh:
        assert rel(gram, next(iter(fresh.layers.values())).gram()) == 0


def test_work_on_the_same_images_is_gone_on_with(tmp_path, caplog):
    model = tiny_model(tmp_path / "vit", "vit", task="image-classification", labels=["cat", "dog"])
    images = tiny_images(tmp_path / "pets", count=20)
    stopped(str(model), str(images), tmp_path / "out", at=2)
    shutil.copytree(images, tmp_path / "copy" / "pets")
    collect(str(model), str(tmp_path / "copy" / "pets"), tmp_path / "out", batch_tokens=32, save_every=0).close()
    assert "Going on where" in caplog.text


def as_parquet(folder):
    """The images of a folder in a Parquet file, as `datasets` stores them."""
    from datasets import Dataset, Features, Image, Value

    paths = sorted(folder.rglob("*.png"))
    rows = {"image": [{"bytes": path.read_bytes(), "path": path.name} for path in paths]}
    rows["label"] = [path.parent.name for path in paths]
    features = Features(image=Image(decode=False), label=Value("string"))
    Dataset.from_dict(rows, features=features).to_parquet(folder.parent / "pets.parquet")
    return str(folder.parent / "pets.parquet")


@pytest.mark.parametrize("event", ["fail", "die"])
def test_when_one_process_stops_the_other_says_so_and_ends(experts, tmp_path, event):
    first, second = together.ends(start(2, experts()[0], text_file(tmp_path, texts=TEXTS), tmp_path / "out", event))
    assert first[0] == 1, first
    if event == "fail":
        assert first[1].startswith("Process 1 of 2 stopped: the disk is full")
        assert second[:2] == (1, "the disk is full\n")
    else:
        assert first[1].startswith("A process of 2 is gone")
        assert second[0] == -signal.SIGKILL
    assert not (tmp_path / "out").exists()


def test_processes_that_read_other_data_are_refused(experts, tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "1").mkdir()
    for rank in range(2):
        text_file(tmp_path / str(rank), texts=TEXTS[rank:])
    name = os.path.relpath(text_file(tmp_path / "0", texts=TEXTS), tmp_path / "0")
    processes = start(2, experts()[0], f"{tmp_path}/RANK/{name}", tmp_path / "out", "")
    for code, out, said in together.ends(processes):
        assert code == 1 and out.startswith("The processes do not read the same model and data"), said


def test_one_process_where_accelerate_was_asked_for_several_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(FuseHubError, match="asked for several processes, but started one"):
        Processes.find()
    monkeypatch.delenv("MASTER_PORT")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(FuseHubError, match="4 processes were started, but this one sees 1"):
        Processes.find()


@pytest.mark.parametrize("part", [0.5, 0.01], ids=["half of it in memory", "all of it on the disk"])
def test_a_model_larger_than_memory_gives_the_same_grams(experts, tmp_path, part):
    path, data = experts()[0], text_file(tmp_path, texts=TEXTS)
    limit = int((path / "model.safetensors").stat().st_size * part)
    with contextlib.closing(collect(str(path), data, tmp_path / "plain", size="full")) as plain:
        expected = {name: layer.gram() for name, layer in plain.layers.items()}
    with contextlib.closing(
        collect(str(path), data, tmp_path / "out", size="full", device_map="auto", max_memory={"cpu": limit})
    ) as made:
        assert made.layers.keys() == expected.keys()
        for name, layer in made.layers.items():
            assert rel(layer.gram(), expected[name]) < 1e-6, name
