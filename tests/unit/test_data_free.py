"""Merges in which an expert's difference to the base stands in for its statistics."""

import json

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from fusehub.errors import BadRecipe, NotFound
from fusehub.merging.merge import merge
from fusehub.merging.plan import plan_merge
from tests.unit.experts import (
    WEIGHTS,
    least_squares,
    raw_inputs,
    recipe_of,
    rel,
    relatives,
    save_weights,
    texts_of,
)
from tests.unit.tiny import tiny_model

LINEAR = "bert.encoder.layer.0.output.dense.weight"


def mixed(paths, base, sources, **keys):
    """The recipe that merges `paths` with the statistics `sources` of each, about `base`."""
    return recipe_of(paths, statistics=sources, base_model=str(base), **keys)


@pytest.mark.parametrize("weighting", ["mean", "sum"])
@pytest.mark.parametrize("arch", ["bert", "gpt2"])
def test_the_update_is_solved_for_as_if_its_rows_were_inputs_as_large_as_the_others(
    experts, tmp_path, arch, weighting
):
    paths = experts(arch)
    base = paths[0].parent / "base"
    recipe = mixed(paths, base, ["auto", "data-free"], parameters={"alpha": 0.8, "weighting": weighting})
    plan = merge(recipe, tmp_path / "out").plan
    merged, old = load_file(tmp_path / "out" / WEIGHTS), load_file(base / WEIGHTS)
    weights = [load_file(path / WEIGHTS) for path in paths]
    inputs = raw_inputs(paths[0], texts_of(0))
    solved = [tensor for tensor in plan.tensors.values() if tensor.action == "solve"]
    assert len(solved) == len(plan.layout.linears)
    for tensor in solved:
        turn = (lambda value: value.T) if tensor.linear.transposed else (lambda value: value)
        own = [turn(weight[tensor.name].double()).numpy() for weight in weights]
        x = inputs[tensor.parameter]
        update = own[1] - turn(old[tensor.name].double()).numpy()
        # Its rows weigh as much as the other expert's, on average or all together: then both have the same say.
        rows = len(update) if weighting == "mean" else len(x)
        update *= ((x**2).sum() / len(x) * rows / (update**2).sum()) ** 0.5
        expected = least_squares([x, update], own, alpha=0.8, weighting=weighting)
        assert rel(turn(merged[tensor.name].double()).numpy(), expected) < 2e-5, tensor.name


def test_everyone_without_data(experts, tmp_path):
    paths = experts("bert")
    base = paths[0].parent / "base"
    merge(mixed(paths, base, ["data-free", "data-free"]), tmp_path / "out")
    merged, old = load_file(tmp_path / "out" / WEIGHTS)[LINEAR], load_file(base / WEIGHTS)[LINEAR].double()
    own = [load_file(path / WEIGHTS)[LINEAR].double() for path in paths]
    updates = [(weight - old) / (weight - old).norm() for weight in own]
    updates = [update.numpy() * len(update) ** 0.5 for update in updates]
    assert rel(merged, least_squares(updates, [weight.numpy() for weight in own])) < 1e-5
    assert rel(merged, sum(own) / 2) > 1e-3


def test_a_layer_that_did_not_learn_has_no_say(experts, tmp_path):
    paths = experts("bert")
    base = paths[0].parent / "base"
    still = tmp_path / "still"
    still.mkdir()
    for file in paths[1].iterdir():
        if file.is_file():
            (still / file.name).write_bytes(file.read_bytes())
    tensors = load_file(paths[1] / WEIGHTS)
    tensors[LINEAR] = load_file(base / WEIGHTS)[LINEAR]
    save_weights(still, tensors)
    merge(mixed([paths[0], still], base, ["auto", "data-free"]), tmp_path / "out")
    assert rel(load_file(tmp_path / "out" / WEIGHTS)[LINEAR], load_file(paths[0] / WEIGHTS)[LINEAR]) < 1e-3


def test_plan_report_recipe_and_card_say_so(experts, tmp_path):
    from fusehub.publishing.cards.merge_card import model_card

    paths = experts("bert")
    base = paths[0].parent / "base"
    result = merge(mixed(paths, base, ["auto", "data-free"]), tmp_path / "out")
    said = f"Without statistics: {paths[1]}. The difference to the base stands in for them (data-free)."
    assert said in result.plan.notes
    assert result.plan.to_dict()["statistics"][1] == "data-free"
    report = json.loads((tmp_path / "out" / "fusehub_report.json").read_text())
    assert said in report["notes"] and report["sources"][1]["statistics"]["origin"] == "data-free"
    card = str(model_card(tmp_path / "out"))
    assert "none: its difference to the base stands in for them" in card
    # The recipe beside the merge gives it again.
    again = merge(tmp_path / "out" / "fusehub_recipe.yaml", tmp_path / "again")
    assert again.hashes == result.hashes


def test_a_head_that_the_base_does_not_have_is_averaged_and_said(experts, tmp_path):
    paths = experts("bert")
    base = tiny_model(tmp_path / "base", labels=("a", "b", "c"), hidden=16)
    plan = plan_merge(mixed(paths, base, ["auto", "data-free"]))
    assert plan.tensors["classifier.weight"].action == "mean"
    assert f"so {paths[1]} has no update of it" in plan.tensors["classifier.weight"].why
    assert plan.tensors[LINEAR].action == "solve"
    assert any("classifier.weight" in note for note in plan.notes)


def test_it_needs_the_base(experts):
    paths = experts("bert")
    with pytest.raises(BadRecipe, match=f"what {paths[1]} learned is its difference to the base") as caught:
        plan_merge(recipe_of(paths, statistics=["auto", "data-free"]))
    assert "--base" in caught.value.fix


def test_biases_cannot_be_solved_without_data(experts):
    paths = experts("bert")
    recipe = mixed(paths, paths[0].parent / "base", ["auto", "data-free"], parameters={"affine": True})
    with pytest.raises(BadRecipe, match=f"not known of {paths[1]}"):
        plan_merge(recipe)


def test_who_has_no_statistics_is_told_of_it(tmp_path):
    paths = relatives(tmp_path, layers=1)
    with pytest.raises(NotFound) as caught:
        plan_merge(recipe_of(paths))
    assert f"--statistics {paths[0]}=data-free --base BASE" in caught.value.fix


def test_the_command_line_prints_it(experts):
    from fusehub.cli.main import app

    paths = experts("bert")
    arguments = ["merge", *map(str, paths), "--base", str(paths[0].parent / "base"), "--dry-run"]
    result = CliRunner().invoke(app, [*arguments, "--statistics", f"{paths[1]}=data-free"])
    assert result.exit_code == 0
    assert f"statistics of {paths[1]}: none; its difference to the base" in result.stderr
