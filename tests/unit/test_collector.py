"""What the collector counts, against the raw inputs of each model run on one text at a time."""

import numpy as np
import pytest
import torch

from fusehub.collecting.gram_collector import GramCollector, Misjudged
from fusehub.data.tokenizing import batches, encode
from fusehub.errors import Incompatible
from fusehub.models.layout import linears_of
from fusehub.models.loading import load_model, load_tokenizer
from fusehub.models.resolve import resolve
from fusehub.statistics.grams import GramSum, unpack
from tests.unit.experts import raw_inputs, rel, relatives, texts_of
from tests.unit.tiny import ARCHITECTURES, tiny_model

TEXTS = texts_of(1, 13)


def probe_of(ids):
    """A probe as `Inputs.probe` makes it of one text."""
    row = torch.tensor([(list(ids) * 11)[:11]])
    return {"input_ids": row, "attention_mask": torch.ones_like(row)}


def grams_of(path, texts=TEXTS, *, share=True, dtype=None, side=None, **batching):
    """Weight -> (S, s, n), and the aliases, of a model run over `texts` in batches."""
    ref = resolve(str(path))
    model, tokenizer = load_model(ref, dtype=dtype), load_tokenizer(ref)
    encodings = encode(texts, tokenizer, max_length=64)
    with GramCollector(model, linears_of(model), share=share) as collector:
        collector.probe(probe_of(encodings[0]["input_ids"]))
        for _, batch in batches(encodings, tokenizer, **batching):
            if side == "left":
                batch = {name: value.flip(1) for name, value in batch.items()}
            with torch.inference_mode(), collector.counting(batch):
                model(**batch)
    own = {name: (unpack(s.packed(), s.size).numpy(), s.total.numpy(), s.rows) for name, s in collector.sums.items()}
    return {name: own[collector.aliases.get(name, name)] for name in collector.weights}, collector.aliases


def assert_same(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    for name, (gram, total, rows) in expected.items():
        assert found[name][2] == rows, name
        assert rel(found[name][0], gram) < tolerance, name
        assert np.linalg.norm(found[name][1] - total) < tolerance * np.sqrt(np.trace(gram) * rows), name


def from_rows(inputs):
    return {name: (x.T @ x, x.sum(0), len(x)) for name, x in inputs.items()}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_grams_are_the_sums_over_all_rows_that_are_no_padding(experts, arch):
    path = experts(arch)[0]
    expected = from_rows(raw_inputs(path, TEXTS))
    for batch_size in (1, 5, 32):
        found, _ = grams_of(path, batch_size=batch_size)
        assert_same(found, expected)


@pytest.mark.parametrize("arch", ["bert", "deberta-v2", "gpt2", "albert"])
def test_the_test_above_would_see_padding_that_counts(experts, arch):
    """A gram with padding in it is far from the right one."""
    path = experts(arch)[0]
    ref = resolve(str(path))
    model, tokenizer = load_model(ref), load_tokenizer(ref)
    expected, wrong = from_rows(raw_inputs(path, TEXTS)), {}
    with GramCollector(model, linears_of(model)) as collector:
        collector.probe(probe_of([1, 2, 3]))
        for _, batch in batches(encode(TEXTS, tokenizer, max_length=64), tokenizer):
            with torch.inference_mode(), collector.counting({"input_ids": batch["input_ids"]}):
                model(**batch)
        wrong = {name: unpack(s.packed(), s.size) for name, s in collector.sums.items()}
    assert max(rel(gram, expected[name][0]) for name, gram in wrong.items()) > 0.05


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_sharing_inputs_changes_no_gram(experts, arch):
    path = experts(arch)[0]
    shared, aliases = grams_of(path, batch_size=4)
    alone, none = grams_of(path, batch_size=4, share=False)
    # GPT-2 and ModernBERT have q, k and v in one weight.
    assert bool(aliases) == (arch not in ("gpt2", "modernbert")) and not none
    for name in alone:
        assert shared[name][2] == alone[name][2]
        np.testing.assert_array_equal(shared[name][0], alone[name][0], err_msg=name)


def test_the_layers_that_read_one_tensor_are_those_of_the_architecture(experts):
    _, bert = grams_of(experts("bert")[0])
    prefix = "bert.encoder.layer.0.attention.self."
    assert bert == {
        f"bert.encoder.layer.{i}.attention.self.{own}.weight": f"bert.encoder.layer.{i}.attention.self.query.weight"
        for i in (0, 1)
        for own in ("key", "value")
    }
    _, llama = grams_of(experts("llama")[0])
    prefix = "model.layers.1."
    assert {name: target for name, target in llama.items() if name.startswith(prefix)} == {
        f"{prefix}self_attn.k_proj.weight": f"{prefix}self_attn.q_proj.weight",
        f"{prefix}self_attn.v_proj.weight": f"{prefix}self_attn.q_proj.weight",
        f"{prefix}mlp.up_proj.weight": f"{prefix}mlp.gate_proj.weight",
    }
    _, albert = grams_of(experts("albert")[0])
    assert sorted(albert) == [
        f"albert.encoder.albert_layer_groups.0.albert_layers.0.attention.{own}.weight" for own in ("key", "value")
    ]
    # DeBERTa's query and key also project the relative positions, which its value never sees.
    _, deberta = grams_of(experts("deberta-v2")[0])
    prefix = "deberta.encoder.layer.0.attention.self."
    assert deberta[f"{prefix}key_proj.weight"] == f"{prefix}query_proj.weight"
    assert f"{prefix}value_proj.weight" not in deberta
    _, gpt2 = grams_of(experts("gpt2")[0])
    assert not any("attn" in name or "mlp" in name for name in gpt2), "q, k and v are one weight there"


@pytest.mark.parametrize("arch", ["bert", "distilbert", "deberta-v2", "albert", "modernbert"])
def test_a_model_of_one_architecture_counts_what_it_should(experts, arch):
    found, _ = grams_of(experts(arch)[0])
    tokenizer = load_tokenizer(resolve(str(experts(arch)[0])))
    tokens = sum(len(encoding["input_ids"]) for encoding in encode(TEXTS, tokenizer, max_length=64))
    rows = {name: n for name, (_, _, n) in found.items()}
    heads = [name for name in rows if name.startswith(("classifier", "pre_classifier", "pooler"))]
    heads += [name for name in rows if "bert.pooler" in name]
    if arch == "modernbert":
        # Its default is to take the first token's state, through a dense layer of the head.
        heads = [name for name in rows if name.startswith(("head.", "classifier"))]
    assert heads
    for name in heads:
        assert rows[name] == len(TEXTS), name
    body = {name: n for name, n in rows.items() if name not in heads}
    if arch == "albert":
        mapping = "albert.encoder.embedding_hidden_mapping_in.weight"
        assert body.pop(mapping) == tokens
        assert set(body.values()) == {2 * tokens}, "one layer, called twice"
    elif arch == "deberta-v2":
        # A table of relative positions for each example, once a layer: as if each ran alone.
        positions = 2 * 8
        twice = [name for name in body if name.endswith(("query_proj.weight", "key_proj.weight"))]
        assert len(twice) == 4
        for name in twice:
            assert body.pop(name) == tokens + positions * len(TEXTS), name
        assert set(body.values()) == {tokens}
    else:
        assert set(body.values()) == {tokens}


@pytest.mark.parametrize("arch", ["bert", "llama", "deberta-v2"])
def test_the_order_of_the_texts_does_not_matter(experts, arch):
    path = experts(arch)[0]
    assert_same(grams_of(path, TEXTS[::-1], batch_size=3)[0], grams_of(path, batch_size=4)[0], 1e-6)


def test_grams_of_two_halves_add_up(experts):
    path = experts("roberta")[0]
    whole, first, second = (grams_of(path, texts)[0] for texts in (TEXTS, TEXTS[:5], TEXTS[5:]))
    added = {name: tuple(a + b for a, b in zip(first[name], second[name], strict=True)) for name in whole}
    assert_same(added, whole, 1e-6)


def test_padding_on_the_left_counts_as_little_as_on_the_right(experts):
    """DistilBERT with all positions alike is the same forwards and backwards, so sides can be compared."""
    path = experts("distilbert")[0]
    ref = resolve(str(path))
    model, tokenizer = load_model(ref), load_tokenizer(ref)
    model.distilbert.embeddings.position_embeddings.weight.data.zero_()
    encodings = encode(TEXTS, tokenizer, max_length=64)
    sums = {}
    for side in ("left", "right"):
        rows = [{name: own[name] for name in ("input_ids", "attention_mask")} for own in encodings]
        batch = tokenizer.pad(rows, padding_side=side, return_tensors="pt")
        assert batch["attention_mask"][:, 0 if side == "left" else -1].min() == 0
        with GramCollector(model, linears_of(model)) as collector:
            collector.probe(probe_of([1, 2, 3]))
            with torch.inference_mode(), collector.counting(batch):
                model(**batch)
        sums[side] = {name: unpack(own.packed(), own.size) for name, own in collector.sums.items()}
    body = [name for name in sums["left"] if "transformer" in name]
    assert body
    for name in body:  # The head reads the first token, which is padding on the left.
        assert rel(sums["left"][name], sums["right"][name]) < 1e-5, name


def test_dropout_is_off_while_counting_even_if_the_model_trains(tmp_path):
    path = tiny_model(tmp_path / "m", hidden=16, hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    ref = resolve(str(path))
    model, tokenizer = load_model(ref).train(), load_tokenizer(ref)
    with GramCollector(model, linears_of(model)) as collector:
        collector.probe(probe_of([1, 2, 3]))
        for _, batch in batches(encode(TEXTS, tokenizer, max_length=64), tokenizer):
            with torch.inference_mode(), collector.counting(batch):
                model(**batch)
    own = {name: (unpack(s.packed(), s.size).numpy(), s.total.numpy(), s.rows) for name, s in collector.sums.items()}
    found = {name: own[collector.aliases.get(name, name)] for name in collector.weights}
    assert_same(found, from_rows(raw_inputs(path, TEXTS)))


@pytest.mark.parametrize("arch", ["bert", "gpt2"])
def test_a_bfloat16_model_is_counted_in_float32(tmp_path, arch):
    path = relatives(tmp_path, arch, dtype=torch.bfloat16)[0]
    # One text a batch, since bfloat16 gives other activations in other batches.
    found, _ = grams_of(path, batch_size=1)
    assert_same(found, from_rows(raw_inputs(path, TEXTS)))
    for name, (gram, _, _) in found.items():
        values = np.linalg.eigvalsh(gram)
        assert values[0] > -1e-6 * values[-1], name


# --- the model afterwards -----------------------------------------------------------------------------------------


def state_of(model):
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    hooks = [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()]
    return weights, modes, hooks


@pytest.mark.parametrize("failing", [False, True])
def test_the_model_is_as_before_whatever_happens(experts, failing):
    model = load_model(resolve(str(experts()[0])))
    model.bert.encoder.layer[1].train()
    model.classifier.register_forward_pre_hook(lambda module, args: None)
    ids = torch.tensor([[2, 7, 8, 3]])
    before, outputs = state_of(model), model.eval()(input_ids=ids).logits
    model.bert.encoder.layer[1].train()
    try:
        with GramCollector(model, linears_of(model)) as collector:
            assert not any(module.training for module in model.modules())
            collector.probe(probe_of([1, 2, 3]))
            with collector.counting({"input_ids": ids}):
                watched = model(input_ids=ids).logits
                if failing:
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert failing
    assert torch.equal(watched, outputs), "watching changes no output"
    weights, modes, hooks = state_of(model)
    assert modes == before[1] and hooks == before[2]
    assert all(torch.equal(weights[name], value) for name, value in before[0].items())
    rows = {name: own.rows for name, own in collector.sums.items()}
    model(input_ids=ids)
    assert rows == {name: own.rows for name, own in collector.sums.items()}, "nothing is counted any more"


def test_a_probe_that_fails_leaves_no_hook(experts):
    model = load_model(resolve(str(experts()[0])))
    before = state_of(model)[2]
    with pytest.raises(Incompatible, match="index out of range"), GramCollector(model, linears_of(model)) as collector:
        collector.probe(probe_of([10**6]))
    assert state_of(model)[2] == before


class Fork(torch.nn.Module):
    """Two layers on one tensor in the first forwards, and on two in later ones."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (torch.nn.Linear(4, 4) for _ in range(3))
        self.calls = 0
        self.device = torch.device("cpu")

    def forward(self, input_ids, attention_mask):
        self.calls += 1
        x = torch.nn.functional.one_hot(input_ids % 4, 4).float()
        return self.a(x) + self.b(x if self.calls < 3 else x + 1)


def test_layers_that_stop_sharing_their_input_are_noticed_and_then_counted_alone():
    ids = torch.tensor([[0, 1, 2], [2, 3, 3]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    model = Fork()
    with GramCollector(model, linears_of(model)) as collector:
        collector.probe(probe_of([1, 2, 3]))
        assert collector.aliases == {"b.weight": "a.weight"}
        with collector.counting({"input_ids": ids, "attention_mask": mask}):
            model(ids, mask)
        with pytest.raises(Misjudged) as caught, collector.counting({"input_ids": ids, "attention_mask": mask}):
            model(ids, mask)
        assert (caught.value.weight, caught.value.verdict) == ("b.weight", "alone")
    model = Fork()
    with GramCollector(model, linears_of(model), verdicts={"b.weight": "alone"}) as collector:
        collector.probe(probe_of([1, 2, 3]))
        for _ in range(2):
            with collector.counting({"input_ids": ids, "attention_mask": mask}):
                model(ids, mask)
    x = torch.nn.functional.one_hot(ids, 4).double()[mask.bool()]
    assert not collector.aliases
    assert torch.equal(unpack(collector.sums["a.weight"].packed(), 4), 2 * x.T @ x)
    assert torch.equal(unpack(collector.sums["b.weight"].packed(), 4), x.T @ x + (x + 1).T @ (x + 1))
    assert collector.sums.keys() == {"a.weight", "b.weight"} and "c.weight" in collector.weights


class FirstToken(torch.nn.Module):
    """`b` and `c` read a part of the tensor that `a` reads: one that begins at the same address."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (torch.nn.Linear(4, 4, bias=False) for _ in range(3))
        self.device = torch.device("cpu")

    def forward(self, input_ids, attention_mask):
        x = torch.nn.functional.one_hot(input_ids % 4, 4).float()
        first = x[:, 0]
        return self.a(x)[:, 0] + self.b(first) + self.c(first)


def test_sharing_is_told_by_the_tensor_and_not_by_its_address():
    model = FirstToken()
    with GramCollector(model, linears_of(model)) as collector:
        collector.probe(probe_of([1, 2, 3]))
    assert collector.aliases == {"c.weight": "b.weight"}


def test_token_classification_is_counted_as_well(tmp_path):
    path = tiny_model(tmp_path / "m", task="token-classification", labels=["O", "B-PER"], hidden=16)
    found, _ = grams_of(path)
    expected = from_rows(raw_inputs(path, TEXTS))
    assert_same(found, expected)
    assert found["classifier.weight"][2] == found["bert.encoder.layer.0.output.dense.weight"][2]


# --- sums ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 128, 129, 300, 1100])
def test_the_blocks_of_a_gram_make_the_whole(size):
    x = torch.randn(40, size, generator=torch.Generator().manual_seed(size))
    total = GramSum(size)
    total.add(x[:15])
    total.add(x[15:], times=3)
    y = x.double()
    expected = y[:15].T @ y[:15] + 3 * y[15:].T @ y[15:]
    assert total.packed().shape == (size * (size + 1) // 2,) and total.packed().dtype == torch.float32
    assert rel(unpack(total.packed(), size), expected) < 1e-6
    assert total.rows == 15 + 3 * 25
    assert rel(total.total, y[:15].sum(0) + 3 * y[15:].sum(0)) < 1e-5


def test_a_gram_is_packed_row_after_row():
    total = GramSum(3)
    total.add(torch.tensor([[1.0, 2.0, 3.0]]))
    assert total.packed().tolist() == [1, 2, 3, 4, 6, 9]
    assert unpack(total.packed(), 3).tolist() == [[1, 2, 3], [2, 4, 6], [3, 6, 9]]
