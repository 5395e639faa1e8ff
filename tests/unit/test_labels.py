"""Heads matched by name: what is planned, and what comes out of a merge."""

import json
from shutil import copytree

import pytest
import torch
from safetensors.torch import load_file

from fusehub.checking.check import check
from fusehub.checking.heads import plan_labels
from fusehub.errors import BadRecipe, Incompatible
from fusehub.merging.merge import merge
from fusehub.models.resolve import resolve
from fusehub.publishing.cards.merge_card import model_card
from tests.unit.experts import (
    WEIGHTS,
    edit_json,
    least_squares,
    raw_inputs,
    recipe_of,
    rel,
    relatives,
    save_weights,
    text_file,
    texts_of,
    with_statistics,
)
from tests.unit.tiny import ARCHITECTURES, tiny_images


def config(*labels, **more):
    return {"id2label": {str(i): label for i, label in enumerate(labels)}, **more}


def plan(*configs, **options):
    return plan_labels(configs, [f"m{i}" for i in range(len(configs))], **options)


def test_the_same_labels_are_merged_as_they_are():
    found = plan(config("neg", "pos"), config("neg", "pos"))
    assert (found.policy, found.labels, found.is_identity, found.notes) == ("merge", ("neg", "pos"), True, ())


def test_another_order_is_matched_by_name_and_said():
    found = plan(config("neg", "neu", "pos"), config("pos", "neg", "neu"))
    assert found.rows == ((0, 1, 2), (1, 2, 0)) and not found.is_identity
    assert "different orders" in found.notes[0]


def test_case_and_spaces_do_not_matter_and_the_first_spelling_is_kept():
    found = plan(config("Negative", "Positive"), config(" positive", "NEGATIVE"))
    assert found.labels == ("Negative", "Positive") and found.rows == ((0, 1), (1, 0))


def test_a_label_that_only_some_know_gets_a_row_of_those():
    found = plan(config("neg", "pos"), config("pos", "neu"), config("neu", "pos"))
    assert found.labels == ("neg", "pos", "neu")
    assert found.rows == ((0, 1, None), (None, 0, 1), (None, 1, 0))
    assert "Only some experts know neg, neu" in found.notes[0]
    assert found.groups() == [((0,), (0,)), ((0, 1, 2), (1,)), ((1, 2), (2,))]


def test_experts_without_a_label_in_common_keep_their_heads():
    found = plan(config("neg", "pos"), config("spam", "ham"))
    assert (found.policy, found.why) == ("keep", "the experts have no label in common")
    joined = plan(config("neg", "pos"), config("spam", "ham"), heads="merge")
    assert joined.policy == "merge" and joined.labels == ("neg", "pos", "spam", "ham")


def test_heads_are_kept_when_asked():
    assert plan(config("neg", "pos"), config("neg", "pos"), heads="keep").policy == "keep"


def test_labels_that_only_count_the_rows_are_merged_by_position_with_a_warning():
    found = plan(config("LABEL_0", "LABEL_1"), config("LABEL_0", "LABEL_1"))
    assert found.policy == "merge" and found.is_identity and "is taken to mean the same" in found.warnings[0]
    mixed = plan(config("0", "1"), config("LABEL_0", "LABEL_1"))
    assert mixed.labels == ("0", "1") and mixed.is_identity and mixed.warnings
    assert not plan(config("LABEL_0"), config("LABEL_0")).warnings, "a number needs no name"


@pytest.mark.parametrize(
    ("first", "second", "rows"),
    [
        (("1", "2", "3"), ("3", "2", "1"), (2, 1, 0)),
        (("1", "2", "3"), ("1", "2", "3"), (0, 1, 2)),
        (("0", "1"), ("1", "0"), (1, 0)),
        (("LABEL_0", "LABEL_1", "LABEL_2"), ("LABEL_1", "LABEL_2", "LABEL_0"), (2, 0, 1)),
        (("0", "1"), ("LABEL_1", "LABEL_0"), (1, 0)),
        (("label-1", "label-0"), ("0", "1"), (1, 0)),
    ],
)
def test_numbers_are_names_where_all_experts_have_the_same_ones(first, second, rows):
    found = plan(config(*first), config(*second))
    assert (found.labels, found.rows[1], found.warnings) == (first, rows, ())
    assert bool(found.notes) == (not found.is_identity)


@pytest.mark.parametrize(
    ("first", "second"), [(("0", "1", "2"), ("1", "2", "3")), (("LABEL_0", "LABEL_1"), ("1", "2"))]
)
def test_other_numbers_are_refused_as_nothing_tells_which_mean_the_same(first, second):
    with pytest.raises(Incompatible, match=rf"m1 does not name its labels \({second[0]}") as caught:
        plan(config(*first), config(*second))
    assert "--labels m1=NAME" in caught.value.fix


def test_a_number_twice_is_refused():
    with pytest.raises(Incompatible, match="the same label twice"):
        plan(config("LABEL_0", "0"), config("0", "1"))


def test_labels_without_names_that_are_not_as_many_are_kept_or_refused():
    pair = config("LABEL_0", "LABEL_1"), config("LABEL_0", "LABEL_1", "LABEL_2")
    assert plan(*pair).policy == "keep"
    with pytest.raises(Incompatible, match="not as many") as caught:
        plan(*pair, heads="merge")
    assert "--heads keep" in caught.value.fix


@pytest.mark.parametrize("heads", ["auto", "merge"])
def test_names_and_no_names_are_refused_with_the_way_to_name_them(heads):
    with pytest.raises(Incompatible, match=r"m1 does not name its labels \(LABEL_0, LABEL_1\).* m0") as caught:
        plan(config("neg", "pos"), config("LABEL_0", "LABEL_1"), heads=heads)
    assert "--labels m1=NAME" in caught.value.fix and "--heads keep" in caught.value.fix


def test_given_names_replace_those_of_the_config():
    found = plan(config("neg", "pos"), config("LABEL_0", "LABEL_1"), given={"m1": ["pos", "neg"]})
    assert found.rows == ((0, 1), (1, 0)) and found.labels == ("neg", "pos")


def test_given_names_that_do_not_fit_are_refused():
    pair = config("neg", "pos"), config("LABEL_0", "LABEL_1")
    with pytest.raises(BadRecipe, match="3 labels are given for m1, whose head has 2 rows"):
        plan(*pair, given={"m1": ["a", "b", "c"]})
    with pytest.raises(BadRecipe, match="Labels are given for m7, which is not merged"):
        plan(*pair, given={"m7": ["a", "b"]})
    with pytest.raises(Incompatible, match=r"m1 has the same label twice \(pos, POS\)"):
        plan(*pair, given={"m1": ["pos", "POS"]})


def test_different_problems_keep_their_heads_or_are_refused():
    pair = config("a", "b"), config("a", "b", problem_type="multi_label_classification")
    assert plan(*pair).policy == "keep" and "different problems" in plan(*pair).why
    with pytest.raises(Incompatible, match="multi_label_classification, single_label_classification"):
        plan(*pair, heads="merge")
    assert plan(config("score"), config("a", "b")).policy == "keep", "one label is regression"


THREE = (("neg", "neu", "pos"), ("pos", "neg", "mixed"), ("neu", "pos", "neg"))
UNION = ("neg", "neu", "pos", "mixed")


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    made = {}

    def make(arch="bert"):
        if arch not in made:
            made[arch] = with_statistics(relatives(tmp_path_factory.mktemp(arch), arch, labels=THREE))
        return made[arch]

    return make


def head_of(folder):
    tensors = load_file(folder / WEIGHTS)
    weight = next(
        n for n in tensors if n.endswith(("classifier.weight", "score.weight", "classifier.out_proj.weight"))
    )
    return weight, tensors[weight].double(), tensors.get(weight.replace("weight", "bias"))


def expected_rows(experts, label, merge_rows):
    """`merge_rows(indices of experts, their rows)` over the experts that know the label."""
    knowing = [i for i, own in enumerate(THREE) if label in own]
    return merge_rows(knowing, [head_of(experts[i])[1][THREE[i].index(label)] for i in knowing])


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_each_row_of_a_solved_head_is_solved_by_the_experts_that_know_its_label(three, tmp_path, arch):
    experts = three(arch)
    merge(recipe_of(experts, weights=[1, 2, 3]), tmp_path / "out")
    name, weight, bias = head_of(tmp_path / "out")
    inputs = [raw_inputs(path, texts_of(i))[name] for i, path in enumerate(experts)]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["label2id"] == {
        label: i for i, label in enumerate(UNION)
    }
    for row, label in enumerate(UNION):
        expected = expected_rows(
            experts,
            label,
            lambda knowing, rows: least_squares(
                [inputs[i] for i in knowing], [r[None].numpy() for r in rows], coefficients=[i + 1 for i in knowing]
            ),
        )
        assert rel(weight[row][None], expected) < 1e-5, label
        # A head called score has no biases.
        assert (bias is None) == name.endswith("score.weight")
        if bias is not None:
            knowing = [i for i, own in enumerate(THREE) if label in own]
            mean = sum((i + 1) * head_of(experts[i])[2][THREE[i].index(label)].double() for i in knowing)
            assert float(bias[row]) == pytest.approx(float(mean) / sum(i + 1 for i in knowing), rel=1e-6)


@pytest.mark.parametrize("arch", ["bert", "gpt2"])
def test_each_row_of_an_averaged_head_is_the_mean_over_the_experts_that_know_its_label(three, tmp_path, arch):
    experts = three(arch)
    merge(recipe_of(experts, "mean"), tmp_path / "out")
    _, weight, _ = head_of(tmp_path / "out")
    for row, label in enumerate(UNION):
        expected = expected_rows(experts, label, lambda _, rows: sum(rows) / len(rows))
        assert rel(weight[row], expected) < 1e-6


def test_affine_heads_of_different_labels_are_solved_row_by_row(three, tmp_path):
    experts = three()
    merge(recipe_of(experts, parameters={"affine": True}), tmp_path / "out")
    name, weight, bias = head_of(tmp_path / "out")
    inputs = [raw_inputs(path, texts_of(i))[name] for i, path in enumerate(experts)]
    heads = [head_of(path) for path in experts]
    for row, label in enumerate(UNION):
        knowing = [(i, THREE[i].index(label)) for i in range(3) if label in THREE[i]]
        expected = least_squares(
            [inputs[i] for i, _ in knowing],
            [heads[i][1][r][None] for i, r in knowing],
            affine=[heads[i][2][r][None] for i, r in knowing],
        )[0]
        assert rel(torch.cat([weight[row], bias[row][None].double()]), expected) < 1e-5


def test_the_merged_model_loads_and_says_its_labels(three, tmp_path):
    from transformers import AutoModelForSequenceClassification

    merge(recipe_of(three()), tmp_path / "out")
    model, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert model.config.num_labels == 4 and model.config.id2label == dict(enumerate(UNION))


def test_a_label_of_an_expert_with_no_weight_is_still_its(three, tmp_path):
    """An expert that counts nothing has no say where others know the label, but is all there is where none does."""
    experts = three()
    merge(recipe_of(experts, weights=[1, 0, 1]), tmp_path / "out")
    _, weight, _ = head_of(tmp_path / "out")
    assert rel(weight[UNION.index("mixed")], head_of(experts[1])[1][THREE[1].index("mixed")]) < 1e-6


@pytest.mark.parametrize("names", [("neg", "neu", "pos"), ("1", "2", "3"), ("LABEL_0", "LABEL_1", "LABEL_2")])
def test_permuted_heads_of_one_model_give_that_model(tmp_path, names):
    """The same expert twice, its rows turned round in one: matched by name, nothing changes."""
    first = relatives(tmp_path, labels=[names])[0]
    second = tmp_path / "turned"
    copytree(first, second)
    neg, neu, pos = names
    edit_json(second / "config.json", id2label={0: pos, 1: neg, 2: neu}, label2id={pos: 0, neg: 1, neu: 2})
    tensors = load_file(first / WEIGHTS)
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name][[2, 0, 1]]
    save_weights(second, tensors)
    merge(recipe_of([first, second], "mean"), tmp_path / "out")
    original, merged = load_file(first / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
    assert all(torch.equal(merged[name], value) for name, value in original.items())
    assert resolve(str(tmp_path / "out")).config["id2label"] == dict(zip("012", names, strict=True))
    assert ", ".join(name.replace("_", "\\_") for name in names) in str(model_card(tmp_path / "out"))


@pytest.mark.parametrize("method", ["mean", "regmean"])
@pytest.mark.parametrize(
    ("arch", "task", "more"),
    [
        ("bert", "text-classification", {"problem_type": "multi_label_classification"}),
        ("gpt2", "text-classification", {}),
        ("bert", "token-classification", {}),
        ("vit", "image-classification", {}),
    ],
)
def test_turned_and_missing_rows_of_one_model_give_it_back(tmp_path, arch, task, more, method):
    """In every task: an expert, and the same one with its rows turned round and without one of them."""
    from fusehub.collecting.collect import collect

    first = relatives(tmp_path, arch, labels=[("neg", "neu", "pos")], task=task, **more)[0]
    second = copytree(first, tmp_path / "turned")
    edit_json(second / "config.json", id2label={0: "pos", 1: "neg"}, label2id={"pos": 0, "neg": 1})
    tensors = load_file(first / WEIGHTS)
    head = [name for name in tensors if name.startswith(("classifier.", "score."))]
    save_weights(second, tensors | {name: tensors[name][[2, 0]] for name in head})
    if method == "regmean":
        for number, path in enumerate((first, second)):
            images = task == "image-classification"
            data = tiny_images(tmp_path / f"{number}", seed=number) if images else text_file(tmp_path, number)
            collect(str(path), str(data), path / "fusehub", size="full").close()
    result = merge(recipe_of([first, second], method), tmp_path / "out")
    merged = load_file(tmp_path / "out" / WEIGHTS)
    assert head and all(rel(merged[name], value) < 1e-6 for name, value in tensors.items() if value.any())
    config = resolve(str(tmp_path / "out")).config
    assert config["id2label"] == {"0": "neg", "1": "neu", "2": "pos"}
    assert config.get("problem_type") == more.get("problem_type")
    solved = [name for name, tensor in result.plan.tensors.items() if tensor.action == "solve"]
    assert (method == "regmean") == any(name in solved for name in head)


def test_given_labels_match_the_rows_of_a_merge(tmp_path):
    experts = relatives(tmp_path, labels=[("neg", "pos"), ("LABEL_0", "LABEL_1")])
    merge(recipe_of(experts, "mean", labels={1: ["pos", "neg"]}), tmp_path / "out")
    _, first, _ = head_of(experts[0])
    _, second, _ = head_of(experts[1])
    assert rel(head_of(tmp_path / "out")[1], (first + second[[1, 0]]) / 2) < 1e-6


# --- kept heads ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("method", ["mean", "regmean"])
def test_kept_heads_give_one_model_an_expert_with_one_body(tmp_path, arch, method):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    labels = (("neg", "pos"), ("spam", "ham", "eggs"))
    experts = with_statistics(relatives(tmp_path, arch, labels=labels))
    out = tmp_path / "out"
    result = merge(recipe_of(experts, method), out)
    assert result.plan.labels.policy == "keep" and not (out / WEIGHTS).exists()
    bodies = []
    for path, own in zip(experts, labels, strict=True):
        model, info = AutoModelForSequenceClassification.from_pretrained(
            out, subfolder=path.name, output_loading_info=True
        )
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
        direct = AutoModelForSequenceClassification.from_pretrained(out / path.name).state_dict()
        assert model.config.id2label == dict(enumerate(own))
        AutoTokenizer.from_pretrained(out / path.name)
        expert = load_file(path / WEIGHTS)
        prefix = f"{model.base_model_prefix}."
        for name, value in model.state_dict().items():
            assert torch.equal(direct[name], value)
        head = [name for name in direct if not name.startswith(prefix)]
        assert head and all(torch.equal(direct[name], expert[name]) for name in head), "the head is the expert's own"
        bodies.append({name: value for name, value in model.state_dict().items() if name.startswith(prefix)})
    assert all(torch.equal(value, bodies[1][name]) for name, value in bodies[0].items())
    name = next(name for name, value in bodies[0].items() if value.ndim == 2)
    mean = sum(load_file(path / WEIGHTS)[name].double() for path in experts) / 2
    assert rel(bodies[0][name], mean) < 1e-6, "the first matrix are embeddings, which are averaged"
    files = [out / path.name / "body-model.safetensors" for path in experts]
    assert files[0].stat().st_ino == files[1].stat().st_ino, "the body lies on the disk once"


def test_keeping_heads_can_be_asked_for(experts, tmp_path):
    merge(recipe_of(experts(), heads="keep"), tmp_path / "out")
    for path in experts():
        assert (tmp_path / "out" / path.name / "head.safetensors").is_file()
    report = json.loads((tmp_path / "out" / "fusehub_report.json").read_text())
    assert report["heads"] == "keep"
    assert sorted(report["sha256"]) == [
        f"{path.name}/{name}.safetensors" for path in experts() for name in ("body-model", "head")
    ]


def test_names_that_differ_in_signs_alone_are_told(tmp_path):
    """not_entailment and not-entailment are most likely one label, and would be two rows."""
    labels = [("entailment", "not_entailment"), ("entailment", "not-entailment")]
    findings = check([str(path) for path in relatives(tmp_path, labels=labels)]).findings
    [found] = [finding for finding in findings if finding.code == "labels-alike"]
    assert found.level == "warning" and "not_entailment, not-entailment look like one label" in found.what
    assert not plan(config("neg", "pos"), config("pos", "neg")).resembling
