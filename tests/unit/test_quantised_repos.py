"""Repos of the Hub in fewer bits, as people publish them: float8 goes the whole way, others are refused by name."""

import json

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, hf_hub_download
from safetensors.torch import load_file, save_file

from tests.unit.experts import WEIGHTS, edit_json, text_file, weights_of
from tests.unit.test_float8 import BLOCK, E4M3, KINDS, blocks_of, in_float8, relatives, within_a_step
from tests.unit.tiny import tiny_model

# As DeepSeek-V3 and Qwen3 say it, and as vLLM's compressor writes it; but for the size of blocks.
BLOCKS = {
    "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK],
    "modules_to_not_convert": ["lm_head", "model.layers.0.input_layernorm"],
}  # fmt: skip
CHANNELS = {
    "config_groups": {
        "group_0": {
            "input_activations": {
                "actorder": None, "block_structure": None, "dynamic": True, "group_size": None, "num_bits": 8,
                "observer": None, "observer_kwargs": {}, "strategy": "token", "symmetric": True, "type": "float",
            },
            "output_activations": None,
            "targets": ["Linear"],
            "weights": {
                "actorder": None, "block_structure": None, "dynamic": False, "group_size": None, "num_bits": 8,
                "observer": "minmax", "observer_kwargs": {}, "strategy": "channel", "symmetric": True, "type": "float",
            },
        }
    },
    "format": "float-quantized", "global_compression_ratio": 1.46, "ignore": ["lm_head"], "kv_cache_scheme": None,
    "quant_method": "compressed-tensors", "quantization_status": "compressed",
}  # fmt: skip
SAID = {
    "blocks": (BLOCKS, *KINDS["blocks"][1:]),
    "compressed": (CHANNELS, "_scale", 1, 0, lambda scales: scales.bfloat16()),
}


def pushed(hub, repo, folder, card="---\ntags:\n- fp8\n- compressed-tensors\nlicense: mit\n---\n"):
    (folder / "README.md").write_text(card)
    api = HfApi(endpoint=hub.url, token=hub.token("ann"))
    api.create_repo(repo)
    api.upload_folder(repo_id=repo, folder_path=folder)
    return repo


def fetched(hub, repo, folder):
    """A folder with the repo's card, config and weights."""
    for name in ("README.md", "config.json", WEIGHTS):
        hf_hub_download(repo, name, local_dir=folder, endpoint=hub.url, token=hub.token("ann"))
    return folder


@pytest.fixture(scope="module", params=SAID)
def published(request, hub, ann, tmp_path_factory):
    """Experts in float8 on the Hub of ann, and the folders of what they mean."""
    home = tmp_path_factory.mktemp(request.param)
    plain = relatives(home, "llama", task="text-generation", hidden=128, intermediate_size=256, layers=2)
    repos = [
        pushed(hub, f"ann/{request.param}-{number}", in_float8(path, home / f"narrow-{number}", SAID[request.param]))
        for number, path in enumerate(plain)
    ]
    return plain, repos


def test_float8_at_the_hub_is_checked_merged_and_pushed_as_what_it_means(published, hub, ann, tmp_path):
    plain, repos = published
    report = ann.json("check", *repos)
    assert report["ok"] and [f["code"] for f in report["findings"]].count("float8") == 2
    ann("merge", *repos, "--method", "mean", "--out", tmp_path / "merged")
    ann("merge", *plain, "--method", "mean", "--dtype", "bfloat16", "--out", tmp_path / "wanted")
    made, wanted = weights_of(tmp_path / "merged"), weights_of(tmp_path / "wanted")
    assert made.keys() == wanted.keys() and all(torch.equal(made[name], wanted[name]) for name in made)
    ann("publish", tmp_path / "merged", to := f"{repos[0]}-merged")
    there = fetched(hub, to, tmp_path / "there")
    config = json.loads((there / "config.json").read_text())
    assert config["dtype"] == "bfloat16" and "quantization_config" not in config
    assert {value.dtype for value in load_file(there / WEIGHTS).values()} == {torch.bfloat16}
    card = ModelCard.load(there / "README.md")
    assert not {"fp8", "float8", "compressed-tensors", "8-bit"} & set(card.data.tags)
    assert "quantization" not in card.content and "quantized" not in card.content


def test_a_merge_in_float8_is_read_again_from_the_hub_within_a_step(published, hub, ann, tmp_path):
    plain, repos = published
    ann("merge", *repos, "--method", "mean", "--dtype", "float8", "--out", tmp_path / "narrow")
    ann("merge", *plain, "--method", "mean", "--dtype", "float32", "--out", tmp_path / "wanted")
    ann("publish", tmp_path / "narrow", to := f"{repos[0]}-float8")
    there = fetched(hub, to, tmp_path / "there")
    stored, wanted = load_file(there / WEIGHTS), weights_of(tmp_path / "wanted")
    narrow = [name for name, value in stored.items() if value.dtype == E4M3]
    said = json.loads((there / "config.json").read_text())["quantization_config"]
    assert len(narrow) == 14 and said["quant_method"] == "fp8" and said["weight_block_size"] == [128, 128]
    # Read by a merge of it with itself, in numbers that are wide enough for all of a step.
    ann("merge", to, to, "--method", "mean", "--dtype", "float32", "--out", tmp_path / "again")
    again = weights_of(tmp_path / "again")
    assert again.keys() == wanted.keys()
    for name in narrow:
        assert all(within_a_step(again[name][at], wanted[name][at]) for row in blocks_of(wanted[name], 128, 128)
                   for at in row), name  # fmt: skip
        assert not torch.equal(again[name], wanted[name])
    ann("merge", to, to, "--method", "mean", "--dtype", "float8", "--out", tmp_path / "twice")
    twice = load_file(tmp_path / "twice" / WEIGHTS)
    assert all(torch.equal(twice[name].view(torch.uint8), stored[name].view(torch.uint8)) for name in narrow)


BITSANDBYTES = {
    "_load_in_4bit": True, "_load_in_8bit": False, "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8", "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True,
    "llm_int8_enable_fp32_cpu_offload": False, "llm_int8_has_fp16_weight": False, "llm_int8_skip_modules": None,
    "llm_int8_threshold": 6.0, "load_in_4bit": True, "load_in_8bit": False, "quant_method": "bitsandbytes",
}  # fmt: skip
GPTQ = {
    "bits": 4, "checkpoint_format": "gptq", "damp_percent": 0.01, "desc_act": True, "group_size": 128,
    "lm_head": False, "meta": {"quantizer": ["gptqmodel:1.4.0"]}, "quant_method": "gptq", "sym": True,
    "true_sequential": True,
}  # fmt: skip
AWQ = {
    "backend": "autoawq", "bits": 4, "do_fuse": False, "group_size": 128, "modules_to_not_convert": None,
    "quant_method": "awq", "version": "gemm", "zero_point": True,
}  # fmt: skip


def packed(name, rows, columns):
    """What each kind stores in the place of a weight [rows, columns]: names and tensors."""
    own = name.removesuffix(".weight")
    groups = -(-columns // 128)
    return {
        "bitsandbytes": {
            name: torch.zeros(rows * columns // 2, 1, dtype=torch.uint8),
            f"{name}.absmax": torch.zeros(rows * columns // 64, dtype=torch.uint8),
            f"{name}.quant_map": torch.zeros(16),
            f"{name}.nested_absmax": torch.zeros(1),
            f"{name}.nested_quant_map": torch.zeros(256),
            f"{name}.quant_state.bitsandbytes__nf4": torch.zeros(90, dtype=torch.uint8),
        },
        "gptq": {
            f"{own}.qweight": torch.zeros(columns // 8, rows, dtype=torch.int32),
            f"{own}.qzeros": torch.zeros(groups, rows // 8, dtype=torch.int32),
            f"{own}.scales": torch.zeros(groups, rows, dtype=torch.float16),
            f"{own}.g_idx": torch.zeros(columns, dtype=torch.int32),
        },
        "awq": {
            f"{own}.qweight": torch.zeros(columns, rows // 8, dtype=torch.int32),
            f"{own}.qzeros": torch.zeros(groups, rows // 8, dtype=torch.int32),
            f"{own}.scales": torch.zeros(groups, rows, dtype=torch.float16),
        },
    }


@pytest.mark.parametrize(
    ("kind", "said", "way"),
    [
        ("bitsandbytes", BITSANDBYTES, "after model.dequantize()"),
        ("gptq", GPTQ, "the repo with the original float weights"),
        ("awq", AWQ, "the repo with the original float weights"),
    ],
)
def test_other_bits_are_refused_by_name_wherever_such_a_repo_is_given(hub, ann, tmp_path, kind, said, way):
    folder = tiny_model(tmp_path / kind, "llama", task="text-generation", hidden=32)
    sound = tiny_model(tmp_path / "sound", "llama", task="text-generation", hidden=32)
    stored = {}
    for name, value in load_file(folder / WEIGHTS).items():
        is_packed = ".layers." in name and value.ndim == 2
        stored |= packed(name, *value.shape)[kind] if is_packed else {name: value.half()}
    save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})
    edit_json(folder / "config.json", quantization_config=said, dtype="float16")
    repo = pushed(hub, f"ann/{kind}", folder)
    texts = text_file(tmp_path)
    for command in (
        ("merge", repo, sound, "--method", "mean", "--out", tmp_path / "out"),
        ("merge", sound, repo, "--method", "mean", "--dry-run"),
        ("collect", repo, "--data", texts, "--out", tmp_path / "out"),
        ("compare", repo, "--text", "a"),
    ):
        what, fix = ann.fails(*command)
        assert f"{repo} is quantised ({kind})" in what and way in fix, command
    report = json.loads(ann.told("check", repo, sound, "--json")["out"])
    assert not report["ok"] and f"{repo} is quantised ({kind})" in json.dumps(report)


def test_a_repo_of_gguf_alone_is_refused_by_name(hub, ann, tmp_path):
    api = HfApi(endpoint=hub.url, token=hub.token("ann"))
    sound = tiny_model(tmp_path / "sound", "llama", task="text-generation")
    for repo, more in (("ann/bare-gguf", []), ("ann/with-config-gguf", ["config.json"])):
        folder = tmp_path / repo.partition("/")[2]
        folder.mkdir()
        (folder / "model-Q4_K_M.gguf").write_bytes(b"GGUF" + bytes(64))
        for name in more:
            (folder / name).write_bytes((sound / name).read_bytes())
        api.create_repo(repo)
        api.upload_folder(repo_id=repo, folder_path=folder)
        what, fix = ann.fails("merge", repo, sound, "--method", "mean", "--out", tmp_path / "out")
        assert repo in what and "GGUF" in fix and "original weights" in fix
