"""What is told of a larger model from one measured layer: the same of the same shape, else counted multiples."""

from dataclasses import replace

import pytest

from fusehub.models.layout import layout_of
from tests.benchmarks.projection import SHAPES, TOKENS, Shape, Told, job, projected

FOUND = {
    "hidden": 64, "inner": 160, "kv": 64, "layers": 1, "words": 100, "experts": 2, "texts": 10, "tokens": 10 * TOKENS,
    "plan": 1.0, "mean": 3.0, "ties": 5.0, "regmean": 11.0, "forward": 7.0, "counting": 13.0, "encoding": 17.0,
}  # fmt: skip
ONE = Shape(hidden=64, inner=160, kv=64, layers=1, words=100, solves_head=False)


def seconds(shape, texts=10):
    return [told.seconds for told in projected(shape, FOUND, texts)]


def test_of_the_measured_shape_what_was_measured_is_told():
    assert seconds(ONE) == pytest.approx([3, 5, 11, 7 + 13 + 17])


def test_layers_and_texts_are_multiples_and_what_is_done_once_is_not():
    two = replace(ONE, layers=2)
    more = two.numbers / ONE.numbers
    assert 1 < more < 2, "words are there once"
    mean, ties, regmean, _ = seconds(two)
    assert (mean, ties, regmean) == pytest.approx((1 + 2 * more, 1 + 4 * more, 1 + 2 * more + 2 * 8))
    assert seconds(two, 30)[3] == pytest.approx(3 * 7 * two.forward() / ONE.forward() + 3 * 2 * 13 + 2 * 17)


def test_a_shape_has_the_layers_and_the_parameters_of_its_model():
    import transformers

    for name, parameters in (("llama-3-8b", 8.03e9), ("llama-3-70b", 70.6e9)):
        shape = SHAPES[name]
        heads = shape.hidden // 128
        config = transformers.LlamaConfig(
            hidden_size=shape.hidden, intermediate_size=shape.inner, num_hidden_layers=shape.layers,
            num_attention_heads=heads, num_key_value_heads=8, vocab_size=shape.words,
            architectures=["LlamaForCausalLM"],
        )  # fmt: skip
        layout = layout_of(config)
        linears = sorted((own.in_features, layout.shapes[own.weight][0]) for own in layout.linears.values())
        assert linears == sorted(shape.linears)
        assert shape.numbers == pytest.approx(parameters, rel=2e-3)


def test_a_job_is_the_cheapest_that_holds_it_and_is_paid_by_the_minute():
    assert job(Told("small", 8 * 61, 10**9, 10**9)) == "cpu-upgrade: 2 min, under $0.01"
    assert job(Told("wide", 16 * 3600, 60 * 10**9, 10**9)) == "cpu-xl: 60 min, $1.00"
    assert job(Told("too much", 1, 10**12, 1)) == "none of a CPU holds it"
