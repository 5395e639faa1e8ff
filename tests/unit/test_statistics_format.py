"""The statistics file: what is written is read, and what is broken is refused by name."""

import contextlib
import json
import math
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fusehub.checking.check import check
from fusehub.errors import BadStatistics, NotFound
from fusehub.merging.plan import plan_merge
from fusehub.merging.recipe import Recipe
from fusehub.models.resolve import resolve
from fusehub.models.tensor_files import sha256_of
from fusehub.statistics.file import Statistics, require_weights, write_statistics
from fusehub.statistics.grams import GramSum
from fusehub.statistics.sources import find_statistics, has_statistics

METADATA = {
    "model": {"id": "you/model", "commit": "1234567890", "weights": {"model.safetensors": "ab" * 32}},
    "uncounted": [],
}


def sums_of(size=5, rows=9, seed=0):
    total = GramSum(size)
    total.add(torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)))
    return total


def write(folder, metadata=None):
    sums = {"b.weight": sums_of(5, seed=1), "a.weight": sums_of(3, rows=4)}
    return write_statistics(folder, sums, {"c.weight": "b.weight"}, {**METADATA, **(metadata or {})}), sums


@pytest.fixture
def opened():
    with contextlib.ExitStack() as files:
        yield lambda path: files.enter_context(contextlib.closing(Statistics(path)))


def rewrite(path, metadata=None, **tensors):
    """The file with other tensors (None: without) and metadata (a function of what it was)."""
    with safe_open(path, framework="pt") as file:
        described = json.loads(file.metadata()["fusehub"])
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    stored |= tensors
    described = metadata(described) if metadata else described
    save_file(
        {name: value for name, value in stored.items() if value is not None},
        path,
        metadata={"fusehub": described if isinstance(described, str) else json.dumps(described)},
    )


def test_what_is_written_is_read_again(tmp_path, opened):
    path, sums = write(tmp_path / "deep" / "folder")
    statistics = opened(path)
    assert list(statistics.layers) == ["a.weight", "b.weight", "c.weight"]
    for name, own in (("a.weight", "a.weight"), ("b.weight", "b.weight"), ("c.weight", "b.weight")):
        layer = statistics.layers[name]
        assert (layer.rows, layer.size, layer.stored_as) == (sums[own].rows, sums[own].size, own)
        assert torch.equal(layer.packed(), sums[own].packed())
        assert layer.gram().dtype == torch.float64 and torch.equal(layer.gram(), layer.gram().T)
        assert torch.equal(layer.total, sums[own].total.float().double())
    assert statistics.metadata["layers"] == {
        "a.weight": {"rows": 4, "size": 3, "encoding": "triangle"},
        "b.weight": {"rows": 9, "size": 5, "encoding": "triangle"},
    }
    assert statistics.nbytes == path.stat().st_size


def test_the_file_is_what_the_format_says(tmp_path):
    path, _ = write(tmp_path)
    stored = load_file(path)
    assert sorted(stored) == [f"{name}.{kind}" for name in ("a.weight", "b.weight") for kind in ("S", "n", "s")]
    assert stored["b.weight.S"].dtype == stored["b.weight.s"].dtype == torch.float32
    assert stored["b.weight.n"].dtype == torch.int64 and stored["b.weight.n"].shape == ()
    x = torch.randn(9, 5, generator=torch.Generator().manual_seed(1))
    upper = [x[:, i] @ x[:, j] for i in range(5) for j in range(i, 5)]
    torch.testing.assert_close(stored["b.weight.S"], torch.stack(upper))
    torch.testing.assert_close(stored["b.weight.s"], x.sum(0))
    with safe_open(path, framework="pt") as file:
        inside = json.loads(file.metadata()["fusehub"])
    assert inside == json.loads((tmp_path / "statistics.json").read_text())
    assert inside["format"] == "fusehub-statistics" and inside["version"] == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["statistics.json", "statistics.safetensors"]


def test_the_same_sums_give_the_same_bytes(tmp_path):
    assert sha256_of(write(tmp_path / "a")[0]) == sha256_of(write(tmp_path / "b")[0])


def test_writing_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path, _ = write(tmp_path)
    before = path.read_bytes(), (tmp_path / "statistics.json").read_bytes()
    sums = {"a.weight": sums_of(4)}
    with pytest.raises(TypeError):
        write_statistics(tmp_path, sums, {}, {**METADATA, "odd": object()})
    sums["a.weight"].rows = "many"
    with pytest.raises(BadStatistics, match=r"layers\.a\.weight\.rows"):
        write_statistics(tmp_path, sums, {}, METADATA)
    assert (path.read_bytes(), (tmp_path / "statistics.json").read_bytes()) == before
    assert len(list(tmp_path.iterdir())) == 2


def test_going_on_from_a_file_equals_one_run(tmp_path, opened):
    """Sums of two files add up to the sums of one run over both."""
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    layers = []
    for name, rows in (("one", x[:11]), ("two", x[11:]), ("all", x)):
        total = GramSum(6)
        total.add(rows)
        path = write_statistics(tmp_path / name, {"w": total}, {}, METADATA)
        layers.append(opened(path).layers["w"])
    one, two, whole = layers
    torch.testing.assert_close(one.gram() + two.gram(), whole.gram(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(one.total + two.total, whole.total, rtol=1e-6, atol=1e-6)
    assert one.rows + two.rows == whole.rows


# --- broken files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, part):
    path, _ = write(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(BadStatistics, match=r"statistics\.safetensors is truncated or corrupt.*\n.*fusehub collect"):
        Statistics(path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["b.weight.S", "b.weight.s"])
def test_a_number_that_is_none_is_refused_by_the_name_of_its_tensor(tmp_path, opened, bad, name):
    path, _ = write(tmp_path)
    tensor = load_file(path)[name]
    tensor[-2] = bad
    rewrite(path, **{name: tensor})
    statistics = opened(path)
    layer = statistics.layers["c.weight"]
    with pytest.raises(BadStatistics, match=f"{name} holds NaN or infinity"):
        layer.gram() if name.endswith("S") else layer.total
    statistics.layers["a.weight"].gram()


def test_a_sum_of_squares_below_zero_is_refused(tmp_path, opened):
    path, _ = write(tmp_path)
    packed = load_file(path)["b.weight.S"]
    packed[5] = -1  # The second element of the diagonal: rows of 5, 4, ...
    rewrite(path, **{"b.weight.S": packed})
    with pytest.raises(BadStatistics, match=r"b\.weight\.S has a negative sum of squares"):
        opened(path).layers["b.weight"].gram()


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"b.weight.s": None}, r"b\.weight\.s is missing"),
        ({"b.weight.n": None}, r"b\.weight\.n is missing"),
        (
            {"b.weight.S": torch.zeros(14)},
            r"b\.weight\.S is F32 \[14\], but F32 \[15\] in the encoding .triangle. of 5 inputs",
        ),
        ({f"b.weight.{kind}": None for kind in "Ssn"}, r"b\.weight\.n is missing"),
    ],
)
def test_a_file_that_lacks_something_says_what(tmp_path, tensors, said):
    path, _ = write(tmp_path)
    rewrite(path, **tensors)
    with pytest.raises(BadStatistics, match=said):
        Statistics(path)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (lambda old: {**old, "version": 2}, "has version 2 of the format; this FuseHub reads version 1"),
        (lambda old: {**old, "version": None}, "has version None"),
        (lambda old: {**old, "version": [0] * 3000}, r"has version \[0, 0, .{,100}of the format"),
        (lambda old: {**old, "format": "other"}, "does not hold statistics"),
        (lambda old: [1], "does not hold statistics"),
        (lambda old: "no json", "not one of statistics"),
        (lambda old: {key: value for key, value in old.items() if key != "aliases"}, "lacks 'aliases'"),
        (lambda old: {key: value for key, value in old.items() if key != "model"}, "lacks 'model'"),
        (lambda old: {**old, "model": "you/model"}, "its metadata is wrong: model: Input should be a valid dict"),
        (lambda old: {**old, "noise": {"epsilon": -3.0, "delta": 1e-6}}, "wrong: noise.epsilon: .* greater than 0"),
        (lambda old: {**old, "noise": {"epsilon": math.nan, "delta": 1e-6}}, "wrong: noise.epsilon: .* finite"),
        (lambda old: {**old, "noise": {"epsilon": "8", "delta": 1e-6}}, "wrong: noise.epsilon: .* valid number"),
        (lambda old: {**old, "noise": {"epsilon": 1.0, "delta": -1e-6}}, "wrong: noise.delta: .* equal to 0"),
        (lambda old: {**old, "noise": {"foo": 1}}, "lacks 'noise.epsilon'"),
        (lambda old: {**old, "noise": {}}, "lacks 'noise.epsilon'"),
        (lambda old: {**old, "parts": [{"data": "texts.csv"}]}, "wrong: parts.0.data"),
    ],
)
def test_metadata_of_another_kind_or_version_is_refused(tmp_path, metadata, said):
    path, _ = write(tmp_path)
    rewrite(path, metadata)
    with pytest.raises(BadStatistics, match=said):
        Statistics(path)


def test_weights_are_no_statistics(experts):
    with pytest.raises(BadStatistics, match="not one of statistics"):
        Statistics(experts()[0] / "model.safetensors")


# --- whose they are -----------------------------------------------------------------------------------------------


def test_statistics_of_other_weights_are_refused_with_both_names():
    hashes = METADATA["model"]["weights"]
    require_weights(METADATA, "here", "me/model", dict(hashes))
    with pytest.raises(BadStatistics, match=r"here were made for other weights \(you/model at 12345678\).*me/model"):
        require_weights(METADATA, "here", "me/model", {"model.safetensors": "cd" * 32})


def test_a_model_finds_the_statistics_in_its_folder(experts):
    ref = resolve(str(experts()[0]))
    hashes = {"model.safetensors": sha256_of(experts()[0] / "model.safetensors")}
    assert has_statistics(ref)
    found = find_statistics(ref, hashes=hashes)
    assert found.origin == str(experts()[0] / "fusehub")
    with contextlib.closing(found.open()) as statistics:
        assert found.rows == {name: layer.rows for name, layer in statistics.layers.items()}
    with pytest.raises(BadStatistics, match=r"were made for other weights.*\n.*fusehub collect"):
        find_statistics(ref, hashes={"model.safetensors": "00" * 32})


@pytest.mark.parametrize("gone", ["statistics.json", "statistics.safetensors"])
def test_half_of_statistics_are_none_for_a_check_as_for_a_merge(experts, tmp_path, gone):
    one, other = shutil.copytree(experts()[0], tmp_path / "stranger"), experts()[1]
    (one / "fusehub" / gone).unlink()
    assert [model.statistics for model in check([str(one), str(other)]).models] == [False, True]
    with pytest.raises(NotFound, match=r"no (published )?statistics"):
        plan_merge(Recipe.of([str(one), str(other)], "regmean"))


@pytest.mark.parametrize("where", ["fusehub/statistics.safetensors", "fusehub", "."])
def test_statistics_are_given_as_a_file_their_folder_or_the_models(experts, where):
    ref = resolve(str(experts()[0]))
    hashes = {"model.safetensors": sha256_of(experts()[0] / "model.safetensors")}
    found = find_statistics(ref, str(experts()[0] / where), hashes=hashes)
    found.open().close()
    assert found.metadata["model"]["weights"] == hashes
    other = str(experts()[1] / where)
    with pytest.raises(BadStatistics, match="other weights"):
        find_statistics(ref, other, hashes=hashes)
    assert find_statistics(ref, other, hashes=hashes, allow_other_weights=True).metadata["model"]["id"] == "expert-1"


def test_a_model_without_statistics_is_told_how_to_make_them(experts, tmp_path):
    base = experts()[0].parent / "base"
    with pytest.raises(NotFound, match=r"has no published statistics.*\n.*fusehub collect .*--method mean"):
        find_statistics(resolve(str(base)), hashes={})
    with pytest.raises(NotFound, match="There are no statistics in"):
        find_statistics(resolve(str(base)), str(tmp_path), hashes={})
    with pytest.raises(NotFound, match="There are no statistics in"):
        find_statistics(resolve(str(base)), str(tmp_path / "nowhere"), hashes={})


def test_broken_json_beside_the_file_is_refused(tmp_path, experts):
    write(tmp_path)
    (tmp_path / "statistics.json").write_text("{")
    with pytest.raises(BadStatistics, match=r"statistics\.json is not JSON"):
        find_statistics(resolve(str(experts()[0])), str(tmp_path), hashes={})


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {"b.weight.S": torch.zeros_like(t["b.weight.S"])},
        lambda t: {"b.weight.s": t["b.weight.s"] * 1e4},
    ],
)
def test_sums_that_cannot_be_of_the_same_rows_are_refused(tmp_path, opened, change):
    """No sum of n numbers is larger than the root of n times the sum of their squares."""
    path, _ = write(tmp_path)
    opened(path).layers["b.weight"].gram()
    rewrite(path, **change(load_file(path)))
    with pytest.raises(BadStatistics, match=r"sums of squares of b\.weight cannot be of the same"):
        opened(path).layers["b.weight"].gram()
