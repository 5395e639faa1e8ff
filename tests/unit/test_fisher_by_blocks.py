"""Fisher diagonals block by block: those of the whole model, with one block in memory, whatever happens."""

import dataclasses
import itertools
import json
import re
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import fusehub.collecting.counting
import fusehub.collecting.room
from fusehub.collecting.by_blocks.forward import BlockForward
from fusehub.collecting.by_blocks.shared_table import Words, add_looked_up, rows_of, taken_out
from fusehub.collecting.by_blocks.work import BlockState, BlockWork
from fusehub.collecting.collect import collect
from fusehub.collecting.fisher.gradient_rules import Product, Rows, add_squares
from fusehub.errors import Indivisible, NoMemory
from fusehub.models.checkpoints.checkpoint import Checkpoint
from fusehub.statistics.file import FILENAME
from fusehub.statistics.fisher_file import FISHER_FILENAME
from fusehub.statistics.grams import sum_bytes
from tests.unit.experts import WEIGHTS, text_file
from tests.unit.test_by_blocks import RUN, TEXTS, as_here, data_of, killed, reading  # noqa: F401 - a fixture
from tests.unit.test_cli import run
from tests.unit.test_collect import in_two_processes
from tests.unit.tiny import tiny_model
from tests.warm import python

SAME = {"size": "full", "batch_tokens": 128, "fisher": True}
LABELS = ("one", "two", "three")


def small(folder: Path, arch: str, task: str = "text-classification", **settings) -> str:
    return str(tiny_model(folder / "model", arch, task=task, labels=LABELS, hidden=16, **settings))


def diagonals(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / FISHER_FILENAME)


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], tolerance: float = 1e-6) -> None:
    assert found.keys() == wanted.keys()
    # Biases of keys, whose gradients are zero, have squares of what float32 rounds.
    noise = 1e-14 * max(float(own.max()) for own in wanted.values())
    for name, own in wanted.items():
        assert (found[name] - own).abs().max() <= tolerance * own.max() + noise, name


@pytest.mark.parametrize(
    ("arch", "task", "samples"),
    [
        ("bert", "text-classification", None),
        ("roberta", "text-classification", 3),
        ("distilbert", "text-classification", None),
        ("modernbert", "text-classification", None),
        ("gpt2", "text-classification", None),
        ("llama", "text-classification", None),
        ("bert", "token-classification", 2),
        ("llama", "text-generation", None),
        ("qwen3", "text-generation", 2),
        ("vit", "image-classification", None),
        # One table looks tokens up and tells them.
        ("gpt2", "text-generation", 2),
        ("bert", "fill-mask", None),
        ("roberta", "fill-mask", 2),
        ("modernbert", "fill-mask", None),
    ],
)
def test_blocks_give_the_diagonals_of_the_whole_model(tmp_path, caplog, reading, arch, task, samples):  # noqa: F811
    model, data = small(tmp_path, arch, task, layers=3), data_of(tmp_path, task)
    collect(model, data, tmp_path / "whole", stream="off", fisher_samples=samples, **SAME).close()
    reading["reads"].clear(), reading.update(blocks=0)
    collect(model, data, tmp_path / "blocks", stream="on", fisher_samples=samples, **SAME).close()
    assert reading["blocks"] == 1 and "one example at a time" not in caplog.text
    numbered = {count for name, count in reading["reads"].items() if re.search(r"\.\d+\.", name)}
    assert numbered == {2}  # On the way forth, and back.
    wanted = diagonals(tmp_path / "whole")
    assert_same(diagonals(tmp_path / "blocks"), wanted)
    assert sum(bool(own.any()) for own in wanted.values()) > 0.8 * len(wanted)
    # Grams are as without.
    collect(model, data, tmp_path / "grams", stream="on", **SAME | {"fisher": False}).close()
    grams = [load_file(tmp_path / name / FILENAME) for name in ("grams", "blocks", "whole")]
    assert grams[0].keys() == grams[1].keys() == grams[2].keys()
    assert all(torch.equal(own, grams[0][name]) for other in grams[1:] for name, own in other.items())
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("arch", ["nystromformer", "fnet", "convbert"])
def test_padding_that_is_mixed_into_texts_has_no_part_in_diagonals(tmp_path, arch):
    """By convolutions over places, or sums of all of them; single texts are without it, and so are all blocks then."""
    model, data = small(tmp_path, arch), text_file(tmp_path, texts=TEXTS)
    for stream in ("off", "on"):
        collect(model, data, tmp_path / stream, stream=stream, **SAME).close()
    assert_same(diagonals(tmp_path / "on"), diagonals(tmp_path / "off"), 5e-6)


def test_models_that_mix_texts_are_refused(tmp_path, monkeypatch):
    """No batch without padding helps there."""
    from transformers.models.bert.modeling_bert import BertOutput

    forward = BertOutput.forward

    def mixing(self, states, given):
        return forward(self, states, given + 3 * given.mean((0, 1)))

    monkeypatch.setattr(BertOutput, "forward", mixing)
    words = TEXTS[0].split()
    texts = [" ".join(words[by:] + words[:by]) for by in range(len(words))]
    with pytest.raises(Indivisible, match="depends on the other texts"):
        collect(small(tmp_path, "bert"), text_file(tmp_path, texts=texts), tmp_path / "out", stream="on", **SAME)


def test_weights_in_half_precision_have_gradients_in_float32(tmp_path):
    model, data = small(tmp_path, "roberta", dtype=torch.bfloat16), text_file(tmp_path, texts=TEXTS)
    for stream in ("off", "on"):
        collect(model, data, tmp_path / stream, stream=stream, **SAME | {"size": "compact"}).close()
    metadata = [json.loads((tmp_path / own / "statistics.json").read_text()) for own in ("off", "on")]
    assert metadata[0]["fisher"] == metadata[1]["fisher"] and metadata[0]["fisher"]["encoding"] == "roots"
    files = [{name: own.float() for name, own in diagonals(tmp_path / own).items()} for own in ("off", "on")]
    assert_same(*files)


@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_table_that_is_used_at_both_ends_adds_before_it_squares_and_knows_no_padding(one_by_one):
    """Words that an example has twice, and one that is padding, too, on either side."""
    random = torch.Generator().manual_seed(0)
    batch = {
        "input_ids": torch.tensor([[0, 0, 3, 0, 3], [2, 0, 2, 0, 0], [1, 2, 3, 4, 0]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]),
    }
    # Numbers as they are where padding is not looked at.
    real = batch["attention_mask"][..., None]
    left, right = torch.randn(3, 5, 6, generator=random), torch.randn(3, 5, 4, generator=random)
    looked_up = real * torch.randn(3, 5, 4, generator=random)
    wanted, sums = torch.zeros(6, 4), torch.zeros(6, 4)
    for row in range(3):
        dense = torch.zeros(6, 4).index_add(0, batch["input_ids"][row], looked_up[row])
        wanted += (left[row].T @ right[row] + dense) ** 2
        one = {name: own[row : row + 1] for name, own in batch.items()}
        words = Words.of(one)
        product, rows = taken_out(Product(left[row : row + 1], right[row : row + 1]), words)
        add_squares(sums, [product])
        piece = rows_of(dense, words) if one_by_one else Rows(words.ids, looked_up[row : row + 1])
        add_looked_up(sums, [piece], words, rows)
    torch.testing.assert_close(sums, wanted)


def test_mixtures_of_experts_have_those_of_the_whole_model_by_the_names_of_their_files(tmp_path):
    """Fused experts go one text at a time, and so does all else of the whole model, but not of other parts."""
    model, data = small(tmp_path, "qwen3_moe", "text-generation"), text_file(tmp_path, texts=TEXTS)
    for stream in ("off", "on"):
        collect(model, data, tmp_path / stream, stream=stream, **SAME).close()
    wanted = diagonals(tmp_path / "off")
    experts = [
        wanted[f"model.layers.1.mlp.experts.{number}.{which}_proj.weight"]
        for number in range(4)
        for which in ("gate", "up")
    ]
    # Each its own part of what is fused.
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(experts, 2))
    assert_same(diagonals(tmp_path / "on"), wanted, 5e-6)


@pytest.mark.parametrize(("arch", "task"), [("bert", "text-classification"), ("gpt2", "text-generation")])
def test_what_no_rule_knows_goes_one_text_at_a_time(tmp_path, monkeypatch, caplog, arch, task):
    """Padding is cut from each, and what goes back to the block before is of the whole batch's length again."""
    from fusehub.collecting.fisher import gradient_watch

    known = gradient_watch.rules()
    model, data = small(tmp_path, arch, task), text_file(tmp_path, texts=TEXTS)
    collect(model, data, tmp_path / "rules", stream="off", **SAME).close()
    monkeypatch.setattr(
        gradient_watch,
        "rules",
        lambda: {key: own for key, own in known.items() if key is not torch.nn.functional.linear},
    )
    collect(model, data, tmp_path / "blocks", stream="on", **SAME).close()
    assert caplog.text.count("one example at a time") == 1
    wanted, found = diagonals(tmp_path / "rules"), diagonals(tmp_path / "blocks")
    for name, own in wanted.items():
        assert (found[name] - own).abs().max() <= 1e-5 * own.max() + 1e-12, name


@pytest.mark.parametrize(
    ("arch", "task", "why"),
    [
        ("t5", "text2text-generation", "this model has 2 .encoder.block, decoder.block"),
        ("deberta-v2", "text-classification", "rel_embeddings.* is used in several of its parts"),
        ("albert", "text-classification", "is run more than once for a text"),
    ],
)
def test_what_cannot_be_done_by_blocks_is_named_or_done_whole(tmp_path, monkeypatch, caplog, arch, task, why):
    model, data = small(tmp_path, arch, task), data_of(tmp_path, task)
    with pytest.raises(Indivisible, match=why) as told:
        collect(model, data, tmp_path / "out", stream="on", **SAME)
    assert "--stream off" in told.value.fix
    assert not list(tmp_path.glob(".*")) and not (tmp_path / "out").exists()
    collect(model, data, tmp_path / "whole", stream="off", **SAME).close()
    monkeypatch.setattr(fusehub.collecting.counting, "is_better_by_blocks", lambda *_, **__: True)
    caplog.clear()
    collect(model, data, tmp_path / "auto", **SAME).close()
    # What the config tells is not tried.
    assert ("cannot be run block by block" in caplog.text) == (arch != "t5")
    assert (tmp_path / "auto" / FISHER_FILENAME).read_bytes() == (tmp_path / "whole" / FISHER_FILENAME).read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_a_weight_that_two_parts_use_is_found_where_nothing_was_seen_before(tmp_path, monkeypatch):
    monkeypatch.setattr(BlockForward, "outside_of", lambda *_: [])
    model, data = small(tmp_path, "deberta-v2"), text_file(tmp_path, texts=TEXTS)
    with pytest.raises(Indivisible, match="is used in several of its parts, and its gradients"):
        collect(model, data, tmp_path / "out", stream="on", **SAME)


def test_a_model_that_is_known_to_be_refused_is_not_read(tmp_path, monkeypatch):
    model, data = small(tmp_path, "t5", "text2text-generation"), data_of(tmp_path, "text2text-generation")
    monkeypatch.setattr(Checkpoint, "__init__", None)
    code, _, said = run("collect", model, "--data", data, "--fisher", "--stream", "on", "--out", tmp_path / "out")
    assert code == 1 and "one list of blocks" in said and "--stream off" in said


def test_a_killed_run_goes_on_where_gradients_had_come_to(tmp_path, caplog, reading):  # noqa: F811
    model, data = small(tmp_path, "bert", layers=3), text_file(tmp_path, texts=TEXTS)
    collect(model, data, tmp_path / "whole", stream="off", **SAME).close()
    # Forth through three blocks and what follows, and back through that and one block.
    work = killed(model, data, tmp_path / "out", 6 * len(TEXTS), fisher=True)
    state = json.loads((work / "blocks" / "process-0.json").read_text())["state"]
    assert state["ended"] and state["returned"] == 2
    # What is needed no more is not there any more.
    kept = sorted(path.name for path in (work / "blocks" / "process-0").iterdir())
    assert kept == ["stage-0"]
    came = sorted(path.name for path in (work / "blocks" / "process-0-gradients").iterdir())
    assert came == ["stage-1", "stage-2"]
    reading["reads"].clear()
    collect(model, data, tmp_path / "out", **SAME).close()
    assert "Going on where" in caplog.text
    assert not [name for name in reading["reads"] if "layer.2." in name]
    for name in (FILENAME, FISHER_FILENAME):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not work.exists()


@pytest.mark.parametrize(("arch", "task"), [("distilbert", "text-classification"), ("gpt2", "text-generation")])
def test_two_processes_take_gradients_of_the_same_as_one(tmp_path, arch, task):
    model, data = small(tmp_path, arch, task), text_file(tmp_path, texts=TEXTS)
    in_two_processes([*python(), "-c", RUN, model, data, str(tmp_path / "two"), str(10**6), "fisher"])
    collect(model, data, tmp_path / "one", stream="on", **SAME).close()
    assert_same(diagonals(tmp_path / "two"), diagonals(tmp_path / "one"))
    metadata = [json.loads((tmp_path / own / "statistics.json").read_text())["fisher"] for own in ("one", "two")]
    assert metadata[0]["examples"] == metadata[1]["examples"] == len(TEXTS)
    assert not list(tmp_path.glob(".*"))


def test_a_process_that_was_killed_a_moment_earlier_than_another_is_waited_for(tmp_path):
    state = BlockState(done=["a", "b"], ended=True, returned=2, squares={"head": [2], "table": [2, 0], "b": [1]})
    folder = tmp_path / "blocks"
    folder.mkdir()
    said = [state, dataclasses.replace(state, returned=1)]

    class Two:
        count, index, is_main = 2, 0, True

        def agree(self, own=None):
            return [own, dataclasses.asdict(said[1])] if own else [own, own]

    (folder / "process-0.json").write_text(json.dumps({"facts": {}, "state": dataclasses.asdict(said[0])}))
    found = BlockWork(tmp_path, {}, Two()).state
    assert found.returned == 1 and found.squares == {"head": [2], "table": [2]}


def test_what_was_kept_without_gradients_is_not_gone_on_with(tmp_path, caplog):
    model, data = small(tmp_path, "distilbert"), text_file(tmp_path, texts=TEXTS)
    killed(model, data, tmp_path / "out", 2 * len(TEXTS))
    collect(model, data, tmp_path / "out", stream="on", **SAME).close()
    assert "not of the same (fisher): starting anew" in caplog.text
    collect(model, data, tmp_path / "whole", stream="off", **SAME).close()
    assert_same(diagonals(tmp_path / "out"), diagonals(tmp_path / "whole"))


def test_room_for_gradients_is_looked_for_before_anything_is_read(tmp_path, monkeypatch, small_disk):
    model = tiny_model(tmp_path / "model", hidden=64, layers=12)
    data = text_file(tmp_path, texts=TEXTS)
    weights = sum(own.nbytes for own in load_file(model / WEIGHTS).values())
    monkeypatch.setattr(Checkpoint, "__init__", None)
    rooms = []
    monkeypatch.setattr(fusehub.collecting.counting, "require_room", rooms.append)
    for more in ({}, {"fisher": True}, {"fisher": True, "fisher_samples": 4}):
        with pytest.raises(TypeError):  # That of the checkpoint that is not opened.
            collect(str(model), data, small_disk / "out", stream="on", **more)
    without, once, four = ({room.what: room.nbytes for room in own} for own in rooms)
    work = next(what for what in without if "from block to block" in what)
    tokens = (four[work] - once[work]) // (2 * 3 * 64 * 4)
    assert tokens > 20 and four[work] - once[work] == 2 * 3 * tokens * 64 * 4
    # One pass back for two labels: what twelve blocks gave in place of two, two of gradients, and all squares.
    assert once[work] - without[work] == 12 * tokens * 64 * 4 + weights
    monkeypatch.undo()
    monkeypatch.setattr(Checkpoint, "__init__", None)
    monkeypatch.setattr(fusehub.collecting.room, "available_memory", lambda **_: weights // 9)
    with pytest.raises(NoMemory, match="largest part that gradients are taken of, with its Fisher diagonals"):
        collect(str(model), data, tmp_path / "out", fisher=True)


def test_room_for_the_rows_of_a_table_of_words_is_counted(tmp_path, monkeypatch):
    data, rooms = text_file(tmp_path, texts=TEXTS), []
    monkeypatch.setattr(fusehub.collecting.counting, "require_room", rooms.append)
    monkeypatch.setattr(Checkpoint, "__init__", None)
    for tied in (False, True):
        task = {"task": "text-generation", "tie_word_embeddings": tied, "hidden": 64}
        model = tiny_model(tmp_path / str(tied), "llama", **task)
        for samples in (1, 3):
            with pytest.raises(TypeError):
                collect(str(model), data, tmp_path / "out", stream="on", fisher=True, fisher_samples=samples)
    one, three, tied, tied_three = (room.nbytes for own in rooms for room in own if "block to block" in room.what)
    width = (three - one) // 4  # Of all tokens: two times the gradients of a block for two more passes.
    # A head of its own has sums of its own, and a shared one has those of both ends. What the latter is given is not
    # counted: it is merged as embeddings are.
    assert tied - one == width - sum_bytes(64) and tied_three - three == 3 * width - sum_bytes(64)


LIMITED = """
import resource, sys
import psutil
from fusehub.collecting.collect import collect
from fusehub.errors import NoMemory
model, data, first, out, room = sys.argv[1:]
# What is imported late takes memory too.
collect(model, data, first, stream="on", size="full", limit=2, fisher=True).close()
resource.setrlimit(resource.RLIMIT_DATA, (psutil.Process().memory_info().data + int(room),) * 2)
try:
    collect(model, data, out, stream="off", size="full", fisher=True)
except NoMemory:
    print("refused")
collect(model, data, out, size="full", batch_tokens=1024, fisher=True).close()
"""


def test_diagonals_of_a_model_larger_than_what_the_process_may_have(tmp_path):
    """The limit is as large as the weights, and the whole model needs as much for its diagonals, too."""
    model = tiny_model(tmp_path / "model", "llama", task="text-generation", hidden=384, layers=24)
    data, nbytes = text_file(tmp_path, texts=TEXTS[:8]), (model / WEIGHTS).stat().st_size
    arguments = [str(model), data, str(tmp_path / "first"), str(tmp_path / "out"), str(nbytes)]
    command = [*python(), "-c", LIMITED, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=as_here())
    assert done.returncode == 0 and done.stdout == "refused\n", done.stderr
    collect(str(model), data, tmp_path / "whole", stream="off", size="full", batch_tokens=1024, fisher=True).close()
    assert_same(diagonals(tmp_path / "out"), diagonals(tmp_path / "whole"))
