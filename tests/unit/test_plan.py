"""The plan of a merge: what is decided for every tensor, and what is refused before weights are read."""

import json

import pytest

from fusehub.errors import BadRecipe, FuseHubError, Incompatible
from fusehub.merging.plan import plan_merge
from fusehub.utils.findings import CODES, Allowed
from tests.unit.experts import WEIGHTS, edit_json, recipe_of, relatives


def test_every_tensor_is_planned_with_a_reason(experts):
    plan = plan_merge(recipe_of(experts("bert")))
    solved = {name for name, tensor in plan.tensors.items() if tensor.action == "solve"}
    linear = {name for name in plan.tensors if name.endswith("dense.weight")}
    linear |= {name for name in plan.tensors if any(part in name for part in ("query.w", "key.w", "value.w"))}
    assert solved == linear | {"classifier.weight"}
    assert {tensor.action for name, tensor in plan.tensors.items() if name not in solved} == {"mean"}
    assert plan.tensors["bert.embeddings.word_embeddings.weight"].why == "not a linear layer's weight"
    assert all(tensor.why for tensor in plan.tensors.values())
    assert {name for shard in plan.shards for name in shard.tensors} == set(plan.tensors)
    content = json.loads(json.dumps(plan.to_dict()))
    assert content["options"]["alpha"] == 0.9 and len(content["tensors"]) == len(plan.tensors)


def test_the_cost_is_told(experts):
    path = experts("bert")[0]
    plan = plan_merge(recipe_of(experts("bert")))
    assert plan.cost["output_bytes"] == sum(tensor.info.nbytes for tensor in plan.tensors.values())
    assert 0 <= (path / WEIGHTS).stat().st_size - plan.cost["output_bytes"] < 10_000
    assert plan.cost["download_bytes"] == 0 and plan.cost["memory_bytes"] > 10**8
    half = plan_merge(recipe_of(experts("bert"), dtype="bfloat16"))
    assert half.cost["output_bytes"] * 2 == plan.cost["output_bytes"]


def test_the_methods_other_name_means_the_same(experts):
    assert plan_merge(recipe_of(experts("bert"), "linear")).method.name == "mean"


def test_only_body_matrices_tell_relatives(experts):
    for arch, prefix in (("bert", "bert."), ("llama", "model."), ("gpt2", "transformer.")):
        for method in ("mean", "regmean"):
            plan = plan_merge(recipe_of(experts(arch), method))
            body = [name for name, tensor in plan.tensors.items() if tensor.is_body_matrix]
            assert len(body) > 4 and all(name.startswith(prefix) for name in body)


@pytest.mark.parametrize(
    ("weights", "shown"),
    [
        ([-1, 2], r"The weights -1, 2 \(of .+\) cannot be used: RegMean has no sense for negative ones"),
        ([0, 0], "All models have the weight 0"),
        ([float("nan"), 1], "weight=nan cannot be"),
        ([float("inf"), 1], "weight=inf cannot be"),
        ([1, float("-inf")], "weight=-inf cannot be"),
        (["much", 1], "weight='much' cannot be"),
    ],
)
def test_weights_that_make_no_sense_are_refused(experts, weights, shown):
    with pytest.raises(BadRecipe, match=shown):
        plan_merge(recipe_of(experts("bert"), weights=weights))


def test_an_unknown_method_or_option_is_refused(experts):
    with pytest.raises(BadRecipe, match=r"(?s)no merge method 'tise'.*Did you mean 'ties'"):
        plan_merge(recipe_of(experts("bert"), "tise"))
    with pytest.raises(BadRecipe, match=r"(?s)no option of regmean 'Alpha'.*Did you mean 'alpha'"):
        plan_merge(recipe_of(experts("bert"), parameters={"Alpha": 1}))


@pytest.mark.parametrize("keys", [{"scale": 1.5}, {"parameters": {"anchor": "base"}}])
def test_what_needs_a_base_says_so(experts, keys):
    with pytest.raises(BadRecipe, match=r"needs the base model that the experts share.*\n.*--base"):
        plan_merge(recipe_of(experts("bert"), **keys))


def test_problems_of_the_models_stop_the_plan_unless_ignored_by_their_code(tmp_path):
    paths = relatives(tmp_path, layers=1)
    edit_json(paths[1] / "config.json", hidden_act="relu")
    for allowed in (Allowed(), Allowed.of(unrelated=True, other_weights=True, ignore=["vocabulary-differs"])):
        with pytest.raises(Incompatible, match=r"hidden_act[\s\S]*--ignore config-differs"):
            plan_merge(recipe_of(paths, "mean"), allowed=allowed)
    plan_merge(recipe_of(paths, "mean"), allowed=Allowed.of(ignore=["config-differs"]))


@pytest.mark.parametrize("code", ["config-difers", "tensors-missing", ""])
def test_only_known_kinds_of_findings_that_could_be_harmless_are_ignored(code):
    with pytest.raises(BadRecipe, match=r"There is no kind of finding that can be ignored .*\n.*config-differs"):
        Allowed.of(ignore=[code])


EVERYTHING = Allowed(unrelated=True, other_weights=True, ignored=frozenset(CODES))


@pytest.mark.parametrize("allowed", [Allowed(), EVERYTHING])
def test_nothing_that_is_allowed_merges_what_has_no_meaning(tmp_path, allowed):
    labels = [("neg", "pos"), ("LABEL_0", "LABEL_1")]
    with pytest.raises(Incompatible, match="does not name its labels"):
        plan_merge(recipe_of(relatives(tmp_path / "labels", labels=labels, layers=1), "mean"), allowed=allowed)
    (tmp_path / "a").mkdir()
    wide = relatives(tmp_path / "a", layers=1)[0], relatives(tmp_path / "b", layers=1, hidden=32)[0]
    with pytest.raises(FuseHubError, match="shapes"):
        plan_merge(recipe_of(wide, "mean"), allowed=allowed)


def test_a_plan_reads_no_weights(experts, tmp_path):
    """Headers are enough: weights full of nonsense are planned as well."""
    paths = relatives(tmp_path, layers=1)
    first = plan_merge(recipe_of(paths, "mean")).to_dict()
    for path in paths:
        content = (path / WEIGHTS).read_bytes()
        header = 8 + int.from_bytes(content[:8], "little")
        (path / WEIGHTS).write_bytes(content[:header] + b"\xff" * (len(content) - header))
    assert plan_merge(recipe_of(paths, "mean")).to_dict() == first


def test_models_of_one_name_get_different_short_names(tmp_path):
    a, b = (relatives(tmp_path / name, layers=1)[0] for name in ("one", "two"))
    plan = plan_merge(recipe_of([a, b], "mean"))
    assert plan.names == ("expert-0", "expert-0-2")
