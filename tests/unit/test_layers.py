"""What a model is made of, told from its config, against the real models."""

import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.pytorch_utils import Conv1D

from fusehub.errors import Incompatible
from fusehub.models.layout import layout_of
from fusehub.models.loading import load_model
from fusehub.models.resolve import resolve
from fusehub.models.tasks import load_config
from tests.unit.experts import WEIGHTS, edit_json
from tests.unit.tiny import ARCHITECTURES, tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    def make(arch, **options):
        return tiny_model(tmp_path_factory.mktemp(arch), arch, hidden=16, **options)

    return make


def layout(path):
    return layout_of(load_config(resolve(str(path))))


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
def test_the_linear_layers_are_those_of_the_model(model, arch, task):
    path = model(arch, task=task, labels=["O", "B-PER", "I-PER"])
    network, found = load_model(resolve(str(path))), layout(path)
    modules = {n: m for n, m in network.named_modules() if isinstance(m, torch.nn.Linear | Conv1D)}
    assert found.linears.keys() == {f"{name}.weight" for name in modules}
    for name, module in modules.items():
        linear = found.linears[f"{name}.weight"]
        assert linear.transposed == isinstance(module, Conv1D)
        x = torch.randn(2, linear.in_features)
        assert module(x).shape == (2, linear.out_features)
        assert (linear.bias is None) == (module.bias is None)
        weight = module.weight.T if linear.transposed else module.weight
        expected = x @ weight.T + (0 if module.bias is None else network.get_parameter(linear.bias))
        torch.testing.assert_close(module(x), expected)
    assert found.shapes == {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert found.architecture == type(network).__name__ and found.base_prefix == network.base_model_prefix


def test_only_gpt2_stores_its_weights_the_other_way_round(model):
    gpt2 = layout(model("gpt2"))
    assert {name.rsplit(".", 2)[1] for name, own in gpt2.linears.items() if own.transposed} == {
        "c_attn",
        "c_proj",
        "c_fc",
    }
    assert gpt2.linears["transformer.h.0.attn.c_attn.weight"].out_features == 3 * 16
    assert not gpt2.linears["score.weight"].transposed
    assert not any(own.transposed for own in layout(model("bert")).linears.values())


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_rows_that_belong_to_labels_are_those_of_the_head(model, arch):
    axes = layout(model(arch, labels=["a", "b", "c"])).label_axes
    assert axes and set(axes.values()) == {0}
    assert {name.rpartition(".")[0] for name in axes} == {
        {"roberta": "classifier.out_proj", "gpt2": "score", "llama": "score"}.get(arch, "classifier")
    }
    bias = arch not in ("gpt2", "llama")
    assert len(axes) == 1 + bias


def test_rows_of_labels_are_found_though_another_axis_is_as_long(model):
    """As many labels as features: only asking the architecture tells them apart."""
    axes = layout(model("bert", labels=[f"l{i}" for i in range(16)])).label_axes
    assert axes == {"classifier.weight": 0, "classifier.bias": 0}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_names_in_the_file_are_those_of_the_model(model, arch):
    path = model(arch)
    names = layout(path).names(load_file(path / WEIGHTS))
    network = load_model(resolve(str(path)))
    stored = load_file(path / WEIGHTS)
    assert set(names) == set(stored)
    for name, parameter in names.items():
        assert torch.equal(stored[name], network.state_dict()[parameter])


def test_old_names_mean_the_parameters_that_transformers_loads_them_into(model, tmp_path):
    path = model("bert")
    old = {}
    for name, value in load_file(path / WEIGHTS).items():
        name = re.sub(r"LayerNorm\.weight$", "LayerNorm.gamma", name)
        old[re.sub(r"LayerNorm\.bias$", "LayerNorm.beta", name)] = value
    old["bert.embeddings.position_ids"] = torch.arange(64)[None]
    save_file(old, path / WEIGHTS, metadata={"format": "pt"})
    names = layout(path).names(old)
    state = load_model(resolve(str(path))).state_dict()
    assert any(name.endswith("gamma") for name in names)
    assert "bert.embeddings.position_ids" not in names, "the model computes it"
    assert set(names.values()) == set(state)
    assert all(torch.equal(old[name], state[parameter]) for name, parameter in names.items())


def test_a_body_without_its_prefix_is_recognised(model):
    path = model("bert")
    bare = {name.removeprefix("bert."): value for name, value in load_file(path / WEIGHTS).items()}
    names = layout(path).names(bare)
    assert names["encoder.layer.0.output.dense.weight"] == "bert.encoder.layer.0.output.dense.weight"


def test_tied_weights_are_told(tmp_path):
    path = tiny_model(tmp_path / "m", "gpt2", task="text-generation", hidden=16)
    assert layout(path).tied == {"lm_head.weight": "transformer.wte.weight"}


def test_a_layout_costs_no_memory(model):
    """A config of seventy billion parameters."""
    path = model("llama")
    huge = {"hidden_size": 8192, "num_hidden_layers": 80, "intermediate_size": 28672, "num_attention_heads": 64}
    edit_json(path / "config.json", **huge, num_key_value_heads=8, head_dim=128)
    found = layout(path)
    assert sum(own.in_features * own.out_features for own in found.linears.values()) > 60e9


def test_an_architecture_that_transformers_does_not_have_is_named(model):
    path = model("bert")
    edit_json(path / "config.json", architectures=["BertForDreamsForSequenceClassification"])
    with pytest.raises(Incompatible, match="has no class BertForDreamsForSequenceClassification"):
        layout(path)
