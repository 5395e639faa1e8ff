"""The system of one set of grams: as precise as it has to be, in no more precision and memory than that takes."""

import weakref
from dataclasses import dataclass

import pytest
import torch

from fusehub.methods import Layer, find_method, linear_system
from fusehub.methods.mean import weighted_mean
from fusehub.utils.on_demand import OnDemand
from fusehub.utils.symmetric import strips_of
from tests.unit.experts import rel

METHOD = find_method("regmean")
SIZE, OUTPUTS = 300, 40


@dataclass
class Matrix:
    """Statistics that are a given gram, [in, in] in float64, and are never there as a whole."""

    matrix: torch.Tensor
    rows: int = 100
    shift: float = 0.0
    asked: int = 0

    @property
    def total(self):
        return torch.zeros(len(self.matrix), dtype=torch.float64)

    def diagonal(self):
        return self.matrix.diagonal()

    def strips(self, dtype, device="cpu"):
        self.asked += 1
        return strips_of(self.matrix, dtype)


def randn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def graded(condition, seed):
    """A gram whose eigenvalues fall from a few large ones by `condition`, in directions that all experts share."""
    directions = torch.linalg.qr(randn(SIZE, SIZE, seed=1))[0]
    values = torch.logspace(0, -1, SIZE, dtype=torch.float64)
    values[:2] = 100
    values[-SIZE // 4 :] = 100 / condition
    gram = directions @ torch.diag(values * randn(SIZE, seed=seed).exp()) @ directions.T
    return (gram + gram.T) / 2


def problem(condition, count=2, update=0.1):
    base = randn(OUTPUTS, SIZE, seed=50)
    weights = [base + update * randn(OUTPUTS, SIZE, seed=60 + i) for i in range(count)]
    return weights, [Matrix(graded(condition, seed=i), rows=100 + 50 * i) for i in range(count)]


def solve(weights, statistics, coefficients=None, base=None, **options):
    coefficients = coefficients or [1.0] * len(weights)
    return METHOD.merge(Layer("w", weights, coefficients, base, statistics=statistics), METHOD.parse(options))


def reference(weights, statistics, alpha, ridge=0.0, anchor=None):
    """The normal equations in float64, by another factorisation."""
    grams = [own.matrix / own.rows for own in statistics]
    grams = [alpha * gram + (1 - alpha) * gram.diagonal().diag() for gram in grams]
    right = sum(gram @ weight.T for gram, weight in zip(grams, weights, strict=True))
    if ridge:
        right = right + ridge * anchor.T
    return torch.linalg.solve(sum(grams) + ridge * torch.eye(SIZE, dtype=torch.float64), right).T


@pytest.mark.parametrize(
    ("alpha", "condition", "precision"),
    [(0.9, 1e9, "float32"), (1.0, 1e2, "float32"), (1.0, 3e4, "refined"), (1.0, 1e7, "float64")],
)
@pytest.mark.parametrize("count", [2, 3])
def test_what_float32_does_not_solve_well_is_refined_or_solved_in_float64_and_said(alpha, condition, precision, count):
    weights, statistics = problem(condition, count)
    merged = solve(weights, statistics, alpha=alpha)
    assert merged.precision == precision
    error = rel(merged.tensor, reference(weights, statistics, alpha))
    assert error < 1e-5
    if precision != "float32":
        assert error < 1e-6, "it was worth it"


def test_a_refined_weight_would_have_been_wrong_without():
    weights, statistics = problem(3e4)
    expected = reference(weights, statistics, 1.0)
    total = sum(own.matrix / own.rows for own in statistics)
    right = (statistics[0].matrix / 100).float() @ (weights[0] - weights[1]).T.float()
    narrow = weights[1] + torch.cholesky_solve(right, torch.linalg.cholesky(total.float())).T
    assert rel(narrow, expected) > linear_system.TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("condition", [1e2, 1e7])
def test_experts_that_are_alike_or_alone_in_having_a_say_come_back_to_the_last_bit(condition, dtype):
    weights, statistics = problem(condition, 3)
    weights = [weight.to(dtype) for weight in weights]
    assert torch.equal(solve([weights[0]] * 3, statistics, [1.0, 0.3, 0.1], alpha=1.0).tensor, weights[0])
    for index in range(3):
        coefficients = [0.0] * 3
        coefficients[index] = 0.7
        assert torch.equal(solve(weights, statistics, coefficients, alpha=1.0).tensor, weights[index])


def test_each_large_gram_is_read_once_for_the_sum_and_all_but_one_for_the_right_side(monkeypatch):
    weights, statistics = problem(1e2, 3)
    small = solve(weights, statistics).tensor
    assert [own.asked for own in statistics] == [1, 1, 1], "what small ones were unpacked to is kept"
    # Three triangles in float32 are more than that.
    monkeypatch.setattr(linear_system, "_KEPT", 2 * 3 * SIZE**2 - 1)
    weights, statistics = problem(1e2, 3)
    assert torch.equal(solve(weights, statistics).tensor, small)
    assert [own.asked for own in statistics] == [2, 2, 1]


def test_outputs_that_are_solved_in_parts_are_what_they_are_together(monkeypatch):
    weights, statistics = problem(1e2)
    whole = solve(weights, statistics).tensor
    monkeypatch.setattr(linear_system, "_NUMBERS", SIZE * 17)
    assert rel(solve(weights, statistics).tensor, whole) < 1e-6


@pytest.mark.parametrize(("condition", "alpha"), [(1e2, 0.9), (3e4, 1.0), (1e7, 1.0)])
def test_the_ridge_and_the_anchor_count_in_every_precision(condition, alpha):
    weights, statistics = problem(condition)
    base = weights[0] + randn(OUTPUTS, SIZE, seed=9)
    ridge = 1e-4 if condition > 1e5 else 1e-2
    merged = solve(weights, statistics, base=base, anchor="base", alpha=alpha, ridge=ridge).tensor
    assert rel(merged, reference(weights, statistics, alpha, ridge, base)) < 1e-5
    assert rel(merged, reference(weights, statistics, alpha)) > 1e-4


def test_a_feature_that_no_row_used_keeps_the_anchor():
    weights, statistics = problem(1e2)
    for own in statistics:
        own.matrix[[3, 280]] = 0
        own.matrix[:, [3, 280]] = 0
    merged = solve(weights, statistics)
    kept = weighted_mean(weights, [1.0, 1.0])
    assert torch.equal(merged.tensor[:, [3, 280]], kept[:, [3, 280]])
    assert merged.precision == "float32" and "2 of 300 input features" in merged.notes[0].text


@pytest.mark.parametrize("alpha", [0.0, 0.9])
def test_narrow_weights_stay_narrow(alpha):
    """The experts' numbers are of bfloat16: float32 holds them and what becomes of them."""
    weights, statistics = problem(1e2)
    narrow = [weight.bfloat16().float() for weight in weights]
    merged = solve(narrow, statistics, alpha=alpha).tensor
    wide = solve([weight.double() for weight in narrow], statistics, alpha=alpha).tensor
    assert merged.dtype == torch.float32 and rel(merged, wide) < 1e-6


@pytest.mark.parametrize("condition", [10, 1e6, 1e12])
@pytest.mark.parametrize("size", [2**24, 10 * SIZE], ids=["whole", "by rows"])
def test_no_more_than_two_experts_weights_are_there_at_once(condition, size, monkeypatch):
    monkeypatch.setattr(linear_system, "_NUMBERS", size)
    weights, statistics = problem(condition, count=5)
    alive: weakref.WeakSet = weakref.WeakSet()
    most = 0

    def read(index, rows):
        nonlocal most
        weight = weights[index][rows].clone()
        alive.add(weight)
        most = max(most, len(alive))
        return weight

    merged = solve(OnDemand(5, read), statistics)
    expected = solve(weights, statistics)
    assert torch.equal(merged.tensor, expected.tensor) and merged.precision == expected.precision
    # The one that the others are compared with, and one of them.
    assert most == 2
