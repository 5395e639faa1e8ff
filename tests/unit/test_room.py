"""Disks and memory that will not suffice are named before anything is read, with what helps."""

import math
import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi

import fusehub
from fusehub.collecting.by_blocks.work import BlockWork
from fusehub.collecting.passes import count_inputs
from fusehub.collecting.room import Needs
from fusehub.errors import NoMemory, NoSpace
from fusehub.models.checkpoints.checkpoint import Checkpoint
from fusehub.models.layout import layout_of
from fusehub.models.tasks import load_config
from fusehub.statistics.missing import missing_bytes
from fusehub.statistics.sources import FoundStatistics
from fusehub.utils.folders.places import Room, require_room
from tests.unit.at_hub import session
from tests.unit.experts import WEIGHTS, leftovers, recipe_of, relatives, text_file, with_statistics
from tests.unit.test_by_blocks import data_of
from tests.unit.test_full_disks import MODELS, fill, large  # noqa: F401 - a fixture
from tests.unit.tiny import tiny_model
from tests.warm import python


@pytest.fixture
def unread(monkeypatch):
    """Weights must not be opened."""

    def opened(self, ref):
        raise AssertionError(f"{ref.name} is read")

    monkeypatch.setattr(Checkpoint, "__init__", opened)


def test_places_on_one_disk_share_what_it_has_left(tmp_path, small_disk):
    fill(small_disk, but=100_000)
    one = Room("The result", 60_000, small_disk / "new" / "out", "Move it.")
    other = Room("The download", 60_000, small_disk, "Move that.")
    for rooms in ([one], [other], [one, Room("The download", 60_000, tmp_path, "Move that.")]):
        require_room(rooms)
    with pytest.raises(NoSpace) as told:
        require_room([one, other, Room("Nothing", 0, small_disk, "No.")])
    assert told.value.what == (
        f"The result needs 60.0 kB at {one.place}. The download needs 60.0 kB at {small_disk}. "
        "It is one disk, which has 98.3 kB left."
    )
    assert told.value.fix == "Move it. Move that." and told.value.place == one.place
    assert leftovers(small_disk) == ["filler"]


def test_a_cache_and_a_result_on_one_disk_are_told_together_before_a_byte_comes(hub, large, tmp_path, small_disk):  # noqa: F811
    """Either would fit, and both do not."""
    result = (large[0] / WEIGHTS).stat().st_size
    with session(hub, "ann", tmp_path) as ann:
        ann.python(f"import huggingface_hub.constants as c; c.HF_HUB_CACHE = {str(small_disk / 'hub')!r}")
        subprocess.run(["mount", "-o", f"remount,size={int(2.7 * result)}", str(small_disk)], check=True)
        asked = ("merge", *MODELS, "--method", "mean", "--out")
        what, fix = ann.fails(*asked, small_disk / "out")
        assert "The merged model needs" in what and f"The download of {MODELS[0]}, {MODELS[1]} needs" in what
        assert "It is one disk" in what and "HF_HOME" in fix and "another disk" in fix
        assert "out" not in leftovers(small_disk)
        assert not [path for path in small_disk.rglob("*") if path.is_file() and path.stat().st_size > result // 2]
        ann(*asked, tmp_path / "out")


def test_statistics_that_are_to_come_are_told_with_the_rest_before_a_byte_comes(hub, tmp_path, small_disk):
    """The weights and the result would fit, and the statistics beside them do not."""
    folders = with_statistics(relatives(tmp_path / "models", hidden=64))
    repos = ["ann/first-with-statistics", "ann/second-with-statistics"]
    api = HfApi(endpoint=hub.url, token=hub.token("ann"))
    for name, folder in zip(repos, folders, strict=True):
        api.create_repo(name)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Model")
    model = (folders[0] / WEIGHTS).stat().st_size
    statistics = sum(path.stat().st_size for path in (folders[0] / "fusehub").glob("*.safetensors"))
    with session(hub, "ann", tmp_path) as ann:
        ann.python(f"import huggingface_hub.constants as c; c.HF_HUB_CACHE = {str(small_disk / 'hub')!r}")
        # Room for all but one expert's statistics.
        left = 3 * model + statistics + 100_000
        subprocess.run(["mount", "-o", f"remount,size={left}", str(small_disk)], check=True)
        asked = ("merge", *repos, "--method", "regmean", "--out")
        what, _ = ann.fails(*asked, small_disk / "out")
        assert all(f"The download of the statistics {name}@" in what for name in repos) and "It is one disk" in what
        assert not list(small_disk.rglob("*.safetensors"))
        subprocess.run(["mount", "-o", f"remount,size={left + 2 * statistics}", str(small_disk)], check=True)
        ann(*asked, small_disk / "out")
        # What is here needs no room again.
        ann(*asked, tmp_path / "again")


def test_of_statistics_in_shards_those_that_are_missing_are_counted(tmp_path):
    sizes = {
        "statistics.json": 5, "statistics.safetensors.index.json": 7, "statistics-00001-of-00002.safetensors": 100,
        "statistics-00002-of-00002.safetensors": 200, "fisher.safetensors": 1000,
    }  # fmt: skip
    files = [SimpleNamespace(rfilename=f"fusehub/{name}", size=size) for name, size in sizes.items()]
    files.append(SimpleNamespace(rfilename="model.safetensors", size=10**6))
    info = SimpleNamespace(siblings=files, sha="a" * 40)
    access = SimpleNamespace(is_offline=False, cache=tmp_path, info=lambda repo_id, revision: info)
    found = FoundStatistics("ann/model@" + "a" * 40, {}, access)
    assert missing_bytes(found, fisher=False) == 300 and missing_bytes(found, fisher=True) == 1000
    here = tmp_path / "models--ann--model" / "snapshots" / info.sha / "fusehub"
    here.mkdir(parents=True)
    (here / "statistics-00001-of-00002.safetensors").touch()
    assert missing_bytes(found, fisher=False) == 200
    access.is_offline = True
    assert missing_bytes(found, fisher=False) == 0
    assert missing_bytes(FoundStatistics(str(tmp_path), {}, access), fisher=False) == 0


def test_a_single_file_is_not_begun_that_its_disk_cannot_take(hub, large, tmp_path, small_disk):  # noqa: F811
    with session(hub, "ann", tmp_path) as ann:
        told = ann.python(
            f"import huggingface_hub.constants as c; c.HF_HUB_CACHE = {str(small_disk / 'hub')!r}\n"
            "import fusehub\n"
            f"model = fusehub.resolve({MODELS[0]!r})\n"
            f"try: model.path({WEIGHTS!r})\n"
            "except fusehub.FuseHubError as error: print(error)"
        )
    assert f"The download of {MODELS[0]}: {WEIGHTS} needs" in told and "HF_HOME" in told


def bytes_in(value: object) -> int:
    """Of all tensors that an object has, in lists and objects of ours too."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    inside = vars(value).values() if type(value).__module__.startswith("fusehub") else value
    return sum(map(bytes_in, inside)) if not isinstance(inside, str | int | torch.device) else 0


@pytest.mark.parametrize(
    ("arch", "task"),
    [
        ("bert", "text-classification"),
        ("distilbert", "text-classification"),
        ("modernbert", "fill-mask"),
        ("gpt2", "text-generation"),
        ("llama", "text-generation"),
        ("qwen3_moe", "text-generation"),
        ("mixtral", "text-generation"),
        ("vit", "image-classification"),
    ],
)
def test_what_is_told_of_grams_is_what_their_sums_take(tmp_path, monkeypatch, arch, task):
    """Of widths that fill no whole number of blocks, and of some that are less than one."""
    model = str(tiny_model(tmp_path / "model", arch, task=task, hidden=136, layers=2))
    layout = layout_of(load_config(fusehub.resolve(model)))
    needs, data = Needs.of(layout, torch.float32), data_of(tmp_path, task)
    taken = {}

    def counted(*args, **options):
        collector = count_inputs(*args, **options)
        taken[None] = sum(map(bytes_in, collector.sums.values()))
        return collector

    def finished(self, block, sums, *rest):
        taken[block] = sum(map(bytes_in, sums.values()))
        finish(self, block, sums, *rest)

    finish = BlockWork.finish
    monkeypatch.setattr("fusehub.collecting.counting.count_inputs", counted)
    fusehub.collect(model, data, tmp_path / "whole", stream="off").close()
    assert needs.sums == taken.pop(None) and needs.grams < needs.sums
    monkeypatch.setattr(BlockWork, "finish", finished)
    fusehub.collect(model, data, tmp_path / "blocks", stream="on").close()
    assert needs.block == max(taken[block] + weights_of(layout, block) for block in layout.blocks)


def weights_of(layout, block: str) -> int:
    return sum(4 * math.prod(shape) for name, shape in layout.shapes.items() if name.startswith(f"{block}."))


def test_statistics_that_will_not_fit_are_told_before_the_model_is_read(tmp_path, small_disk, unread):
    model = tiny_model(tmp_path / "model", hidden=128)
    data = text_file(tmp_path)
    with pytest.raises(NoSpace, match=rf"(?s)The file of statistics needs .* at {small_disk}/out.*--size tiny"):
        fusehub.collect(str(model), data, small_disk / "out", size="full")
    with pytest.raises(AssertionError, match="is read"):
        fusehub.collect(str(model), data, small_disk / "out", size="tiny")
    with pytest.raises(NoSpace, match="The file of statistics needs"):
        fusehub.collect(str(model), data, small_disk / "out", size="tiny", fisher=True)
    assert leftovers(small_disk) == []


# `sys.argv`: room in bytes, out, method, base, and models. What is read of the models ends the process.
LIMITED = """
import os, resource, sys
import psutil, torch
import fusehub
from fusehub.errors import NoMemory
from fusehub.models.checkpoints.checkpoint import Checkpoint
room, out, method, base, *models = sys.argv[1:]
# What is imported late takes memory too.
fusehub.plan_merge(fusehub.Recipe.of(models, method, base_model=base or None))
resource.setrlimit(resource.RLIMIT_{kind}, (psutil.Process().memory_info().{kept} + int(room),) * 2)
read = Checkpoint.__init__
Checkpoint.__init__ = lambda self, ref: os._exit(9)
try:
    fusehub.merge(models, out, method=method, base_model=base or None)
except NoMemory as error:
    print(error, error.actions)
Checkpoint.__init__ = read
fusehub.merge(models, out, method="mean")
"""


def limited(kind: str, *arguments: object) -> str:
    kept = {"DATA": "data", "AS": "vms"}[kind]
    done = subprocess.run(
        [*python(), "-c", LIMITED.replace("{kind}", kind).replace("{kept}", kept), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    return done.stdout


@pytest.mark.parametrize("kind", ["DATA", "AS"])
@pytest.mark.parametrize("method", ["dare_ties", "regmean"])
def test_a_merge_that_memory_will_not_hold_is_refused_and_one_in_pieces_is_made(tmp_path, kind, method):
    """DARE holds a whole embedding of everyone, RegMean a matrix of the inputs' square."""
    wide = {"vocab_size": 220_000, "hidden": 64, "layers": 1} if method == "dare_ties" else {"hidden": 64, "layers": 1}
    wide |= {"intermediate_size": 7000} if method == "regmean" else {}
    models = relatives(tmp_path / "models", **wide)
    if method == "regmean":
        with_statistics(models)
    base = tmp_path / "models" / "base" if method == "dare_ties" else ""
    # Of addresses, threads and files that are looked at take some for themselves.
    room = {"DATA": 120, "AS": 240}[kind] * 10**6
    said = limited(kind, room, tmp_path / "out", method, base, *models)
    assert "the largest layer takes about" in said and "of memory, and" in said and "takes tensors in pieces" in said
    assert "choose-method" in said
    assert (tmp_path / "out" / WEIGHTS).exists()


@pytest.mark.parametrize("command", ["merge", "collect"])
def test_memory_that_cannot_be_had_after_all_is_said_without_a_traceback(tmp_path, command):
    """What was foreseen is taken away, so that the system itself refuses."""
    models = relatives(tmp_path / "models", vocab_size=200_000, hidden=64, layers=1)
    texts = text_file(tmp_path)
    script = f"""
import resource, sys
import psutil
import fusehub, fusehub.collecting.room, fusehub.collecting.counting, fusehub.merging.room, fusehub.models.loading
out, texts, base, *models = sys.argv[1:]
for module in (fusehub.merging.room, fusehub.models.loading):
    module.memory_of = lambda device: None
fusehub.collecting.room.available_memory = lambda **_: 2**60
tiny = dict(limit=2, stream="off", size="full")
fusehub.collect(models[0], texts, out + "-first", **tiny).close()
fusehub.merge(models, out + "-second", method="mean")
resource.setrlimit(resource.RLIMIT_DATA, (psutil.Process().memory_info().data + 40_000_000,) * 2)
try:
    if {command == "merge"}:
        fusehub.merge(models, out, method="dare_ties", base_model=base)
    else:
        fusehub.collect(models[0], texts, out, **tiny)
except fusehub.FuseHubError as error:
    print(type(error).__name__, error)
"""
    base = str(tmp_path / "models" / "base")
    done = subprocess.run(
        [*python(), "-c", script, str(tmp_path / "out"), texts, base, *map(str, models)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout.startswith("NoMemory") and "took more memory than could be had" in done.stdout, done.stderr
    assert not (tmp_path / "out").exists()


def test_processes_of_one_machine_need_as_much_each(experts, monkeypatch):
    from fusehub.merging import room

    plan = fusehub.plan_merge(recipe_of(experts("bert")))
    needed = room.beside_the_process(plan.cost)
    monkeypatch.setattr(room, "memory_of", lambda device: int(1.4 * needed))
    room.require_memory(plan, "cpu")
    with pytest.raises(NoMemory, match=r"(?s)2 processes: .*start fewer processes"):
        room.require_memory(plan, "cpu", 2)
    with pytest.raises(NoMemory, match=r"(?s)of memory of cuda:0, and .* say --device cpu"):
        monkeypatch.setattr(room, "memory_of", lambda device: needed // 2)
        room.require_memory(plan, "cuda:0")


def test_what_may_not_suffice_is_said_and_done(experts, monkeypatch, caplog):
    from fusehub.merging import room

    plan = fusehub.plan_merge(recipe_of(experts("bert")))
    monkeypatch.setattr(room, "memory_of", lambda device: int(0.9 * room.beside_the_process(plan.cost)))
    room.require_memory(plan, "cpu")
    assert "It may not suffice" in caplog.text


def test_a_model_that_memory_will_not_hold_is_not_run(experts, monkeypatch):
    import fusehub.models.loading as loading

    model = str(experts("bert")[0])
    weights = (experts("bert")[0] / WEIGHTS).stat().st_size
    monkeypatch.setattr(loading, "memory_of", lambda device: weights // 2)
    with pytest.raises(NoMemory, match=r"takes .* of memory to be run, for its weights alone"):
        fusehub.compare([model, model], ["a"])


def test_a_limit_on_the_size_of_files_is_told_with_the_option_for_smaller_ones(experts, tmp_path):
    script = (
        "import resource, sys, fusehub\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "try: fusehub.merge(sys.argv[2:], sys.argv[1], method='mean')\n"
        "except fusehub.FuseHubError as error: print(type(error).__name__, error)\n"
    )
    models = [str(path) for path in experts("bert")]
    done = subprocess.run([*python(), "-c", script, str(tmp_path / "out"), *models], capture_output=True, text=True)
    assert done.stdout.startswith("NoSpace One file of the merged model has") and "--max-shard-size" in done.stdout
    assert leftovers(tmp_path) == []


HEAPS = """
import ctypes, re, sys, threading
from fusehub.utils.memory import use_one_heap

if sys.argv[1] == "one":
    use_one_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
for _ in range(4):
    thread = threading.Thread(target=libc.malloc, args=(100_000,))
    thread.start()
    thread.join()
libc.fopen.restype, libc.malloc_info.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]
file = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, file)
libc.fclose(file)
print(open(sys.argv[2]).read().count("<heap nr="))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="Heaps are told of by glibc.")
def test_threads_of_a_merge_have_one_heap(tmp_path):
    def heaps(which: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", HEAPS, which, str(tmp_path / which)], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert heaps("each") > 1
    assert heaps("one") == 1
