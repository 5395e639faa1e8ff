"""What the collector counts of every kind of model, against raw inputs of one example at a time in float64."""

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from fusehub.collecting.gram_collector import GramCollector, Misjudged
from fusehub.models.layout import layout_of, linears_of
from fusehub.statistics.grams import unpack
from tests.unit.experts import rel

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24, "vocab_size": 90}
EXPERTS = TINY | {"num_key_value_heads": 2, "head_dim": 4, "num_experts_per_tok": 2}
CONFIGS = {
    "BertForQuestionAnswering": ("bert", TINY),
    "BertForMaskedLM": ("bert", TINY),
    "DebertaV2ForTokenClassification": (
        "deberta-v2",
        TINY
        | {"relative_attention": True, "position_buckets": -1, "max_relative_positions": 12}
        | {"pos_att_type": ["p2c", "c2p"], "share_att_key": True, "position_biased_input": False},
    ),
    "GPT2LMHeadModel": ("gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 4, "vocab_size": 90}),
    "LlamaForSequenceClassification": ("llama", TINY | {"num_key_value_heads": 2, "pad_token_id": 0}),
    "Qwen3ForCausalLM": ("qwen3", TINY | {"num_key_value_heads": 2, "head_dim": 4}),
    "Qwen3MoeForCausalLM": ("qwen3_moe", EXPERTS | {"num_experts": 5, "moe_intermediate_size": 12}),
    "MixtralForCausalLM": ("mixtral", EXPERTS | {"num_local_experts": 4}),
    "T5ForConditionalGeneration": (
        "t5",
        {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4, "vocab_size": 90, "pad_token_id": 0}
        | {"decoder_start_token_id": 0},
    ),
    "BartForConditionalGeneration": (
        "bart",
        {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 90, "encoder_ffn_dim": 24}
        | {"decoder_ffn_dim": 24, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "pad_token_id": 0},
    ),
    "BartForSequenceClassification": (
        "bart",
        {"d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "vocab_size": 90, "encoder_ffn_dim": 24}
        | {"decoder_ffn_dim": 24, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "pad_token_id": 0}
        | {"eos_token_id": 2, "decoder_start_token_id": 2},
    ),
    # Its experts are linear layers of their own, called on the tokens that are routed to them.
    "SwitchTransformersForConditionalGeneration": (
        "switch_transformers",
        {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4, "vocab_size": 90, "num_experts": 4}
        | {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "pad_token_id": 0, "expert_capacity": 64}
        | {"decoder_start_token_id": 0},
    ),
    "ViTForImageClassification": ("vit", TINY | {"image_size": 12, "patch_size": 4}),
    "SwinForImageClassification": (
        "swin",
        {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4},
    ),
}


def model_of(architecture):
    kind, settings = CONFIGS[architecture]
    config = transformers.AutoConfig.for_model(kind, architectures=[architecture], **settings)
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model, layout_of(config)


def examples_of(architecture):
    """Examples of one row each, of all lengths; encoder and decoder lengths coincide in some."""
    generator = torch.Generator().manual_seed(1)
    if CONFIGS[architecture][0] in ("vit", "swin"):
        size = CONFIGS[architecture][1]["image_size"]
        return [{"pixel_values": torch.rand(1, 3, size, size, generator=generator)} for _ in range(7)]
    made = []
    for encoder, decoder in ((3, 5), (9, 9), (4, 9), (9, 2), (7, 7), (1 + 4, 5), (11, 6), (7, 3)):
        ids = torch.randint(3, 90, (1, encoder), generator=generator)
        ids[0, -1] = 2
        made.append({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        if "ConditionalGeneration" in architecture:
            ids = torch.randint(3, 90, (1, decoder), generator=generator)
            made[-1] |= {"decoder_input_ids": ids, "decoder_attention_mask": torch.ones_like(ids)}
    return made


def batch_of(examples):
    """The examples as one batch, padded on the right with zeros."""
    batch = {}
    for name in examples[0]:
        longest = max(example[name].shape[1] for example in examples)
        rows = [example[name] for example in examples]
        if rows[0].ndim == 2:
            rows = [nn.functional.pad(row, (0, longest - row.shape[1])) for row in rows]
        batch[name] = torch.cat(rows)
    return batch


def collected(model, layout, examples, size, verdicts=None):
    """Weight -> (S, s, n) of what the collector counts in batches of `size`; starts over as `collect` does."""
    try:
        return _collected(model, layout, examples, size, verdicts)
    except Misjudged as error:
        return collected(model, layout, examples, size, (verdicts or {}) | {error.weight: error.verdict})


def _collected(model, layout, examples, size, verdicts):
    probe = {name: value.repeat(3, *[1] * (value.ndim - 1)) for name, value in examples[6].items()}
    for name, value in probe.items():
        if value.ndim == 2:
            length = 7 if name.startswith("decoder") else 11
            probe[name] = torch.cat([value.repeat(1, 4)[:, : length - 1], value[:, -1:]], dim=1)
    with GramCollector(model, linears_of(model), parts=layout.parts, verdicts=verdicts) as collector:
        collector.probe(probe)
        for start in range(0, len(examples), size):
            for _, part in collector.parts(batch_of(examples[start : start + size])):
                with torch.inference_mode(), collector.counting(part):
                    model(**part)
    own = {name: (unpack(s.packed(), s.size).numpy(), s.total.numpy(), s.rows) for name, s in collector.sums.items()}
    aliases = collector.aliases
    return {name: own[aliases.get(name, name)] for name in {*own, *aliases}}, collector


def raw(model, layout, examples):
    """The rows that each linear layer and each fused expert is given, one example at a time: float64 [rows, in]."""
    rows = {}

    def keep(name, x):
        rows.setdefault(name, []).append(x.detach().reshape(-1, x.shape[-1]).double().numpy())

    def expert_hook(module, args, name):
        hidden, chosen = args[0].reshape(-1, args[0].shape[-1]), args[1]
        for token, experts in zip(hidden, chosen.reshape(len(hidden), -1).tolist(), strict=True):
            for expert in experts:
                gate, up = (module.gate_up_proj[expert] @ token).chunk(2)
                inputs = {"gate_up_proj": token, "down_proj": nn.functional.silu(gate) * up}
                for weight, part in layout.parts.items():
                    if part.parameter.startswith(f"{name}.") and part.expert == expert:
                        keep(weight, inputs[part.parameter.rpartition(".")[2]])

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            handles.append(
                module.register_forward_pre_hook(lambda _, args, name=name: keep(f"{name}.weight", args[0]))
            )
        elif any(part.parameter.startswith(f"{name}.") for part in layout.parts.values()) and name.endswith("experts"):
            handles.append(module.register_forward_pre_hook(lambda own, args, name=name: expert_hook(own, args, name)))
    with torch.inference_mode():
        for example in examples:
            model(**example)
    for handle in handles:
        handle.remove()
    return {name: np.concatenate(own) for name, own in rows.items()}


@pytest.mark.parametrize("architecture", CONFIGS)
def test_every_kind_of_model_is_counted_as_if_each_example_ran_alone(architecture):
    model, layout = model_of(architecture)
    examples = examples_of(architecture)
    expected = {name: rows for name, rows in raw(model, layout, examples).items() if len(rows)}
    for size in (3, 8):
        found, collector = collected(model, layout, examples, size)
        assert found.keys() == expected.keys()
        for name, rows in expected.items():
            gram, total, count = found[name]
            assert count == len(rows), name
            assert rel(gram, rows.T @ rows) < 1e-5, name
            assert np.linalg.norm(total - rows.sum(0)) < 1e-5 * np.linalg.norm(rows) * np.sqrt(len(rows)), name
    assert set(found) <= set(collector.weights)


def test_encoder_and_decoder_masks_are_not_mixed_up_where_lengths_coincide():
    """In T5's cross-attention, keys and values have the encoder's rows and queries the decoder's."""
    model, layout = model_of("T5ForConditionalGeneration")
    examples = examples_of("T5ForConditionalGeneration")
    found, collector = collected(model, layout, examples, 8)
    encoder = sum(example["input_ids"].shape[1] for example in examples)
    decoder = sum(example["decoder_input_ids"].shape[1] for example in examples)
    batch = batch_of(examples)
    assert encoder != decoder
    assert batch["input_ids"].shape[1] == 11 and batch["decoder_input_ids"].shape[1] == 9
    cross = "decoder.block.0.layer.1.EncDecAttention"
    assert [found[f"{cross}.{own}.weight"][2] for own in "qkv"] == [decoder, encoder, encoder]
    # Every decoder layer's keys and values read the encoder's last state: one gram for all of them.
    assert collector.aliases["decoder.block.1.layer.1.EncDecAttention.v.weight"] == f"{cross}.k.weight"


class Attention(nn.Module):
    """An encoder with torch's own attention, whose projections no hook sees."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(90, 16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.head = nn.Linear(16, 2)

    def forward(self, input_ids, attention_mask):
        x = self.embedding(input_ids)
        return self.head(self.attention(x, x, x, key_padding_mask=attention_mask == 0)[0])


def test_projections_that_no_hook_sees_are_named():
    model = Attention().eval()
    ids = torch.randint(0, 90, (3, 11))
    with GramCollector(model, linears_of(model)) as collector:
        collector.probe({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        with torch.inference_mode(), collector.counting({"input_ids": ids}):
            model(ids, torch.ones_like(ids))
    assert set(collector.sums) == {"head.weight"}
    assert set(collector.weights) == {"head.weight", "attention.in_proj_weight", "attention.out_proj.weight"}


class PadsItself(nn.Module):
    """Fills up its rows to a multiple of 8, as models with windows do."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(90, 16)
        self.inner, self.head = nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, input_ids, attention_mask):
        x = self.embedding(input_ids)
        length = x.shape[1]
        x = nn.functional.pad(x, (0, 0, 0, -length % 8))
        return self.head(self.inner(x)[:, :length])


def test_rows_that_are_made_up_are_never_counted():
    model = PadsItself().eval()
    ids = torch.randint(0, 90, (3, 11))
    with GramCollector(model, linears_of(model)) as collector:
        collector.probe({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        with torch.inference_mode(), collector.counting({"input_ids": ids}):
            model(ids, torch.ones_like(ids))
    assert set(collector.sums) == {"head.weight"} and "inner.weight" in collector.weights
