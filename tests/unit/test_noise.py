"""Noise on statistics: how much, on what, and what is left of them."""

import contextlib
import json
import math

import pytest
import torch

from fusehub.collecting.collect import collect
from fusehub.collecting.gram_collector import GramCollector
from fusehub.collecting.noise import BoundedSum, Noise, _normal, gaussian_deviation, row_bounds, with_noise
from fusehub.errors import BadData
from fusehub.merging.merge import merge
from fusehub.models.loading import load_model, load_tokenizer
from fusehub.models.resolve import resolve
from fusehub.statistics.file import Statistics
from fusehub.statistics.grams import unpack
from tests.unit.experts import recipe_of, rel, relatives, text_file, texts_of


@pytest.fixture(scope="module")
def expert(tmp_path_factory):
    return relatives(tmp_path_factory.mktemp("noise"), layers=1)[0]


def bounded(expert, texts, bounds=None, batch=4):
    """The bounded sums of the expert on `texts`, and the bounds."""
    from fusehub.models.layout import linears_of

    model, tokenizer = load_model(resolve(str(expert))), load_tokenizer(resolve(str(expert)))
    probe = {"input_ids": torch.full((3, 11), 7), "attention_mask": torch.ones(3, 11, dtype=torch.long)}
    bounds = bounds or row_bounds(model, linears_of(model), probe, 0.5)
    with GramCollector(model, linears_of(model), bounds=bounds) as collector:
        collector.probe(probe)
        for start in range(0, len(texts), batch):
            encoded = dict(tokenizer(texts[start : start + batch], padding=True, return_tensors="pt"))
            encoded = {name: encoded[name] for name in probe}
            with torch.inference_mode(), collector.counting(encoded):
                model(**encoded)
        return collector.sums, bounds


@pytest.mark.parametrize(
    ("epsilon", "delta", "sigma"), [(1.0, 1e-5, 3.7306), (0.1, 1e-5, 30.75), (10.0, 1e-6, 0.5411)]
)
def test_the_deviation_is_the_least_that_is_private(epsilon, delta, sigma):
    found = gaussian_deviation(epsilon, delta, 2.0) / 2
    # The classical formula is too much up to epsilon 1, and beyond it not enough.
    assert (found < math.sqrt(2 * math.log(1.25 / delta)) / epsilon) == (epsilon <= 1)
    # Both tails of the privacy loss, computed by sampling nothing: numerically over a fine grid.
    x = torch.linspace(-12 * found, 1 + 12 * found, 2_000_001, dtype=torch.float64)
    p = torch.exp(-((x - 1) ** 2) / (2 * found**2)) / (found * math.sqrt(2 * math.pi))
    q = torch.exp(-(x**2) / (2 * found**2)) / (found * math.sqrt(2 * math.pi))
    reached = float((p - math.exp(epsilon) * q).clamp_min(0).sum() * (x[1] - x[0]))
    assert reached == pytest.approx(delta, rel=1e-3)
    assert found == pytest.approx(sigma, rel=0.02)


def test_an_example_counts_once_and_is_bounded_whatever_its_length(expert):
    texts = texts_of(0, 12)
    sums, bounds = bounded(expert, texts)
    longer = [*texts[:-1], "terrible " * 40]
    others, _ = bounded(expert, longer, bounds)
    distance = 0.0
    for name, own in sums.items():
        assert own.rows == 12 and isinstance(own, BoundedSum)
        gram, other = (unpack(one.packed(), one.size) / own.bound**2 for one in (own, others[name]))
        assert float(gram.trace()) <= 12 * (1 + 1e-5)
        assert float((gram - other).norm()) <= math.sqrt(2) + 1e-5
        distance += float((own.packed() - others[name].packed()).norm() / own.bound**2) ** 2
        distance += float((own.total - others[name].total).norm() / (2 * own.bound)) ** 2
    assert 0.1 < distance <= 3 * len(sums)


def test_the_sums_do_not_depend_on_batches(expert):
    texts = texts_of(0, 12)
    sums, bounds = bounded(expert, texts, batch=1)
    others, _ = bounded(expert, texts, bounds, batch=5)
    for name, own in sums.items():
        assert rel(own.packed(), others[name].packed()) < 1e-5 and rel(own.total, others[name].total) < 1e-5


def test_bounds_tell_nothing_of_the_texts(expert, tmp_path):
    metadata = []
    for number in (0, 1):
        with contextlib.closing(
            collect(str(expert), text_file(tmp_path, number), tmp_path / str(number), noise=Noise(1.0))
        ) as made:
            metadata.append(made.metadata)
    assert metadata[0]["tokens"] is None and metadata[0]["labels"] is None
    assert metadata[0]["noise"] == {
        "mechanism": "gaussian", "unit": "example", "neighbours": "one example replaced",
        "epsilon": 1.0, "delta": 1e-6, "clip": 1.0,
    }  # fmt: skip
    assert bounded(expert, texts_of(0, 4))[1] == bounded(expert, texts_of(1, 4))[1]


def test_noise_is_as_large_as_said_and_never_the_same():
    sums = BoundedSum(40, 3.0)
    sums.count(torch.randn(20, 40), torch.arange(20), 20, 0, 1)
    first, second = (with_noise({"a": sums, "b": sums}, Noise(5.0)) for _ in range(2))
    assert not torch.equal(first["a"].matrix, second["a"].matrix) and not torch.equal(
        first["a"].matrix, first["b"].matrix
    )
    noise = _normal(200_000)
    assert abs(float(noise.mean())) < 0.01 and float(noise.std()) == pytest.approx(1, abs=0.01)
    assert float((noise**4).mean()) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("epsilon", [0.1, 5.0, 100.0])
def test_what_is_released_is_positive_semidefinite_with_its_mean(epsilon):
    sums = BoundedSum(40, 3.0)
    sums.count(torch.randn(500, 40) + 1, torch.arange(500), 500, 0, 1)
    released = with_noise({"a": sums}, Noise(epsilon))["a"]
    last = torch.cat([released.total, torch.tensor([500.0])])
    whole = torch.cat([torch.cat([released.matrix, released.total[:, None]], 1), last[None]])
    values = torch.linalg.eigvalsh(whole)
    assert float(values[0]) > -1e-6 * float(values[-1])
    if epsilon == 100.0:
        assert rel(released.matrix, unpack(sums.packed(), 40)) < 0.05


def test_statistics_with_noise_are_merged_and_say_so(expert, tmp_path):
    collect(str(expert), text_file(tmp_path), expert / "fusehub", noise=Noise(2.0, 1e-5, 0.7)).close()
    other = expert.parent / "expert-1"
    collect(str(other), text_file(tmp_path, 1), other / "fusehub").close()
    merge(recipe_of([expert, other], parameters={"affine": True}), tmp_path / "out")
    with contextlib.closing(Statistics(expert / "fusehub" / "statistics.safetensors")) as statistics:
        assert all(layer.rows == 24 for layer in statistics.layers.values()), "texts are counted, not tokens"
    assert json.loads((expert / "fusehub" / "statistics.json").read_text())["noise"]["epsilon"] == 2.0


@pytest.mark.parametrize(
    "wrong",
    [{"epsilon": 0.0}, {"epsilon": float("nan")}, {"epsilon": 1, "delta": 0.0}, {"epsilon": 1, "clip": -1}],
)
def test_noise_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(BadData, match="makes no sense"):
        Noise(**wrong)
