"""The forms in which mergekit writes recipes: read as what they mean, noted where they say nothing, or refused."""

import pytest
import yaml

from fusehub.errors import BadRecipe
from fusehub.merging.recipe import Recipe
from fusehub.methods import find_method
from fusehub.methods.by_layer import Settings


def parse(text: str) -> Recipe:
    return Recipe.parse(yaml.safe_load(text))


def settings_of(recipe: Recipe) -> Settings:
    return Settings.of(
        find_method(recipe.merge_method), recipe.parameters, [entry.parameters for entry in recipe.models]
    )


SLICES = """
merge_method: slerp
base_model: a/x
slices:
  - sources:
      - {model: a/x, layer_range: [0, 4]}
      - {model: b/y, layer_range: [0, 4], parameters:}
    parameters: {t: [{filter: attn, value: [0.9, 0.7]}]}
parameters:
  t: [{filter: mlp, value: 0.2}, {value: 0.6}]
"""


def test_what_a_slice_does_not_say_of_a_tensor_the_recipe_says() -> None:
    recipe = parse(SLICES)
    assert [entry.model for entry in recipe.models] == ["a/x", "b/y"] and recipe.layers == 4
    assert not recipe.models[1].parameters
    for written in (recipe, Recipe.parse(yaml.safe_load(recipe.to_yaml()))):
        settings = settings_of(written)
        at = {name: settings.at(f"layers.3.{name}.weight", 1.0)[0].t for name in ("attn", "mlp", "norm")}
        assert at == {"attn": pytest.approx(0.7), "mlp": 0.2, "norm": 0.6}


def test_the_innermost_scope_goes_first_and_all_of_them_count() -> None:
    recipe = parse("""
        merge_method: ties
        base_model: a/base
        modules:
          default:
            parameters: {weight: [{filter: mlp, value: 0.3}], density: 0.5}
            slices:
              - sources:
                  - {model: a/x, layer_range: [0, 2], parameters: {weight: [{filter: attn, value: 0.1}]}}
                  - {model: b/y, layer_range: [0, 2]}
                parameters: {weight: [{filter: up_proj, value: 0.2}]}
        parameters: {weight: 0.4, density: 0.9, lambda: 1.1}
    """)
    settings = settings_of(recipe)
    names = ("attn", "mlp.up_proj", "mlp.down_proj", "norm")
    own = {name: [share.weight for share in settings.at(name, 0.0)[1]] for name in names}
    assert own == {"attn": [0.1, 0.4], "mlp.up_proj": [0.2, 0.2], "mlp.down_proj": [0.3, 0.3], "norm": [0.4, 0.4]}
    assert [share.density for share in settings.at("norm", 0.0)[1]] == [0.5, 0.5]
    assert settings.at("norm", 0.0)[0].lambda_ == 1.1


def test_a_module_named_default_is_the_model() -> None:
    plain = parse("{merge_method: linear, models: [{model: a/x}, {model: b/y, parameters: {weight: 0.5}}]}")
    assert plain == parse("""
        merge_method: linear
        modules: {default: {models: [{model: a/x}, {model: b/y, parameters: {weight: 0.5}}]}}
    """)


def test_slices_that_say_the_same_of_all_layers_are_one() -> None:
    recipe = parse("""
        merge_method: linear
        slices:
          - sources: [{model: a/x, layer_range: [0, 4]}, {model: b/y, layer_range: [0, 4]}]
          - sources: [{model: a/x, layer_range: [4, 8]}, {model: b/y, layer_range: [4, 8]}]
    """)
    assert [entry.model for entry in recipe.models] == ["a/x", "b/y"] and recipe.layers == 8


def test_a_model_as_a_mapping_is_its_name() -> None:
    recipe = parse("""
        merge_method: linear
        base_model: {model: {path: c/base}}
        models:
          - model: {model: {path: a/x, revision: v1}, lora: {path: a/lora, revision: v2}, override_architecture: null}
          - model: {model: b/y, lora: b/lora}
          - model: {path: ./folder}
            parameters:
    """)
    assert [entry.model for entry in recipe.models] == ["a/x@v1+a/lora@v2", "b/y+b/lora", "./folder"]
    assert recipe.base_model == "c/base" and recipe.models[2].parameters == {}
    with pytest.raises(BadRecipe, match="as the architecture that its config names, not as MistralForCausalLM"):
        parse("{merge_method: linear, models: [{model: {model: a/x, override_architecture: MistralForCausalLM}}]}")


def test_the_base_of_the_slice_is_the_base() -> None:
    text = "{merge_method: slerp, slices: [{sources: [{model: a/x, layer_range: [0, 2]}, " \
        "{model: b/y, layer_range: [0, 2]}], base_model: a/x}]}"  # fmt: skip
    assert parse(text).base_model == "a/x"
    assert parse(text.replace("merge_method", "base_model: a/x, merge_method")).base_model == "a/x"
    with pytest.raises(BadRecipe, match="The slice has the base a/x, and the recipe c/z"):
        parse(text.replace("merge_method", "base_model: c/z, merge_method"))


def test_what_says_nothing_is_noted_all_at_once() -> None:
    recipe = parse("""
        name: best
        merge_method: sce
        base_model: c/base
        select_topk: 0.3
        models:
          - {model: a/x, parameters: {weight: 1, density: 0.9}}
          - {model: b/y, parameters: {weight: 1, density: 0.9, select_topk: 0.2}}
        parameters: {normalize: true, int8_mask: true, rescale: true, smooth: false, lambda: 1.0, select_topk: 0.1}
        tokenizer: {source: union}
        chat_template: auto
        dtype: bfloat16
        out_dtype: bfloat16
    """)
    assert [note.split(" ")[0] for note in recipe.notes] == ["name", "select_topk"]
    settings = settings_of(recipe)
    noted = {note.split(" ")[0] for note in settings.notes}
    assert noted == {"weight", "density", "normalize", "rescale", "smooth", "lambda", "select_topk"}
    assert settings.shared == {"int8_mask": True, "select_topk": 0.1}
    assert recipe.changed(seed=3).notes == recipe.notes
    assert (recipe.tokenizer_source, recipe.chat_template) == ("union", "auto")


@pytest.mark.parametrize(
    ("method", "parameters"),
    [("linear", {"int8_mask": True}), ("slerp", {"embed_slerp": True, "normalize": True, "t": 0.3})],
)
def test_options_of_other_methods_do_nothing(method: str, parameters: dict) -> None:
    found = find_method(method)
    settings = Settings.of(found, parameters, [{"weight": 0.5}, {}] if method == "linear" else [{}, {}])
    plain = {name: value for name, value in parameters.items() if name in found.options.fields()}
    assert settings.shared == plain and settings.notes


def test_all_that_is_wrong_is_told_in_one_run() -> None:
    with pytest.raises(BadRecipe) as caught:
        parse("""
            merge_method: arcee_fusion
            models: [{model: a/x, density: 1}, {model: b/y, statistic: here}]
            parameter: {normalize: true}
            tokenizer: {source: union, tokens: {"<x>": {source: a/x}}, pad_to_multiple_of: 64}
        """)
    for said in ("parameter'", "'density'", "statistic'", "`tokenizer: tokens`", "pad_to", "arcee_fusion' not yet"):
        assert said.replace("arcee_fusion' not yet", "'arcee_fusion'") in caught.value.what
    with pytest.raises(BadRecipe) as caught:
        Settings.of(find_method("ties"), {"lamda": 0.8, "normalise": 1}, [{"density": 1.2}, {"wieght": 1}])
    for said in ("'lamda'", "'normalise'", "density=1.2", "'wieght'"):
        assert said in caught.value.what


def test_options_of_methods_that_mergekit_lacks_stay_strict() -> None:
    with pytest.raises(BadRecipe, match="no option of regmean 'density'"):
        Settings.of(find_method("regmean"), {"density": 0.5}, [{}, {}])
    with pytest.raises(BadRecipe, match="t is one value for the whole merge"):
        Settings.of(find_method("slerp"), {}, [{"t": 0.2}, {}])
    with pytest.raises(BadRecipe, match="t stands outside `parameters`"):
        parse("{merge_method: slerp, t: 0.2, models: [{model: a/x}, {model: b/y}]}")


PASSTHROUGH = "no passthrough.*\n.*merge_method: task_arithmetic"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{merge_method: passthrough, slices: [{sources: [{model: a/x, layer_range: [0, 8]}]}]}", PASSTHROUGH),
        (
            "{merge_method: passthrough, slices: [{sources: [{model: a/x, layer_range: [0, 8]}]}, "
            "{sources: [{model: b/y, layer_range: [6, 8]}]}]}",
            "does not stack layers",
        ),
        ("{merge_method: passthrough, models: [{model: a/x+a/lora}]}", PASSTHROUGH),
        ("{base_model: a/x, gate_mode: hidden, experts: [{source_model: a/y}]}", "mergekit-moe"),
        ("{merge_method: moe, base_model: a/x, experts: []}", "mergekit-moe"),
        ("{genome: {models: [a/x, b/y]}, tasks: []}", "mergekit-evolve.*\n.*--tune"),
        ("{merge_method: multislerp, models: [{model: a/x}, {model: b/y}]}", "mergekit has .*\n.*nuslerp for two"),
        ("{merge_method: karcher, models: [{model: a/x}, {model: b/y}]}", "mergekit has the method 'karcher'"),
        ("{merge_method: ram, base_model: c/z, models: [{model: a/x}]}", "mergekit has the method 'ram'"),
        (
            "{merge_method: linear, modules: {encoder: {models: [{model: a/x}, {model: b/y}]}}}",
            "modules encoder: FuseHub merges a model as a whole",
        ),
        (
            "{merge_method: linear, slices: [{sources: [{model: a/x, layer_range: [0, 4]}, "
            "{model: b/y, layer_range: [2, 6]}]}]}",
            "other layers of one model.*\n.*cannot be stacked",
        ),
        (
            "{merge_method: linear, slices: [{sources: [{model: a/x, layer_range: [0, 4]}, {model: b/y, "
            "layer_range: [0, 4]}]}, {sources: [{model: a/x, layer_range: [2, 6]}, {model: b/y, "
            "layer_range: [2, 6]}]}]}",
            "some twice or not at all",
        ),
        (
            "{merge_method: slerp, slices: [{sources: [{model: a/x, layer_range: [0, 4]}, {model: b/y, "
            "layer_range: [0, 4]}], parameters: {t: 0.2}}, {sources: [{model: a/x, layer_range: [4, 8]}, {model: b/y, "
            "layer_range: [4, 8]}], parameters: {t: 0.8}}]}",
            r"2 output slices, each with values of its own.*\n.*`t: \[0.2, 0.2, 0.8, 0.8\]`",
        ),
        ("{merge_method: linear, models: [{model: a/x}], slices: [{sources: []}]}", "`models` and `slices`"),
        ("{merge_method: linear, slices: [{sources: []}]}", "no list of sources"),
        ("{merge_method: linear, slices: 3}", "no list of slices"),
        ("{merge_method: linear, modules: 3}", "modules is no mapping"),
        ("{merge_method: linear, tokenizer: base, models: [{model: a/x}, {model: b/y}]}", "tokenizer is no mapping"),
        (
            "{merge_method: linear, tokenizer: {source: base}, tokenizer_source: base, models: [{model: a/x}, "
            "{model: b/y}]}",
            "`tokenizer` and `tokenizer_source`",
        ),
        ("{merge_method: linear, models: [{model: {lora: a/x}}, {model: b/y}]}", "models.0.model.*names no model"),
    ],
)
def test_what_fusehub_cannot_do_is_refused_as_what_it_is(text: str, shown: str) -> None:
    with pytest.raises(BadRecipe, match=shown) as caught:
        parse(text)
    assert "Did you mean" not in caught.value.fix


def test_numbers_that_yaml_takes_for_texts_are_numbers() -> None:
    recipe = parse("{merge_method: ties, base_model: c/z, models: [{model: a/x, parameters: {weight: 5e-1, density: "
                   "[1e-1, 9e-1]}}], parameters: {lambda: 1e-10}}")  # fmt: skip
    assert recipe.parameters["lambda"] == "1e-10"
    options, (own,) = settings_of(recipe).at("x", 0.5)
    assert (options.lambda_, own.weight, own.density) == (1e-10, 0.5, pytest.approx(0.5))
