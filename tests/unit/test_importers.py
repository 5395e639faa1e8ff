"""Statistics out of other projects' files: written here as those write them, from inputs that are known."""

import contextlib
import json
import struct

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from fusehub import import_statistics
from fusehub.errors import BadFile, BadRecipe, BadStatistics, FuseHubError, NotFound, UnsafeFile
from fusehub.merging.merge import merge
from fusehub.merging.plan import plan_merge
from tests.unit.experts import WEIGHTS, least_squares, raw_inputs, recipe_of, rel, texts_of

GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
QKV, DOWN = "model.layers.0.self_attn.k_proj.weight", "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def llamas(experts):
    return experts("llama")


@pytest.fixture(scope="module")
def inputs(llamas):
    """The rows that each layer of the first expert is given, but for its head, which llama.cpp does not run."""
    return {name: x for name, x in raw_inputs(llamas[0], texts_of(0)).items() if name.startswith("model.")}


def gguf_name(weight):
    block, _, module = weight.removeprefix("model.layers.").removesuffix(".weight").partition(".")
    return f"blk.{block}.{GGUF_NAMES[module]}.weight"


def write_gguf(path, inputs, **change):
    writer = gguf.GGUFWriter(path, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["calibration/wiki.txt"])
    writer.add_uint32("imatrix.chunk_count", 3)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, x in inputs.items():
        entry = gguf_name(name)
        writer.add_tensor(f"{entry}.in_sum2", (x**2).sum(0, keepdims=True).astype(np.float32))
        if name != change.get("uncounted"):
            writer.add_tensor(f"{entry}.counts", np.array([[len(x)]], np.float32))
    writer.add_tensor("blk.0.ssm_in.weight.in_sum2", np.ones((1, 4), np.float32))
    writer.add_tensor("blk.0.ssm_in.weight.counts", np.ones((1, 1), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_legacy(path, inputs, trailer=True):
    def text(value):
        return struct.pack("<i", len(value)) + value.encode()

    parts = [struct.pack("<i", len(inputs))]
    for name, x in inputs.items():
        squares = (x**2).mean(0).astype("<f4") * 3
        parts += [text(gguf_name(name)), struct.pack("<ii", 3, len(squares)), squares.astype("<f4").tobytes()]
    parts += [struct.pack("<i", 3), text("wiki.txt")] if trailer else []
    path.write_bytes(b"".join(parts))
    return path


def write_hessians(folder, inputs, centred, **more):
    folder.mkdir()
    files = {"q_proj": "qkv", "o_proj": "o", "up_proj": "up", "down_proj": "down"}
    for name, x in inputs.items():
        parts = name.split(".")
        if parts[-2] not in files:
            continue
        mean = torch.from_numpy(x).mean(0)
        gram = torch.from_numpy(x.T @ x) / len(x)
        if centred:
            gram -= mean[:, None] * mean
        rows, columns = torch.tril_indices(len(gram), len(gram))
        content = {"flatH": gram[rows, columns].float(), "n": len(gram), "ct": len(x)}
        content |= {"mu": mean.float()} if centred else {}
        torch.save(content | more, folder / f"{parts[2]}_{files[parts[-2]]}.pt")
    return folder


@pytest.fixture
def opened():
    with contextlib.ExitStack() as files:
        yield lambda *arguments, **more: files.enter_context(contextlib.closing(import_statistics(*arguments, **more)))


@pytest.mark.parametrize("write", [write_gguf, write_legacy])
def test_an_importance_matrix_is_the_diagonal_and_merges_as_at_alpha_0(llamas, inputs, tmp_path, opened, write):
    made = opened(str(llamas[0]), write(tmp_path / "imatrix", inputs), tmp_path / "statistics")
    assert made.layers.keys() == inputs.keys()
    for name, x in inputs.items():
        layer = made.layers[name]
        assert rel(layer.gram() / layer.rows, np.diag((x**2).mean(0))) < 1e-6, name
        assert (layer.rows == len(x)) == (write is write_gguf)
    assert made.layers[QKV].stored_as != QKV or QKV in made.aliases.values(), "q, k and v are stored once"
    assert made.metadata["imported"]["from"] == "llama.cpp imatrix" and made.metadata["imported"]["file"] == "imatrix"
    assert made.metadata["data"]["source"] == "wiki.txt" and made.metadata["examples"] == 3
    assert made.metadata["uncounted"] == ["score.weight"]
    assert made.nbytes < 60_000, "no triangles of zeros are stored"
    recipe = recipe_of(llamas, statistics=[str(tmp_path / "statistics"), "auto"], parameters={"alpha": 0.7})
    plan = merge(recipe, tmp_path / "out").plan
    merged = load_file(tmp_path / "out" / WEIGHTS)
    weights = [load_file(path / WEIGHTS)[DOWN].double().numpy() for path in llamas]
    x = inputs[DOWN]
    diagonal = np.diag((x**2).mean(0) ** 0.5) * x.shape[1] ** 0.5
    other = raw_inputs(llamas[1], texts_of(1))[DOWN]
    assert rel(merged[DOWN].double(), least_squares([diagonal, other], weights, alpha=0.7)) < 1e-4
    assert any("known by their diagonal alone (llama.cpp imatrix)" in note for note in plan.notes)
    assert plan.tensors["score.weight"].action == "mean"
    with pytest.raises(BadRecipe, match=f"mean inputs, which are not known of {llamas[0]}"):
        plan_merge(recipe.changed(parameters={"affine": True}))


@pytest.mark.parametrize("centred", [True, False])
def test_hessians_are_whole_grams(llamas, inputs, tmp_path, opened, centred):
    folder = write_hessians(tmp_path / "hessians", inputs, centred)
    (folder / "9_qkv.pt").write_bytes(b"of a block that the model does not have")
    made = opened(str(llamas[0]), folder, tmp_path / "statistics", size="full", description="RedPajama")
    assert made.layers.keys() == inputs.keys()
    for name, x in inputs.items():
        assert rel(made.layers[name].gram(), x.T @ x) < 1e-5 and made.layers[name].rows == len(x), name
        if centred:
            assert rel(made.layers[name].total, x.sum(0)) < 1e-5, name
        else:
            assert not made.layers[name].total.any(), name
    assert made.metadata["imported"]["means"] is centred and made.metadata["imported"]["ignored"] == ["9_qkv.pt"]
    assert made.metadata["data"]["source"] == "RedPajama"
    assert made.aliases["model.layers.0.mlp.up_proj.weight"] == "model.layers.0.mlp.gate_proj.weight"
    merge(recipe_of(llamas, statistics=[str(tmp_path / "statistics"), "auto"]), tmp_path / "out")


def test_names_are_found_for_other_families(experts, tmp_path, opened):
    for arch, entry, name in (
        ("bert", "blk.1.ffn_down.weight", "bert.encoder.layer.1.output.dense.weight"),
        ("gpt2", "blk.1.attn_qkv.weight", "transformer.h.1.attn.c_attn.weight"),
    ):
        width = 32 if arch == "bert" else 16
        values = np.arange(1, width + 1, dtype="<f4")
        content = struct.pack("<ii", 1, len(entry)) + entry.encode() + struct.pack("<ii", 1, width) + values.tobytes()
        (tmp_path / arch).write_bytes(content + struct.pack("<ii", 1, 0))
        made = opened(str(experts(arch)[0]), tmp_path / arch, tmp_path / f"{arch}-statistics")
        assert list(made.layers) == [name] and rel(made.layers[name].gram().diagonal(), values) < 1e-6


def broken(folder, kind, inputs):
    path = folder / kind
    if kind == "cut":
        write_gguf(path, inputs)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "uncounted":
        write_gguf(path, inputs, uncounted=DOWN)
    elif kind == "short":
        write_legacy(path, inputs)
        path.write_bytes(path.read_bytes()[:300])
    elif kind == "old":
        write_legacy(path, inputs, trailer=False)
    elif kind == "nan":
        write_legacy(path, {DOWN: inputs[DOWN] * np.nan})
    elif kind == "size":
        write_legacy(path, {DOWN: inputs[DOWN][:, :5]})
    elif kind == "other":
        write_legacy(path, {DOWN.replace("layers.1", "layers.7"): inputs[DOWN]})
    elif kind == "code":
        path.mkdir()
        torch.save({"flatH": print}, path / "0_o.pt")
    elif kind == "shape":
        write_hessians(path, inputs, False, n=5)
    elif kind == "keys":
        path.mkdir()
        torch.save({"H": torch.ones(3)}, path / "0_o.pt")
    elif kind == "empty":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("cut", BadFile, "truncated or corrupt"),
        ("uncounted", BadFile, "blk.1.ffn_down.weight has sums, but no counts"),
        ("short", BadFile, "neither an importance matrix"),
        ("old", BadFile, "does not tell how many rows"),
        ("nan", BadStatistics, "blk.1.ffn_down.weight holds NaN"),
        ("size", BadStatistics, f"{DOWN} has .* inputs in .*, and 5 in the file"),
        ("other", BadStatistics, "nothing of a linear layer of .*It has blk.7.ffn_down.weight"),
        ("code", UnsafeFile, "would run code"),
        ("shape", BadFile, "do not fit n = 5"),
        ("keys", BadFile, "lacks 'flatH'"),
        ("empty", BadStatistics, "nothing of a linear layer"),
        ("absent", NotFound, "no file or folder"),
    ],
)
def test_what_is_broken_is_refused_and_nothing_is_written(llamas, inputs, tmp_path, kind, error, words):
    path = broken(tmp_path, kind, inputs)
    with pytest.raises(error, match=words):
        import_statistics(str(llamas[0]), path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_the_package_it_says_which(llamas, inputs, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(FuseHubError) as caught:
        import_statistics(str(llamas[0]), write_legacy(tmp_path / "old.dat", inputs), tmp_path / "out")
    assert caught.value.fix == 'Install it with: pip install "fusehub[import]"'


def test_the_command_line_imports(llamas, inputs, tmp_path):
    from fusehub.cli.main import app

    path = write_gguf(tmp_path / "imatrix.gguf", inputs)
    arguments = ["collect", str(llamas[0]), "--import", str(path), "--out", str(tmp_path / "statistics")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert "left out: blk.0.ssm_in.weight" in result.stderr and "3 texts, 1536 tokens" in result.stderr
    metadata = json.loads((tmp_path / "statistics" / "statistics.json").read_text())
    assert metadata["imported"]["file"] == "imatrix.gguf"
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "statistics")])
    assert shown.exit_code == 0, shown.stderr
