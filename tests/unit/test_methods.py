"""The registry, and the mean."""

from pathlib import Path

import pytest
import torch

from fusehub.cli.methods_document import document
from fusehub.errors import BadRecipe
from fusehub.methods import METHODS, Layer, find_method
from fusehub.methods.base import Options
from fusehub.methods.mean import weighted_mean
from fusehub.methods.registry import merge_method


def layer(tensors, coefficients=None, **more):
    return Layer("x.weight", tensors, coefficients or [1.0] * len(tensors), **more)


def random_tensors(count, *shape, dtype=torch.float64):
    random = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=random, dtype=torch.float64).to(dtype) for _ in range(count)]


def merge(method, tensors, coefficients=None, **options):
    method = find_method(method)
    return method.merge(layer(tensors, coefficients), method.parse(options)).tensor


def test_the_mean_weighs_every_tensor_by_its_coefficient():
    a, b = torch.tensor([0.0, 4.0]), torch.tensor([8.0, 0.0])
    assert merge("mean", [a, b]).tolist() == [4.0, 2.0]
    assert merge("mean", [a, b], [3.0, 1.0]).tolist() == [2.0, 3.0]
    assert merge("mean", [a, b], [0.5, 0.5], normalize=False).tolist() == [4.0, 2.0]
    assert merge("mean", [a, b], [1.0, 1.0], normalize=False).tolist() == [8.0, 4.0]


def test_the_mean_of_many_is_the_sum_over_the_count():
    tensors = random_tensors(7, 5, 3)
    coefficients = [0.3, 0.0, 2.0, 1.0, 0.7, 5.0, 1e-3]
    expected = sum(c * t for c, t in zip(coefficients, tensors, strict=True)) / sum(coefficients)
    torch.testing.assert_close(weighted_mean(tensors, coefficients), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_mean_of_identical_tensors_is_that_tensor_to_the_last_bit(dtype):
    one = random_tensors(1, 64, 33, dtype=dtype)[0] * 3
    assert torch.equal(weighted_mean([one] * 3, [0.1, 0.7, 1 / 3]), one)


def test_a_coefficient_of_zero_leaves_a_tensor_out():
    a, b, c = random_tensors(3, 4, 4)
    assert torch.equal(weighted_mean([a, b, c], [0.0, 1.0, 0.0]), b)


def test_the_mean_does_not_write_into_what_it_is_given():
    tensors = random_tensors(3, 4, 4)
    before = [tensor.clone() for tensor in tensors]
    weighted_mean(tensors, [1.0, 2.0, 3.0])
    assert all(map(torch.equal, tensors, before))


def test_the_total_of_the_coefficients_and_the_order_of_the_models_do_not_matter():
    tensors, coefficients = random_tensors(4, 8, 8), [1.0, 2.0, 3.0, 4.0]
    merged = merge("mean", tensors, coefficients)
    for other in (
        merge("mean", tensors, [1e6 * c for c in coefficients]),
        merge("mean", tensors[::-1], coefficients[::-1]),
    ):
        torch.testing.assert_close(other, merged, rtol=1e-12, atol=1e-14)


def test_a_method_is_found_by_its_name_and_by_mergekits():
    assert find_method("linear") is find_method("mean") is METHODS["mean"]
    assert find_method("regmean").needs_statistics and not find_method("mean").needs_statistics


def test_an_unknown_method_is_told_the_closest_one_and_all_there_are():
    with pytest.raises(
        BadRecipe, match=r"no merge method 'regmaen'.*\n.*Did you mean 'regmean'.*linear, mean, .*regmean"
    ):
        find_method("regmaen")
    # Case alone is no other name.
    with pytest.raises(BadRecipe, match=r"no merge method 'TIES'.*\n.*Did you mean 'ties'"):
        find_method("TIES")


def test_an_unknown_option_is_told_the_closest_one():
    with pytest.raises(BadRecipe, match=r"no option of regmean 'alpa'.*\n.*Did you mean 'alpha'"):
        find_method("regmean").parse({"alpa": 0.5})
    with pytest.raises(BadRecipe, match=r"no option of mean 'alpha'"):
        find_method("mean").parse({"alpha": 0.5})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("alpha", value) for value in (-0.1, 1.1, "much", float("nan"), None)),
        *(("weighting", "median"), ("anchor", "zero"), ("ridge", -1e-9), ("ridge", float("nan")), ("affine", 3)),
        ("ridge", float("inf")),
    ],
)
def test_an_option_with_a_value_that_it_cannot_have_is_named(option, value):
    with pytest.raises(BadRecipe) as caught:
        find_method("regmean").parse({option: value})
    assert f"{option}={value!r}" in caught.value.what
    assert caught.value.fix.startswith(f"{option}: ")


def test_two_methods_cannot_have_one_name():
    before = dict(METHODS)
    for taken in ("mean", "linear"):
        with pytest.raises(ValueError, match=f"two merge methods are called {taken}"):
            merge_method(taken, title="", summary="", paper=None, options=Options)(lambda layer, options: None)
    assert before == METHODS


def test_every_method_says_what_it_is_and_describes_its_options():
    for method in METHODS.values():
        assert method.title and method.summary.endswith(".") and method.when.endswith(".")
        assert method.paper.startswith(("https://arxiv.org/", "https://en.wikipedia.org/wiki/"))
        assert all(field.description for field in (method.options.fields() | method.own_options.fields()).values())


def test_the_document_has_every_method_and_option():
    """docs/methods.md holds what `fusehub methods --markdown` prints, between its marks."""
    text = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    written = text.partition("--markdown` -->\n")[2].partition("<!-- /methods -->")[0]
    assert written == document(), "write the output of `fusehub methods --markdown` between the marks"
    for method in METHODS.values():
        assert f"### `{method.name}`" in document() and method.when in document()
