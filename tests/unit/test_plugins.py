"""Methods of the user's own, out of a file that is named in the call."""

import hashlib
import json
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

from fusehub.cli.start import main
from fusehub.errors import BadRecipe, NotFound
from fusehub.merging.merge import merge
from fusehub.merging.recipe import FILENAME
from fusehub.methods import METHODS
from fusehub.methods.plugins import load_plugins
from fusehub.methods.registry import ALIASES
from fusehub.publishing.cards.merge_card import model_card
from tests.unit.experts import WEIGHTS, relatives

MEDIAN = """
import torch
from pydantic import Field
from fusehub.methods import Options, merge_method

class MedianOptions(Options):
    shift: float = Field(0.0, ge=0, description="added to all.")

@merge_method("median", title="Median", summary="The median of every element.", options=MedianOptions)
def median(layer, options):
    return torch.stack(list(layer.tensors)).median(dim=0).values + options.shift
"""


@pytest.fixture(autouse=True)
def registry():
    """The registry as it was."""
    before = dict(METHODS), dict(ALIASES)
    yield
    for now, was in zip((METHODS, ALIASES), before, strict=True):
        now.clear()
        now.update(was)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return [str(path) for path in relatives(tmp_path_factory.mktemp("plugins"), labels=(("a", "b"),) * 3)]


def plugin(tmp_path, text=MEDIAN, name="median.py"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_method_of_a_file_merges_and_is_recorded(models, tmp_path):
    path = plugin(tmp_path)
    merge(models, tmp_path / "out", method="median", plugins=[path], parameters={"shift": 1})
    stored = [load_file(f"{model}/{WEIGHTS}") for model in models]
    for name, value in load_file(tmp_path / "out" / WEIGHTS).items():
        median = torch.stack([own[name] for own in stored]).double().median(dim=0).values + 1
        assert torch.equal(value, median.float()), name
    written = yaml.safe_load((tmp_path / "out" / FILENAME).read_text())
    assert written["plugins"] == [{"file": "median.py", "sha256": hashlib.sha256(MEDIAN.encode()).hexdigest()}]
    del METHODS["median"]
    card = str(model_card(tmp_path / "out"))
    assert "median.py" in card and written["plugins"][0]["sha256"][:12] in card


def test_a_recipe_runs_no_plugin_by_itself_and_no_other_one(models, tmp_path):
    path = plugin(tmp_path)
    merge(models, tmp_path / "out", method="median", plugins=[path])
    recipe = tmp_path / "out" / FILENAME
    with pytest.raises(BadRecipe, match=r"of a plugin, median\.py, and no recipe runs code by itself.*\n.*--plugin"):
        merge(recipe, tmp_path / "again")
    merge(recipe, tmp_path / "again", plugins=[path])
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (tmp_path / "out" / WEIGHTS).read_bytes()
    path.write_text(MEDIAN + "# changed\n")
    with pytest.raises(BadRecipe, match=r"median\.py is not what it was"):
        merge(recipe, tmp_path / "third", plugins=[path])
    assert not (tmp_path / "third").exists()


def test_the_command_line_takes_it(models, tmp_path, capsys, monkeypatch):
    path = plugin(tmp_path)
    command = ["merge", *models, "--plugin", str(path), "--method", "median", "--out", str(tmp_path / "out"), "--json"]
    monkeypatch.setattr(sys, "argv", ["fusehub", *command])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code and json.loads(capsys.readouterr().out)["method"] == "median"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def f(:\n", r"mine\.py, line 1: invalid syntax"),
        ("x = 1\n", r"mine\.py registers no method"),
        ("import torch\n1 / 0\n", r"fails when it is loaded: ZeroDivisionError: .*mine\.py, line 2"),
        ("import nothing_like_it\n", "No module named 'nothing_like_it'"),
        (MEDIAN.replace('"median"', '"ties"'), r"two merge methods are called ties(.*\n)*.*another name"),
    ],
)
def test_files_that_are_no_plugins_are_told_so_and_register_nothing(tmp_path, text, said):
    before = dict(METHODS)
    with pytest.raises(BadRecipe, match=said):
        load_plugins([plugin(tmp_path, text, "mine.py")])
    assert before == METHODS
    with pytest.raises(NotFound, match="There is no plugin"):
        load_plugins([tmp_path / "none.py"])


def test_a_plugin_that_is_loaded_again_takes_its_own_place(tmp_path):
    path = plugin(tmp_path)
    load_plugins([path])
    path.write_text(MEDIAN.replace('"median"', '"middle"'))
    load_plugins([path])
    assert "middle" in METHODS and "median" not in METHODS


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return layer.tensors[0][:1]", r"median\.py: median makes \[.*\] of .*, not \["),
        ("return None", "median makes NoneType of"),
        ("return layer.tensor", r"median fails on .*: AttributeError: .*median\.py, line"),
    ],
)
def test_faults_of_a_plugin_are_told_as_its_own_and_nothing_is_left(models, tmp_path, body, said):
    text = MEDIAN[: MEDIAN.index("    return")] + f"    {body}\n"
    with pytest.raises(BadRecipe, match=said):
        merge(models, tmp_path / "out", method="median", plugins=[plugin(tmp_path, text)])
    assert not (tmp_path / "out").exists()
