"""Products of float32 by oneDNN: the same to rounding as torch's own, and made only where they take less time."""

import pytest
import torch

from fusehub.utils import products
from tests.unit.experts import rel


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[False, True], ids=["mkl", "onednn"])
def ways(request, monkeypatch) -> list[bool]:
    """Has products made one way; what it gives says of each whether it was oneDNN's."""
    if request.param and not torch.backends.mkldnn.is_available():
        pytest.skip("torch has no oneDNN here")
    monkeypatch.setattr(products, "_has_vectors_that_mkl_leaves", lambda: request.param)
    chosen, choose = [], products._by_onednn
    monkeypatch.setattr(products, "_by_onednn", lambda *given: chosen.append(choose(*given)) or chosen[-1])
    return chosen


@pytest.mark.parametrize("cached", [2**20, 1000])
def test_what_is_added_is_the_product_wherever_its_factors_lie(ways, cached, monkeypatch):
    monkeypatch.setattr(products, "_CACHED", cached)
    monkeypatch.setattr(products, "_COPIED", cached)
    left, right, out = random(200, 300), random(130, 300, seed=1), random(200, 130, seed=2)
    wanted = out.double() - 2 * left.double() @ right.double().T
    # Parts of larger matrices, turned ones, and an `out` that is a part, too.
    frame, wide = random(500, 400, seed=3), torch.zeros(200, 500)
    frame[:300, :200] = left.T
    wide[:, 100:230] = out
    products.add_product(wide[:, 100:230], frame[:300, :200].T, right, factor=-2.0)
    assert rel(wide[:, 100:230], wanted) < 1e-6
    assert wide[:, :100].count_nonzero() == wide[:, 230:].count_nonzero() == 0
    products.add_product(out, left, right.T.contiguous().T, factor=-2.0)
    assert rel(out, wanted) < 1e-6
    # Rows with something between them.
    frame[:200, 50:350], out = left, random(200, 130, seed=2)
    products.add_product(out, frame[:200, 50:350], right, factor=-2.0)
    assert rel(out, wanted) < 1e-6
    assert len(set(ways)) == 1 and ways[0] == products._has_vectors_that_mkl_leaves()


@pytest.mark.parametrize("compiled", [True, False])
def test_a_product_by_itself_is_the_same_with_and_without_what_the_compiler_calls(ways, compiled, monkeypatch):
    monkeypatch.setattr(products, "_onednn", products._onednn.__wrapped__)
    if not compiled:
        monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", None, raising=False)
    frame, right = random(500, 400), random(130, 300, seed=1)
    for left in (frame[:300, :200].T, frame[100:300, 50:350]):
        wanted, given = left.double() @ right.double().T, left.clone()
        assert rel(products.product(left, right.T.contiguous().T), wanted) < 1e-6
        assert torch.equal(left, given)
        out = torch.ones(200, 130)
        products.add_product(out, left, right)
        assert rel(out, wanted + 1) < 1e-6


@pytest.mark.parametrize("rows", [1, 63, 64, 512, 513, 1300])
def test_rows_are_turned_round_with_zeros_behind_them(ways, rows):
    given = random(rows, 70)
    columns = products.transposed(given)
    assert columns.is_contiguous() and torch.equal(columns[:, :rows], given.T)
    assert columns[:, rows:].count_nonzero() == 0 and columns.shape[1] <= rows * 9 / 8
    if products._has_vectors_that_mkl_leaves() and rows >= 64:
        assert columns.shape[1] % (1 << (rows.bit_length() - 4)) == 0


def test_a_product_by_few_rows_is_that_of_torch(ways):
    left, right = random(200, 300), random(8, 300, seed=1)
    assert rel(products.product(left, right), left.double() @ right.double().T) < 1e-6
    assert ways == [products._has_vectors_that_mkl_leaves()]
    assert products.product(left, right[:0]).shape == (200, 0)


def test_nothing_but_large_products_of_float32_is_made_otherwise(ways):
    for rows, dtype in ((3, torch.float32), (200, torch.float64)):
        left, right = random(rows, 200).to(dtype), random(150, 200).to(dtype)
        out = torch.zeros(rows, 150, dtype=dtype)
        products.add_product(out, left, right)
        assert rel(out, left.double() @ right.double().T) < (1e-6 if dtype == torch.float32 else 1e-14)
    products.add_product(torch.zeros(5, 0), random(5, 0), random(0, 0))
    products.add_product(torch.zeros(100, 100), random(100, 0), random(100, 0))
    assert not any(ways)


@pytest.mark.parametrize(
    ("maker", "capability", "chosen"),
    [("AuthenticAMD", "AVX512", True), ("GenuineIntel", "AVX512", False), ("AuthenticAMD", "AVX2", False)],
)
def test_it_is_chosen_where_mkl_leaves_the_wide_vectors_alone(maker, capability, chosen, monkeypatch):
    monkeypatch.setattr(products, "_maker", lambda: maker)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert products._has_vectors_that_mkl_leaves.__wrapped__() == chosen
