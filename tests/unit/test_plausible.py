"""Statistics held against what a model's layers are given for random tokens."""

import contextlib
import json
import shutil

import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

from fusehub.collecting.collect import collect
from fusehub.errors import BadStatistics
from fusehub.models.resolve import resolve
from fusehub.statistics.file import Statistics
from fusehub.statistics.grams import packed_diagonal
from fusehub.statistics.inspection import inspect
from fusehub.statistics.plausible import compare_with_random
from tests.unit.test_statistics_format import rewrite
from tests.unit.tiny import tiny_images, tiny_model

FILE = "statistics.safetensors"


def changed(folder, to, change):
    """A copy of statistics in which `change` was made to each layer's sums of squares, and what goes with it to its
    sums: as of other rows."""
    shutil.copytree(folder, to)
    with safe_open(folder / FILE, "pt") as file:
        tensors = {}
        for name in file.keys():  # noqa: SIM118
            if name[-2:] in (".S", ".d"):
                before, total = file.get_tensor(name), file.get_tensor(f"{name[:-2]}.s")
                tensors[name] = change(before)
                squares = packed_diagonal(len(total)) if name.endswith(".S") else slice(None)
                grown = tensors[name][squares] / before[squares].clamp_min(1e-30)
                tensors[f"{name[:-2]}.s"] = total * grown.sqrt()
    rewrite(to / FILE, None, **tensors)
    return to


def likeness(folder, model):
    with contextlib.closing(Statistics(folder / FILE)) as statistics:
        return compare_with_random(statistics, resolve(str(model)))


@pytest.mark.parametrize("arch", ["bert", "gpt2", "t5", "bart", "llama"])
def test_a_models_own_are_not_questioned(experts, arch):
    for path in experts(arch):
        found = likeness(path / "fusehub", path)
        found.require_possible("s", "m")
        assert found.question("s", "m") is None, found
        with contextlib.closing(Statistics(path / "fusehub" / FILE)) as statistics:
            counted = {name for name, layer in statistics.layers.items() if layer.rows}
        assert {one.name for one in found.layers} == counted


def test_models_of_images_are_run_on_random_colours(tmp_path):
    path = tiny_model(tmp_path / "model", "vit", task="image-classification", labels=["cat", "dog"])
    collect(str(path), str(tiny_images(tmp_path / "photos")), path / "fusehub").close()
    found = likeness(path / "fusehub", path)
    assert all(one.scale > 0 for one in found.layers) and len(found.layers) >= 8
    found.require_possible("s", "m")


def test_scale_and_cosine_are_those_of_the_diagonals(experts, tmp_path):
    path = experts()[0]
    own = {one.name: one for one in likeness(path / "fusehub", path).layers}
    larger = likeness(changed(path / "fusehub", tmp_path / "larger", lambda d: 50 * d), path)
    for one in larger.layers:
        assert one.scale == pytest.approx(50 * own[one.name].scale, rel=1e-5)
        assert one.cosine == pytest.approx(own[one.name].cosine, rel=1e-5) and one.cosine <= 1 + 1e-9
    larger.require_possible("s", "m")
    assert "look unlike those of m" in larger.question("s", "m")
    # All on the first feature: the cosine is that feature's share of the length of the random tokens' diagonal.
    single = likeness(changed(path / "fusehub", tmp_path / "one", lambda d: d * (torch.arange(len(d)) == 0)), path)
    assert max(one.cosine for one in single.layers) < 0.9 and single.far
    assert single.question("s", "m")


@pytest.mark.parametrize("factor", [1e5, 1e-5])
def test_what_cannot_be_of_the_model_is_refused(experts, tmp_path, factor):
    path = experts()[0]
    wrong = changed(path / "fusehub", tmp_path / "wrong", lambda d: factor * d)
    with pytest.raises(BadStatistics, match=r"cannot be of .*times that of random tokens"):
        likeness(wrong, path).require_possible(str(wrong), "ann/m")
    assert inspect(str(wrong)).likeness is None, "sound it is"
    with pytest.raises(BadStatistics, match="cannot be of"):
        inspect(str(wrong), against=str(path))


def test_statistics_of_another_architecture_have_none_of_the_layers(experts):
    with pytest.raises(BadStatistics, match="have none of the layers of"):
        likeness(experts("gpt2")[0] / "fusehub", experts("bert")[0])


def test_the_command_line_holds_them_against_a_model(experts, tmp_path):
    from fusehub.cli.main import app

    path = experts()[0]
    result = CliRunner().invoke(app, ["inspect", str(path / "fusehub"), "--against", str(path)])
    assert result.exit_code == 0 and "times that of random tokens" in " ".join(result.stderr.split())
    result = CliRunner().invoke(app, ["inspect", str(path / "fusehub"), "--against", str(path), "--json"])
    told = json.loads(result.stdout)["likeness"]["layers"]
    assert {"name", "scale", "cosine"} == set(told[0])
    wrong = changed(path / "fusehub", tmp_path / "wrong", lambda d: 1e5 * d)
    result = CliRunner().invoke(app, ["inspect", str(wrong), "--against", str(path)])
    assert result.exit_code == 1 and "cannot be of" in result.stderr
