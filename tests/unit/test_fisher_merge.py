"""Fisher diagonals from `collect --fisher` to `merge --method fisher`: the file, the numbers, what is refused."""

import json
import logging
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file

import fusehub.collecting.passes as counting
from fusehub.collecting.collect import collect
from fusehub.errors import BadRecipe, BadStatistics, NonFinite, NotFound
from fusehub.merging.merge import merge
from fusehub.merging.plan import plan_merge
from fusehub.methods import Layer, find_method
from fusehub.statistics.fisher_file import FISHER_FILENAME, FisherFile, encode_fisher, write_fisher
from fusehub.statistics.sources import FoundStatistics
from tests.unit.experts import WEIGHTS, edit_json, recipe_of, rel, relatives, text_file
from tests.unit.test_cli import run
from tests.unit.test_fisher import fisher_of
from tests.unit.tiny import tiny_model
from tests.warm import python


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """Three experts whose labels are in different orders, with Fisher diagonals in float32 in their own folders."""
    labels = [("negative", "positive"), ("positive", "negative"), ("negative", "positive")]
    made = relatives(tmp_path_factory.mktemp("fisher"), labels=labels)
    for number, path in enumerate(made):
        collect(str(path), text_file(path.parent, number), path / "fusehub", fisher=True, size="full").close()
    return made


def fisher_in(path):
    return load_file(path / "fusehub" / FISHER_FILENAME)


def merged_by(experts, out, **options):
    merge(recipe_of(experts, "fisher", **options), out)
    return load_file(out / WEIGHTS)


def averaged(experts, *, coefficients=(1, 1, 1), floor=1e-6, normalize=True):
    """The merge computed another way: whole models in float64, labels put in the first's order by hand."""
    found, sizes = [], []
    for number, path in enumerate(experts):
        weights, values = load_file(path / WEIGHTS), fisher_in(path)
        flat = torch.cat([value.double().flatten() for value in values.values()])
        sizes.append(float((flat**2).mean().sqrt()))
        flip = number == 1
        found.append(
            {
                name: [own.flip(0) if flip and name.startswith("classifier") else own for own in (w, values[name])]
                for name, w in weights.items()
            }
        )
    scale = sizes if normalize else [sum(sizes) / len(sizes)] * len(sizes)
    expected = {}
    for name in found[0]:
        shares = [
            c * (own[name][1].double() / size).clamp(min=floor)
            for c, own, size in zip(coefficients, found, scale, strict=False)
        ]
        total = sum(share * own[name][0].double() for share, own in zip(shares, found, strict=False))
        expected[name] = total / sum(shares)
    return expected


def test_every_tensor_is_averaged_by_its_fisher_values_and_heads_by_the_names_of_labels(experts, tmp_path):
    merged = merged_by(experts, tmp_path / "a", weights=[1, 2, 0.5])
    expected = averaged(experts, coefficients=(1, 2, 0.5))
    mean = merge(recipe_of(experts, "mean", weights=[1, 2, 0.5]), tmp_path / "b")
    mean = load_file(tmp_path / "b" / WEIGHTS)
    for name, own in expected.items():
        assert rel(merged[name], own) < 1e-6, name
    assert sum(rel(merged[name], own) > 1e-3 for name, own in mean.items()) > 0.8 * len(mean)


def test_normalisation_and_floor_are_those_of_the_recipe(experts, tmp_path):
    parameters = {"normalize": "none", "floor": 0.5}
    merged = merged_by(experts, tmp_path / "a", parameters=parameters)
    for name, own in averaged(experts, normalize=False, floor=0.5).items():
        assert rel(merged[name], own) < 1e-6, name
    assert "floor" in (tmp_path / "a" / "fusehub_recipe.yaml").read_text()


def layer_of(tensors, fishers, sizes=None, coefficients=None):
    coefficients = coefficients or [1.0] * len(tensors)
    return Layer("x", tensors, coefficients, fishers=fishers, fisher_sizes=sizes or [1.0] * len(tensors))


def by(layer, **options):
    method = find_method("fisher")
    return method.merge(layer, method.parse(options)).tensor


def randoms(count, seed=0):
    random = torch.Generator().manual_seed(seed)
    return [torch.rand(6, 5, generator=random, dtype=torch.float64) for _ in range(count)]


def test_laws_of_the_average():
    tensors, fishers, zeros = randoms(3), randoms(3, 1), [torch.zeros(6, 5, dtype=torch.float64)] * 3
    mean = sum(tensors) / 3
    torch.testing.assert_close(by(layer_of(tensors, [fishers[0]] * 3)), mean, rtol=1e-14, atol=0)
    torch.testing.assert_close(by(layer_of(tensors, zeros)), mean, rtol=1e-14, atol=0)
    assert not torch.allclose(by(layer_of(tensors, fishers)), mean, rtol=1e-2)
    assert torch.equal(by(layer_of([tensors[0]] * 3, fishers)), tensors[0])
    # An expert whose values are all c times as large: no matter when normalised, else the same as a coefficient.
    plain = by(layer_of(tensors, fishers))
    larger = [fishers[0] * 7, *fishers[1:]]
    torch.testing.assert_close(by(layer_of(tensors, larger, [7.0, 1.0, 1.0])), plain, rtol=1e-12, atol=0)
    taken = by(layer_of(tensors, larger, [7.0, 1.0, 1.0]), normalize="none")
    expected = by(layer_of(tensors, fishers, coefficients=[7.0, 1.0, 1.0]))
    torch.testing.assert_close(taken, expected, rtol=1e-12, atol=0)
    # A coefficient of zero leaves a model out; the order of the models does not matter.
    assert torch.equal(by(layer_of(tensors, fishers, coefficients=[0.0, 1.0, 0.0])), tensors[1])
    torch.testing.assert_close(by(layer_of(tensors[::-1], fishers[::-1])), plain, rtol=1e-12, atol=0)


@pytest.mark.parametrize("options", [{"floor": 0}, {"floor": -1.0}, {"normalize": "tensor"}, {"alpha": 1}])
def test_options_that_cannot_be(options):
    with pytest.raises(BadRecipe):
        find_method("fisher").parse(options)


def test_collect_gives_the_same_whatever_the_batches_and_after_a_stop(experts, tmp_path, monkeypatch):
    texts = text_file(tmp_path, 0)
    expected = fisher_in(experts[0])
    collect(str(experts[0]), texts, tmp_path / "a", fisher=True, size="full", batch_tokens=60).close()
    found = load_file(tmp_path / "a" / FISHER_FILENAME)
    assert found.keys() == load_file(experts[0] / WEIGHTS).keys()
    largest = max(float(own.max()) for own in expected.values())
    for name, own in expected.items():
        assert rel(found[name], own) < 1e-4 or own.max() < 1e-10 * largest, name
    described = json.loads((tmp_path / "a" / "statistics.json").read_text())["fisher"]
    assert described["kind"] == "exact" and described["examples"] == 24 and described["samples"] is None

    whole, done = counting._Pass._count, []

    def stop(self, indices, batch):
        done.append(len(indices))
        if len(done) == 4:
            raise KeyboardInterrupt
        return whole(self, indices, batch)

    same = {"fisher": True, "size": "full", "batch_tokens": 60, "save_every": 0}
    monkeypatch.setattr(counting._Pass, "_count", stop)
    with pytest.raises(KeyboardInterrupt):
        collect(str(experts[0]), texts, tmp_path / "b", **same)
    monkeypatch.setattr(counting._Pass, "_count", whole)
    collect(str(experts[0]), texts, tmp_path / "b", **same).close()
    again = load_file(tmp_path / "b" / FISHER_FILENAME)
    assert all(torch.equal(own, found[name]) for name, own in again.items())


def test_two_processes_add_their_fisher_values(experts, tmp_path):
    out = tmp_path / "two"
    launch = [*python(), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python"]
    collects = ["collect", experts[0], "--data", text_file(tmp_path, 0), "--fisher", "--size", "full", "--out", out]
    command = [*launch, *python(), "-m", "fusehub", *collects]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, expected = load_file(out / FISHER_FILENAME), fisher_in(experts[0])
    for name, own in expected.items():
        assert rel(found[name], own) < 1e-4 or own.max() < 1e-10, name
    assert json.loads((out / "statistics.json").read_text())["fisher"]["examples"] == 24


def test_grams_are_the_same_with_fisher_diagonals_and_without(experts, tmp_path):
    texts = text_file(tmp_path, 0)
    collect(str(experts[0]), texts, tmp_path / "a", fisher=True, size="full").close()
    collect(str(experts[0]), texts, tmp_path / "b", size="full").close()
    with_it, without = (load_file(tmp_path / name / "statistics.safetensors") for name in "ab")
    assert with_it.keys() == without.keys()
    assert all(rel(with_it[name].double(), own.double()) < 1e-5 for name, own in without.items())
    assert not (tmp_path / "b" / FISHER_FILENAME).exists()
    collect(str(experts[0]), texts, tmp_path / "a", size="full").close()
    assert not (tmp_path / "a" / FISHER_FILENAME).exists(), "it does not belong to the new statistics"


def test_from_the_command_line_in_the_default_size(experts, tmp_path):
    """Against the mean with equal values: merging differs from the mean because the values do."""
    given = []
    for number, path in enumerate(experts[:2]):
        out = tmp_path / f"statistics-{number}"
        code, _, words = run("collect", path, "--data", text_file(tmp_path, number), "--fisher", "--out", out)
        assert code == 0, words
        given += ["--statistics", f"{path}={out}"]
    assert "Fisher diagonals of" in run("inspect", tmp_path / "statistics-0")[2]
    common = ["merge", *experts[:2], "--method"]
    assert run(*common, "fisher", *given, "--out", tmp_path / "fisher")[0] == 0
    assert run(*common, "mean", "--out", tmp_path / "mean")[0] == 0
    fisher, mean = (load_file(tmp_path / name / WEIGHTS) for name in ("fisher", "mean"))
    assert sum(rel(fisher[name], own) > 1e-3 for name, own in mean.items()) > 0.8 * len(mean)
    exact = merged_by(experts[:2], tmp_path / "exact")
    assert all(rel(fisher[name], own) < 1e-3 for name, own in exact.items()), "float16 roots are enough"
    report = json.loads((tmp_path / "fisher" / "fusehub_report.json").read_text())
    assert {tensor["action"] for tensor in report["tensors"]} == {"combine"}

    code, out, _ = run(*common, "fisher", *given, "--dry-run", "--json", "--out", tmp_path / "none")
    assert code == 0 and json.loads(out)["method"] == "fisher"


def test_statistics_without_fisher_diagonals_are_named_with_the_command_that_makes_them(experts, tmp_path):
    plain = [tmp_path / "plain-0", tmp_path / "plain-1"]
    for number, folder in enumerate(plain):
        collect(str(experts[number]), text_file(tmp_path, number), folder).close()
    with pytest.raises(NotFound) as caught:
        plan_merge(recipe_of(experts[:2], "fisher", statistics=plain))
    assert all(str(path) in caught.value.what for path in plain)
    for path in experts[:2]:
        assert f"fusehub collect {path} --data DATA --fisher --out DIR" in caught.value.fix
    with pytest.raises(NotFound, match="no Fisher diagonals"):
        plan_merge(recipe_of(experts[:2], "fisher", statistics=["data-free", experts[1] / "fusehub"]))
    with pytest.raises(NotFound, match=r"no published statistics.*\n.*--fisher"):
        bare = relatives(tmp_path / "bare")
        plan_merge(recipe_of(bare, "fisher"))


def test_a_broken_file_is_named_with_its_tensor(experts, tmp_path):
    name = "bert.pooler.dense.weight"
    for number, spoil in enumerate(["nan", "negative", "missing", "other", "truncated"]):
        folder = tmp_path / f"{number}"
        made = collect(str(experts[0]), text_file(tmp_path, 0), folder, fisher=True, size="full")
        made.close()
        path = folder / FISHER_FILENAME
        tensors = load_file(path)
        file = FisherFile(path, "x", made.metadata["fisher"])
        header = file._file.metadata
        file.close()
        if spoil in ("nan", "negative"):
            tensors[name][0, 0] = float("nan") if spoil == "nan" else -1.0
        if spoil == "missing":
            del tensors[name]
        save_file(tensors, path, metadata=header)
        if spoil == "other":
            described = json.loads((folder / "statistics.json").read_text())["fisher"]
            edit_json(folder / "statistics.json", fisher=described | {"examples": 3})
        if spoil == "truncated":
            path.write_bytes(path.read_bytes()[:-10])
        said = {"other": "does not belong", "truncated": "truncated"}.get(spoil, name)
        with pytest.raises(BadStatistics, match=said):
            merge(recipe_of(experts[:2], "fisher", statistics=[folder, experts[1] / "fusehub"]), tmp_path / "merged")
        assert not (tmp_path / "merged").exists()


def test_gradients_that_are_not_finite_are_named():
    means = {"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")])}
    with pytest.raises(NonFinite, match="diagonal of b"):
        encode_fisher(means, {}, "compact")


def test_roots_keep_values_of_any_size(tmp_path):
    exponents = torch.linspace(-12, 0, 500, dtype=torch.float64)
    means = {"wide": 10**exponents, "tiny": 1e-14 * 10**exponents, "zero": torch.zeros(3), "none": torch.zeros(0, 2)}
    stored, described = encode_fisher(means, {"kind": "exact"}, "compact")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    path = write_fisher(tmp_path, stored, described, {"id": "x"})
    file = FisherFile(path, "x", described)
    for name in ("wide", "tiny"):
        torch.testing.assert_close(file.read(name), means[name], rtol=2e-3, atol=0)
        torch.testing.assert_close(file.read(name, 10, 20), means[name][10:20], rtol=2e-3, atol=0)
    assert file.read("zero").tolist() == [0, 0, 0] and file.read("none").shape == (0, 2)
    file.close()


def test_noise_and_fisher_diagonals_do_not_go_together(experts, tmp_path):
    code, _, words = run(
        "collect", experts[0], "--data", text_file(tmp_path), "--fisher", "--noise", "1", "--out", tmp_path / "x"
    )
    assert code == 1 and "Noise" in words and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arch", "task"), [("gpt2", "text-generation"), ("bert", "fill-mask"), ("mixtral", "text-generation")]
)
def test_language_models_have_theirs_too(arch, task, tmp_path):
    """Tied tables, and experts that are fused when they are loaded, under the names of the checkpoint."""
    path = tiny_model(tmp_path / "m", arch, task=task, hidden=16)
    collect(str(path), text_file(tmp_path), tmp_path / "s", fisher=True, fisher_samples=2, seed=3).close()
    found = FoundStatistics(str(tmp_path / "s"), json.loads((tmp_path / "s" / "statistics.json").read_text()))
    fisher = found.metadata["fisher"]
    assert fisher["kind"] == "sampled" and fisher["samples"] == 2 and fisher["seed"] == 3
    assert set(fisher["exponents"]) == set(load_file(path / WEIGHTS))
    file = found.open_fisher()
    assert all(file.read(name).any() for name in fisher["exponents"] if not name.endswith("key.bias"))
    file.close()


def test_the_collector_of_models_in_memory_says_what_files_say():
    from tests.unit.test_fisher import model_of

    described = fisher_of(model_of("bert", num_labels=3), "text-classification").description
    assert described == {"kind": "exact", "samples": None, "seed": None, "examples": 7}


def test_models_whose_examples_go_one_at_a_time_say_why(tmp_path, caplog):
    path = tiny_model(tmp_path / "m", "deberta-v2", hidden=16)
    with caplog.at_level(logging.WARNING, logger="fusehub"):
        collect(str(path), text_file(tmp_path), tmp_path / "s", fisher=True).close()
    assert "one example at a time" in caplog.text and "query_proj" in caplog.text
