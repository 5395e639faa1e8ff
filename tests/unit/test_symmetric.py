"""Symmetric matrices in strips: read, multiplied and factorised without a second copy of them."""

import pytest
import torch

from fusehub.statistics.grams import GramSum, pack
from fusehub.utils.symmetric import STEP, Factorized, add_strip_product, pack_into, strips_of, unpacked, whole

# One strip, a strip and a row, several of which the last is not full.
SIZES = [1, 5, STEP, STEP + 1, 2 * STEP + 77]


def rel(a, b):
    return float((a - b).norm() / b.norm())


def definite(size, dtype=torch.float64, seed=0):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(size + 20, size, generator=random, dtype=dtype)
    return x.T @ x / size + torch.eye(size, dtype=dtype)


def symmetric(size):
    matrix = definite(size)
    return (matrix + matrix.T) / 2


@pytest.mark.parametrize("size", SIZES)
def test_strips_are_the_matrix(size):
    matrix = symmetric(size)
    packed = pack(matrix)
    for strips in (strips_of(matrix, torch.float64), unpacked(packed, size)):
        assert torch.equal(whole(strips, size, torch.float64), matrix)
    again = torch.empty_like(packed)
    for start, rows in strips_of(matrix, torch.float64):
        pack_into(again, start, rows)
    assert torch.equal(again, packed)


@pytest.mark.parametrize("size", SIZES)
def test_the_strips_of_a_sum_are_those_of_its_triangle(size):
    sums = GramSum(size)
    sums.add(torch.randn(9, size, generator=torch.Generator().manual_seed(0)))
    expected = whole(unpacked(sums.packed(), size), size, torch.float64)
    assert torch.equal(whole(sums.strips(torch.float64), size, torch.float64), expected)
    assert torch.equal(sums.diagonal(), expected.diagonal())


@pytest.mark.parametrize("size", SIZES)
def test_products_of_strips_are_the_product(size):
    matrix, factor = symmetric(size), torch.randn(3, size, dtype=torch.float64)
    out = torch.ones(3, size, dtype=torch.float64)
    for strip in strips_of(matrix, torch.float64):
        add_strip_product(strip, factor, out)
    assert rel(out - 1, factor @ matrix) < 1e-13


@pytest.mark.parametrize("size", SIZES)
def test_the_factor_and_the_matrix_are_both_there_in_the_place_of_one(size):
    matrix = symmetric(size)
    place = matrix.clone()
    factorized = Factorized(place)
    factor = torch.linalg.cholesky(matrix)
    assert factorized.ok and rel(place.tril(), factor) < 1e-13
    assert factorized.least_pivot == pytest.approx(float(factor.diagonal().min()) ** 2)
    right = torch.randn(4, size, dtype=torch.float64)
    assert rel(factorized.solve(right.clone()) @ matrix, right) < 1e-12
    assert rel(factorized.times(right), right @ matrix) < 1e-13
    # What was factorised in float32 is multiplied with in float64, exactly.
    narrow = matrix.float()
    assert rel(Factorized(narrow.clone()).times(right), right @ narrow.double()) < 1e-13
    assert torch.equal(factorized.restored(), matrix)


@pytest.mark.parametrize("rows", [1, STEP - 1, 2 * STEP])
@pytest.mark.parametrize("size", SIZES)
def test_few_rows_and_many_are_solved_in_float32(size, rows):
    matrix = symmetric(size)
    factorized = Factorized(place := matrix.float())
    assert factorized.ok and rel(place.tril().double(), torch.linalg.cholesky(matrix)) < 1e-5
    right = torch.randn(rows, size, generator=torch.Generator().manual_seed(1))
    assert rel(factorized.solve(right.clone()).double() @ matrix, right) < 1e-5


@pytest.mark.parametrize("row", [0, STEP - 1, STEP + 3, 2 * STEP + 70])
def test_a_matrix_that_is_not_positive_definite_has_no_factor(row):
    matrix = symmetric(2 * STEP + 77)
    matrix[row, row] = -1.0
    factorized = Factorized(matrix.clone())
    assert not factorized.ok
    assert torch.equal(factorized.restored(), matrix)
