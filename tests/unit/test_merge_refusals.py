"""What a merge refuses, and what it leaves behind: folders, full disks, kills, and how much memory it takes."""

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusehub.errors import BadStatistics, Incompatible, NonFinite, NoSpace, NotFound, OutputExists
from fusehub.merging.merge import merge
from fusehub.merging.recipe import Recipe
from fusehub.statistics.file import Statistics
from tests.unit.experts import (
    WEIGHTS,
    edit_json,
    files_of,
    leftovers,
    mean_of,
    recipe_of,
    rel,
    relatives,
    run_python,
    save_weights,
    text_file,
    weights_of,
    with_statistics,
)
from tests.unit.test_statistics_format import rewrite
from tests.unit.tiny import ARCHITECTURES, tiny_model

# --- what a merge refuses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("mean", "bert.embeddings.word_embeddings.weight"),
        ("mean", "classifier.bias"),
        ("regmean", "bert.encoder.layer.0.output.dense.weight"),
        ("regmean", "bert.embeddings.LayerNorm.bias"),
    ],
)
def test_a_weight_that_is_no_number_is_named_with_its_model(tmp_path, bad, method, name):
    paths = with_statistics(relatives(tmp_path, layers=1))
    tensors = weights_of(paths[1])
    tensors[name].view(-1)[-1] = bad
    save_weights(paths[1], tensors)
    with pytest.raises(NonFinite, match=rf"expert-1: {name} holds NaN or infinity"):
        merge(recipe_of(paths, method, statistics=paths), tmp_path / "out", allow_other_weights=method == "regmean")
    assert "out" not in leftovers(tmp_path) and not [x for x in leftovers(tmp_path) if "partial" in x]


def test_a_result_that_does_not_fit_its_dtype_is_refused(tmp_path):
    paths = relatives(tmp_path, layers=1)
    for path in paths:
        save_weights(path, {name: value * 1e6 for name, value in weights_of(path).items()})
    with pytest.raises(NonFinite, match=r"the merged values do not fit into F16.*\n.*--dtype float32"):
        merge(recipe_of(paths, "mean", dtype="float16"), tmp_path / "out")
    merge(recipe_of(paths, "mean", dtype="bfloat16"), tmp_path / "out")


def test_strangers_are_refused_unless_allowed(tmp_path):
    a, b = (tiny_model(tmp_path / name, seed=seed, hidden=16) for name, seed in (("a", 1), ("b", 2)))
    with pytest.raises(Incompatible, match=r"have unrelated weights: the cosine of .*\n.*--allow-unrelated"):
        merge(recipe_of([a, b], "mean"), tmp_path / "out")
    assert leftovers(tmp_path) == ["a", "b"]
    with pytest.raises(Incompatible, match="unrelated weights"):  # Another danger's permission is none for this one.
        merge(recipe_of([a, b], "mean"), tmp_path / "out", allow_other_weights=True, ignore=["config-differs"])
    merge(recipe_of([a, b], "mean"), tmp_path / "out", allow_unrelated=True)
    assert (tmp_path / "out" / WEIGHTS).exists()


def test_a_base_that_is_none_of_the_experts_is_refused_unless_allowed(experts, tmp_path):
    stranger = tiny_model(tmp_path / "stranger", seed=9, hidden=16)
    recipe = recipe_of(experts(), "task_arithmetic", base_model=str(stranger))
    with pytest.raises(Incompatible, match=r"expert-0 and .*stranger have unrelated weights"):
        merge(recipe, tmp_path / "out")
    assert leftovers(tmp_path) == ["stranger"]
    merge(recipe, tmp_path / "out", allow_unrelated=True)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_relatives_are_not_taken_for_strangers_and_strangers_are_in_every_architecture(experts, tmp_path, arch):
    merge(recipe_of(experts(arch), "mean"), tmp_path / "out")
    stranger = tiny_model(tmp_path / "stranger", arch, seed=9, hidden=16)
    with pytest.raises(Incompatible, match="unrelated weights"):
        merge(recipe_of([experts(arch)[0], stranger], "mean"), tmp_path / "other")


def test_statistics_of_other_weights_are_refused_unless_allowed(experts, tmp_path):
    paths = experts("bert")
    swapped = recipe_of(paths, statistics=[paths[0], paths[0]])
    with pytest.raises(BadStatistics, match=r"were made for other weights \(expert-0\) than those of .*expert-1"):
        merge(swapped, tmp_path / "out")
    assert leftovers(tmp_path) == []
    with pytest.raises(BadStatistics, match="other weights"):
        merge(swapped, tmp_path / "out", allow_unrelated=True)
    merge(swapped, tmp_path / "out", allow_other_weights=True)


def test_experts_without_statistics_are_all_named(tmp_path):
    paths = relatives(tmp_path)
    with pytest.raises(NotFound) as caught:
        merge(recipe_of(paths), tmp_path / "out")
    for path in paths:
        assert f"{path} has no published statistics" in caught.value.what


def damaged_statistics(path, change):
    """Changes the tensors of a statistics file, and leaves its metadata as they are."""
    file = path / "fusehub" / "statistics.safetensors"
    with contextlib.closing(Statistics(file)) as statistics:
        text = json.dumps(statistics.metadata)
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"fusehub": text})


def test_a_gram_that_holds_nan_is_refused_by_its_name(tmp_path):
    paths = with_statistics(relatives(tmp_path, layers=1))
    name = "bert.encoder.layer.0.output.dense.weight.S"
    damaged_statistics(paths[1], lambda tensors: tensors[name][3:4].fill_(float("nan")))
    with pytest.raises(BadStatistics, match=f"{name} holds NaN"):
        merge(recipe_of(paths), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_gram_that_no_inputs_have_is_refused_by_its_name(tmp_path):
    paths = with_statistics(relatives(tmp_path, layers=1))
    name = "bert.encoder.layer.0.output.dense.weight"
    # The second feature's products with the first are ten times what their squares allow.
    damaged_statistics(paths[1], lambda tensors: tensors[f"{name}.S"][1:2].fill_(1e4))
    with pytest.raises(BadStatistics, match=f"{name}: the grams are no sums of squares"):
        merge(recipe_of(paths), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", [0.2, 0.9])
def test_truncated_statistics_are_refused(tmp_path, part):
    paths = with_statistics(relatives(tmp_path, layers=1))
    file = paths[0] / "fusehub" / "statistics.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(BadStatistics, match="truncated or corrupt"):
        merge(recipe_of(paths), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("absent", [True, False])
def test_a_layer_without_statistics_or_rows_is_averaged_and_said(tmp_path, absent):
    paths = with_statistics(relatives(tmp_path, layers=1))
    gone = "bert.encoder.layer.0.intermediate.dense.weight"
    file, metadata = (paths[1] / "fusehub" / f"statistics.{kind}" for kind in ("safetensors", "json"))
    layers = json.loads(metadata.read_text())["layers"]
    own = layers.pop(gone)
    tensors = {name: None for name in load_file(file) if name.startswith(f"{gone}.")}
    if not absent:
        layers[gone] = own | {"rows": 0}
        tensors = {name: torch.zeros_like(load_file(file)[name]) for name in tensors}
    edit_json(metadata, layers=layers)
    rewrite(file, lambda told: told | {"layers": layers}, **tensors)
    result = merge(recipe_of(paths), tmp_path / "out")
    assert result.plan.tensors[gone].action == "mean"
    assert "no input rows in the statistics of" in result.plan.tensors[gone].why
    assert any(note.startswith("1 linear layers have no statistics") and gone in note for note in result.plan.notes)
    merged = weights_of(tmp_path / "out")
    assert rel(merged[gone], mean_of(paths, gone)) < 1e-6
    other = "bert.encoder.layer.0.output.dense.weight"
    assert rel(merged[other], mean_of(paths, other)) > 0.01
    report = json.loads((tmp_path / "out" / "fusehub_report.json").read_text())
    assert any(gone in note for note in report["notes"])


def test_too_few_rows_are_noted_and_the_result_is_finite(tmp_path):
    from fusehub.collecting.collect import collect

    paths = relatives(tmp_path, layers=1)
    for path in paths:
        collect(str(path), text_file(tmp_path, texts=["a"]), path / "fusehub").close()
    result = merge(recipe_of(paths, parameters={"alpha": 1.0}), tmp_path / "out")
    assert "directions: the rest kept at the anchor" in result.notes["classifier.weight"][0].text
    kinds = {note.kind for own in result.notes.values() for note in own}
    assert len(result.told) == len(kinds) < len(result.notes)
    assert all(torch.isfinite(value).all() for value in weights_of(tmp_path / "out").values())
    assert json.loads((tmp_path / "out" / "fusehub_report.json").read_text())["layer_notes"]["classifier.weight"]


# --- folders ------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_empty_is_refused_and_stays_as_it_is(experts, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(OutputExists, match="out exists and is not empty"):
        merge(recipe_of(experts("bert"), "mean"), out)
    with pytest.raises(OutputExists):
        merge(recipe_of(experts("bert"), "mean"), out / "thesis.txt")
    assert leftovers(tmp_path) == ["out"] and leftovers(out) == ["thesis.txt"]
    assert (out / "thesis.txt").read_text() == "mine"


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def test_an_empty_folder_and_one_in_folders_that_are_not_there_are_filled(experts, tmp_path, umask, monkeypatch):
    """With the permissions of any new folder, which are read without a moment in which other threads have others."""
    monkeypatch.setattr(os, "umask", None)
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "a" / "b" / "c"):
        merge(recipe_of(experts("bert"), "mean"), out)
        assert (out / WEIGHTS).exists() and out.stat().st_mode & 0o777 == 0o777 & ~umask


def test_of_two_merges_into_one_folder_the_later_says_that_another_is_at_it(experts, tmp_path):
    out, inside = tmp_path / "out", []

    def meanwhile(*_):
        if not inside:
            inside.append(True)
            with pytest.raises(OutputExists, match=r"Another run is writing .*out at this moment"):
                merge(recipe_of(experts("bert"), "mean"), out)

    merge(recipe_of(experts("bert"), "mean"), out, progress=meanwhile)
    assert inside and leftovers(tmp_path) == ["out"]


def test_what_others_put_under_the_name_meanwhile_stays(experts, tmp_path):
    out = tmp_path / "out"

    def meanwhile(*_):
        out.mkdir(exist_ok=True)
        (out / "thesis.txt").write_text("mine")

    with pytest.raises(OutputExists, match="out was written by something else"):
        merge(recipe_of(experts("bert"), "mean"), out, progress=meanwhile)
    assert leftovers(out) == ["thesis.txt"] and leftovers(tmp_path) == ["out"]


@pytest.mark.parametrize("kind", ["here", "link", "disk"])
def test_a_folder_that_cannot_be_replaced_is_filled_as_it_is(experts, tmp_path, small_disk, monkeypatch, kind):
    class Stopped(Exception):
        pass

    def stop(done, total, what):
        raise Stopped

    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    out = {"here": Path("."), "link": tmp_path / "link", "disk": small_disk}[kind]
    with pytest.raises(Stopped):
        merge(recipe_of(experts("bert"), "mean"), out, progress=stop)
    assert leftovers(out) == []
    merge(recipe_of(experts("bert"), "mean"), out)
    merge(recipe_of(experts("bert"), "mean"), tmp_path / "usual")
    assert files_of(out) == files_of(tmp_path / "usual")
    assert (tmp_path / "link").is_symlink() and small_disk.is_mount()


@pytest.mark.parametrize("stage", ["first", "half", "last"])
def test_a_merge_that_fails_leaves_nothing(experts, tmp_path, stage):
    class Stopped(Exception):
        pass

    at = {"first": 0.0, "half": 0.5, "last": 1.0}[stage]

    def stop(done, total, what):
        assert what == "bytes" and 0 < done <= total
        if done >= at * total:
            raise Stopped

    with pytest.raises(Stopped):
        merge(recipe_of(experts("bert")), tmp_path / "out", progress=stop)
    assert leftovers(tmp_path) == []
    merge(recipe_of(experts("bert")), tmp_path / "out")


def test_progress_ends_at_its_total(experts, tmp_path):
    for heads in ("merge", "keep"):
        seen = []
        merge(
            recipe_of(experts("bert"), heads=heads),
            tmp_path / heads,
            progress=lambda done, total, what, seen=seen: seen.append((done, total)),
        )
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        assert len({total for _, total in seen}) == 1
        if heads == "merge":
            assert seen[-1][0] == seen[-1][1]


KILLED = """
import os, signal, sys
from fusehub.merging.merge import merge
from fusehub.merging.recipe import Recipe
def die(done, total, what):
    if done > total / 2:
        os.kill(os.getpid(), signal.SIGKILL)
merge(Recipe.read(sys.argv[1]), sys.argv[2], progress=die)
"""


def test_a_merge_that_is_killed_leaves_no_folder_that_looks_finished(experts, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe_of(experts("bert")).to_yaml())
    done = run_python(KILLED, recipe, tmp_path / "out")
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    left = [path for path in tmp_path.iterdir() if path != recipe]
    assert all(path.name.startswith(".out.") and path.name.endswith(".partial") for path in left)
    assert not any((path / "config.json").exists() for path in left)
    merge(Recipe.read(recipe), tmp_path / "out")
    assert (tmp_path / "out" / "config.json").exists()


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(tmp_path, small_disk):
    paths = relatives(tmp_path, hidden=64)
    with pytest.raises(NoSpace, match=r"The merged model needs .* at .*out. The disk there has .* left"):
        merge(recipe_of(paths, "mean"), small_disk / "out")
    assert leftovers(small_disk) == []


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(tmp_path, small_disk):
    paths = relatives(tmp_path, hidden=32)
    filled = []

    def fill(done, total, what):
        if not filled:
            with contextlib.suppress(OSError), open(small_disk / "other", "wb", buffering=0) as file:
                filled.append(file)
                while True:
                    file.write(b"x" * 4096)

    with pytest.raises(NoSpace, match=r"The disk of .*out takes no more"):
        merge(recipe_of(paths, "mean"), small_disk / "out", progress=fill)
    assert leftovers(small_disk) == ["other"]


LIMITED = """
import resource, sys
from fusehub.errors import FuseHubError
from fusehub.merging.merge import merge
from fusehub.merging.recipe import Recipe
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    merge(Recipe.read(sys.argv[1]), sys.argv[2])
except FuseHubError as error:
    print(type(error).__name__, error.what)
"""


def test_a_quota_that_is_used_up_is_told_and_leaves_nothing(experts, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe_of(experts("bert"), "mean").to_yaml())
    done = run_python(LIMITED, recipe, tmp_path / "out")
    assert done.stdout.startswith("NoSpace"), done.stderr
    assert leftovers(tmp_path) == ["recipe.yaml"]


# --- memory -------------------------------------------------------------------------------------------------------

MEASURED = """
import resource, sys
from fusehub.merging.merge import merge
from fusehub.merging.plan import plan_merge
from fusehub.merging.recipe import Recipe
big, small, out = sys.argv[1:]
plan_merge(Recipe.read(big))  # What is not known of its layout yet takes transformers.
merge(Recipe.read(small), out + "-small")  # Everything is imported and warm.
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for method in ("mean", "regmean"):
    merge(Recipe.read(big).model_copy(update={"merge_method": method}), out + method)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before * 1024)
"""


def test_memory_does_not_grow_with_the_models(tmp_path):
    """Experts of 300 MB each, of tensors that are small or are merged in pieces."""
    big = {"layers": 8, "hidden": 256, "vocab_size": 300_000, "intermediate_size": 256}
    path = tiny_model(tmp_path / "expert", **big)
    size = (path / WEIGHTS).stat().st_size
    assert size > 300e6
    with_statistics([path])
    recipes = []
    for name, own in (("big", [path, path]), ("small", with_statistics(relatives(tmp_path / "small")))):
        recipes.append(tmp_path / f"{name}.yaml")
        recipes[-1].write_text(recipe_of(own).to_yaml())
    done = run_python(MEASURED, *recipes, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for method, grown in zip(("mean", "regmean"), map(int, done.stdout.split()), strict=True):
        assert grown < 0.35 * size, f"{method}: {grown / 1e6:.0f} MB for two models of {size / 1e6:.0f} MB"
