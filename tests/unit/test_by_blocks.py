"""Counting block by block: the statistics that the whole model gives, with one block in memory, whatever happens."""

import contextlib
import csv
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import weakref
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import fusehub.collecting.counting
import fusehub.collecting.room
from fusehub.collecting.by_blocks.forward import BlockForward
from fusehub.collecting.by_blocks.kept_outputs import KeptOutputs
from fusehub.collecting.collect import collect
from fusehub.collecting.noise import Noise
from fusehub.errors import BadRecipe, Indivisible, NoMemory, NoSpace
from fusehub.models.checkpoints.checkpoint import Checkpoint
from fusehub.models.piecewise.skeleton import Skeleton
from fusehub.statistics.file import FILENAME, Statistics
from fusehub.statistics.grams import GramSum
from fusehub.utils.memory import _V1, _V2, _left_in
from tests.unit.experts import WEIGHTS, rel, save_weights, text_file, texts_of
from tests.unit.lora_cases import adapter
from tests.unit.test_cli import run
from tests.unit.test_collect import in_two_processes
from tests.unit.tiny import tiny_images, tiny_model, tiny_tokenizer
from tests.warm import python

TEXTS = texts_of(1, 20)
SAME = {"size": "full", "batch_tokens": 128}
KINDS = (
    ("bert", "fill-mask"),
    ("deberta-v2", "text-classification"),
    ("gpt2", "text-generation"),
    ("qwen3_moe", "text-generation"),
    ("t5", "text2text-generation"),
    ("switch_transformers", "text2text-generation"),
    ("vit", "image-classification"),
)
# `sys.argv`: model, data, out; after how many texts, in all blocks together, the process is killed by itself; and
# whether it counts Fisher diagonals.
RUN = """
import os, signal, sys
from fusehub.collecting.collect import collect
model, data, out, last, *more = sys.argv[1:]
def progress(done, total, what):
    if done > int(last):
        os.kill(os.getpid(), signal.SIGKILL)
options = {"size": "full", "batch_tokens": 128, "fisher": "fisher" in more}
made = collect(model, data, out, stream="on", progress=progress, **options)
made and made.close()
"""


def model_of(folder: Path, arch: str, task: str) -> str:
    if arch != "switch_transformers":
        return str(tiny_model(folder / "model", arch, task=task, hidden=16))
    # Its experts are layers that see only what is routed to them, so that batches may have no padding.
    import transformers

    tokenizer = tiny_tokenizer("t5")
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_heads": 4, "num_experts": 4}
    sizes |= {"num_layers": 2, "num_decoder_layers": 2}
    sizes |= {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "expert_capacity": 64}
    known = {"vocab_size": len(tokenizer), "pad_token_id": 0, "decoder_start_token_id": 0, "eos_token_id": 1}
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(arch, **sizes, **known)
    transformers.SwitchTransformersForConditionalGeneration(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return str(folder / "model")


def data_of(folder: Path, task: str) -> str:
    if task == "image-classification":
        return str(tiny_images(folder / "pets", count=4))
    if task != "text2text-generation":
        return text_file(folder, texts=TEXTS)
    with (folder / "pairs.csv").open("w", encoding="utf-8") as file:
        csv.writer(file).writerows([("source", "target"), *((text, text[::-1]) for text in TEXTS)])
    return str(folder / "pairs.csv")


def both(folder: Path, model: str, data: str) -> list[bytes]:
    """The files that the whole model gives, and that it gives block by block."""
    for stream in ("off", "on"):
        collect(model, data, folder / stream, stream=stream, **SAME).close()
    return [(folder / stream / FILENAME).read_bytes() for stream in ("off", "on")]


@pytest.fixture
def reading(monkeypatch):
    """How often each tensor of a checkpoint is read, and how many blocks are in memory at a time."""
    seen = {"reads": Counter(), "blocks": 0}
    read, load = Checkpoint.__getitem__, Skeleton.load

    def reading(checkpoint, name):
        seen["reads"][name] += 1
        return read(checkpoint, name)

    def loading(skeleton, parameters):
        found = load(skeleton, parameters)
        numbered = {re.match(r".*?\.\d+\.", name) for name in skeleton.loaded} - {None}
        seen["blocks"] = max(seen["blocks"], len({match[0] for match in numbered}))
        return found

    monkeypatch.setattr(Checkpoint, "__getitem__", reading)
    monkeypatch.setattr(Skeleton, "load", loading)
    return seen


@pytest.mark.parametrize(("arch", "task"), KINDS)
def test_blocks_give_the_same_file_as_the_whole_model(tmp_path, reading, arch, task):
    whole, by_blocks = both(tmp_path, model_of(tmp_path, arch, task), data_of(tmp_path, task))
    assert whole == by_blocks
    assert reading["blocks"] == 1
    numbered = {count for name, count in reading["reads"].items() if re.search(r"\.\d+\.", name)}
    # Where a block shows that batches may have no padding, the blocks before it are read once more.
    assert numbered == {1} or (arch == "switch_transformers" and numbered == {1, 2})
    assert not list(tmp_path.glob(".*"))


def test_weights_are_read_as_a_whole_model_reads_them(tmp_path):
    """Renamed, in a .bin, in bfloat16, tied by the config but stored with other numbers, under an adapter."""
    model = tiny_model(tmp_path / "bert", hidden=16)
    tensors = load_file(model / WEIGHTS)
    save_weights(model, {name.replace("LayerNorm.weight", "LayerNorm.gamma"): own for name, own in tensors.items()})
    whole, by_blocks = both(tmp_path / "bert", str(model), text_file(tmp_path, texts=TEXTS))
    assert whole == by_blocks
    torch.save(tensors, model / "pytorch_model.bin")
    (model / WEIGHTS).unlink()
    whole, by_blocks = both(tmp_path / "bin", str(model), text_file(tmp_path, texts=TEXTS))
    assert whole == by_blocks
    model = tiny_model(tmp_path / "gpt2", "gpt2", task="text-generation", hidden=16, dtype=torch.bfloat16)
    tensors = load_file(model / WEIGHTS)
    save_weights(model, tensors | {"lm_head.weight": tensors["transformer.wte.weight"] * 2})
    whole, by_blocks = both(tmp_path / "gpt2", str(model), text_file(tmp_path, texts=TEXTS))
    assert whole == by_blocks
    made = json.loads((tmp_path / "gpt2" / "on" / "statistics.json").read_text())
    assert "lm_head.weight" in made["layers"]
    base = tiny_model(tmp_path / "base", hidden=16)
    update, _ = adapter(tmp_path / "adapter", base, target_modules=["query", "dense"])
    whole, by_blocks = both(tmp_path / "lora", f"{base}+{update}", text_file(tmp_path, texts=TEXTS))
    assert whole == by_blocks


def test_two_processes_count_the_same_blocks_as_one(tmp_path):
    model, data = model_of(tmp_path, "distilbert", "text-classification"), text_file(tmp_path, texts=TEXTS)
    in_two_processes([*python(), "-c", RUN, model, data, str(tmp_path / "two"), str(10**6)])
    with (
        contextlib.closing(collect(model, data, tmp_path / "one", stream="on", **SAME)) as one,
        contextlib.closing(Statistics(tmp_path / "two" / FILENAME)) as two,
    ):
        assert one.aliases == two.aliases and one.layers.keys() == two.layers.keys()
        for name, layer in one.layers.items():
            assert two.layers[name].rows == layer.rows and rel(two.layers[name].gram(), layer.gram()) < 1e-6


def as_here() -> dict[str, str]:
    """As many threads as this process has: another number adds up in another order, to other last bits."""
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}


def killed(model: str, data: str, out: Path, texts: int, *, fisher: bool = False) -> Path:
    """The folder of what a run kept that was killed after so many texts, of all blocks together."""
    command = [*python(), "-c", RUN, model, data, str(out), str(texts), *["fisher"] * fisher]
    done = subprocess.run(command, capture_output=True, text=True, env=as_here())
    assert done.returncode == -signal.SIGKILL, done.stderr
    return out.parent / f".{out.name}.collecting"


def test_a_killed_run_goes_on_at_its_block(tmp_path, caplog, reading):
    model, data = model_of(tmp_path, "t5", "text2text-generation"), data_of(tmp_path, "text2text-generation")
    collect(model, data, tmp_path / "whole", stream="off", **SAME).close()
    work = killed(model, data, tmp_path / "out", 3 * len(TEXTS))
    done = json.loads((work / "blocks" / "process-0.json").read_text())["state"]["done"]
    assert done == ["encoder.block.0", "encoder.block.1", "decoder.block.0"]
    reading["reads"].clear()
    # By itself it goes on as it was begun, though the whole model would fit.
    collect(model, data, tmp_path / "out", **SAME).close()
    assert "Going on where" in caplog.text
    assert not [name for name in reading["reads"] if name.startswith(tuple(f"{block}." for block in done))]
    assert (tmp_path / "out" / FILENAME).read_bytes() == (tmp_path / "whole" / FILENAME).read_bytes()
    assert not work.exists()


def test_what_another_run_kept_is_not_used(tmp_path, caplog):
    model, data = model_of(tmp_path, "distilbert", "text-classification"), text_file(tmp_path, texts=TEXTS)
    work = killed(model, data, tmp_path / "out", 2 * len(TEXTS))
    shutil.copytree(work, tmp_path / "kept")
    changed = text_file(tmp_path, 1, texts=TEXTS[1:])
    other = shutil.copytree(model, tmp_path / "other")
    tensors = load_file(other / WEIGHTS)
    save_weights(other, tensors | {name: own * 1.5 for name, own in tensors.items() if "layer.0" in name})
    broken = (tmp_path / "kept" / "blocks" / "process-0.json").read_text()[:-9]
    for own, on, stream in (
        (model, changed, "on"),
        (other, data, "on"),
        (model, data, "off"),
        ("broken", data, "on"),
    ):
        shutil.copytree(tmp_path / "kept", work, dirs_exist_ok=True)
        if own == "broken":
            own = model
            (work / "blocks" / "process-0.json").write_text(broken)
        caplog.clear()
        collect(str(own), on, tmp_path / "out", stream=stream, **SAME).close()
        assert "starting anew" in caplog.text and "Going on" not in caplog.text
        assert not work.exists()
        collect(str(own), on, tmp_path / "fresh", stream="off", **SAME).close()
        assert (tmp_path / "out" / FILENAME).read_bytes() == (tmp_path / "fresh" / FILENAME).read_bytes()
        shutil.rmtree(tmp_path / "out"), shutil.rmtree(tmp_path / "fresh")


def test_a_model_without_separate_blocks_is_refused_or_read_whole(tmp_path, caplog, monkeypatch):
    # Its embeddings are larger than its block with the sums of it.
    albert = tiny_model(tmp_path / "albert", "albert", hidden=16, max_position_embeddings=2000)
    model, data = str(albert), text_file(tmp_path, texts=TEXTS)
    with pytest.raises(Indivisible, match=r"albert_layer_groups.0 is run more than once for a text"):
        collect(model, data, tmp_path / "out", stream="on", **SAME)
    monkeypatch.setattr(fusehub.collecting.counting, "is_better_by_blocks", lambda *_, **__: True)
    collect(model, data, tmp_path / "out", **SAME).close()
    assert "cannot be run block by block" in caplog.text
    # Where it must be whole and does not fit, what would not help is not said.
    weights = sum(own.nbytes for own in load_file(Path(model) / WEIGHTS).values())
    monkeypatch.setattr(fusehub.collecting.room, "available_memory", lambda **_: weights - 1)
    with pytest.raises(NoMemory, match=r"(?s)of weights.* run more than once .* larger machine"):
        collect(model, data, tmp_path / "more", **SAME)
    monkeypatch.undo()
    code, _, said = run("collect", model, "--data", data, "--stream", "on", "--out", tmp_path / "more")
    assert code == 1 and "run more than once" in said and "--stream off" in said
    assert not (tmp_path / ".out.collecting").exists()


class Tower(nn.Module):
    """Blocks of one linear layer each; `forward` may have any way between them."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.words = nn.Embedding(10, 4)
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

    def get_output_embeddings(self) -> None:
        return None

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        first = x = self.words(input_ids)
        outputs = []
        for number, block in enumerate(self.blocks):
            if self.way == "skips" and number == 3:
                x = x + outputs[0]
            if self.way == "words again" and number == 2:
                x = x + first
            outputs.append(x := block(x))
        return x + outputs[0] if self.way == "all at the end" else x


class InMemory:
    """What `BlockForward` asks of a skeleton, of a module that is in memory anyway."""

    name, device = "tower", "cpu"

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.dropped: list[str] = []

    def inside(self, module: str) -> list[str]:
        return [name for name, _ in self.network.named_parameters() if name.startswith(f"{module}.")]

    def names_of(self, parameter: str) -> list[str]:
        return [parameter]

    def load(self, parameters) -> dict:
        return {}

    def drop(self, parameters) -> None:
        self.dropped += parameters


@pytest.mark.parametrize(
    ("way", "fails_before"),
    [
        ("one after the other", None),
        ("words again", None),
        ("skips", "blocks.3"),
        ("all at the end", "the last block"),
    ],
)
def test_what_more_than_the_next_block_looks_at_is_found(tmp_path, way, fails_before):
    torch.manual_seed(0)
    skeleton = InMemory(Tower(way))
    names = [f"blocks.{number}" for number in range(4)]
    probe = {"input_ids": torch.randint(0, 10, (3, 5))}
    expected = skeleton.network(**probe)
    forward = BlockForward(skeleton, KeptOutputs(tmp_path), names, [], [])
    try:
        found = []
        with pytest.raises(Indivisible, match=fails_before) if fails_before else contextlib.nullcontext():
            while (block := forward.begin(probe)) is not None:
                found.append(block)
                forward.end()
            assert torch.equal(forward.run(probe), expected)
        assert found == names[: 3 if fails_before == "blocks.3" else 4]
        # Embeddings are in memory as long as something looks at them, and not longer.
        assert "words.weight" in skeleton.dropped
        if not fails_before:
            assert forward.spared == ([] if way == "words again" else ["words"])
    finally:
        forward.close()


def test_room_is_looked_for_before_anything_is_read(tmp_path, monkeypatch, small_disk):
    model = tiny_model(tmp_path / "model", hidden=128)
    data = text_file(tmp_path, texts=TEXTS)
    monkeypatch.setattr(Checkpoint, "__init__", None)
    with pytest.raises(NoSpace, match=r"(?s)from block to block.* needs .* \(--limit\).* take less"):
        collect(str(model), data, small_disk / "out", stream="on")
    monkeypatch.setattr(fusehub.collecting.room, "available_memory", lambda **_: 1000)
    with pytest.raises(NoMemory, match=r"(?s)of weights.* block by block: --stream on"):
        collect(str(model), data, tmp_path / "out", stream="off")
    with pytest.raises(NoMemory, match="its largest block"):
        collect(str(model), data, tmp_path / "out")
    with pytest.raises(NoMemory, match=r"(?s)Noise needs bounds.* Leave that out, or do it on a larger machine"):
        collect(str(model), data, tmp_path / "out", noise=Noise(1, 1e-5, 1))
    with pytest.raises(BadRecipe, match="Noise needs bounds that are known for the whole model first"):
        collect(str(model), data, tmp_path / "out", noise=Noise(1, 1e-5, 1), stream="on")
    assert not list(tmp_path.glob(".*")) and not (tmp_path / "out").exists()


def test_no_sums_of_one_block_are_in_memory_when_the_next_begins(tmp_path, monkeypatch):
    there, seen = weakref.WeakSet(), []
    new, begin = GramSum.__init__, BlockForward.begin

    def made(own, *args, **options):
        there.add(own)
        new(own, *args, **options)

    def begun(*args):
        seen.append(len(there))
        return begin(*args)

    monkeypatch.setattr(GramSum, "__init__", made)
    monkeypatch.setattr(BlockForward, "begin", begun)
    model = tiny_model(tmp_path / "model", "llama", task="text-generation")
    collect(str(model), text_file(tmp_path), tmp_path / "out", stream="on").close()
    assert len(seen) > 2 and not any(seen), seen


LIMITED = """
import resource, sys
import psutil
from fusehub.collecting.collect import collect
from fusehub.errors import NoMemory
model, data, first, out, room = sys.argv[1:]
collect(model, data, first, stream="on", size="full", limit=2).close()  # What is imported late takes memory too.
resource.setrlimit(resource.RLIMIT_DATA, (psutil.Process().memory_info().data + int(room),) * 2)
try:
    collect(model, data, out, stream="off", size="full")
except NoMemory:
    print("refused")
collect(model, data, out, size="full", batch_tokens=2048).close()
"""


def test_a_model_larger_than_what_the_process_may_have_is_counted_block_by_block(tmp_path):
    """The limit is two thirds of the weights."""
    model = tiny_model(tmp_path / "model", "llama", task="text-generation", hidden=384, layers=24)
    data, nbytes = text_file(tmp_path, texts=TEXTS[:8]), (model / WEIGHTS).stat().st_size
    arguments = [str(model), data, str(tmp_path / "first"), str(tmp_path / "out"), str(nbytes * 2 // 3)]
    done = subprocess.run(
        [*python(), "-c", LIMITED, *arguments],
        capture_output=True,
        text=True,
        env=as_here(),
    )
    assert done.returncode == 0 and done.stdout == "refused\n", done.stderr
    collect(str(model), data, tmp_path / "whole", stream="off", size="full", batch_tokens=2048).close()
    assert (tmp_path / "out" / FILENAME).read_bytes() == (tmp_path / "whole" / FILENAME).read_bytes()


HOLES = """
import sys
import psutil, torch
import fusehub.collecting.counting
from fusehub.collecting.collect import collect
model, data, out, memory = sys.argv[1:]
fusehub.collecting.counting.is_better_by_blocks = lambda *_, **__: memory == "short"
collect(model, data, out, stream="on").close()
torch.empty(7_000_000)  # Where it is freed, glibc has what is smaller in its heap from then on.
own = psutil.Process()
kept = [torch.ones(250_000) for _ in range(64)]
before = own.memory_info().data
del kept[::2]
print((before - own.memory_info().data) // 10**6)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="How it keeps what was freed is glibc's.")
def test_memory_that_is_freed_where_it_is_short_is_no_more_of_the_process(tmp_path):
    """Holes in a heap were of use in some runs, and in others the limit was met before them."""
    model, data = tiny_model(tmp_path / "model", "bert"), text_file(tmp_path, texts=TEXTS)
    given_back = {}
    for memory in ("short", "enough"):
        arguments = [str(model), data, str(tmp_path / memory), memory]
        done = subprocess.run([*python(), "-c", HOLES, *arguments], capture_output=True, text=True, env=as_here())
        given_back[memory] = int(done.stdout)
    assert given_back["short"] >= 30 > given_back["enough"]


@pytest.mark.parametrize(("names", "limit"), [(_V1, "9223372036854771712"), (_V2, "max")])
def test_control_groups_tell_what_is_left_in_them(tmp_path, names, limit):
    most, used, cache = names
    (tmp_path / used).write_text("700\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\n{cache} 50\n")
    (tmp_path / most).write_text("1000\n")
    assert _left_in(tmp_path, names) == 350  # What is cache is given back.
    (tmp_path / most).write_text(f"{limit}\n")
    assert _left_in(tmp_path, names) is None
    assert _left_in(tmp_path / "elsewhere", names) is None
