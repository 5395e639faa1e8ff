"""Merges of whole models by the methods that need no statistics: mergekit's recipes, from YAML to files."""

import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from fusehub.errors import BadRecipe
from fusehub.merging import cost
from fusehub.merging.engine import elementwise
from fusehub.merging.engine import run as engine_run
from fusehub.merging.merge import merge
from fusehub.merging.plan import plan_merge
from fusehub.merging.recipe import FILENAME, Recipe
from fusehub.methods import METHODS, Layer, find_method
from tests.unit.experts import WEIGHTS, recipe_of, rel, relatives, save_weights, with_statistics
from tests.unit.tiny import tiny_model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Three experts, and their base."""
    folder = tmp_path_factory.mktemp("methods")
    return [folder / "base", *relatives(folder, "llama", labels=(("no", "yes"),) * 3, layers=3)]


def run(out, **content):
    merge(Recipe.parse(content), out)
    return load_file(out / WEIGHTS)


def listed(paths, **parameters):
    return [{"model": str(path), **({"parameters": parameters} if parameters else {})} for path in paths]


ON_WEIGHTS_ALONE = [m.name for m in METHODS.values() if not (m.needs_statistics or m.needs_fisher or m.models[1])]


@pytest.mark.parametrize("name", ON_WEIGHTS_ALONE)
def test_every_method_on_whole_models_is_the_method_on_each_tensor(models, tmp_path, name, monkeypatch):
    base, *experts = models
    own = {"density": 0.6} if "density" in find_method(name).own_options.fields() else {}
    content = {
        "merge_method": name,
        "base_model": str(base),
        "models": listed(experts, **own),
        "dtype": "float64",
        "seed": 3,
    }
    merged = run(tmp_path / "out", **content)
    method, stored = find_method(name), [load_file(path / WEIGHTS) for path in models]
    said = [method.own_options.parse(name, own)] * 3
    for tensor, value in merged.items():
        tensors = [one[tensor].double() for one in stored]
        layer = Layer(tensor, tensors[1:], [one.weight for one in said], tensors[0], own=said, seed=3)
        assert rel(value, method.merge(layer, method.parse({})).tensor) < 1e-12, tensor
    # Neither the size of pieces nor the number of workers changes a byte.
    monkeypatch.setattr(elementwise, "_PIECE_ELEMENTS", 64)
    monkeypatch.setattr(engine_run, "_WORKERS", 1)
    run(tmp_path / "again", **content)
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (tmp_path / "out" / WEIGHTS).read_bytes()


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_ties_of_pieces_are_those_of_whole_tensors(models, tmp_path, monkeypatch, rescale, dtype):
    base, *experts = models
    for place, path in enumerate(models):  # In bfloat16, many differences are of one size.
        stored = {name: value.to(getattr(torch, dtype)) for name, value in load_file(path / WEIGHTS).items()}
        shutil.copytree(path, tmp_path / str(place))
        save_weights(tmp_path / str(place), stored)
    base, *experts = (tmp_path / str(place) for place in range(len(models)))
    content = {
        "merge_method": "ties",
        "base_model": str(base),
        "models": [
            {"model": str(path), "parameters": {"density": density}}
            for path, density in zip(experts, (0.3, 0, 1), strict=True)
        ],
        "parameters": {"rescale": rescale},
    }
    whole = run(tmp_path / "whole", **content)
    seen, ties = [], METHODS["ties"].merge

    def watched(layer, said):
        seen.append((layer.tensors[0].numel(), layer.start))
        return ties(layer, said)

    method = replace(METHODS["ties"], merge=watched)
    monkeypatch.setitem(METHODS, "ties", method)
    monkeypatch.setattr(cost, "_WORTH_A_SURVEY", 100)
    monkeypatch.setattr(elementwise, "_PIECE_ELEMENTS", 64)
    pieces = run(tmp_path / "pieces", **content)
    # No tensor of more than a hundred elements was there as a whole.
    assert max(numel for numel, _ in seen) <= 100 and any(start for _, start in seen)
    for name, value in whole.items():
        # With all magnitudes added up, the last bits depend on the order.
        torch.testing.assert_close(pieces[name], value, rtol=1e-5 if rescale else 0, atol=0)


def test_more_models_are_merged_in_smaller_pieces(models, tmp_path, monkeypatch):
    sizes, mean = [], METHODS["mean"].merge
    method = replace(
        METHODS["mean"], merge=lambda layer, said: sizes.append(layer.tensors[0].numel()) or mean(layer, said)
    )
    monkeypatch.setitem(METHODS, "mean", method)
    monkeypatch.setattr(elementwise, "_TOGETHER", 1024)
    most = []
    for count in (2, 8):
        sizes.clear()
        run(tmp_path / str(count), merge_method="mean", models=listed([*models, *models][:count]))
        most.append(count * max(sizes))
    assert most[1] <= most[0] <= 1024


def test_a_base_listed_among_the_models_is_not_one_of_them(models, tmp_path):
    base, a, b, _ = models
    said = {"merge_method": "ties", "base_model": str(base), "parameters": {"density": 0.5, "int8_mask": True}}
    plain = run(tmp_path / "plain", models=listed([a, b]), **said)
    among = run(tmp_path / "among", models=[{"model": str(base)}, *listed([a, b])], **said)
    assert all(torch.equal(value, among[name]) for name, value in plain.items())
    alone = run(tmp_path / "alone", models=listed([base, a]), **said)
    assert not torch.equal(alone["model.embed_tokens.weight"], plain["model.embed_tokens.weight"])


def test_slerp_begins_at_the_base_wherever_it_is_listed(models, tmp_path):
    base, a, *_ = models
    said = {"merge_method": "slerp", "base_model": str(base), "parameters": {"t": 0.2}}
    first = run(tmp_path / "1", models=listed([base, a]), **said)
    for number, order in enumerate(([a, base], [a])):
        other = run(tmp_path / f"other-{number}", models=listed(order), **said)
        assert all(torch.equal(value, other[name]) for name, value in first.items())
    without = run(tmp_path / "2", merge_method="slerp", models=listed([a, base]), parameters={"t": 0.8})
    assert all(rel(value, without[name]) < 1e-6 for name, value in first.items())


def test_mergekits_gradients_and_filters_hold_where_mergekit_has_them(models, tmp_path):
    base, a, *_ = models
    text = f"""
        merge_method: slerp
        base_model: {base}
        models: [{{model: {base}}}, {{model: {a}}}]
        parameters:
          t:
            - {{filter: self_attn, value: [0, 0.5, 1]}}
            - {{filter: mlp, value: 0}}
            - value: 1
        dtype: float32
    """
    merged = run(tmp_path / "out", **yaml.safe_load(text))
    stored = [load_file(path / WEIGHTS) for path in (base, a)]
    between = 0
    for name, value in merged.items():
        if "self_attn" in name and ".1." in name:
            between += 1
            assert not torch.equal(value, stored[0][name]) and not torch.equal(value, stored[1][name])
        else:
            whose = 0 if "mlp" in name or ("self_attn" in name and ".0." in name) else 1
            assert rel(value, stored[whose][name]) < 1e-6, name
    assert 0 < between < len(merged)
    written = yaml.safe_load((tmp_path / "out" / FILENAME).read_text())
    assert written["parameters"]["t"][0] == {"filter": "self_attn", "value": [0, 0.5, 1]}
    merge(Recipe.parse(written), tmp_path / "again")
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (tmp_path / "out" / WEIGHTS).read_bytes()


def test_one_slice_with_all_layers_is_a_list_of_models(models, tmp_path):
    base, a, *_ = models
    text = """
        slices:
          - sources:
              - model: {base}
                layer_range: [0, {layers}]
              - model: {a}
                layer_range: [0, {layers}]
        merge_method: slerp
        base_model: {base}
        parameters: {{t: [{{filter: mlp, value: [1, 0]}}, {{value: 0.5}}]}}
        dtype: float32
    """
    sliced = run(tmp_path / "slices", **yaml.safe_load(text.format(base=base, a=a, layers=3)))
    parameters = {"t": [{"filter": "mlp", "value": [1, 0]}, {"value": 0.5}]}
    said = {"merge_method": "slerp", "base_model": str(base), "parameters": parameters, "dtype": "float32"}
    plain = run(tmp_path / "models", models=listed([base, a]), **said)
    assert all(torch.equal(value, plain[name]) for name, value in sliced.items())
    with pytest.raises(BadRecipe, match=r"slices take layers 0 to 2, and .* has 3"):
        plan_merge(Recipe.parse(yaml.safe_load(text.format(base=base, a=a, layers=2))))
    stacked = yaml.safe_load(text.format(base=base, a=a, layers=3))
    stacked["slices"] *= 2
    with pytest.raises(BadRecipe, match="some twice or not at all"):
        Recipe.parse(stacked)


def test_regmean_takes_another_alpha_for_a_block(tmp_path):
    paths = with_statistics(relatives(tmp_path))
    cases = [{"filter": "layer.0.", "value": 0.1}, {"value": 0.9}]
    merge(recipe_of(paths, parameters={"alpha": cases}), tmp_path / "mixed")
    for alpha in (0.1, 0.9):
        merge(recipe_of(paths, parameters={"alpha": alpha}), tmp_path / str(alpha))
    mixed, low, high = (load_file(tmp_path / name / WEIGHTS) for name in ("mixed", "0.1", "0.9"))
    assert all(torch.equal(value, (low if "layer.0." in name else high)[name]) for name, value in mixed.items())
    assert any(not torch.equal(low[name], high[name]) for name in mixed)


def test_weights_by_layer_are_refused_where_they_make_no_sense_and_name_the_tensor(models):
    _, a, b, _ = models
    cases = [{"filter": "mlp", "value": 0}, {"value": 1}]
    recipe = Recipe.parse({"merge_method": "mean", "models": listed([a, b], weight=cases)})
    with pytest.raises(BadRecipe, match=r"All models have the weight 0 in .*mlp"):
        plan_merge(recipe)
    notes = plan_merge(recipe.changed(weights={str(a): [{"filter": "mpl", "value": 2}]})).notes
    assert any("No tensor has 'mpl' in its name" in note for note in notes)


def test_a_head_that_the_base_has_not_is_averaged(models, tmp_path):
    _, a, b, _ = models
    headless = tiny_model(tmp_path / "pretrained", "llama", task="text-generation", hidden=16, layers=3)
    merged = run(
        tmp_path / "out",
        merge_method="task_arithmetic",
        base_model=str(headless),
        models=[*listed([a], weight=0.5), *listed([b], weight=-1)],
    )
    stored = [load_file(path / WEIGHTS) for path in (headless, a, b)]
    for name, value in merged.items():
        if name in stored[0]:
            expected = (
                stored[0][name] + 0.5 * (stored[1][name] - stored[0][name]) - (stored[2][name] - stored[0][name])
            )
        else:
            expected = stored[1][name]  # What is taken away has no share in a mean.
        assert rel(value, expected) < 1e-5, name


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"merge_method": "ties"}, "adds differences|TIES adds differences to a base"),
        ({"merge_method": "slerp", "count": 3}, "SLERP merges exactly 2 models, and the recipe has 3"),
        ({"merge_method": "model_stock", "base": True, "count": 1}, "at least 2 models beside the base"),
        ({"merge_method": "mean", "base": True, "count": 1}, "at least 2 models, and the recipe has 1"),
        ({"merge_method": "ties", "base": True, "parameters": {"weight": -1}}, "no sense for negative ones"),
        ({"merge_method": "task_arithmetic", "base": True, "parameters": {"dense": 0.1}}, "no option of task_ar"),
    ],
)
def test_casts_that_do_not_fit_the_method_are_refused(models, content, said):
    base, *experts = models
    content = dict(content)
    listing = listed(experts[: content.pop("count", 2)])
    if content.pop("base", False):
        content["base_model"] = str(base)
    with pytest.raises(BadRecipe, match=said):
        plan_merge(Recipe.parse({"models": listing, **content}))


def test_data_free_needs_a_base_and_no_statistics(models, tmp_path):
    base, a, b, _ = models
    with pytest.raises(BadRecipe, match="no base is said"):
        plan_merge(Recipe.parse({"merge_method": "data_free", "models": listed([a, b])}))
    merged = run(tmp_path / "out", merge_method="data_free", base_model=str(base), models=listed([a, b]))
    stored = [load_file(path / WEIGHTS) for path in (base, a, b)]
    name = "model.layers.1.self_attn.q_proj.weight"
    base_, *own = (tensors[name].double() for tensors in stored)
    total, right = 0, 0
    for weight in own:
        delta = weight - base_
        gram = delta.T @ delta / delta.square().sum()
        gram = 0.9 * gram + 0.1 * gram.diagonal().diag()
        total, right = total + gram, right + gram @ weight.T
    assert rel(merged[name], torch.linalg.solve(total, right).T) < 1e-5
    assert rel(merged[name], sum(own) / 2) > 0.01
