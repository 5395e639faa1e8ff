"""Counting ends before the layer that tells tokens: the same statistics, without its work and its memory."""

import contextlib
import csv
import json

import pytest
import torch
from safetensors.torch import load_file

import fusehub.collecting.counting
from fusehub.collecting.collect import collect
from fusehub.collecting.finite import require_finite_pass
from fusehub.collecting.ways import UpToTokens, Whole, tokens_layer, without_cache
from fusehub.errors import NonFinite
from fusehub.models.layout import linears_of
from fusehub.models.loading import load_model
from fusehub.models.resolve import resolve
from fusehub.statistics.grams import GramSum, unpack
from fusehub.utils import products
from tests.unit.experts import WEIGHTS, rel, run_python, save_weights, text_file, texts_of
from tests.unit.tiny import tiny_model

TEXTS = texts_of(1, 30)
# Rows that a probe has in all: 3 texts of 11 tokens, and twice 2 shorter ones.
PROBED = 3 * 11 + 2 * 2 * 9
TELLING = (
    ("llama", "text-generation", {"tie_word_embeddings": True}),
    ("llama", "text-generation", {"tie_word_embeddings": False}),
    ("gpt2", "text-generation", {}),
    ("qwen3_moe", "text-generation", {}),
    ("bert", "fill-mask", {}),
    ("t5", "text2text-generation", {}),
    ("bart", "text2text-generation", {}),
)
OTHERS = (
    ("bert", "token-classification", {}),
    ("llama", "text-classification", {}),
)


@pytest.fixture
def told(monkeypatch):
    """How many rows the layer that tells tokens was run on: one number for each call."""
    rows, load = [], fusehub.collecting.counting.load_for_counting

    def loaded(*arguments, **options):
        network = load(*arguments, **options)
        if (layer := tokens_layer(network)) is not None:
            layer.register_forward_hook(lambda _, args, output: rows.append(output[..., 0].numel()))
        return network

    monkeypatch.setattr(fusehub.collecting.counting, "load_for_counting", loaded)
    return rows


def sums_of(statistics):
    """Layer -> its gram, its sums and the number of rows; closes the file."""
    with contextlib.closing(statistics):
        return {name: (own.gram(), own.total, own.rows) for name, own in statistics.layers.items()}


def counted(model, folder, name, **options):
    data = folder / "data.csv"
    with data.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("source", "target"), *zip(TEXTS, reversed(TEXTS), strict=True)])
    of_two = json.loads((model / "config.json").read_text()).get("is_encoder_decoder")
    column = "source,target" if of_two else "source"
    return sums_of(
        collect(str(model), str(data), folder / name, size="full", batch_tokens=128, text_column=column, **options)
    )


@pytest.mark.parametrize(("arch", "task", "more"), TELLING + OTHERS)
def test_statistics_are_those_of_a_model_that_is_run_to_its_end(arch, task, more, tmp_path, told, monkeypatch):
    model = tiny_model(tmp_path / "model", arch, task=task, **more)
    found = counted(model, tmp_path, "short")
    assert sum(told) <= PROBED
    monkeypatch.setattr(UpToTokens, "count", Whole.run)
    told.clear()
    whole = counted(model, tmp_path, "whole")
    assert (sum(told) > 2 * PROBED) == ((arch, task, more) in TELLING)
    assert found.keys() == whole.keys()
    if "tie_word_embeddings" in more:
        assert ("lm_head.weight" in found) == (not more["tie_word_embeddings"]), "what it is given is counted"
    for layer, (gram, total, rows) in whole.items():
        assert found[layer][2] == rows
        assert torch.equal(found[layer][0], gram) and torch.equal(found[layer][1], total), layer


def test_gradients_need_what_it_tells(tmp_path, told):
    model = tiny_model(tmp_path / "model", "llama", task="text-generation")
    found = counted(model, tmp_path, "fisher", fisher=True)
    assert sum(told) > 2 * PROBED
    for layer, (gram, _, rows) in counted(model, tmp_path, "plain").items():
        assert found[layer][2] == rows and rel(found[layer][0], gram) < 1e-5


def ids(seed=0):
    random = torch.Generator().manual_seed(seed)
    made = torch.randint(5, 40, (3, 11), generator=random)
    return {"input_ids": made, "attention_mask": torch.ones_like(made)}


def way_of(network, *more):
    return UpToTokens(network, [*(own.module for own in linears_of(network, tied=False).values()), *more])


@pytest.fixture
def network(tmp_path):
    return load_model(resolve(str(tiny_model(tmp_path / "model", "llama", task="text-generation"))))


@torch.inference_mode()
def test_what_it_would_be_given_is_what_makes_the_logits(network):
    way = way_of(network)
    assert not way.ends_early, "nothing is known of the order yet"
    logits = way.run(ids()).logits
    assert way.ends_early
    states = way.count(ids())
    assert torch.equal(network.lm_head(states), logits)
    assert torch.equal(network(**ids()).logits, logits), "and nothing of it is left on the model"


@torch.inference_mode()
def test_a_model_is_run_to_its_end_where_something_counted_comes_after():
    import transformers

    config = transformers.BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    # Its pretraining has two heads: the one that tells tokens, and then another.
    network = transformers.BertForPreTraining(config).eval()
    way = way_of(network)
    way.run(ids())
    assert not way.ends_early
    seen = []
    network.cls.seq_relationship.register_forward_pre_hook(lambda *_: seen.append(1))
    assert way.count(ids()).prediction_logits.shape == (3, 11, 60) and seen


@torch.inference_mode()
def test_a_model_is_run_to_its_end_where_a_layer_was_not_called(network):
    """It may be, for some text, and then after the last that was."""
    network.more = torch.nn.Linear(4, 4)
    way = way_of(network)
    way.run(ids())
    assert not way.ends_early
    assert way.count(ids()).logits.shape[:2] == (3, 11)


@torch.inference_mode()
def test_one_run_that_differs_is_enough(network):
    way, forward = way_of(network), network.forward
    way.run(ids())
    assert way.ends_early

    def once_more(**batch):
        forward(**batch)
        return forward(**batch)

    network.forward = once_more
    way.run(ids())
    assert not way.ends_early


def test_states_that_are_not_finite_are_refused(tmp_path):
    model = tiny_model(tmp_path / "model", "llama", task="text-generation", tie_word_embeddings=True)
    tensors = load_file(model / WEIGHTS)
    # Finite itself, and what follows the last layer that is counted.
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], 3e38)
    save_weights(model, tensors)
    with pytest.raises(NonFinite, match="model: what the layer that tells tokens is given is NaN or infinity"):
        collect(str(model), text_file(tmp_path, texts=TEXTS), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_states_of_padding_may_be_anything(value):
    states, mask = torch.zeros(2, 4, 8), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    batch = {"input_ids": mask, "attention_mask": mask}
    states[1, 2:] = value
    require_finite_pass({}, batch, states, "a model")
    states[1, 1, 3] = value
    with pytest.raises(NonFinite, match="a model: what the layer that tells tokens"):
        require_finite_pass({}, batch, states, "a model")


@pytest.mark.parametrize(
    ("arch", "task"), [("llama", "text-generation"), ("t5", "text2text-generation"), ("gpt2", "text-classification")]
)
@torch.inference_mode()
def test_nothing_is_kept_for_tokens_that_would_follow(tmp_path, arch, task):
    network = load_model(resolve(str(tiny_model(tmp_path / "model", arch, task=task))))
    batch = ids()
    if arch == "t5":
        batch |= {"decoder_input_ids": batch["input_ids"][:, :7]}
    before = network(**batch)
    with without_cache(network):
        within = network(**batch)
    assert before.past_key_values is not None and within.past_key_values is None
    assert torch.allclose(within.logits, before.logits, rtol=1e-5, atol=1e-5)
    assert network(**batch).past_key_values is not None, "afterwards it is as it was"


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 700, 1025, 1999, 2048])
def test_rows_of_zeros_change_no_sum(rows, monkeypatch):
    monkeypatch.setattr(products, "_has_vectors_that_mkl_leaves", lambda: True)
    x = torch.randn(rows, 200, generator=torch.Generator().manual_seed(rows))
    sums = GramSum(200)
    sums.add(x, half=0)
    assert sums.rows == rows
    wide = x.double()
    assert rel(unpack(sums.packed(), 200), wide.T @ wide) < 1e-6
    assert torch.allclose(sums.total, wide.sum(0), rtol=1e-4, atol=1e-3)


def test_products_are_over_few_lengths(monkeypatch):
    monkeypatch.setattr(products, "_has_vectors_that_mkl_leaves", lambda: True)
    lengths = {products.transposed(torch.empty(n, 1)).shape[1] for n in range(1024, 2049)}
    assert len(lengths) <= 9
    for n in (64, 100, 1000, 1025):
        assert n <= products.transposed(torch.empty(n, 1)).shape[1] <= 1.125 * n


PEAK = """
import json, resource, sys
from fusehub.collecting.collect import collect
model, few, many, folder = sys.argv[1:]
collect(model, few, folder + "/few").close()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
collect(model, many, folder + "/many-out").close()
print(json.dumps((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024))
"""


def peak_over(tmp_path, **shape):
    """Bytes by which counting 32 texts of 63 tokens takes more memory than counting one of three."""
    model = tiny_model(tmp_path / "model", "llama", task="text-generation", **shape)
    (tmp_path / "many").mkdir()
    few = text_file(tmp_path, 0, ["a film"])
    many = text_file(tmp_path / "many", 0, [" ".join(["the film was great"] * 12)] * 32)
    return json.loads(run_python(PEAK, model, few, many, tmp_path, fresh=True).stdout)


def test_the_memory_of_counting_does_not_grow_with_the_vocabulary(tmp_path):
    # All logits of the batch are 32 x 63 x 131,072 numbers: one gigabyte.
    assert peak_over(tmp_path, hidden=8, layers=1, vocab_size=131_072) < 2**28


def test_sums_do_not_keep_a_heap_from_being_used_again(tmp_path):
    # A layer makes 8 MB at a time. Where sums came to lie between such pieces, it was a quarter of a gigabyte.
    assert peak_over(tmp_path, hidden=64, layers=24, intermediate_size=1024) < 2**27
