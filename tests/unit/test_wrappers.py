"""Names under which wrappers save tensors: taken off where that explains all, told, and never written again."""

from pathlib import Path
from shutil import copytree

import pytest
import torch
from safetensors.torch import load_file

from fusehub.checking.check import check
from fusehub.collecting.collect import collect
from fusehub.comparing.predictor import predict
from fusehub.errors import BadFile
from fusehub.merging.merge import merge
from fusehub.models.checkpoints.checkpoint import Checkpoint, headers
from fusehub.models.resolve import resolve
from fusehub.publishing.loadable import require_loadable
from tests.unit.experts import WEIGHTS, recipe_of, relatives, save_weights, text_file
from tests.unit.tiny import tiny_model

# What is put around a name; and what is said of it.
WRAPPED = {
    "compiled": (lambda name: f"_orig_mod.{name}", "begin with _orig_mod., as torch.compile saves them"),
    "distributed": (lambda name: f"module.{name}", "begin with module., as DataParallel, DDP and DeepSpeed"),
    "both": (lambda name: f"module._orig_mod.{name}", "begin with module._orig_mod., as torch.compile"),
    "lightning": (lambda name: f"model.{name}", "begin with model., as a training script"),
    "other lightning": (lambda name: f"net.{name}", "begin with net., as a training script"),
    "lightning, compiled": (lambda name: f"model._orig_mod.{name}", "begin with model._orig_mod., as torch.compile"),
    "peft": (lambda name: f"base_model.model.{name}", "begin with base_model.model., as peft saves them"),
    "sharded": (
        lambda name: name.replace("encoder.layer.0.", "encoder.layer.0._fsdp_wrapped_module."),
        "have _fsdp_wrapped_module. in them, as FSDP saves them",
    ),
    "sharded, checkpointed": (
        lambda name: (
            "_fsdp_wrapped_module."
            + name.replace("layer.0.", "layer.0._fsdp_wrapped_module._checkpoint_wrapped_module.")
        ),
        "begin with _fsdp_wrapped_module., as FSDP saves them, activation checkpointing",
    ),
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return relatives(tmp_path_factory.mktemp("pair"), layers=1)


def wrapped(path: Path, out: Path, rename) -> Path:
    copytree(path, out)
    save_weights(out, {rename(name): value for name, value in load_file(path / WEIGHTS).items()})
    return out


@pytest.mark.parametrize("case", WRAPPED)
def test_a_merge_of_wrapped_names_is_that_of_clean_ones(pair, tmp_path, case):
    rename, words = WRAPPED[case]
    own = [wrapped(path, tmp_path / path.name, rename) for path in pair]
    report = check([str(path) for path in own])
    said = [f.what for f in report.findings if f.code == "names-wrapped"]
    assert report.ok and len(said) == 2 and words in said[0]
    merge(recipe_of(pair, "mean"), tmp_path / "clean")
    merge(recipe_of(own, "mean"), tmp_path / "merged")
    assert (tmp_path / "merged" / WEIGHTS).read_bytes() == (tmp_path / "clean" / WEIGHTS).read_bytes()


def test_one_that_is_wrapped_merges_with_one_that_is_not(pair, tmp_path):
    own = [wrapped(pair[0], tmp_path / "a", WRAPPED["compiled"][0]), pair[1]]
    merge(recipe_of(pair, "mean"), tmp_path / "clean")
    merge(recipe_of(own, "mean"), tmp_path / "merged")
    assert (tmp_path / "merged" / WEIGHTS).read_bytes() == (tmp_path / "clean" / WEIGHTS).read_bytes()


@pytest.mark.parametrize("case", ["compiled", "lightning", "sharded"])
def test_a_wrapped_model_is_run_as_the_same_without(pair, tmp_path, case):
    own = wrapped(pair[0], tmp_path / "a", WRAPPED[case][0])
    texts = ["good film", "a bad plot"]
    assert (predict(str(own), texts).probabilities == predict(str(pair[0]), texts).probabilities).all()
    for number, path in enumerate((own, pair[0])):
        collect(str(path), text_file(tmp_path), tmp_path / f"statistics-{number}").close()
    one, other = (load_file(tmp_path / f"statistics-{i}" / "statistics.safetensors") for i in (0, 1))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_wrapped_model_is_not_published(pair, tmp_path):
    own = wrapped(pair[0], tmp_path / "a", WRAPPED["compiled"][0])
    with pytest.raises(BadFile, match=r"begin with _orig_mod\., as torch\.compile saves them"):
        require_loadable(own)


def test_names_that_clash_without_the_wrapper_stay(pair, tmp_path):
    """Two sets of weights, one of them wrapped (its moving average): nobody can tell which is meant."""
    copytree(pair[0], own := tmp_path / "a")
    tensors = load_file(own / WEIGHTS)
    save_weights(own, {**{f"module.{name}": value + 1 for name, value in tensors.items()}, **tensors})
    found = headers(resolve(str(own)))
    assert "module.classifier.weight" in found and not found.wrapping.names


def test_what_a_class_itself_calls_model_stays(tmp_path):
    path = tiny_model(tmp_path / "llama", "llama", task="text-generation", layers=1, tie_word_embeddings=True)
    with Checkpoint(resolve(str(path))) as checkpoint:
        assert list(checkpoint) == sorted(load_file(path / WEIGHTS))
        assert all(name.startswith("model.") for name in checkpoint)


def test_what_is_left_over_beside_wrapped_names_does_not_hide_the_model(pair, tmp_path):
    own = [wrapped(path, tmp_path / path.name, lambda name: f"_orig_mod.{name}") for path in pair]
    for path in own:
        save_weights(path, {**load_file(path / WEIGHTS), "_orig_mod.loss.weight": torch.ones(3)})
    made = merge(recipe_of(own, "mean"), tmp_path / "out")
    clean = merge(recipe_of(pair, "mean"), tmp_path / "clean")
    assert made.hashes == clean.hashes
