"""Configs are compared by what they make a model compute, not by how they are written."""

import json
import warnings

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification

from fusehub.checking.check import check
from fusehub.checking.config_effects import flat
from fusehub.checking.configs import config_differences, effects_by_key
from fusehub.errors import Incompatible
from fusehub.models.resolve import resolve
from fusehub.models.tasks import load_config
from tests.unit.experts import edit_json, relatives
from tests.unit.tiny import tiny_model


def pair(folder, arch, mine, theirs, **options):
    """Two models of one config but for what each has of its own in its file."""
    paths = relatives(folder, arch, layers=2, **options)
    for path, own in zip(paths, (mine, theirs), strict=True):
        left_out = [key for key, value in own.items() if value is None]
        edit_json(path / "config.json", *left_out, **{key: own[key] for key in own if key not in left_out})
    return paths


def said(paths, level):
    """What a check says of the configs at one level."""
    findings = check(list(map(str, paths))).findings
    return [f.what for f in findings if f.code == "config-differs" and f.level == level]


SPELLINGS = {
    "whole and decimal numbers": ("llama", {"rope_theta": 1000000}, {"rope_theta": 1000000.0}),
    "a number as float32 has it": ("llama", {"rms_norm_eps": 1e-5}, {"rms_norm_eps": 9.999999747378752e-06}),
    "numbers within": (
        "llama",
        {"rope_scaling": {"rope_type": "linear", "factor": 2}},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    ),
    "the old key beside the new one": (
        "llama",
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 2.0}},
    ),
    "the old keys and the new one": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0}},
        {"rope_theta": 5000, "rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": None},
    ),
    "a default that is said": ("llama", {"head_dim": 4, "mlp_bias": False}, {"mlp_bias": None}),
    "another name of the same": ("gpt2", {"n_embd": 16}, {"hidden_size": 16, "n_embd": None}),
    "another name of the dtype": ("bert", {"torch_dtype": "float16"}, {"dtype": "float32"}),
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_one_thing_that_is_written_in_two_ways_is_no_difference(tmp_path, case):
    arch, mine, theirs = SPELLINGS[case]
    paths = pair(tmp_path, arch, mine, theirs)
    if arch == "llama" and "rope_parameters" not in mine:
        for path in paths:
            edit_json(path / "config.json", "rope_parameters")
    assert config_differences(*(resolve(str(path)) for path in paths)) == []
    assert check(list(map(str, paths))).ok


HARMLESS = [
    ("llama", {"unsloth_version": "2024.9", "unsloth_fixed": True}),
    ("llama", {"max_window_layers": 3, "use_sliding_window": False, "pretraining_tp": 2}),
    ("gpt2", {"attn_pdrop": 0.3, "resid_pdrop": 0.2, "embd_pdrop": 0.0}),
    ("gpt2", {"summary_first_dropout": 0.4}),
    ("bart", {"encoder_layerdrop": 0.2, "decoder_layerdrop": 0.1, "activation_dropout": 0.3}),
    ("modernbert", {"deterministic_flash_attn": True, "initializer_range": 0.5}),
    ("qwen3_moe", {"router_aux_loss_coef": 0.5}),
    ("mixtral", {"router_jitter_noise": 0.2}),
    ("distilbert", {"qa_dropout": 0.3, "sinusoidal_pos_embds": True}),
]


@pytest.mark.parametrize(("arch", "own"), HARMLESS)
def test_keys_that_change_no_answer_are_noted(tmp_path, arch, own):
    task = {"bart": "text2text-generation", "llama": "text-generation"}.get(arch, "text-classification")
    paths = [tiny_model(tmp_path / name, arch, layers=1, task=task) for name in ("a", "b")]
    edit_json(paths[1] / "config.json", **own)
    assert said(paths, "error") == said(paths, "warning") == []
    (note,) = said(paths, "note")
    assert "changes no answer" in note and all(key in note for key in own)


def test_another_length_is_noted_where_positions_are_rotary_and_refused_where_they_are_learned(tmp_path):
    rotary = pair(tmp_path / "rotary", "llama", {}, {"max_position_embeddings": 128})
    assert check(list(map(str, rotary))).ok
    assert any("a" in note and "has 64" in note and "has 128" in note for note in said(rotary, "note"))
    learned = pair(tmp_path / "learned", "bert", {}, {"max_position_embeddings": 128})
    assert any("max_position_embeddings" in error for error in said(learned, "error"))
    scaled = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    growing = pair(
        tmp_path / "growing",
        "llama",
        {"rope_parameters": scaled},
        {"rope_parameters": scaled, "max_position_embeddings": 128},
    )
    assert any("max_position_embeddings" in error for error in said(growing, "error")), "frequencies depend on it"


COMPUTING = [
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}, "rope_parameters.rope_theta"),
    (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
        "rope_parameters.factor",
    ),
    ("qwen3_moe", {"norm_topk_prob": True}, "norm_topk_prob"),
    ("qwen3_moe", {"num_experts_per_tok": 3}, "num_experts_per_tok"),
    ("roberta", {"pad_token_id": 3}, "pad_token_id"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ("gpt2", {"activation_function": "relu"}, "activation_function"),
    ("modernbert", {"local_attention": 4}, "local_attention"),
]


@pytest.mark.parametrize(("arch", "own", "key"), COMPUTING)
def test_keys_that_change_what_is_computed_are_refused_by_their_name(tmp_path, arch, own, key):
    paths = pair(tmp_path, arch, {}, own)
    assert any(f"config {key}: " in error for error in said(paths, "error"))
    with pytest.raises(Incompatible, match="--ignore config-differs"):
        check(list(map(str, paths))).require_ok()


def test_two_names_of_one_activation_are_no_difference(tmp_path):
    paths = pair(tmp_path, "gpt2", {"activation_function": "gelu_new"}, {"activation_function": "gelu_pytorch_tanh"})
    assert said(paths, "error") == []


def test_tokens_that_end_texts_are_noted_and_those_that_a_head_reads_are_a_warning(tmp_path):
    paths = [tiny_model(tmp_path / name, "llama", layers=1, task="text-generation") for name in ("a", "b")]
    edit_json(paths[1] / "config.json", eos_token_id=[1, 2], pad_token_id=3)
    assert said(paths, "error") == said(paths, "warning") == []
    assert any("eos_token_id" in note and "[1, 2]" in note for note in said(paths, "note"))
    classifiers = pair(tmp_path / "classifiers", "llama", {}, {"pad_token_id": 3})
    assert any("pad_token_id" in warning for warning in said(classifiers, "warning"))


def test_configs_within_a_config_are_compared_by_the_same_rules(tmp_path):
    from transformers import CLIPConfig, CLIPForImageClassification

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = CLIPConfig(text_config=small, vision_config={**small, "image_size": 16, "patch_size": 8})
    for name in ("a", "b"):
        CLIPForImageClassification(config).save_pretrained(tmp_path / name)
    saved = json.loads((tmp_path / "b" / "config.json").read_text())
    changed = {**saved["vision_config"], "attention_dropout": 0.5, "layer_norm_eps": 0.1, "left_over": 1}
    edit_json(tmp_path / "b" / "config.json", vision_config=changed)
    paths = [tmp_path / "a", tmp_path / "b"]
    assert [error.split(":")[0] for error in said(paths, "error")] == ["config vision_config.layer_norm_eps"]
    (note,) = said(paths, "note")
    assert "vision_config.attention_dropout" in note and "vision_config.left_over" in note


@pytest.mark.parametrize(
    "value", [[1], {"a": [None, {"b": 1}]}, "many", None, True, 1e400, -1, 0, [], {}, [[[]]]], ids=str
)
@pytest.mark.parametrize("key", ["num_attention_heads", "rope_parameters", "unheard_of", "attention_dropout"])
def test_values_of_any_kind_end_in_words(tmp_path, key, value):
    paths = [tiny_model(tmp_path / name, "llama", layers=1) for name in ("a", "b")]
    edit_json(paths[1] / "config.json", **{key: value})
    try:
        report = check(list(map(str, paths)))
    except Incompatible as error:
        assert "config" in error.what
    else:
        assert report.ok or any(f.level == "error" and f.what for f in report.findings)


def other(value):
    """Another value of the same kind; None where there is no telling which."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return value * 1.5 + 0.1 if isinstance(value, float) else None


SMALL = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32, "vocab_size": 40,
    "max_position_embeddings": 48, "num_key_value_heads": 2, "pad_token_id": 1, "num_labels": 3,
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "num_local_experts": 4,
    "embedding_size": 16, "d_kv": 4, "d_ff": 32, "head_dim": 4, "decoder_layers": 1, "decoder_ffn_dim": 32,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "n_positions": 48, "mask_token_id": 3, "ffn_hidden_size": 32,
    "num_ln_in_parallel_attn": None, "word_embed_proj_dim": 16, "ffn_dim": 32, "bos_token_id": 0, "eos_token_id": 2,
    "init_std": 0.5, "initializer_range": 0.5, "decoder_start_token_id": 0, "max_seq_len": 48,
    "query_pre_attn_scalar": 4, "sliding_window": 6,
}  # fmt: skip
WALKED = [
    *(
        "albert",
        "bart",
        "bert",
        "bloom",
        "deberta-v2",
        "distilbert",
        "electra",
        "esm",
        "falcon",
        "gemma",
        "gemma2",
        "gpt2",
    ),
    *("gpt_neox", "llama", "mistral", "mixtral", "modernbert", "mpt", "opt", "phi3", "qwen2", "qwen3", "qwen3_moe"),
    "roberta",
]


@pytest.mark.parametrize("arch", WALKED)
def test_no_key_that_changes_an_answer_is_called_harmless(arch):
    """Each number of a config is changed alone, the weights stay, and the model is run: the proof of the rules."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[arch](
        **{key: value for key, value in SMALL.items() if (arch, key) != ("falcon", "head_dim")}
    )
    # In float64, where what is computed in another order differs by nothing that counts.
    model = AutoModelForSequenceClassification.from_config(config, experts_implementation="eager").double().eval()
    config.architectures = [type(model).__name__]
    ids = torch.randint(4, 40, (2, 14))
    ids[1, 9:] = config.pad_token_id
    ids[0, 3] = 3
    ids[:, 0], ids[0, -1], ids[1, 8] = 0, 2, 2
    asked = {"input_ids": ids, "attention_mask": (ids != 1).long()}
    expected = answer(model, asked)
    assert expected.isfinite().all()
    asks = ("return_dict", "output_hidden_states", "use_cache", "output_attentions")  # What it gives beside answers.
    keys = {key: other(old) for key, old in flat(config.to_dict()).items() if key not in asks}
    changed = {key: value for key, value in keys.items() if value is not None}
    computing = 0
    for key, value in changed.items():
        effect = effects_by_key(config, {key: value})[key]
        computing += effect == "computes"
        if effect == "none":
            given = run_with(model, key, value, asked)
            assert given is not None and torch.allclose(given, expected, rtol=0, atol=1e-9), key
    assert 3 < computing < len(changed)


def answer(model, asked):
    with torch.inference_mode():
        return model(**asked).logits


def run_with(model, key, value, asked):
    """What the same weights answer with another value of one key; None where they do not fit any more."""
    said = model.config.to_dict()
    *way, last = key.split(".")
    place = said
    for part in way:
        place = place[part]
    place[last] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = type(model.config).from_dict(said, experts_implementation=model.config._experts_implementation)
        changed = type(model)(config).double().eval()
    try:
        changed.load_state_dict(model.state_dict())
    except RuntimeError:
        return None
    return answer(changed, asked)


def test_what_transformers_cannot_read_is_said_in_words(tmp_path):
    path = tiny_model(tmp_path / "a", "llama", layers=1)
    edit_json(path / "config.json", num_attention_heads=0)
    with pytest.raises(Incompatible, match="transformers cannot read its config"):
        load_config(resolve(str(path)))


@pytest.mark.parametrize(
    ("arch", "mine", "theirs", "key"),
    [
        ("t5", {"tie_word_embeddings": False, "scale_decoder_outputs": None},
         {"tie_word_embeddings": None, "scale_decoder_outputs": None}, "scale_decoder_outputs"),
        ("llama", {"model_type": "llama"}, {"model_type": "mistral"}, "model_type"),
    ],
)  # fmt: skip
def test_what_transformers_derives_from_other_keys_is_compared_too(tmp_path, arch, mine, theirs, key):
    task = "text2text-generation" if arch == "t5" else "text-classification"
    paths = pair(tmp_path, arch, mine, theirs, task=task)
    assert any(what.startswith(f"config {key}: ") for what in said(paths, "error")), said(paths, "error")


def test_activations_that_are_one_function_are_one(tmp_path):
    """Computed in two ways, their values differ in the last digits."""
    assert said(pair(tmp_path, "bert", {"hidden_act": "gelu"}, {"hidden_act": "gelu_python"}), "error") == []
    (tmp_path / "other").mkdir()
    [what] = said(pair(tmp_path / "other", "bert", {"hidden_act": "gelu"}, {"hidden_act": "gelu_new"}), "error")
    assert what.startswith("config hidden_act: ")
