"""Merges from folders to a folder: the numbers, the files, what is refused, and what is left behind."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusehub.errors import BadRecipe, Incompatible
from fusehub.merging.merge import merge
from fusehub.merging.plan import plan_merge
from fusehub.merging.recipe import FILENAME, Recipe
from fusehub.methods import linear_system
from fusehub.models.layout import linears_of
from fusehub.models.loading import load_model
from fusehub.models.resolve import resolve
from fusehub.models.tensor_files import sha256_of
from tests.unit.experts import (
    WEIGHTS,
    edit_json,
    files_of,
    least_squares,
    leftovers,
    mean_of,
    raw_inputs,
    recipe_of,
    rel,
    relatives,
    run_python,
    save_weights,
    texts_of,
    weights_of,
    with_statistics,
)
from tests.unit.tiny import ARCHITECTURES, tiny_model

# --- the numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["bert", "distilbert", "bart", "t5", "llama"])
def test_layers_that_share_their_inputs_are_factorised_once_whatever_the_order_of_the_file(
    experts, tmp_path, monkeypatch, arch
):
    made = []

    class Counted(linear_system.Factorized):
        def __init__(self, matrix):
            made.append(len(matrix))
            super().__init__(matrix)

    monkeypatch.setattr(linear_system, "Factorized", Counted)
    paths = experts(arch)
    result = merge(recipe_of(paths), tmp_path / "out")
    aliases = json.loads((paths[0] / "fusehub" / "statistics.json").read_text())["aliases"]
    solved = [name for name, tensor in result.tensors.items() if tensor.action == "solve"]
    assert len(made) == len({aliases.get(name, name) for name in solved}) < len(solved)
    assert result.precision == dict.fromkeys(solved, "float64")
    report = json.loads((tmp_path / "out" / "fusehub_report.json").read_text())
    assert report["precision"] == result.precision


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"parameters": {"alpha": 0.5, "weighting": "sum"}, "weights": [1.0, 3.0]},
        {"parameters": {"affine": True}},
        {"parameters": {"alpha": 0.0}},
        {"parameters": {"anchor": "base"}, "base_model": True, "scale": 1.5},
    ],
    ids=["default", "sum", "affine", "diagonal", "scaled"],
)
def test_every_linear_layer_is_the_regressions_answer_and_the_rest_the_mean(experts, tmp_path, arch, options):
    paths, options = experts(arch), dict(options)
    base = None
    if options.get("base_model"):
        base = paths[0].parent / "base"
        options["base_model"] = str(base)
    merge(recipe_of(paths, **options), tmp_path / "out")
    merged, stored = weights_of(tmp_path / "out"), [weights_of(path) for path in paths]
    network = load_model(resolve(str(paths[0])))
    linears = linears_of(network)
    inputs = [raw_inputs(path, texts_of(number)) for number, path in enumerate(paths)]
    parameters, coefficients = options.get("parameters", {}), options.get("weights", [1.0, 1.0])
    rule = {key: parameters[key] for key in ("alpha", "weighting") if key in parameters}
    expected, far = {}, []
    for name, linear in linears.items():
        turn = (lambda value: value.T) if linear.transposed else (lambda value: value)
        own = [turn(tensors[name].double().numpy()) for tensors in stored]
        rows = [x[name] for x in inputs]
        affine = parameters.get("affine") and linear.bias is not None
        biases = [tensors[linear.bias].double().numpy() for tensors in stored] if affine else None
        solved = least_squares(rows, own, coefficients=coefficients, affine=biases, **rule)
        if affine:
            expected[linear.bias] = torch.tensor(solved[:, -1])
            solved = solved[:, :-1]
        expected[name] = torch.tensor(turn(solved))
        far.append(rel(expected[name], mean_of(paths, name, coefficients)))
    assert max(far) > 0.02, "the mean would do, or the test could not fail"
    assert merged.keys() == stored[0].keys()
    before = weights_of(base) if base else None
    for name, value in merged.items():
        right = expected.get(name)
        right = mean_of(paths, name, coefficients) if right is None else right
        if before:
            right = before[name].double() + options["scale"] * (right - before[name].double())
        assert value.dtype == torch.float32 and rel(value, right) < 1e-5, name


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_mean_of_all_tensors(experts, tmp_path, arch):
    merge(recipe_of(experts(arch), "mean", weights=[1, 3]), tmp_path / "out")
    for name, value in weights_of(tmp_path / "out").items():
        assert rel(value, mean_of(experts(arch), name, [1, 3])) < 1e-6


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
def test_the_merged_model_loads_without_a_missing_or_unexpected_key(tmp_path, arch, task):
    import transformers

    paths = with_statistics(relatives(tmp_path, arch, labels=(("O", "B-PER", "I-PER"),) * 2, task=task))
    (paths[0] / "generation_config.json").write_text('{"max_length": 7}')
    merge(recipe_of(paths), tmp_path / "out")
    auto = {
        "text-classification": transformers.AutoModelForSequenceClassification,
        "token-classification": transformers.AutoModelForTokenClassification,
    }[task]
    model, info = auto.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    assert model.config.id2label == {0: "O", 1: "B-PER", 2: "I-PER"} and model.dtype == torch.float32
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (
        tokenizer("a fine film").input_ids
        == transformers.AutoTokenizer.from_pretrained(paths[0])("a fine film").input_ids
    )
    copied = set(resolve(str(paths[0])).side_files())
    assert "tokenizer.json" in copied and "generation_config.json" in copied
    for name in copied:
        assert (tmp_path / "out" / name).read_bytes() == (paths[0] / name).read_bytes()
    assert leftovers(tmp_path / "out") == sorted(
        [*copied, "config.json", "model.safetensors", FILENAME, "fusehub_report.json"]
    )
    assert leftovers(tmp_path) == ["base", "expert-0", "expert-1", "out", "texts-0.txt", "texts-1.txt"]


def test_merging_a_model_with_itself_gives_it_back(experts, tmp_path):
    path = experts("gpt2")[0]
    for number, parameters in enumerate(({}, {"alpha": 1.0}, {"affine": True})):
        merge(recipe_of([path, path], parameters=parameters), tmp_path / str(number))
        assert (tmp_path / str(number) / WEIGHTS).read_bytes() == (path / WEIGHTS).read_bytes()


def test_an_expert_with_all_of_the_weight_comes_out_as_it_is(experts, tmp_path):
    paths = experts("bert")
    for index, weights in enumerate(([1, 0], [0, 1])):
        merge(recipe_of(paths, weights=weights), tmp_path / str(index))
        assert (tmp_path / str(index) / WEIGHTS).read_bytes() == (paths[index] / WEIGHTS).read_bytes()


def test_the_order_of_the_models_does_not_matter(experts, tmp_path):
    paths = experts("bert")
    merge(recipe_of(paths, weights=[1, 2]), tmp_path / "a")
    merge(recipe_of(paths[::-1], weights=[2, 1]), tmp_path / "b")
    other = weights_of(tmp_path / "b")
    for name, value in weights_of(tmp_path / "a").items():
        assert rel(value, other[name]) < 2e-7


def test_a_scale_of_zero_gives_the_base_and_of_one_the_merge(experts, tmp_path):
    paths = experts("bert")
    base = paths[0].parent / "base"
    merge(recipe_of(paths, base_model=str(base), scale=0), tmp_path / "zero")
    merge(recipe_of(paths, base_model=str(base)), tmp_path / "one")
    merge(recipe_of(paths), tmp_path / "without")
    assert (tmp_path / "zero" / WEIGHTS).read_bytes() == (base / WEIGHTS).read_bytes()
    assert (tmp_path / "one" / WEIGHTS).read_bytes() == (tmp_path / "without" / WEIGHTS).read_bytes()


def test_a_base_with_another_head_scales_the_body_and_leaves_the_head(experts, tmp_path):
    paths = experts("bert")
    base = tiny_model(tmp_path / "pretrained", task="fill-mask", hidden=16)
    body = weights_of(paths[0].parent / "base")
    body = {n: v for n, v in body.items() if n.startswith("bert.") and "pooler" not in n}
    save_weights(base, weights_of(base) | body)
    merge(recipe_of(paths, "mean", base_model=str(base), scale=2), tmp_path / "out")
    merged = weights_of(tmp_path / "out")
    assert len(merged) == len(body) + 4
    for name, value in merged.items():
        mean = mean_of(paths, name)
        right = mean + (mean - body[name].double()) if name in body else mean
        assert rel(value, right) < 1e-6, name


# --- files and dtypes ---------------------------------------------------------------------------------------------


def convert(path, kind):
    """The same weights as one file, as shards, or as pickles."""
    tensors = weights_of(path)
    names = sorted(tensors)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    if kind == "single":
        return
    (path / WEIGHTS).unlink()
    if kind == "pickle":
        torch.save(tensors, path / "pytorch_model.bin")
        return
    stem, suffix = ("model", "safetensors") if kind == "shards" else ("pytorch_model", "bin")
    files = [f"{stem}-{number:05d}-of-00002.{suffix}" for number in (1, 2)]
    for file, own in zip(files, halves, strict=True):
        part = {name: tensors[name] for name in own}
        save_file(part, path / file) if kind == "shards" else torch.save(part, path / file)
    weight_map = {name: file for file, own in zip(files, halves, strict=True) for name in own}
    (path / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.mark.parametrize("kind", ["shards", "pickle", "pickle shards"])
def test_weights_are_read_from_any_kind_of_file(tmp_path, kind):
    paths = relatives(tmp_path)
    merge(recipe_of(paths, "mean"), tmp_path / "expected")
    convert(paths[0], kind)
    for number in range(2):
        merge(recipe_of(paths, "mean"), tmp_path / f"out-{number}")
        assert (tmp_path / f"out-{number}" / WEIGHTS).read_bytes() == (tmp_path / "expected" / WEIGHTS).read_bytes()
        if number == 0:
            convert(paths[1], kind)
    # Statistics too are made of and found for such files.
    with_statistics(paths)
    merge(recipe_of(paths), tmp_path / "solved")


def test_large_results_are_written_as_shards_that_load(experts, tmp_path):
    from transformers import AutoModelForSequenceClassification

    paths = experts("bert")
    merge(recipe_of(paths), tmp_path / "one")
    result = merge(recipe_of(paths), tmp_path / "many", max_shard_size=8000)
    assert len(result.plan.shards) > 3
    one, many = weights_of(tmp_path / "one"), weights_of(tmp_path / "many")
    assert one.keys() == many.keys() and all(torch.equal(one[name], many[name]) for name in one)
    model, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "many", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert all(torch.equal(value, one[name]) for name, value in model.state_dict().items())
    assert result.hashes == {
        shard.filename: sha256_of(tmp_path / "many" / shard.filename) for shard in result.plan.shards
    }


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("method", ["mean", "regmean"])
def test_narrow_weights_are_merged_wide_and_stored_as_they_were(tmp_path, dtype, method):
    paths = relatives(tmp_path, dtype=getattr(torch, dtype), layers=1)
    if method == "regmean":
        with_statistics(paths)
    merge(recipe_of(paths, method), tmp_path / "out")
    merge(recipe_of(paths, method, out_dtype="float64"), tmp_path / "wide")
    narrow, wide = weights_of(tmp_path / "out"), weights_of(tmp_path / "wide")
    for name, value in narrow.items():
        assert str(value.dtype) == f"torch.{dtype}" and wide[name].dtype == torch.float64
        assert torch.equal(value, wide[name].to(value.dtype)), "rounded once, at the end"
        if method == "mean":
            assert rel(wide[name], mean_of(paths, name)) < (1e-6 if method == "mean" else 1)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (
        config["dtype"] == dtype and json.loads((tmp_path / "wide" / "config.json").read_text())["dtype"] == "float64"
    )


def test_experts_of_different_dtypes_are_stored_like_the_first(tmp_path):
    paths = relatives(tmp_path, layers=1)
    save_weights(paths[1], {name: value.bfloat16() for name, value in weights_of(paths[1]).items()})
    result = merge(recipe_of(paths, "mean"), tmp_path / "out")
    assert any("is stored in F32" in finding.what for finding in result.plan.report.findings)
    for name, value in weights_of(tmp_path / "out").items():
        assert value.dtype == torch.float32 and rel(value, mean_of(paths, name)) < 1e-6


def test_the_dtype_of_the_result_can_be_said(experts, tmp_path):
    paths = experts("bert")
    for number, keys in enumerate(({"dtype": "bfloat16"}, {"dtype": "float32", "out_dtype": "bfloat16"})):
        merge(recipe_of(paths, "mean", **keys), tmp_path / str(number))
        for name, value in weights_of(tmp_path / str(number)).items():
            assert torch.equal(value, mean_of(paths, name).float().bfloat16())


def test_the_files_are_those_that_save_file_writes(experts, tmp_path):
    merge(recipe_of(experts("bert")), tmp_path / "out", max_shard_size=8000)
    for path in (tmp_path / "out").glob("*.safetensors"):
        save_file(load_file(path), tmp_path / "reference", metadata={"format": "pt"})
        assert path.read_bytes() == (tmp_path / "reference").read_bytes()


@pytest.mark.parametrize("method", ["mean", "regmean"])
def test_what_the_model_does_not_know_is_left_out_whatever_it_is(tmp_path, method):
    """A buffer that is computed by now, a mask, a number and a tensor without any: transformers loads none of them."""
    paths = with_statistics(relatives(tmp_path, layers=1))
    merge(recipe_of(paths, method), tmp_path / "clean")
    for number, path in enumerate(paths):
        tensors = weights_of(path)
        tensors["bert.embeddings.position_ids"] = torch.arange(64)[None] + number
        tensors["bert.mask"] = torch.tensor([True, number == 0])
        tensors |= {"bert.scale": torch.tensor(1.0 + number), "bert.none": torch.zeros(0, 3)}
        save_weights(path, tensors)
    merge(recipe_of(paths, method, statistics=paths), tmp_path / "out", allow_other_weights=True)
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (tmp_path / "clean" / WEIGHTS).read_bytes()


def test_a_body_saved_without_its_prefix_is_merged_with_one_that_has_it(tmp_path):
    from transformers import AutoModelForSequenceClassification

    paths = with_statistics(relatives(tmp_path, layers=1))
    merge(recipe_of(paths), tmp_path / "expected")
    expected = weights_of(tmp_path / "expected")
    save_weights(paths[1], {name.removeprefix("bert."): value for name, value in weights_of(paths[1]).items()})
    with_statistics(paths)  # Under the names of the file as it is now.
    for number, order in enumerate((paths, paths[::-1])):
        merge(recipe_of(order), tmp_path / str(number))
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / str(number))
        assert all(rel(value, expected[name]) < 1e-6 for name, value in model.state_dict().items())


# --- the same again -----------------------------------------------------------------------------------------------

RUN = """
import sys
from fusehub.merging.merge import merge
from fusehub.merging.recipe import Recipe
merge(Recipe.read(sys.argv[1]), sys.argv[2])
"""


def test_the_same_recipe_gives_the_same_bytes_in_any_process(tmp_path):
    labels = (("neg", "neu", "pos"), ("pos", "neg", "mixed"), ("ham", "neg"))
    paths = with_statistics(relatives(tmp_path, labels=labels))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe_of(paths, weights=[0.1, 0.2, 0.3]).to_yaml())
    for seed in ("1", "77"):
        done = run_python(RUN, recipe, tmp_path / f"out-{seed}", env={"PYTHONHASHSEED": seed}, fresh=True)
        assert done.returncode == 0, done.stderr
    first = files_of(tmp_path / "out-1")
    assert first == files_of(tmp_path / "out-77") and len(first) > 4
    assert {"config.json", FILENAME, "fusehub_report.json"} < set(first)


def test_the_recipe_beside_a_merge_gives_the_same_bytes_and_knows_its_weights(tmp_path):
    paths = with_statistics(relatives(tmp_path, layers=1))
    merge(recipe_of(paths, parameters={"alpha": 0.7}, weights=[1, 2]), tmp_path / "out")
    resolved = tmp_path / "out" / FILENAME
    merge(Recipe.read(resolved), tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(tmp_path / "out")
    said = Recipe.read(resolved)
    assert said.parameters["alpha"] == 0.7 and said.parameters["weighting"] == "mean" and said.heads == "merge"
    assert said.provenance["weights"][1] == {WEIGHTS: sha256_of(paths[1] / WEIGHTS)}
    tensors = weights_of(paths[1])
    tensors["classifier.bias"] += 1e-3
    save_weights(paths[1], tensors)
    with pytest.raises(Incompatible, match="expert-1 has other weights now than when this recipe was written"):
        merge(Recipe.read(resolved), tmp_path / "changed")
    assert not (tmp_path / "changed").exists()


# --- the plan -----------------------------------------------------------------------------------------------------


def test_a_plan_can_be_carried_out(experts, tmp_path):
    plan = plan_merge(recipe_of(experts("bert")))
    result = merge(plan, tmp_path / "a")
    merge(plan, tmp_path / "b")
    assert result.plan == plan and files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_statistics_of_a_layer_of_another_size_are_refused(tmp_path):
    paths = with_statistics(relatives(tmp_path, layers=1))
    other = with_statistics(relatives(tmp_path / "other", layers=1, hidden=32))
    with pytest.raises(Incompatible, match=r"has 16 inputs, the statistics of .*expert-0 say 32"):
        merge(recipe_of(paths, statistics=other), tmp_path / "out", allow_other_weights=True)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_is_the_first_models(experts, tmp_path):
    merge(recipe_of(experts("roberta"), "mean"), tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (
        experts("roberta")[0] / "tokenizer.json"
    ).read_bytes()


def test_a_config_with_odd_keys_keeps_them(tmp_path):
    paths = relatives(tmp_path, layers=1)
    for path in paths:
        edit_json(path / "config.json", my_own_key={"a": 1}, torch_dtype="float32", _name_or_path="/somewhere")
    merge(recipe_of(paths, "mean"), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["my_own_key"] == {"a": 1} and config["dtype"] == "float32"
    assert "_name_or_path" not in config and "torch_dtype" not in config


def test_a_plan_is_not_changed_by_options_beside_it(tmp_path):
    two = relatives(tmp_path)
    plan = plan_merge(recipe_of(two, "mean"))
    with pytest.raises(BadRecipe, match="as it is"):
        merge(plan, tmp_path / "out", scale=2.0)
    with pytest.raises(TypeError, match="scael"):
        merge([str(path) for path in two], tmp_path / "out", method="mean", scael=2.0)
    assert not (tmp_path / "out").exists()
