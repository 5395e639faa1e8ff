"""Sizes of statistics: what is lost is bounded, never positive semidefiniteness; shards, smaller sizes, inspection."""

import contextlib
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fusehub.errors import BadRecipe, BadStatistics
from fusehub.localhub import running
from fusehub.methods.base import Layer
from fusehub.methods.regmean import RegMeanOptions, regmean
from fusehub.models.tensor_files import sha256_of
from fusehub.statistics import encodings
from fusehub.statistics.encodings import SIZES, encoding_of
from fusehub.statistics.file import Statistics, stored_bytes, write_statistics
from fusehub.statistics.grams import GramSum, unpack
from fusehub.statistics.inspection import inspect
from fusehub.statistics.metadata import schema
from fusehub.statistics.resizing import resize_statistics
from fusehub.statistics.sources import open_statistics
from tests.unit import statistics_reader
from tests.warm import python

METADATA = {
    "model": {"id": "you/model", "commit": "12345678", "weights": {"model.safetensors": "ab" * 32}, "bytes": 10**6},
    "data": {"source": "texts.txt", "revision": None},
    "examples": 20,
    "uncounted": [],
}
ROOT = Path(__file__).parents[2]
BLOCK, HEAD = "h.0.dense.weight", "classifier.weight"


def sums_of(size=200, rows=900, seed=0, *, rank=None):
    """Rows as a network has them: correlated, off their mean, of unlike scales."""
    random = torch.Generator().manual_seed(seed)
    rank = rank or size
    mix = torch.randn(rank, size, generator=random) / torch.arange(1, rank + 1)[:, None] ** 0.7
    x = torch.randn(rows, rank, generator=random) @ mix + torch.rand(size, generator=random)
    x *= torch.exp(2 * torch.randn(size, generator=random))
    total = GramSum(size)
    total.add(x)
    return total


def write(folder, size, sums=None, **options):
    sums = sums or {BLOCK: sums_of(), "h.1.dense.weight": sums_of(300, seed=1), HEAD: sums_of(seed=2, rows=250)}
    return write_statistics(folder, sums, {"h.0.other.weight": BLOCK}, METADATA, size=size, **options), sums


@pytest.fixture
def opened():
    with contextlib.ExitStack() as files:
        yield lambda path: files.enter_context(contextlib.closing(Statistics(path)))


def correlations(gram):
    scale = torch.where(gram.diagonal() > 0, gram.diagonal().rsqrt(), 0.0)
    return gram * scale[:, None] * scale


# Off-diagonal error of the correlations, relative: of what is left out, and of rounding.
@pytest.mark.parametrize(
    ("size", "block", "head"),
    [("full", 1e-6, 1e-6), ("half", 4e-4, 1e-6), ("compact", 1e-2, 4e-4), ("tiny", 0.2, 4e-4)],
)
def test_each_size_keeps_the_diagonal_and_nearly_the_rest(tmp_path, opened, size, block, head):
    path, sums = write(tmp_path, size)
    for name, most in ((BLOCK, block), (HEAD, head)):
        exact, read = unpack(sums[name].packed(), sums[name].size), opened(path).layers[name].gram()
        error = correlations(read) - correlations(exact)
        assert float(error.norm() / correlations(exact).norm()) < most
        torch.testing.assert_close(read.diagonal(), exact.diagonal(), rtol=1e-2 if size == "tiny" else 1e-6, atol=0)
        assert torch.equal(opened(path).layers[name].total, sums[name].total.float().double())


def test_sizes_are_as_small_as_they_say_for_the_shapes_of_bert_base():
    @dataclass
    class Shape:
        size: int
        rows: int = 10**6

    layers = {"bert.pooler.dense.weight": 768, "classifier.weight": 768}
    for block in range(12):
        layers |= {f"encoder.layer.{block}.{part}.weight": 768 for part in "abc"}
        layers[f"encoder.layer.{block}.d.weight"] = 3072
    weights = 109_483_778 * 4
    for size, most in (("full", 0.63), ("half", 0.32), ("compact", 0.16), ("tiny", 0.03)):
        nbytes = sum(stored_bytes(encoding_of(n, Shape(i), size), i) for n, i in layers.items())
        assert most - 0.02 < nbytes / weights <= most, size


def dead_features():
    sums = sums_of()
    for block, start in zip(sums._blocks, range(0, sums.size, sums._step), strict=True):
        for feature in (3, 150):
            block[:, feature - start :][:, :1] = 0 if feature >= start else block[:, :1]
            if start <= feature < start + len(block):
                block[feature - start] = 0
    sums.total[[3, 150]] = 0
    return sums


DEGENERATE = {
    "few rows": lambda: sums_of(rows=40),
    "one row": lambda: sums_of(rows=1),
    "low rank": lambda: sums_of(rank=5),
    "dead features": dead_features,
    "no row": lambda: GramSum(200),
    "one input": lambda: sums_of(1),
    "two inputs": lambda: sums_of(2),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", DEGENERATE)
def test_whatever_the_inputs_a_stored_gram_is_positive_and_a_merge_does_not_fail(tmp_path, opened, size, kind):
    layers, grams = [], []
    for number in range(2):
        sums = DEGENERATE[kind]()
        path, _ = write(tmp_path / str(number), size, {BLOCK: sums})
        layers.append(opened(path).layers[BLOCK])
        grams.append(layers[-1].gram())
        shifted = correlations(grams[-1]) + layers[-1].shift * torch.eye(sums.size, dtype=torch.float64)
        assert float(torch.linalg.eigvalsh(shifted)[0]) > -1e-5
    weights = [torch.randn(4, sums.size, generator=torch.Generator().manual_seed(i)).double() for i in range(2)]
    spread = max(float(weight.abs().max()) for weight in weights)
    for alpha in (0.0, 0.9, 1.0):
        merged = regmean(Layer("w", weights, [1.0, 1.0], statistics=layers), RegMeanOptions(alpha=alpha)).tensor
        assert bool(torch.isfinite(merged).all()) and float(merged.abs().max()) < 100 * spread


def test_rounding_is_made_up_for_only_where_alpha_does_not_already(tmp_path, opened):
    """float16 takes positive definiteness from a gram of few rows; the shift gives it back, and no more."""
    path, _ = write(tmp_path, "half", {BLOCK: sums_of(rows=60)})
    layer = opened(path).layers[BLOCK]
    assert 0 < layer.shift < 5e-3
    assert float(torch.linalg.eigvalsh(correlations(layer.gram()))[0]) > -layer.shift
    weights = [torch.ones(1, 200).double(), torch.zeros(1, 200).double()]
    for alpha in (0.9, 1.0):
        statistics = [layer, layer]
        merged = regmean(Layer("w", weights, [1.0, 3.0], statistics=statistics), RegMeanOptions(alpha=alpha))
        torch.testing.assert_close(merged.tensor, torch.full((1, 200), 0.25).double())
        # Nothing is cut off as a direction that the inputs do not span: the rounded gram was solved by Cholesky.
        assert merged.notes == ()


def few_kinds(size=512, rows=4000):
    """Features of which many are nearly the same: what rounding takes of them is not independent."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(rows, size // 32, generator=random).repeat_interleave(32, 1)
    total = GramSum(size)
    total.add(x + 0.05 * torch.randn(rows, size, generator=random))
    return total


@pytest.mark.parametrize(
    ("kind", "bits", "factorisations"),
    [
        (lambda: sums_of(600, 300), 8, 1),
        (lambda: sums_of(600, 300), 16, 1),
        (lambda: sums_of(600, 4000), 8, 1),
        (few_kinds, 8, 4),
    ],
)
def test_the_shift_suffices_and_is_hardly_more_than_must_be_and_is_found_by_one_factorisation(
    tmp_path, opened, monkeypatch, kind, bits, factorisations
):
    made = []

    class Counted(encodings.Factorized):
        def __init__(self, matrix):
            made.append(len(matrix))
            super().__init__(matrix)

    monkeypatch.setattr(encodings, "Factorized", Counted)
    sums = kind()
    stored = encodings.encode(sums, encodings.Encoding("correlations", bits))
    path, _ = write(tmp_path, "compact" if bits == 8 else "half", {BLOCK: sums})
    assert torch.equal(load_file(path)[f"{BLOCK}.C"], stored["C"])
    least = float(torch.linalg.eigvalsh(correlations(opened(path).layers[BLOCK].gram()))[0])
    shift = float(stored["e"])
    assert len(made) <= 2 * factorisations and set(made) == {sums.size}
    assert -least < shift < -1.1 * least + (1e-2 if bits == 8 else 5e-4)


def test_correlations_that_rounding_does_not_harm_are_not_shifted(tmp_path, opened):
    sums = GramSum(150)
    sums.add(torch.randn(900, 150, generator=torch.Generator().manual_seed(0)))
    layer = opened(write(tmp_path, "half", {BLOCK: sums})[0]).layers[BLOCK]
    assert (
        layer.encoding.bits == 16
        and float(torch.linalg.eigvalsh(correlations(layer.gram()))[0]) > 1e-3
        and layer.shift == 0
    )


@pytest.mark.parametrize("size", SIZES)
def test_the_same_sums_give_the_same_bytes_whatever_the_size(tmp_path, size):
    assert sha256_of(write(tmp_path / "a", size)[0]) == sha256_of(write(tmp_path / "b", size)[0])


def test_an_unknown_size_is_refused_by_name(tmp_path):
    with pytest.raises(BadRecipe, match=r"compct.*\n.*compact"):
        write(tmp_path, "compct")


# --- the document -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard", [10**9, 100_000])
@pytest.mark.parametrize("size", SIZES)
def test_a_reader_written_from_the_document_reads_the_same(tmp_path, opened, size, shard):
    path, _ = write(tmp_path, size, max_shard_size=shard)
    assert (path.suffix == ".json") == (shard < 10**9 and size != "tiny")
    theirs, ours = statistics_reader.read(tmp_path), opened(path).layers
    assert theirs.keys() == ours.keys()
    for name, layer in ours.items():
        scale = np.sqrt(np.outer(*[layer.gram().diagonal().numpy()] * 2))
        assert float(np.abs((theirs[name]["S"] - layer.gram().numpy()) / scale).max()) < 1e-5
        assert np.array_equal(theirs[name]["s"], layer.total.numpy())
        assert (theirs[name]["n"], theirs[name]["e"]) == (layer.rows, layer.shift)


def test_the_schema_in_the_package_is_that_of_the_models_and_accepts_what_is_written(tmp_path):
    path = Path(statistics_reader.__file__).parents[2] / "fusehub" / "statistics" / "schema.json"
    shipped = json.loads(path.read_text(encoding="utf-8"))
    assert shipped == schema()
    write(tmp_path, "tiny")
    written = json.loads((tmp_path / "statistics.json").read_text())
    jsonschema.Draft202012Validator(shipped).validate(written)
    for broken in ({**written, "version": 2}, {**written, "layers": {"w": {"rows": -1}}}, {**written, "model": {}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(shipped).validate(broken)


# --- shards -------------------------------------------------------------------------------------------------------


def test_shards_are_found_read_and_replaced_as_one(tmp_path):
    write(tmp_path / "fusehub", "half", max_shard_size=50_000)
    names = [f"statistics-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    rest = ["statistics.json", "statistics.safetensors.index.json"]
    assert sorted(path.name for path in (tmp_path / "fusehub").iterdir()) == [*names, *rest]
    with contextlib.closing(open_statistics(str(tmp_path))) as statistics:
        assert statistics.nbytes == sum((tmp_path / "fusehub" / name).stat().st_size for name in names)
        assert all(float(layer.gram().trace()) > 0 for layer in statistics.layers.values())
    write(tmp_path / "fusehub", "half")
    assert sorted(path.name for path in (tmp_path / "fusehub").iterdir()) == [
        "statistics.json",
        "statistics.safetensors",
    ]


def test_shards_that_lack_one_or_do_not_belong_together_are_refused(tmp_path):
    path, _ = write(tmp_path / "a", "half", max_shard_size=50_000)
    other, _ = write(tmp_path / "b", "half", {BLOCK: sums_of(seed=7), HEAD: sums_of(seed=8)}, max_shard_size=50_000)
    second = "statistics-00002-of-00003.safetensors"
    kept = (path.parent / second).read_bytes()
    shutil.copy(other.parent / "statistics-00002-of-00002.safetensors", path.parent / second)
    with pytest.raises(BadStatistics, match=f"{second} and .*00001.* belong to different statistics"):
        Statistics(path)
    (path.parent / second).write_bytes(kept[:-5])
    with pytest.raises(BadStatistics, match=f"{second} is truncated or corrupt"):
        Statistics(path)
    (path.parent / second).unlink()
    with pytest.raises(BadStatistics, match=f"{second} is missing"):
        Statistics(path)
    for text in ("{", "[]", '{"weight_map": {"a": "../other.safetensors"}}', '{"weight_map": {}}'):
        path.write_text(text)
        with pytest.raises(BadStatistics, match="index"):
            Statistics(path)


def test_shards_on_the_hub_are_all_fetched_and_a_missing_one_is_named(tmp_path):
    write(tmp_path / "fusehub", "half", max_shard_size=50_000)
    code = """
import sys
from huggingface_hub import HfApi
from fusehub.errors import BadStatistics
from fusehub.finding import find
from fusehub.statistics.sources import has_statistics, open_statistics
from fusehub.models.resolve import resolve
api = HfApi()
api.create_repo("ann/stats")
open(sys.argv[1] + "/config.json", "w").write('{"architectures": ["BertForSequenceClassification"]}')
api.upload_folder(repo_id="ann/stats", folder_path=sys.argv[1])
statistics = open_statistics("ann/stats")
print(len(statistics.layers), round(sum(float(layer.gram().trace()) for layer in statistics.layers.values()), 3))
print(has_statistics(resolve("ann/stats")), [model.id for model in find(with_statistics=True, task="any")])
api.delete_file("fusehub/statistics-00002-of-00003.safetensors", repo_id="ann/stats")
try:
    open_statistics("ann/stats")
except BadStatistics as error:
    print(error.what)
"""
    with running(tmp_path / "hub") as server:
        server.add_user("ann")
        env = server.env("ann", home=tmp_path / "home") | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*python(), "-c", code, str(tmp_path)], env=env, capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0, done.stderr
    with contextlib.closing(open_statistics(str(tmp_path))) as statistics:
        traces = round(sum(float(layer.gram().trace()) for layer in statistics.layers.values()), 3)
    assert done.stdout.splitlines() == [
        f"4 {traces}",
        "True ['ann/stats']",
        "ann/stats: statistics-00002-of-00003.safetensors is missing.",
    ]


# --- smaller ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["half", "compact", "tiny"])
def test_made_smaller_is_what_would_have_been_written(tmp_path, opened, size):
    write(tmp_path / "full", "full")
    made, _ = write(tmp_path / "direct", size)
    with contextlib.closing(resize_statistics(str(tmp_path / "full"), tmp_path / "smaller", size=size)) as smaller:
        assert smaller.metadata == opened(made).metadata
    # The sums were float64 when they were written directly, and float32 in the file.
    assert sha256_of(tmp_path / "smaller" / "statistics.safetensors") == sha256_of(made)


@pytest.mark.parametrize(("old", "new"), [("compact", "compact"), ("tiny", "half"), ("half", "full")])
def test_statistics_are_never_made_larger(tmp_path, old, new):
    write(tmp_path / "old", old)
    with pytest.raises(BadStatistics, match=f"has the size {old} already: {new} would not be smaller"):
        resize_statistics(str(tmp_path / "old"), tmp_path / "new", size=new)
    assert not (tmp_path / "new").exists()


# --- inspection ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_inspection_tells_sizes_and_how_layers_are_stored(tmp_path, size):
    path, sums = write(tmp_path, size)
    summary = inspect(str(tmp_path))
    assert summary.of_weights == path.stat().st_size / 10**6
    assert list(summary.smaller) == list(SIZES[SIZES.index(size) + 1 :])
    for smaller, nbytes in summary.smaller.items():
        other, _ = write(tmp_path / smaller, smaller)
        assert nbytes < other.stat().st_size < nbytes + 8000
    for layer in summary.layers:
        assert (layer.size, layer.rows) == (sums[layer.name].size, sums[layer.name].rows)
        assert 0 < layer.rank <= layer.size and layer.condition >= 1
    stored = {layer.name: layer.encoding for layer in summary.layers}
    block = {"full": "triangle", "half": "correlations, 16 bits", "compact": "correlations, 8 bits"}
    assert stored[BLOCK] == block.get(size, "factor, rank 16")
    assert summary.layers[1].aliases == ("h.0.other.weight",)


def rewritten(path, **tensors):
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file(load_file(path) | tensors, path, metadata)


@pytest.mark.parametrize(
    ("size", "part", "change", "said"),
    [
        ("full", "S", lambda t: t.index_fill(0, torch.tensor([1]), 1e9), "no sum of squares"),
        ("compact", "C", lambda t: t.fill_(-100), "no sum of squares"),
        ("compact", "d", lambda t: -t, "negative sum of squares"),
        ("compact", "d", lambda t: t * float("nan"), "NaN or infinity"),
        ("tiny", "u", lambda t: t * float("inf"), "NaN or infinity"),
        ("half", "e", lambda t: -t - 1, "negative sum of squares"),
        ("half", "s", lambda t: t * float("nan"), "NaN or infinity"),
        ("half", "C", lambda t: t.float(), "is F32"),
        ("tiny", "U", lambda t: t[:, :5].contiguous(), r"is I8 \[200, 5\], but I8 \[200, 16\]"),
        ("tiny", "n", lambda t: t + 1, "counts 901 rows, the metadata 900"),
    ],
)
def test_a_broken_part_is_refused_by_its_name(tmp_path, size, part, change, said):
    path, _ = write(tmp_path, size)
    name = f"{BLOCK}.{part}"
    rewritten(path, **{name: change(load_file(path)[name])})
    with pytest.raises(BadStatistics, match=f"{name}.* {said}"):
        inspect(str(tmp_path))


def test_a_json_that_belongs_to_another_file_is_found(tmp_path, experts):
    write(tmp_path / "a", "half")
    write(tmp_path / "b", "tiny")
    shutil.copy(tmp_path / "a" / "statistics.json", tmp_path / "b" / "statistics.json")
    with pytest.raises(BadStatistics, match=r"statistics\.json says something else"):
        inspect(str(tmp_path / "b"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": "huge"}, "size"),
        ({"layers": {"w": {"rows": 1, "size": 3, "encoding": "other"}}}, r"layers\.w\.encoding"),
        ({"layers": {"w": {"rows": 1, "size": 3, "encoding": "factor"}}}, "has a rank"),
        ({"layers": {"w": {"rows": 1, "size": 3, "encoding": "correlations"}}}, "have bits"),
        ({"layers": {"w": {"rows": 1.5, "size": 3, "encoding": "triangle"}}}, r"layers\.w\.rows"),
        ({"aliases": {"a.weight": "nowhere"}}, "alias a.weight refers to nowhere"),
        ({"aliases": []}, "aliases"),
    ],
)
def test_metadata_that_breaks_the_rules_are_refused_by_their_key(tmp_path, change, said):
    path, _ = write(tmp_path, "half")
    with safe_open(path, framework="pt") as file:
        metadata = json.loads(file.metadata()["fusehub"])
    save_file(load_file(path), path, {"fusehub": json.dumps(metadata | change)})
    with pytest.raises(BadStatistics, match=said):
        Statistics(path)
