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
from fusehub.merging.plan import plan_merge
from fusehub.merging.recipe import FILENAME
from fusehub.methods import METHODS
from fusehub.methods.plugins import load_plugins
from fusehub.methods.registry import ALIASES
from fusehub.models.checkpoints.checkpoint import Checkpoint
from fusehub.models.resolve import resolve
from fusehub.publishing.cards.merge_card import model_card
from tests.unit.experts import WEIGHTS, recipe_of, relatives, with_statistics
from tests.unit.lora_cases import adapter
from tests.unit.tiny import tiny_model

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


FADING = """
from fusehub.methods import Cost, Options, Share, merge_method
from pydantic import Field

class FadingOptions(Options):
    strength: float = Field(1.0, description="of all updates.")

class FadingShare(Share):
    kept: float = Field(1.0, description="of this update.")

def factors(layer, options):
    return [options.strength * w * own.kept for w, own in zip(layer.coefficients, layer.own, strict=True)]

@merge_method("fading", title="Fading", summary="Adds a part of every update.", options=FadingOptions,
              own_options=FadingShare, base="needed", factors=factors, tune_over={"strength": (0.1, 0.2)},
              cost=lambda models, numel, inputs: Cost(10**9 + numel, 10**9))
def fading(layer, options):
    updates = [tensor - layer.base for tensor in layer.tensors]
    return layer.base + sum(c * update for c, update in zip(factors(layer, options), updates, strict=True))
"""


def test_a_weighted_sum_of_a_plugins_own_is_written_as_an_adapter(tmp_path, capsys, monkeypatch):
    base = tiny_model(tmp_path / "base", "bert")
    experts = [
        str(adapter(tmp_path / f"adapter-{n}", base, seed=n, target_modules=["query"], r=2 + n)[0]) for n in range(2)
    ]
    path = plugin(tmp_path, FADING, "fading.py")
    entries = [{"model": experts[0], "parameters": {"weight": 0.7, "kept": 0.5}}, {"model": experts[1]}]
    recipe = {"merge_method": "fading", "models": entries, "parameters": {"strength": 0.4}, "base_model": str(base)}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    plan = merge(tmp_path / "recipe.yaml", tmp_path / "whole", plugins=[path]).plan
    assert plan.cost["memory_bytes"] > 10**9 and plan.cost["gflop"] == len(plan.tensors)
    command = ["merge", str(tmp_path / "recipe.yaml"), "--plugin", str(path), "--as-adapter", "--out"]
    monkeypatch.setattr(sys, "argv", ["fusehub", *command, str(tmp_path / "small"), "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, capsys.readouterr().err
    whole, stored = load_file(tmp_path / "whole" / WEIGHTS), load_file(base / WEIGHTS)
    with Checkpoint(resolve(str(tmp_path / "small"))) as small:
        assert set(small.tensors) == set(whole)
        for name, value in whole.items():
            torch.testing.assert_close(small[name].float(), value, rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(value, stored[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("return [1.0]", r"fading\.py: fading gives the factors \[1\.0\] of .*, whose models are 2"),
        ("return [float('nan')] * 2", r"fading\.py: fading gives the factors \[nan, nan\]"),
        ("return layer.tensors[0]", r"fading fails to give its factors of .*: IndexError: .*fading\.py, line"),
    ],
)
def test_wrong_factors_of_a_plugin_are_told_as_its_own(tmp_path, wrong, said):
    base = tiny_model(tmp_path / "base", "bert")
    experts = [str(adapter(tmp_path / f"adapter-{n}", base, seed=n, target_modules=["query"])[0]) for n in range(2)]
    head, _, rest = FADING.partition("    return [options")
    path = plugin(tmp_path, f"{head}    {wrong}\n{rest[rest.index(chr(10)) :]}", "fading.py")
    with pytest.raises(BadRecipe, match=said):
        merge(experts, tmp_path / "out", method="fading", base_model=str(base), plugins=[path], as_adapter=True)
    assert not (tmp_path / "out").exists()


SOLVING = """
from fusehub.methods import Options, merge_method
from fusehub.methods.regmean import RegMeanOptions, regmean

class SolvingOptions(Options):
    with_bias: str = "no"
    start: str = "mean"

@merge_method("solving", title="Solving", summary="As RegMean.", options=SolvingOptions, statistics="grams",
              biases_with={"with_bias": "yes"}, base_with={"start": "base"})
def solving(layer, options):
    return regmean(layer, RegMeanOptions(affine=layer.biases is not None, anchor=options.start))
"""


def test_a_plugin_solves_biases_under_an_option_name_of_its_own(tmp_path):
    experts = with_statistics(relatives(tmp_path / "experts"))
    path = plugin(tmp_path, SOLVING, "solving.py")

    def merged(name, **changes):
        recipe = recipe_of(experts, **changes)
        merge(recipe, tmp_path / name, plugins=[path])
        return (tmp_path / name / WEIGHTS).read_bytes(), str(model_card(tmp_path / name))

    load_plugins([path])
    own, card = merged("own", method="solving", parameters={"with_bias": "yes"})
    ours, our_card = merged("ours", parameters={"affine": True})
    assert own == ours != merged("without", method="solving")[0]
    line = "tensors were solved together with their layer's weight: biases"
    assert line in our_card and [said for said in card.splitlines() if line in said] == [
        said for said in our_card.splitlines() if line in said
    ]
    base = str(tmp_path / "experts" / "base")
    with pytest.raises(BadRecipe, match=r"start=base needs the base model"):
        plan_merge(recipe_of(experts, "solving", parameters={"start": "base"}))
    mixed = recipe_of(experts, "solving", statistics=["data-free", "auto"], base_model=base)
    with pytest.raises(BadRecipe, match=r"with_bias=yes solves biases from the mean inputs.*\n.*Leave with_bias=yes"):
        plan_merge(mixed.changed(parameters={"with_bias": "yes"}))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ('biases_with={"bias": True}', "solving has no option bias, which one of its facts names"),
        ('statistics="gram"', "statistics is one of nothing, grams, updates, texts, fisher, not 'gram'"),
        ('statistics="updates"', "biases are solved from the mean inputs"),
        ('base="wanted"', "base is one of optional, needed, origin, end"),
    ],
)
def test_facts_that_no_method_can_have_are_told_when_the_file_is_loaded(tmp_path, wrong, said):
    facts = {"biases_with": '{"with_bias": "yes"}', "statistics": '"grams"', "base_with": '{"start": "base"}'}
    name, _, value = wrong.partition("=")
    told = ", ".join(f"{key}={own}" for key, own in (facts | {name: value}).items())
    head, _, rest = SOLVING.partition('statistics="grams"')
    path = plugin(tmp_path, f"{head}{told})\n{rest[rest.index('def ') :]}", "mine.py")
    with pytest.raises(BadRecipe, match=said):
        load_plugins([path])


def test_what_a_plugin_notes_of_layers_is_told_by_its_kind(tmp_path):
    experts = with_statistics(relatives(tmp_path / "experts"))
    head = SOLVING.partition("    return regmean")[0].replace("import Options", "import Merged, Note, Options")

    def merged(name, note):
        path = plugin(tmp_path, f"{head}    return Merged(layer.tensors[0], notes=({note},))\n", "noting.py")
        load_plugins([path])
        merge(recipe_of(experts, "solving"), tmp_path / name, plugins=[path])

    merged("out", 'Note("size", layer.name * 2)')
    notes = json.loads((tmp_path / "out" / "fusehub_report.json").read_text())["layer_notes"]
    first = next(iter(notes))
    assert len(notes) > 3 and notes[first] == [{"kind": "size", "text": first * 2}]
    said = [line for line in str(model_card(tmp_path / "out")).splitlines() if first * 2 in line]
    assert len(said) == 1 and f"and so in {len(notes) - 1} more layers" in said[0]
    with pytest.raises(BadRecipe, match=r"noting\.py: solving notes 'words' of .*, which is no Note"):
        merged("no", '"words"')
