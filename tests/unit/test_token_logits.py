"""Logits of some tokens in pieces: the same numbers as all at once, in bounded memory, by one run of the body."""

import json

import pytest
import torch

from fusehub.comparing import token_logits
from fusehub.comparing.token_logits import TokenLogits
from tests.unit.experts import run_python, text_file
from tests.unit.tiny import tiny_model

SMALL = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 32, "max_position_embeddings": 40}  # fmt: skip
# What these do with what their heads tell: nothing, caps, scales, and layers of the head's own.
NETWORKS = {
    "llama": ("CausalLM", {}),
    "gpt2": ("CausalLM", {"n_embd": 16, "n_layer": 2, "n_head": 4}),
    "gemma2": ("CausalLM", {"final_logit_softcapping": 0.5, "head_dim": 4, "num_key_value_heads": 2}),
    "cohere": ("CausalLM", {"logit_scale": 0.07}),
    "granite": ("CausalLM", {"logits_scaling": 7.0}),
    "qwen3_moe": ("CausalLM", {"moe_intermediate_size": 8, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 4}),
    "bert": ("MaskedLM", {}),
    "roberta": ("MaskedLM", {}),
    "distilbert": ("MaskedLM", {"dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 32}),
    "deberta-v2": ("MaskedLM", {}),
    "albert": ("MaskedLM", {"embedding_size": 8}),
    "modernbert": ("MaskedLM", {}),
    "electra": ("MaskedLM", {"embedding_size": 8}),
}


def network_of(arch: str):
    import transformers

    kind, more = NETWORKS[arch]
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    config = transformers.AutoConfig.for_model(arch, **SMALL | ids | more)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, f"AutoModelFor{kind}").from_config(config).eval()


@pytest.fixture
def batch():
    random = torch.Generator().manual_seed(1)
    mask = torch.ones(3, 20, dtype=torch.long)
    mask[1, 12:] = 0
    ids = torch.randint(3, 60, (3, 20), generator=random)
    places = (torch.rand(3, 20, generator=random) < 0.4) & mask.bool()
    return {"input_ids": ids * mask, "attention_mask": mask}, places


@pytest.mark.parametrize("arch", NETWORKS)
@torch.inference_mode()
def test_pieces_are_what_the_network_says_and_its_body_is_run_once(arch, batch, monkeypatch):
    inputs, places = batch
    network = network_of(arch)
    wanted = network(**inputs).logits[places]
    monkeypatch.setattr(token_logits, "_PIECE", 4 * 60 * 5)
    logits = TokenLogits(network)
    list(logits.of(inputs, places))
    runs = []
    first = next(module for name, module in network.named_modules() if name.endswith((".0", "albert_layers.0")))
    first.register_forward_hook(lambda *_: runs.append(1))
    network(**inputs)
    once, runs[:] = len(runs), []
    pieces = list(logits.of(inputs, places))
    assert [len(piece) for piece in pieces] == [5] * (len(wanted) // 5) + [len(wanted) % 5] * (len(wanted) % 5 > 0)
    assert torch.allclose(torch.cat(pieces), wanted, rtol=1e-5, atol=1e-6 * float(wanted.abs().max()))
    assert len(runs) == once
    assert torch.equal(network(**inputs).logits[places], wanted)


@torch.inference_mode()
def test_a_head_that_looks_at_other_tokens_is_run_whole(batch):
    inputs, places = batch
    network = network_of("llama")
    network.lm_head.register_forward_pre_hook(lambda _, args: (args[0] + args[0].mean(1, keepdim=True),))
    wanted = [network(**{name: value[row : row + 1] for name, value in inputs.items()}).logits[0] for row in range(3)]
    found = torch.cat(list(TokenLogits(network).of(inputs, places)))
    assert torch.equal(found, torch.stack(wanted)[places])


PEAK = """
import json, resource, sys
from fusehub.comparing.evaluate import evaluate
model, few, many = sys.argv[1:]
evaluate([model], {"texts": few})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
scores = evaluate([model], {"texts": many}, batch_size=32).scores
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps([scores[0].metrics["perplexity"], grown * 1024]))
"""


def test_the_memory_of_perplexity_is_bounded_whatever_the_vocabulary(tmp_path):
    words = 131_072
    model = tiny_model(tmp_path / "model", "llama", task="text-generation", hidden=8, layers=1, vocab_size=words)
    few = text_file(tmp_path, 0, ["a film"])
    (tmp_path / "many").mkdir()
    text = " ".join(["the film was great"] * 12)
    many = text_file(tmp_path / "many", 0, [text] * 8)
    value, grown = json.loads(run_python(PEAK, model, few, many, fresh=True).stdout)
    # All at once are 8 x 63 x 131,072 numbers, a quarter of a gigabyte, and again as many for their logarithms.
    assert grown < 2**28 and value > 1
