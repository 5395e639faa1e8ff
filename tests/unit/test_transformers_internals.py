"""What is asked of transformers beyond what it promises: each answer, so that a version that changed one is named."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import transformers
from packaging.version import Version
from transformers import conversion_mapping, core_model_loading

from fusehub.errors import Incompatible
from fusehub.models import transformers_internals as internals

ROOT = Path(__file__).parents[2]


def model(name: str, **said) -> transformers.PreTrainedModel:
    config = getattr(transformers, f"{name.partition('For')[0].removesuffix('LMHeadModel')}Config")(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=11, **said
    )
    make = internals.model_class(name)
    assert make is not None
    return make(config)


def test_the_versions_that_are_said_to_work_are_those_that_are_allowed_and_tried() -> None:
    oldest, newest = map(Version, internals.KNOWN)
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"transformers>={oldest},<6" in needed
    assert oldest.release <= Version(transformers.__version__).release[:2] <= newest.release


def test_a_class_that_there_is_not_is_told_apart() -> None:
    assert internals.model_class("NoSuchModel") is None


def test_stored_names() -> None:
    bert = model("BertForSequenceClassification")
    stored = ["embeddings.LayerNorm.gamma", "bert.pooler.dense.bias", "classifier.bias", "cls.predictions.bias"]
    found = internals.stored_names(bert, stored)
    assert found == {
        stored[0]: ("bert.embeddings.LayerNorm.weight", ("bert.embeddings.LayerNorm.weight",)),
        stored[1]: (stored[1], (stored[1],)),
        stored[2]: (stored[2], (stored[2],)),
    }


def test_names_of_what_is_fused() -> None:
    mixtral = model("MixtralForCausalLM", num_local_experts=2, num_key_value_heads=2)
    fused = {one.ending: one.sources for one in internals.fused(mixtral)}
    ending, sources = next((ending, own) for ending, own in fused.items() if len(own) == 2)
    assert ending.endswith("experts.gate_up_proj")
    assert [source.rpartition("experts.")[2] for source in sources] == ["*.w1.weight", "*.w3.weight"]
    name = "model.layers.0.block_sparse_moe.experts.1.w3.weight"
    stored = internals.stored_names(mixtral, [name])[name]
    assert stored.parameters == ("model.layers.0.mlp.experts.gate_up_proj",)
    assert stored.merged_as.endswith("experts.1.w3.weight")


def test_tied_names() -> None:
    gpt2 = model("GPT2LMHeadModel")
    assert internals.tied_names(gpt2) == {"lm_head.weight": "transformer.wte.weight"}


def test_names_that_are_left_over_or_may_be_missing() -> None:
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    t5 = model("T5ForConditionalGeneration", **sizes)
    assert internals.left_over(t5) == ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)
    bart = model("BartForConditionalGeneration", d_model=8, encoder_attention_heads=2, decoder_attention_heads=2)
    assert internals.may_be_missing(bart) == ("final_logits_bias",)
    assert internals.may_be_missing(t5) == ()


def test_classes_of_a_task() -> None:
    classes = internals.classes_of("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES")
    assert classes["bert"] == "BertForSequenceClassification"


@pytest.mark.parametrize(
    ("module", "gone"),
    [(core_model_loading, "rename_source_key"), (conversion_mapping, "get_model_conversion_mapping")],
)
def test_a_version_that_has_changed_it_is_named_with_those_that_work(monkeypatch, module, gone) -> None:
    bert = model("BertForSequenceClassification")
    monkeypatch.delattr(module, gone)
    with pytest.raises(Incompatible) as caught:
        internals.stored_names(bert, ["classifier.bias"])
    assert f"transformers {transformers.__version__}" in caught.value.what
    assert gone in caught.value.what
    assert all(version in caught.value.fix for version in internals.KNOWN)
