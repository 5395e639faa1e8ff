"""Methods on task vectors, and SLERP: against numbers worked out by hand and against their laws."""

import pytest
import torch

from fusehub.errors import BadRecipe
from fusehub.methods import METHODS, Layer, find_method
from fusehub.methods.task_vectors.largest import keep_largest, largest

ON_VECTORS = [method.name for method in METHODS.values() if method.base == "needed"]


def merge(name, tensors, base=None, own=None, seed=0, tensor="x.weight", **options):
    method = find_method(name)
    said = [method.own_options.parse(name, one) for one in own or [{}] * len(tensors)]
    # A method may overwrite what it is given.
    copies = [own.clone() for own in tensors]
    layer = Layer(tensor, copies, [one.weight for one in said], base, own=said, seed=seed)
    return method.merge(layer, method.parse(options)).tensor


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_task_arithmetic_adds_what_was_learned():
    base, a, b = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 2.0]), torch.tensor([1.0, 6.0])
    assert merge("task_arithmetic", [a, b], base).tolist() == [2.0, 6.0]
    assert merge("task_arithmetic", [a, b], base, [{"weight": 0.5}, {"weight": -0.25}]).tolist() == [1.5, 1.0]
    assert merge("task_arithmetic", [a, b], base, **{"lambda": 2.0}).tolist() == [3.0, 10.0]
    assert merge("task_arithmetic", [a, b], base, [{"weight": 3}, {"weight": 1}], normalize=True).tolist() == [
        1.75,
        3.0,
    ]


def test_weights_that_cancel_cannot_be_divided_by():
    base, a, b = normal(3), normal(3, seed=1), normal(3, seed=2)
    own = [{"weight": 1}, {"weight": -1}]
    torch.testing.assert_close(merge("task_arithmetic", [a, b], base, own), base + a - b)
    torch.testing.assert_close(merge("mean", [a, b], own=own, normalize=False), a - b)
    for name in ("task_arithmetic", "mean"):
        with pytest.raises(BadRecipe, match=r"x\.weight: the weights add up to 0"):
            merge(name, [a, b], base, own, normalize=True)


def test_ties_trims_elects_and_averages_those_that_agree():
    base = torch.zeros(4, dtype=torch.float64)
    a = torch.tensor([4.0, -3.0, 0.5, 2.0], dtype=torch.float64)
    b = torch.tensor([2.0, 5.0, 0.4, -1.0], dtype=torch.float64)
    # Trimmed to two each: a keeps 4 and -3, b keeps 2 and 5; the second element's sum is positive.
    assert merge("ties", [a, b], base, [{"density": 0.5}] * 2).tolist() == [3.0, 5.0, 0.0, 0.0]
    assert merge("ties", [a, b], base).tolist() == [3.0, 5.0, 0.45, 2.0]
    weighed = merge("ties", [a, b], base, [{"weight": 3}, {"weight": 1}])
    torch.testing.assert_close(weighed, torch.tensor([3.5, -3.0, 0.475, 2.0], dtype=torch.float64))
    summed = merge("ties", [a, b], base, [{"density": 0.5}] * 2, normalize=False)
    assert summed.tolist() == [6.0, 5.0, 0.0, 0.0]
    rescaled = merge("ties", [a], base, [{"density": 0.5}], rescale=True)
    torch.testing.assert_close(rescaled, torch.tensor([4.0, -3.0, 0, 0], dtype=torch.float64) * 9.5 / 7)


def test_exactly_as_many_elements_are_kept_as_the_density_says():
    values = torch.tensor([[1.0, 3.0, 1.0], [1.0, 0.0, 1.0]])
    assert largest(values, 3).int().tolist() == [[1, 1, 1], [0, 0, 0]]
    assert largest(values, 0).sum() == 0 and largest(values, 6).sum() == 6
    for count in range(1, 40):
        values = normal(7, 6, seed=count).abs()
        mask = largest(values, count)
        assert mask.sum() == count and values[mask].min() >= values[~mask].max()


def spread(kind, size):
    """Elements of a large tensor; `seldom` are such that those which are looked at first say nothing of the others."""
    values = normal(size, seed=3)
    if kind == "steps":
        return (values * 2).round() / 2
    if kind == "ordered":
        return values.sort().values
    if kind == "seldom":
        values[:: size // 2**16 | 1] *= 1e-9
    return values.float() if kind == "narrow" else values


@pytest.mark.parametrize("kind", ["normal", "narrow", "steps", "ordered", "seldom"])
@pytest.mark.parametrize("density", [1e-5, 0.2, 0.5, 0.99999])
def test_of_many_elements_the_same_are_kept_as_if_all_were_put_in_order(kind, density):
    values = spread(kind, 3 * 2**16 + 17)
    count = int(density * len(values))
    expected = torch.zeros(len(values), dtype=torch.bool)
    expected[values.abs().argsort(descending=True, stable=True)[:count]] = True
    assert torch.equal(largest(values.abs(), count), expected)
    kept = values.clone()
    keep_largest(kept, count)
    assert torch.equal(kept, values * expected)


def test_what_is_kept_is_kept_in_a_turned_tensor_too_and_no_number_becomes_one():
    values = normal(300, 400)
    values[7, 9] = torch.nan
    turned = values.T.contiguous().T
    keep_largest(turned, 50_000)
    keep_largest(values, 50_000)
    assert values[7, 9].isnan() and turned[7, 9].isnan()
    values[7, 9] = turned[7, 9] = 0
    assert torch.equal(values, turned) and values.count_nonzero() in (49_999, 50_000)


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties", "della", "della_linear"])
def test_draws_depend_on_seed_tensor_and_model_alone(name):
    base, tensors = normal(50, 40), [normal(50, 40, seed=1), normal(50, 40, seed=2)]
    own = [{"density": 0.4}] * 2
    first = merge(name, tensors, base, own)
    torch.rand(3)
    assert torch.equal(first, merge(name, tensors, base, own))
    assert not torch.equal(first, merge(name, tensors, base, own, seed=1))
    assert not torch.equal(first, merge(name, tensors, base, own, tensor="y.weight"))
    # Two models are not thinned out by one draw.
    same = merge(name, [tensors[0]] * 2, base, own) - base
    changed = (same != 0).double().mean()
    assert 0.5 < changed < 0.8, "1 - 0.6 ** 2 of the elements, were the draws independent; 0.4 were they one"


def test_dare_keeps_the_mean_of_what_it_thins_out():
    base = torch.zeros(200, 200, dtype=torch.float64)
    one = torch.ones(200, 200, dtype=torch.float64)
    merged = merge("dare_linear", [one], base, [{"density": 0.25}])
    assert set(merged.unique().tolist()) == {0.0, 4.0} and abs(float(merged.mean()) - 1) < 0.05
    assert set(merge("dare_linear", [one], base, [{"density": 0.25}], rescale=False).unique().tolist()) == {0.0, 1.0}
    two = merge("dare_linear", [one, one], base, [{"density": 0.25}] * 2)
    assert set(two.unique().tolist()) == {0.0, 4.0, 8.0}, "each model has a draw of its own"
    assert merge("dare_linear", [one], base, [{"density": 0.0}]).abs().sum() == 0


def test_della_keeps_large_elements_more_often():
    base = torch.zeros(400, 100, dtype=torch.float64)
    one = torch.arange(1.0, 101, dtype=torch.float64).repeat(400, 1)
    kept = merge("della_linear", [one], base, [{"density": 0.5, "epsilon": 0.4}], rescale=False) != 0
    assert kept[:, :20].double().mean() < 0.25 and kept[:, 80:].double().mean() > 0.75
    with pytest.raises(BadRecipe, match=r"density 0\.1 with epsilon 0\.15"):
        merge("della", [one], base, [{"density": 0.1}])


def test_breadcrumbs_leave_out_the_largest_and_the_smallest():
    base, one = torch.zeros(10), torch.arange(1.0, 11)
    merged = merge("breadcrumbs", [one], base, [{"density": 0.5, "gamma": 0.2}])
    assert merged.tolist() == [0, 0, 0, 4, 5, 6, 7, 8, 0, 0]
    # Where little is left out, outliers stay rather than that fewer than the density are kept.
    assert merge("breadcrumbs", [one], base, [{"density": 0.9, "gamma": 0.5}]).tolist() == [*range(1, 10), 0]


def test_model_stock_goes_the_further_the_more_the_experts_agree():
    base, delta = normal(6, 5), normal(6, 5, seed=1)
    torch.testing.assert_close(merge("model_stock", [base + delta] * 3, base), base + delta)
    a, b = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    a[0] = b[1] = 2
    assert merge("model_stock", [a, b], torch.zeros(4, dtype=torch.float64)).abs().sum() == 0
    opposed = merge("model_stock", [base + delta, base - delta], base)
    torch.testing.assert_close(opposed, base)
    # cos 60 degrees is 1/2: t = 2/2 / (1 + 1/2) = 2/3 of the way to the mean.
    a, b = (torch.tensor(x, dtype=torch.float64) for x in ([1.0, 0.0], [0.5, 3**0.5 / 2]))
    torch.testing.assert_close(merge("model_stock", [a, b], torch.zeros_like(a)), (a + b) / 2 * 2 / 3)


def test_sce_weighs_by_the_size_of_what_was_learned():
    base = torch.zeros(2, dtype=torch.float64)
    a, b = torch.tensor([3.0, 0.0], dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
    # Shares 9/11 and 2/11; the second element is b's alone.
    torch.testing.assert_close(merge("sce", [a, b], base), torch.tensor([(27 + 2) / 11, -1.0], dtype=torch.float64))
    assert merge("sce", [a, b], base, select_topk=0.5)[1] == 0


def test_slerp_keeps_the_length_and_ends_where_the_models_are():
    a, b = normal(8, 5), normal(8, 5, seed=1)
    b = b * (a.norm() / b.norm())
    half = merge("slerp", [a, b])
    assert abs(float(half.norm() / a.norm()) - 1) < 1e-12 and half.shape == a.shape
    for t, end in ((0, a), (1, b)):
        torch.testing.assert_close(merge("slerp", [a, b], t=t), end)
    quarter = merge("slerp", [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])], t=1 / 3)
    torch.testing.assert_close(quarter.double(), torch.tensor([3**0.5 / 2, 0.5], dtype=torch.float64))
    for other in (a * 2, a * (1 + 1e-9), -a):  # Parallel: the straight line, and no division by zero.
        torch.testing.assert_close(merge("slerp", [a, other], t=0.25), 0.75 * a + 0.25 * other)
    assert merge("slerp", [torch.tensor(1.0), torch.tensor(3.0)]).tolist() == 2.0


def test_nuslerp_is_slerp_of_weights_of_rows_and_of_task_vectors():
    a, b, base = normal(8, 5), normal(8, 5, seed=1), normal(8, 5, seed=2)
    own = [{"weight": 3}, {"weight": 1}]
    torch.testing.assert_close(merge("nuslerp", [a, b], own=own), merge("slerp", [a, b], t=0.25))
    expected = base + merge("slerp", [a - base, b - base], t=0.25)
    torch.testing.assert_close(merge("nuslerp", [a, b], base, own), expected)
    rows = torch.stack([merge("slerp", [x, y], t=0.25) for x, y in zip(a, b, strict=True)])
    torch.testing.assert_close(merge("nuslerp", [a, b], own=own, nuslerp_flatten=False), rows)
    columns = torch.stack([merge("slerp", [x, y], t=0.25) for x, y in zip(a.T, b.T, strict=True)]).T
    by_column = merge("nuslerp", [a, b], own=own, nuslerp_flatten=False, nuslerp_row_wise=True)
    torch.testing.assert_close(by_column, columns)


@pytest.mark.parametrize("name", ON_VECTORS)
def test_experts_that_are_the_base_give_the_base_and_nothing_is_written_into(name):
    base = normal(6, 5)
    assert torch.equal(merge(name, [base.clone(), base.clone()], base), base)
    tensors = [normal(6, 5, seed=1), normal(6, 5, seed=2)]
    before = [value.clone() for value in (*tensors, base)]
    merged = merge(name, tensors, base)
    assert torch.isfinite(merged).all() and merged.shape == base.shape
    assert all(map(torch.equal, (*tensors, base), before))
