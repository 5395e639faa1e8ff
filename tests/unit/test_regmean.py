"""RegMean against least squares on the raw inputs, and the laws that it must keep."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusehub.methods import Layer, find_method
from fusehub.methods.mean import weighted_mean
from fusehub.utils.symmetric import strips_of
from tests.unit.experts import least_squares, rel

METHOD = find_method("regmean")


@dataclass(frozen=True)
class Inputs:
    """Statistics of given input rows, [rows, in], in float64."""

    x: torch.Tensor
    shift: float = 0.0

    @property
    def rows(self):
        return len(self.x)

    def gram(self):
        return self.x.T @ self.x

    def diagonal(self):
        return self.gram().diagonal()

    def strips(self, dtype, device="cpu"):
        return strips_of(self.gram(), dtype)

    @property
    def total(self):
        return self.x.sum(0)


@dataclass(frozen=True)
class Given:
    """Statistics that are a given gram."""

    matrix: torch.Tensor
    rows: int = 100
    shift: float = 0.0

    def gram(self):
        return self.matrix.clone()

    def diagonal(self):
        return self.gram().diagonal()

    def strips(self, dtype, device="cpu"):
        return strips_of(self.gram(), dtype)

    @property
    def total(self):
        return torch.zeros(len(self.matrix), dtype=torch.float64)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(count=3, size=12, out=5, rows=40, seed=0):
    """Experts' weights and inputs: correlated features off their mean, of different scales and numbers of rows."""
    inputs = [
        (randn(rows + 25 * i, size, seed=seed + i) @ randn(size, size, seed=seed + 10 + i) + 1) * 2.0**i
        for i in range(count)
    ]
    return [randn(out, size, seed=seed + 20 + i) for i in range(count)], [Inputs(x) for x in inputs]


def solve(weights, statistics, coefficients=None, *, base=None, biases=None, base_bias=None, **options):
    coefficients = coefficients or [1.0] * len(weights)
    layer = Layer("w", weights, coefficients, base, base_bias, biases, statistics=statistics)
    return METHOD.merge(layer, METHOD.parse(options))


def graded(size, condition, seed=0):
    """A positive definite matrix of that condition number."""
    directions = torch.linalg.qr(randn(size, size, seed=seed))[0]
    return directions @ torch.diag(torch.logspace(0, -np.log10(condition), size, dtype=torch.float64)) @ directions.T


# --- identity, order, coefficients --------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.9, 1.0])
@pytest.mark.parametrize("condition", [1e0, 1e6, 1e12, float("inf")])
def test_identical_experts_return_themselves_to_the_last_bit(alpha, condition):
    weight = randn(6, 20) / 3
    grams = [graded(20, min(condition, 1e15), seed=i) for i in range(3)]
    if condition == float("inf"):
        grams = [Given(torch.outer(row, row)) for row in randn(3, 20)]
    else:
        grams = [Given(gram, rows=10 + i) for i, gram in enumerate(grams)]
    for anchor in ("mean", "base"):
        base = weight.clone() if anchor == "base" else None
        merged = solve([weight] * 3, grams, [1.0, 0.3, 0.1], alpha=alpha, base=base, anchor=anchor)
        assert torch.equal(merged.tensor, weight)


def test_one_expert_returns_itself_to_the_last_bit():
    weights, statistics = problem(1)
    assert torch.equal(solve(weights, statistics).tensor, weights[0])


@pytest.mark.parametrize("alpha", [0.0, 0.9, 1.0])
def test_the_order_of_the_experts_does_not_matter(alpha):
    weights, statistics = problem()
    merged = solve(weights, statistics, [1.0, 2.0, 3.0], alpha=alpha).tensor
    turned = solve(weights[::-1], statistics[::-1], [3.0, 2.0, 1.0], alpha=alpha).tensor
    assert rel(turned, merged) < 1e-12


@pytest.mark.parametrize("alpha", [0.0, 0.9, 1.0])
def test_an_expert_with_all_of_the_coefficients_is_returned_exactly(alpha):
    weights, statistics = problem()
    for index in range(3):
        coefficients = [0.0, 0.0, 0.0]
        coefficients[index] = 0.7
        assert torch.equal(solve(weights, statistics, coefficients, alpha=alpha).tensor, weights[index])


def test_the_total_of_the_coefficients_does_not_matter():
    weights, statistics = problem()
    merged = solve(weights, statistics, [1.0, 2.0, 3.0]).tensor
    for scale in (1e-6, 1e6):
        assert rel(solve(weights, statistics, [scale, 2 * scale, 3 * scale]).tensor, merged) < 1e-12


def test_scaling_a_gram_is_the_same_as_its_coefficient():
    weights, statistics = problem()
    scaled = [Given(inputs.gram() * c, inputs.rows) for inputs, c in zip(statistics, (1, 5, 0.2), strict=True)]
    assert rel(solve(weights, scaled).tensor, solve(weights, statistics, [1.0, 5.0, 0.2]).tensor) < 1e-12


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_equal_grams_give_the_mean(alpha):
    weights, statistics = problem()
    coefficients = [1.0, 2.0, 5.0]
    merged = solve(weights, [statistics[0]] * 3, coefficients, alpha=alpha).tensor
    assert rel(merged, weighted_mean(weights, coefficients)) < 1e-10


def test_different_grams_do_not_give_the_mean():
    weights, statistics = problem()
    assert rel(solve(weights, statistics).tensor, weighted_mean(weights, [1.0] * 3)) > 0.05


# --- least squares ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", ["mean", "sum"])
@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("coefficients", [None, [1.0, 0.25, 3.0]])
def test_it_is_least_squares_on_the_stacked_inputs(weighting, alpha, coefficients):
    weights, statistics = problem()
    merged = solve(weights, statistics, coefficients, alpha=alpha, weighting=weighting).tensor
    expected = least_squares(
        [s.x for s in statistics], weights, alpha=alpha, weighting=weighting, coefficients=coefficients
    )
    assert rel(merged, expected) < 1e-8


def test_the_weightings_differ_where_experts_have_different_amounts_of_data():
    weights, statistics = problem()
    assert rel(solve(weights, statistics, weighting="sum").tensor, solve(weights, statistics).tensor) > 0.01
    alike = [Inputs(inputs.x[:40]) for inputs in statistics]
    assert rel(solve(weights, alike, weighting="sum").tensor, solve(weights, alike).tensor) < 1e-12


def test_alpha_zero_is_a_mean_weighted_by_column():
    weights, statistics = problem()
    shares = torch.stack([(inputs.x**2).mean(0) for inputs in statistics])
    expected = sum(w * share for w, share in zip(weights, shares, strict=True)) / shares.sum(0)
    merged = solve(weights, statistics, alpha=0.0).tensor
    assert rel(merged, expected) < 1e-12
    assert rel(merged, weighted_mean(weights, [1.0] * 3)) > 0.05, "it is not the plain mean"


def test_the_default_alpha_is_nine_tenths_and_the_default_weighting_the_mean():
    weights, statistics = problem()
    assert rel(solve(weights, statistics).tensor, least_squares([s.x for s in statistics], weights, alpha=0.9)) < 1e-8


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_the_normal_equations_hold_and_nothing_near_is_better(alpha):
    weights, statistics = problem()
    merged = solve(weights, statistics, alpha=alpha).tensor
    grams = []
    for inputs in statistics:
        gram = inputs.gram() / inputs.rows
        grams.append(alpha * gram + (1 - alpha) * torch.diag(gram.diagonal()))

    def objective(weight):
        return sum(float(((weight - w) @ g * (weight - w)).sum()) for w, g in zip(weights, grams, strict=True))

    right = sum(g @ w.T for g, w in zip(grams, weights, strict=True))
    assert rel(sum(grams) @ merged.T, right) < 1e-8
    for seed in range(20):
        assert objective(merged + 1e-3 * randn(*merged.shape, seed=seed)) > objective(merged)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
@pytest.mark.parametrize("weighting", ["mean", "sum"])
def test_affine_solves_the_bias_with_the_weight(alpha, weighting):
    weights, statistics = problem()
    biases = list(randn(3, 5, seed=7))
    options = {"alpha": alpha, "weighting": weighting}
    merged = solve(weights, statistics, biases=biases, affine=True, **options)
    expected = least_squares([s.x for s in statistics], weights, affine=biases, **options)
    assert rel(merged.tensor, expected[:, :-1]) < 1e-6
    assert rel(merged.bias, expected[:, -1]) < 1e-6
    plain = solve(weights, statistics, biases=biases, **options)
    assert plain.bias is None and rel(plain.tensor, merged.tensor) > 1e-3


# --- the anchor ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.9, 1.0])
def test_the_anchor_does_not_matter_where_the_inputs_say_everything(alpha):
    weights, statistics = problem()
    merged = solve(weights, statistics, alpha=alpha).tensor
    for seed in range(3):
        anchored = solve(weights, statistics, alpha=alpha, anchor="base", base=10 * randn(5, 12, seed=seed)).tensor
        assert rel(anchored, merged) < 1e-9


@pytest.mark.parametrize("anchor", ["mean", "base"])
def test_the_anchor_decides_what_the_inputs_do_not_say_and_nothing_else(anchor):
    weights, _ = problem(2)
    seen = torch.linalg.qr(randn(12, 12))[0][:, :7]
    statistics = [Inputs(randn(50, 7, seed=i) @ seen.T) for i in range(2)]
    base = randn(5, 12, seed=99)
    merged = solve(weights, statistics, alpha=1.0, anchor=anchor, base=base)
    # What each output is on inputs that were seen follows from least squares alone.
    expected = least_squares([s.x for s in statistics], weights, alpha=1.0)
    assert rel(merged.tensor @ seen, torch.tensor(expected) @ seen) < 1e-6
    assert [note.text for note in merged.notes] == ["inputs span 7 of 12 directions: the rest kept at the anchor"]
    # Scaled to the features' sizes, the step away from the anchor lies within what was seen.
    kept = base if anchor == "base" else weighted_mean(weights, [1.0, 1.0])
    total = sum(s.gram() / s.rows for s in statistics)
    step = (merged.tensor - kept) * total.diagonal().sqrt()
    span = torch.linalg.qr(torch.diag(total.diagonal().rsqrt()) @ total)[0][:, :7]
    assert rel(step @ span @ span.T, step) < 1e-5


def test_a_ridge_pulls_towards_the_anchor():
    weights, statistics = problem()
    base = randn(5, 12, seed=5)
    distances = [
        float((solve(weights, statistics, ridge=ridge, anchor="base", base=base).tensor - base).norm())
        for ridge in (0.0, 1.0, 1e3, 1e9)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-5 < 1 < distances[0]
    gram = sum(
        0.9 * s.gram() / s.rows + 0.1 * torch.diag(s.gram().diagonal()) / s.rows for s in statistics
    ) + torch.eye(12, dtype=torch.float64)
    right = sum(
        (0.9 * s.gram() / s.rows + 0.1 * torch.diag(s.gram().diagonal()) / s.rows) @ (w - base).T
        for s, w in zip(statistics, weights, strict=True)
    )
    by_hand = base + torch.linalg.solve(gram, right).T
    assert rel(solve(weights, statistics, ridge=1.0, anchor="base", base=base).tensor, by_hand) < 1e-9


# --- inputs that say little ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("anchor", ["mean", "base"])
def test_a_feature_that_no_row_used_keeps_the_anchor_and_is_said(alpha, anchor):
    weights, statistics = problem()
    dead = [3, 8]
    alive = [i for i in range(12) if i not in dead]
    for inputs in statistics:
        inputs.x[:, dead] = 0
    base = randn(5, 12, seed=5)
    merged = solve(weights, statistics, alpha=alpha, anchor=anchor, base=base)
    kept = base if anchor == "base" else weighted_mean(weights, [1.0] * 3)
    assert torch.equal(merged.tensor[:, dead], kept[:, dead])
    expected = least_squares([s.x[:, alive] for s in statistics], [w[:, alive] for w in weights], alpha=alpha)
    assert rel(merged.tensor[:, alive], expected) < 1e-8
    assert [note.text for note in merged.notes] == ["2 of 12 input features never used: kept at the anchor"]


def test_a_feature_that_one_expert_never_used_is_the_others():
    weights, statistics = problem(2)
    statistics[0].x[:, 4] = 0
    merged = solve(weights, statistics, alpha=0.0)
    assert rel(merged.tensor[:, 4], weights[1][:, 4]) < 1e-12 and not merged.notes


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("rows", [1, 3])
def test_too_few_rows_give_finite_weights_that_fit_them(alpha, rows):
    weights, statistics = problem(2)
    few = [Inputs(s.x[:rows]) for s in statistics]
    merged = solve(weights, few, alpha=alpha)
    assert torch.isfinite(merged.tensor).all()
    assert merged.tensor.abs().max() < 10 * max(w.abs().max() for w in weights)
    if alpha == 1:
        # As few rows as these can all be fitted at once.
        for weight, inputs in zip(weights, few, strict=True):
            assert rel(merged.tensor @ inputs.x.T, weight @ inputs.x.T) < 1e-5
        assert [note.text for note in merged.notes] == [
            f"inputs span {2 * rows} of 12 directions: the rest kept at the anchor"
        ]
    elif alpha > 0:
        assert rel(merged.tensor, least_squares([s.x for s in few], weights, alpha=alpha)) < 1e-8


@pytest.mark.parametrize("alpha", [0.0, 0.9, 1.0])
def test_repeated_features_are_no_trouble(alpha):
    weights, statistics = problem(2)
    for inputs in statistics:
        inputs.x[:, 6:] = inputs.x[:, :6]
    merged = solve(weights, statistics, alpha=alpha)
    assert torch.isfinite(merged.tensor).all()
    assert bool(merged.notes) == (alpha == 1)
    if alpha == 1:
        expected = least_squares([s.x for s in statistics], weights, alpha=1.0)
        for inputs in statistics:
            assert rel(merged.tensor @ inputs.x.T, torch.tensor(expected) @ inputs.x.T) < 1e-6


@pytest.mark.parametrize("alpha", [0.0, 0.9, 1.0])
def test_no_row_at_all_gives_the_anchor(alpha):
    weights, _ = problem(2)
    nothing = [Given(torch.zeros(12, 12, dtype=torch.float64), rows=0)] * 2
    assert torch.equal(solve(weights, nothing, alpha=alpha).tensor, weighted_mean(weights, [1.0, 1.0]))


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_features_of_very_different_sizes_are_solved_as_well(scale):
    weights, statistics = problem()
    sizes = torch.ones(12, dtype=torch.float64)
    sizes[::3] = scale
    scaled = [Inputs(s.x * sizes) for s in statistics]
    merged = solve([w / sizes for w in weights], scaled, alpha=1.0).tensor
    assert rel(merged * sizes, solve(weights, statistics, alpha=1.0).tensor) < 1e-8


def test_experts_are_not_written_into():
    weights, statistics = problem()
    before = [w.clone() for w in weights], [s.x.clone() for s in statistics]
    solve(weights, statistics, affine=True, biases=list(randn(3, 5)), ridge=1.0)
    assert all(map(torch.equal, weights, before[0]))
    assert all(torch.equal(s.x, x) for s, x in zip(statistics, before[1], strict=True))


def test_layers_that_share_their_inputs_share_the_factor_and_get_the_same_as_alone():
    weights, statistics = problem()
    others = [randn(7, 12, seed=40 + i) for i in range(3)]
    cache = {}
    for own in (weights, others):
        shared = METHOD.merge(Layer("w", own, [1.0] * 3, statistics=statistics, cache=cache), METHOD.parse({}))
        assert torch.equal(shared.tensor, solve(own, statistics).tensor)
    assert len(cache) == 1


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    count=st.integers(1, 4),
    size=st.integers(1, 9),
    out=st.integers(1, 4),
    rows=st.lists(st.integers(1, 30), min_size=4, max_size=4),
    alpha=st.floats(0.0, 0.99),
    weighting=st.sampled_from(["mean", "sum"]),
)
def test_below_alpha_one_any_inputs_give_the_regressions_answer(seed, count, size, out, rows, alpha, weighting):
    inputs = [randn(rows[i], size, seed=seed + i) for i in range(count)]
    weights = [randn(out, size, seed=seed + 10 + i) for i in range(count)]
    merged = solve(weights, [Inputs(x) for x in inputs], alpha=alpha, weighting=weighting).tensor
    expected = least_squares(inputs, weights, alpha=alpha, weighting=weighting)
    assert rel(merged, expected) < 1e-6
