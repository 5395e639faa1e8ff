"""Options by layer and by model: mergekit's gradients and filters."""

import pytest

from fusehub.errors import BadRecipe
from fusehub.methods import find_method
from fusehub.methods.by_layer import Settings, depths


def settings(method, parameters=None, models=({}, {})):
    return Settings.of(find_method(method), parameters or {}, models)


def test_a_list_runs_over_the_layers():
    said = settings("slerp", {"t": [0, 0.5, 1]})
    assert [said.at("x", depth)[0].t for depth in (0, 0.25, 0.5, 0.75, 1)] == [0, 0.25, 0.5, 0.75, 1]
    switched = settings("ties", {"normalize": [True, False]})
    assert [switched.at("x", depth)[0].normalize for depth in (0, 0.9, 1)] == [True, True, False]


def test_the_first_filter_that_is_part_of_the_name_holds():
    cases = [{"filter": "attn", "value": [0, 1]}, {"filter": "mlp", "value": 0.25}, {"value": 0.75}]
    said = settings("slerp", {"t": cases})
    assert said.at("layers.3.self_attn.q", 0.5)[0].t == 0.5
    assert said.at("layers.3.mlp.up", 0.5)[0].t == 0.25 and said.at("norm", 0)[0].t == 0.75
    assert said.filters() == ["attn", "mlp"]
    everywhere = settings("slerp", {"t": [{"filter": "*", "value": 0.1}, {"value": 0.75}]})
    assert everywhere.at("norm", 0)[0].t == 0.1 and everywhere.filters() == []


def test_a_model_goes_before_the_recipe_and_the_recipe_before_the_default():
    said = settings(
        "ties",
        {"density": 0.3, "weight": 0.5},
        [{"weight": [{"filter": "mlp", "value": 2}]}, {"density": 0.9}],
    )
    _, own = said.at("mlp.up", 0)
    assert [(one.weight, one.density) for one in own] == [(2, 0.3), (0.5, 0.9)]
    _, own = said.at("attn.q", 0)
    assert [(one.weight, one.density) for one in own] == [(0.5, 0.3), (0.5, 0.9)], "no filter holds: the next source"
    assert [one.density for one in settings("ties").at("x", 0)[1]] == [1, 1]


def test_our_own_options_differ_by_layer_too():
    said = settings("regmean", {"alpha": [{"filter": "classifier", "value": 0}, {"value": [1, "1e-1"]}]})
    assert said.at("classifier.weight", 0)[0].alpha == 0
    assert said.at("layer.1.dense", 1)[0].alpha == 0.1, "YAML reads 1e-1 as a text"
    assert said.at("a", 0)[0] is said.at("b", 0)[0], "layers with the same options share their factorisation"


def test_depth_is_told_by_the_number_in_the_name():
    names = [
        "emb.weight",
        "enc.layer.0.a",
        "enc.layer.2.1.a",
        "enc.layer.1.a",
        "dec.block.0.a",
        "dec.block.4",
        "one.0.x",
    ]
    found = depths(names)
    assert [found.get(name) for name in names] == [None, 0, 1, 0.5, 0, 1, 1]


@pytest.mark.parametrize(
    ("method", "parameters", "models", "said"),
    [
        ("slerp", {"t": [0, 2]}, ({}, {}), "t=2 cannot be"),
        ("slerp", {"t": []}, ({}, {}), "t is an empty list"),
        ("slerp", {"t": [{"filter": "a"}]}, ({}, {}), "t={'filter': 'a'} is not of the form"),
        ("slerp", {"t": [{"filter": "a", "value": 1}, 0.5]}, ({}, {}), "not of the form"),
        ("slerp", {"t": {"filtre": "a", "value": 1}}, ({}, {}), "not of the form"),
        ("slerp", {"t": {"filter": "a", "value": {"value": 1}}}, ({}, {}), "a filter inside a filter"),
        ("slerp", {"u": 1}, ({}, {}), "no option of slerp 'u'"),
        ("slerp", {}, ({"wait": 1}, {}), "no option of slerp 'wait'"),
        ("slerp", {}, ({"t": 1}, {}), "t is one value for the whole merge, and is said of one model"),
        ("mean", {}, ({"density_": 0.5}, {}), "no option of mean 'density_'"),
        ("ties", {}, ({"density": 1.5}, {}), "density=1.5 cannot be"),
        ("ties", {"lambda_": 1}, ({}, {}), "no option of ties 'lambda_'.*\n.*Did you mean 'lambda'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(method, parameters, models, said):
    with pytest.raises(BadRecipe, match=said):
        settings(method, parameters, models)
