"""Recipes: mergekit's words, strictly."""

from pathlib import Path

import pytest
import torch
import yaml

from fusehub.comparing.tuning import tune
from fusehub.errors import BadRecipe, FuseHubError, NotFound
from fusehub.merging.merge import merge
from fusehub.merging.plan import plan_merge
from fusehub.merging.recipe import Changes, ModelEntry, Recipe

TWO = [{"model": "a/x"}, {"model": "b/y"}]


def parse(**keys):
    return Recipe.parse({"merge_method": "mean", "models": TWO, **keys})


def test_a_recipe_of_mergekit_runs_unchanged():
    recipe = Recipe.parse(
        yaml.safe_load("""
            merge_method: linear
            models:
              - model: a/x@v1
                parameters: {weight: 1}
              - model: b/y
                parameters:
                  weight: 0.5
            base_model: c/z
            parameters: {normalize: true}
            dtype: float32
            out_dtype: bfloat16
        """)
    )
    assert [entry.parameters["weight"] for entry in recipe.models] == [1.0, 0.5]
    assert recipe.models[0].model == "a/x@v1" and recipe.models[0].statistics == "auto"
    assert recipe.base_model == "c/z" and recipe.stored_dtype == "BF16"


def test_the_dtype_of_the_result_is_out_dtype_then_dtype_then_the_models():
    assert parse().stored_dtype is None
    assert parse(dtype="float16").stored_dtype == "F16"
    assert parse(dtype="float16", out_dtype="float32").stored_dtype == "F32"


def test_a_recipe_written_and_read_is_the_same():
    recipe = parse(
        parameters={"alpha": 0.25, "weighting": "sum"},
        models=[
            {"model": "a/x", "parameters": {"weight": 0.1}, "labels": ["größer", "on"]},
            {"model": "./b", "statistics": "you/stats"},
        ],
        heads="keep",
        scale=1.5,
        base_model="c/z",
    )
    text = recipe.to_yaml()
    assert Recipe.parse(yaml.safe_load(text)) == recipe and "größer" in text
    assert list(yaml.safe_load(text))[:3] == ["merge_method", "models", "base_model"]


def test_an_unknown_key_is_told_the_closest_one():
    with pytest.raises(BadRecipe, match=r"no key in a recipe 'merge_metod'.*\n.*Did you mean 'merge_method'"):
        Recipe.parse({"merge_metod": "mean", "models": TWO})
    with pytest.raises(BadRecipe, match=r"no key of a model in a recipe 'statistic'.*\n.*Did you mean 'statistics'"):
        parse(models=[{"model": "a/x", "statistic": "there"}, {"model": "b/y"}])


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"models": TWO[:1]}, "models"),
        ({"models": []}, "models"),
        ({"models": None}, "models"),
        ({"models": "a/x"}, "models"),
        ({"models": 3}, "models"),
        ({"models": [3, 4]}, "models.0"),
        ({"models": ["a/x", "b/y"]}, "models.0: 'a/x'"),
        ({"models": [{"parameters": {}}, *TWO]}, "models.0.model"),
        ({"models": [{"model": "a", "parameters": "much"}, *TWO]}, "models.0.parameters"),
        ({"merge_method": None}, "merge_method"),
        ({"dtype": "int8"}, "dtype"),
        ({"out_dtype": "int8"}, "out_dtype"),
        ({"heads": "both"}, "heads"),
        ({"scale": "far"}, "scale"),
        ({"scale": float("nan")}, "scale"),
        ({"parameters": [1]}, "parameters"),
        ({"base_model": 3}, "base_model"),
        ({"seed": "x"}, "seed"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_the_name_of_its_key(keys, said):
    with pytest.raises(BadRecipe) as caught:
        parse(**keys)
    assert said in caught.value.what and caught.value.fix


@pytest.mark.parametrize("content", [[], "text", None, 3])
def test_what_is_no_mapping_is_no_recipe(content):
    with pytest.raises(BadRecipe, match="not a mapping"):
        Recipe.parse(content)


def test_files_are_read(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(parse().to_yaml(), encoding="utf-8")
    assert Recipe.read(path) == parse()
    with pytest.raises(NotFound, match="There is no recipe"):
        Recipe.read(tmp_path / "other.yaml")
    for bad in (b"models: [", b"\xff\xfe\x00", b"a: !!python/object/apply:os.system ['true']"):
        path.write_bytes(bad)
        with pytest.raises(BadRecipe, match=r"recipe\.yaml is not YAML"):
            Recipe.read(path)
    path.write_text("")
    with pytest.raises(BadRecipe):
        Recipe.read(path)


# What each can say of a merge that cannot be, and that is told before any model is looked for.
WRONG = {
    "base_model": "./no-base",
    "weights": {"nobody": 1},
    "parameters": {"nope": 1},
    "statistics": {"nobody": "auto"},
    "data": {"nobody": "texts.txt"},
    "labels": {"nobody": ["a"]},
    "heads": "both",
    "scale": float("nan"),
    "dtype": torch.int8,
    "out_dtype": "wide",
    "seed": "seven",
    "limit": 0,
    "max_length": 0,
    "text_column": 3,
    "as_adapter": "perhaps",
    "tokenizer_source": 3,
    "chat_template": 3,
}


def as_recipe(models, **said):
    plan_merge(Recipe.of(models, "mean", **said))


def as_merge(models, **said):
    merge(models, Path("never-written"), method="mean", **said)


def as_tuning(models, **said):
    tune(models, {"films": "films.csv"}, method="mean", **said)


@pytest.mark.parametrize("key", WRONG)
@pytest.mark.parametrize("call", [as_recipe, as_merge, as_tuning])
def test_everything_that_can_be_said_of_a_merge_is_a_parameter_that_arrives(call, key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if (call, key) == (as_tuning, "data"):
        return  # There it is the data that decides.
    with pytest.raises(FuseHubError) as error:
        call(["./no-a", "./no-b"], **{key: WRONG[key]})
    assert "There is no folder ./no-a" not in str(error.value)


def test_what_a_recipe_can_hold_can_be_said_in_python():
    resolved = {"merge_method", "models", "layers", "plugins", "provenance"}
    of_models = {*ModelEntry.model_fields} - {"model", "parameters"}
    assert {*WRONG} == {*Changes.__annotations__}
    assert {*WRONG} == ({*Recipe.model_fields} - resolved) | of_models | {"weights"}


def test_a_parameter_that_there_is_not_is_pythons_error():
    for call in (as_recipe, as_merge, as_tuning, Recipe.of(["a/x", "b/y"]).changed):
        with pytest.raises(TypeError, match="unexpected keyword argument 'alpha'"):
            call(["a/x", "b/y"], alpha=0.9) if call.__name__ != "changed" else call(alpha=0.9)


def test_a_dtype_is_said_by_its_name_or_as_torch_has_it():
    assert Recipe.of(["a/x", "b/y"], dtype=torch.bfloat16) == Recipe.of(["a/x", "b/y"], dtype="bfloat16")


def test_nobody_changes_what_a_recipe_says_however_deep_it_lies():
    said = {"alpha": [{"filter": "head", "value": 0.5}, {"value": [0.1, 0.9]}]}
    recipe = Recipe.of(["a/one", "b/two"], parameters=said, weights={"a/one": [1.0, 2.0]})
    before = recipe.to_yaml()
    said["alpha"][0]["value"] = 0.0
    with pytest.raises(TypeError):
        recipe.parameters["alpha"][0]["value"] = 0.0
    with pytest.raises(TypeError):
        recipe.models[0].parameters["weight"] = 3.0
    copied = recipe.model_copy(update={"parameters": {"alpha": [0.5]}})
    with pytest.raises(TypeError):
        copied.parameters["alpha"][0] = 0.0
    assert recipe.to_yaml() == before and copied.to_dict()["parameters"] == {"alpha": [0.5]}
    assert Recipe.parse(recipe.to_dict()) == recipe
