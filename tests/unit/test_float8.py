"""Float8 with scales: read as what it means, merged by every method, and written within the format's step."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import fusehub
from fusehub.errors import BadFile, BadRecipe, Incompatible
from fusehub.merging.engine import elementwise
from fusehub.models.checkpoints.checkpoint import Checkpoint
from fusehub.models.quantised.float8 import as_float8
from fusehub.models.resolve import resolve
from fusehub.publishing.loadable import require_loadable
from tests.unit.experts import WEIGHTS, edit_json, relatives, save_weights, text_file, weights_of
from tests.unit.tiny import tiny_model

E4M3, LARGEST = torch.float8_e4m3fn, 448.0
BLOCK = 12  # No divisor of the sides, so that the last blocks are smaller.
COMPRESSED = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": False}


def blocks_of(weight: torch.Tensor, rows: int, columns: int) -> list[list[tuple[slice, slice]]]:
    """The places of its blocks, row by row."""
    return [
        [(slice(i, i + rows), slice(j, j + columns)) for j in range(0, weight.shape[1], columns)]
        for i in range(0, weight.shape[0], rows)
    ]


def scaled(
    weight: torch.Tensor, rows: int, columns: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """By the specification: float8, the scales of its blocks (as numbers of `dtype`), and what the two are as a
    weight."""
    values, meant = torch.empty(weight.shape, dtype=E4M3), torch.empty(weight.shape)
    places = blocks_of(weight, rows, columns)
    scales = (
        torch.tensor([[float(weight[at].abs().max()) / LARGEST for at in row] for row in places]).to(dtype).float()
    )
    for row, own in zip(places, scales, strict=True):
        for at, scale in zip(row, own, strict=True):
            values[at] = (weight[at] / scale).to(E4M3)
            meant[at] = values[at].float() * scale
    return values, scales, meant


def compressed(strategy: str, **more: object) -> dict[str, object]:
    weights = COMPRESSED | {"strategy": strategy} | more
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}},
        "ignore": ["lm_head"],
    }


# What the config says, how scales are called, the sides of a block (0: all of the matrix), and how they are stored.
Kind = tuple[dict[str, object], str, int, int, Callable[[torch.Tensor], torch.Tensor]]
KINDS: dict[str, Kind] = {
    "blocks": (
        {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]},
        "_scale_inv", BLOCK, BLOCK, lambda scales: scales,
    ),
    "one": ({"quant_method": "fp8", "weight_block_size": None}, "_scale_inv", 0, 0, lambda s: s.reshape(())),
    "rows": ({"quant_method": "fbgemm_fp8"}, "_scale", 1, 0, lambda scales: scales),
    "compressed-tensor": (compressed("tensor"), "_scale", 0, 0, lambda scales: scales.reshape(1)),
    "compressed-channel": (compressed("channel"), "_scale", 1, 0, lambda scales: scales),
    "compressed-block": (
        compressed("block", block_structure=[BLOCK, BLOCK]), "_scale", BLOCK, BLOCK, lambda scales: scales,
    ),
}  # fmt: skip


def in_float8(plain: Path, folder: Path, kind: Kind = KINDS["blocks"]) -> Path:
    """The model of `plain` with the weights of its layers in float8, in `folder`; `plain` then has what they mean."""
    said, suffix, rows, columns, stored_as = kind
    stored, meant = {}, {}
    for name, value in load_file(plain / WEIGHTS).items():
        if ".layers." in name and value.ndim == 2 and "mlp.gate." not in name:
            block = (rows or value.shape[0], columns or value.shape[1])
            values, scales, meant[name] = scaled(value.float(), *block, stored_as(torch.ones(1, 1)).dtype)
            stored[name], stored[name + suffix] = values, stored_as(scales).contiguous()
            stored[name.replace("weight", "input_scale")] = torch.ones(1)
        else:
            stored[name] = meant[name] = value.bfloat16()
    save_weights(plain, meant)
    folder.mkdir()
    for file in plain.iterdir():
        if file.is_file() and file.name != WEIGHTS:
            (folder / file.name).write_bytes(file.read_bytes())
    save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})
    edit_json(folder / "config.json", dtype="bfloat16", quantization_config=said)
    edit_json(plain / "config.json", dtype="float32")
    return folder


def pairs(home: Path, arch: str = "llama", kind: str = "blocks", **options: object) -> tuple[list[Path], list[Path]]:
    """Two experts, as what they mean and in float8; and their base in float8 beside the latter."""
    plain = relatives(home, arch, task="text-generation", **options)
    narrow = [in_float8(path, home / f"narrow-{number}", KINDS[kind]) for number, path in enumerate(plain)]
    in_float8(home / "base", home / "narrow-base", KINDS[kind])
    return plain, narrow


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return pairs(tmp_path_factory.mktemp("float8"))


def merged(experts: list[Path], out: Path, **options: object) -> dict[str, torch.Tensor]:
    fusehub.merge([str(path) for path in experts], out, **options)
    return weights_of(out)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_read_as_what_it_means_whole_and_by_rows(tmp_path, kind):
    plain = tiny_model(tmp_path / "plain", "qwen3", task="text-generation", hidden=32)
    narrow = in_float8(plain, tmp_path / "narrow", KINDS[kind])
    with Checkpoint(resolve(str(narrow))) as checkpoint:
        meant = weights_of(plain)
        assert set(checkpoint) == set(meant)
        for name, value in meant.items():
            assert torch.equal(checkpoint[name].float(), value.float()), name
            for start, stop in ((1, 3), (BLOCK - 5, BLOCK + 2), (len(value) - 1, len(value) + 5), (len(value), None)):
                assert torch.equal(checkpoint.read(name, start, stop).float(), value[start:stop].float()), name
        assert {info.dtype for info in checkpoint.tensors.values()} == {"BF16"}


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("mean", {}),
        ("ties", {"parameters": {"density": 0.5}}),
        ("slerp", {"parameters": {"t": 0.3}}),
        ("dare_linear", {"parameters": {"density": 0.5}}),
    ],
)
def test_a_merge_is_that_of_what_they_mean_bit_for_bit(models, tmp_path, method, options):
    plain, narrow = models
    home = plain[0].parent
    based = method in ("ties", "dare_linear")
    wanted = merged(
        plain, tmp_path / "plain", method=method, dtype="bfloat16", base_model=str(home / "base") if based else None,
        **options,
    )  # fmt: skip
    made = merged(
        narrow, tmp_path / "made", method=method, base_model=str(home / "narrow-base") if based else None, **options
    )
    assert same(made, wanted)
    config = json.loads((tmp_path / "made" / "config.json").read_text())
    assert config["dtype"] == "bfloat16" and "quantization_config" not in config
    require_loadable(tmp_path / "made")


def test_statistics_are_those_of_what_they_mean_and_solve_the_same(models, tmp_path):
    plain, narrow = models
    for number, path in enumerate(narrow):
        for stream in ("off", "on"):
            found = fusehub.collect(
                str(path), text_file(tmp_path, number), tmp_path / f"{stream}-{number}", stream=stream
            )
            found.close()
    # A whole model is of bfloat16, as transformers makes it.
    rounded = tmp_path / "rounded"
    shutil.copytree(plain[0], rounded)
    save_weights(rounded, {name: value.bfloat16() for name, value in weights_of(plain[0]).items()})
    edit_json(rounded / "config.json", dtype="bfloat16")
    fusehub.collect(str(rounded), text_file(tmp_path, 0), tmp_path / "plain-0").close()
    made = merged(
        narrow, tmp_path / "made", statistics={str(p): str(tmp_path / f"off-{i}") for i, p in enumerate(narrow)}
    )
    wanted = merged(
        plain, tmp_path / "wanted", dtype="bfloat16", allow_other_weights=True,
        statistics={str(path): str(tmp_path / f"off-{number}") for number, path in enumerate(plain)},
    )  # fmt: skip
    assert same(made, wanted)
    for other in ("on-0", "plain-0"):
        files = [next((tmp_path / folder).glob("*.safetensors")) for folder in ("off-0", other)]
        own, others = (load_file(file) for file in files)
        assert own.keys() == others.keys()
        assert all(torch.allclose(own[name].double(), others[name].double()) for name in own), other


def test_a_mixture_and_its_experts_are_read(tmp_path):
    plain, narrow = pairs(tmp_path, "qwen3_moe")
    assert same(
        merged(narrow, tmp_path / "made", method="mean"),
        merged(plain, tmp_path / "wanted", method="mean", dtype="bfloat16"),
    )


def within_a_step(weight: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether it is off by half a step of float8 at most: 2^-4 of a number, or 2^-10 of the scale of its block."""
    scale = wanted.abs().max() / LARGEST
    return bool(((weight - wanted).abs() <= 1.001 * torch.maximum(wanted.abs() * 2**-4, scale * 2**-10)).all())


@pytest.mark.parametrize("shape", [(256, 384), (3, 128), (128, 5)])
def test_what_is_written_is_off_by_half_a_step_at_most(shape):
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=random) * torch.logspace(-3, 3, shape[1])
    weight[:128, :128][0] = 0
    values, scales = as_float8(weight.double())
    assert values.shape == weight.shape and values.dtype == E4M3 and scales.dtype == torch.float32
    by_number = scales.repeat_interleave(128, 0).repeat_interleave(128, 1)[: shape[0], : shape[1]]
    for row in blocks_of(weight, 128, 128):
        for at in row:
            assert within_a_step(values[at].float() * by_number[at], weight[at])
            assert values[at].float().abs().max() == LARGEST
    again, once_more = as_float8(values.float() * by_number)
    assert torch.equal(again.view(torch.uint8), values.view(torch.uint8)) and torch.allclose(once_more, scales)


def test_zeros_and_the_least_numbers_stay_what_they_are():
    weight = torch.zeros(256, 128)
    weight[200] = torch.finfo(torch.float32).tiny
    values, scales = as_float8(weight)
    meant = values.float() * scales.repeat_interleave(128, 0)
    assert torch.equal(meant[:128], weight[:128]) and torch.isfinite(meant).all()
    assert (meant - weight).abs().max() <= torch.finfo(torch.float32).tiny


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Experts whose matrices have several blocks, some with a side that is no multiple; their merge in float32."""
    home = tmp_path_factory.mktemp("wide")
    experts = relatives(home, "llama", task="text-generation", hidden=256, layers=1, intermediate_size=192)
    return experts, merged(experts, home / "float32", method="mean"), home


def test_a_merge_in_float8_is_the_merge_within_a_step_and_loads(wide, monkeypatch):
    experts, wanted, home = wide
    monkeypatch.setattr(elementwise, "_PIECE_ELEMENTS", 2**12)  # Fewer than a block has.
    made = merged(experts, home / "made", method="mean", dtype="float8")
    narrow = {name for name, value in made.items() if value.dtype == E4M3}
    assert narrow == {name for name in wanted if "self_attn" in name}
    assert made.keys() - wanted.keys() == {f"{name}_scale_inv" for name in narrow}
    for name in narrow:
        for row, scales in zip(blocks_of(wanted[name], 128, 128), made[f"{name}_scale_inv"], strict=True):
            for at, scale in zip(row, scales, strict=True):
                assert within_a_step(made[name][at].float() * scale, wanted[name][at]), name
    assert all(torch.equal(made[name], wanted[name].bfloat16()) for name in wanted if name not in narrow)
    # As `save_file` lays it out.
    save_file(made, home / "again.safetensors", metadata={"format": "pt"})
    assert (home / "again.safetensors").read_bytes() == (home / "made" / WEIGHTS).read_bytes()
    config = json.loads((home / "made" / "config.json").read_text())
    assert config["dtype"] == "bfloat16" and config["quantization_config"]["weight_block_size"] == [128, 128]
    assert {"lm_head", "model.embed_tokens"} <= set(config["quantization_config"]["modules_to_not_convert"])
    require_loadable(home / "made")
    # transformers and FuseHub read the same numbers.
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(home / "made")
    with Checkpoint(resolve(str(home / "made"))) as checkpoint:
        for name in narrow:
            assert torch.equal(network.get_parameter(name), checkpoint[name].to(network.dtype)), name
    # Merged with itself it is itself.
    twice = merged([home / "made"] * 2, home / "twice", method="mean", dtype="float8")
    assert all(torch.equal(made[name].view(torch.uint8), twice[name].view(torch.uint8)) for name in narrow)


def test_scales_are_in_the_file_of_what_they_are_of(wide, tmp_path):
    experts, *_ = wide
    many = merged(experts, tmp_path / "many", method="mean", dtype="float8", max_shard_size=100_000)
    files = [load_file(file) for file in (tmp_path / "many").glob("*.safetensors")]
    assert len(files) > 3 and same(many, {name: value for held in files for name, value in held.items()})
    for held in files:
        assert all(f"{name}_scale_inv" in held for name, value in held.items() if value.dtype == E4M3)
    require_loadable(tmp_path / "many")


@pytest.mark.parametrize(
    ("said", "named", "way"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq", "original float weights"),
        ({"quant_method": "awq"}, "awq", "original float weights"),
        ({"load_in_4bit": True}, "bitsandbytes", "dequantize()"),
        ({"quant_method": "mxfp4"}, "mxfp4", "Mxfp4Config"),
        (compressed("channel") | {"format": "pack-quantized"}, "compressed-tensors, pack-quantized", "only float8"),
        (compressed("channel", type="int"), "int of 8 bits", "only float8"),
        (compressed("tensor") | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse", "only float8"),
        ({"quant_method": "fp8", "expert_dtype": "fp4"}, "experts in fp4", "original float weights"),
        ({"quant_method": "fp8", "weight_block_size": [128, 0]}, "[128, 0]", "1 or more"),
    ],
)
def test_other_quantisations_are_refused_by_name(models, tmp_path, said, named, way):
    plain, _ = models
    edit_json(plain[1] / "config.json", quantization_config=said)
    try:
        with pytest.raises(Incompatible) as error:
            fusehub.merge([str(path) for path in plain], tmp_path / "made", method="mean")
    finally:
        edit_json(plain[1] / "config.json", "quantization_config")
    assert named in str(error.value) and way in str(error.value)


def test_scales_that_do_not_fit_are_refused(tmp_path):
    narrow = in_float8(tiny_model(tmp_path / "plain", "llama", task="text-generation"), tmp_path / "narrow")
    tensors = load_file(narrow / WEIGHTS)
    name = next(name for name in tensors if name.endswith("up_proj.weight_scale_inv"))
    save_weights(narrow, {**tensors, name: tensors[name][:-1]})
    with pytest.raises(BadFile, match=rf"{name} is \[.*one scale a block of 12 x 12"):
        Checkpoint(resolve(str(narrow)))
    del tensors[name]
    save_weights(narrow, tensors)
    report = fusehub.check([str(narrow), str(tmp_path / "plain")])
    assert any(finding.code == "quantised" and "F8_E4M3" in finding.what for finding in report.findings)


def test_a_model_without_a_matrix_that_can_be_float8_is_told(tmp_path):
    experts = relatives(tmp_path, "gpt2", task="text-generation")
    with pytest.raises(BadRecipe, match="no linear layer that can be stored in float8"):
        merged(experts, tmp_path / "made", method="mean", dtype="float8")


def test_experts_that_keep_their_heads_share_a_body_in_float8(tmp_path):
    experts = relatives(tmp_path, labels=(("a", "b"), ("c", "d", "e")))
    fusehub.merge([str(path) for path in experts], tmp_path / "made", method="mean", heads="keep", dtype="float8")
    for name in ("expert-0", "expert-1"):
        require_loadable(tmp_path / "made" / name)
        config = json.loads((tmp_path / "made" / name / "config.json").read_text())
        apart = config["quantization_config"]["modules_to_not_convert"]
        # Of a layer that is in float8, the bias is not.
        assert "classifier" in apart and not any("layer.0" in own and "LayerNorm" not in own for own in apart)


def test_a_method_that_runs_what_it_merged_runs_it_as_it_is_stored(tmp_path):
    experts = relatives(tmp_path, "llama", task="text-generation")
    data = {str(path): text_file(tmp_path, number) for number, path in enumerate(experts)}
    made = merged(experts, tmp_path / "made", method="regmean_plus_plus", data=data, dtype="float8")
    assert sum(value.dtype == E4M3 for value in made.values()) == 14
    require_loadable(tmp_path / "made")
