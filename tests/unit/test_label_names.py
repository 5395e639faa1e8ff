"""What a config says that the rows of a head are called: read as transformers does, or refused in words."""

import re
from pathlib import Path

import pytest

from fusehub.checking.check import check
from fusehub.errors import Incompatible
from fusehub.merging.merge import merge
from fusehub.models.tasks import labels_of
from tests.unit.experts import (
    edit_json,
    recipe_of,
    relatives,
)


def test_labels_are_read_in_the_order_of_their_numbers():
    shuffled = {"10": "k", "2": "c", **{str(i): f"l{i}" for i in (0, 1, *range(3, 10))}}
    assert labels_of({"id2label": shuffled}, "m") == ["l0", "l1", "c", *(f"l{i}" for i in range(3, 10)), "k"]
    assert labels_of({"num_labels": 3}, "m") == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert labels_of({"num_labels": 3, "id2label": {"0": "a", "1": "b"}}, "m") == ["a", "b"], "as transformers does"
    assert labels_of({"id2label": None}, "m") == ["LABEL_0", "LABEL_1"]
    assert labels_of({"id2label": {"0": 1, "1": 2.5}}, "m") == ["1", "2.5"]
    left_over = {"id2label": {"0": "neg", "1": "pos"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
    assert labels_of(left_over, "m") == ["neg", "pos"]


ODD_LABELS = {
    "counted from 1": ({"1": "neg", "2": "pos"}, "numbers its 2 labels 1, 2, but rows go from 0 to 1"),
    "a gap": ({"0": "neg", "2": "pos"}, "numbers its 2 labels 0, 2"),
    "names and numbers swapped": ({"neg": 0, "pos": 1}, "'neg' where the number.*names and numbers are swapped"),
    "a list": (["neg", "pos"], "is a list"),
    "a text": ("neg,pos", "is a str"),
    "nothing in it": ({}, "is empty"),
    "null for a name": ({"0": None, "1": "pos"}, "calls row 0 None"),
    "a list for a name": ({"0": ["neg"], "1": "pos"}, "calls row 0"),
    "true for a name": ({"0": True, "1": "pos"}, "calls row 0 True"),
    "no numbers": ({"first": "neg", "1": "pos"}, "'first' where the number"),
    "a number twice": ({"0": "neg", "00": "pos"}, "numbers its 2 labels 0, 0"),
    "below 0": ({"-1": "neg", "0": "pos"}, "'-1' where the number"),
}


@pytest.mark.parametrize("kind", ODD_LABELS)
def test_labels_that_are_not_one_name_a_row_are_refused_everywhere(kind, tmp_path):
    from fusehub.collecting.collect import collect
    from fusehub.comparing.compare import compare
    from fusehub.comparing.evaluate import evaluate
    from fusehub.comparing.predictor import predict
    from space.steps.pick import describe

    odd, words = ODD_LABELS[kind]
    experts = [str(path) for path in relatives(tmp_path, labels=[("neg", "pos")] * 2)]
    edit_json(Path(experts[0], "config.json"), id2label=odd, label2id=None)
    data = str(tmp_path / "data.csv")
    Path(data).write_text("text,label\ngood film,pos\nbad film,neg\n")
    match = f"expert-0.*: id2label in config.json .*{words}"
    findings = check(experts).findings
    assert "no-tokenizer" not in {finding.code for finding in findings}, "its tokenizer has nothing to do with it"
    [error] = [finding for finding in findings if finding.level == "error"]
    assert error.code == "labels" and re.search(match, error.what)
    for run in (
        lambda: merge(recipe_of(experts, "mean"), tmp_path / "out"),
        lambda: collect(experts[0], data, tmp_path / "statistics"),
        lambda: compare(experts, ["good film"]),
        lambda: evaluate(experts[:1], {"x": data}),
        lambda: predict(experts[0], ["good film"]),
    ):
        with pytest.raises(Incompatible, match=match):
            run()
    assert not (tmp_path / "out").exists() and not (tmp_path / "statistics").exists()
    assert describe(experts[0], None).labels == ()


def test_label2id_that_has_the_rows_the_other_way_round_is_refused(tmp_path):
    experts = relatives(tmp_path, labels=[("neg", "pos")] * 2)
    edit_json(experts[1] / "config.json", label2id={"neg": 1, "pos": 0})
    with pytest.raises(Incompatible, match=r"id2label in config.json calls row 0 'neg', and label2id says.* row 1"):
        merge(recipe_of(experts, "mean"), tmp_path / "out")


def test_a_number_of_labels_that_is_none_is_refused():
    for odd in ("3", 0, True):
        with pytest.raises(Incompatible, match=r"m: num_labels in config.json is"):
            labels_of({"num_labels": odd}, "m")


# --- merged heads -------------------------------------------------------------------------------------------------

# Three experts: another order, and one label each that not all know.


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"id2label": {"0": "neg", "1": " "}}, "has an empty name for row 1"),
        ({"id2label": {"0": "neg", "1": "pos"}, "label2id": {"neg": "1", "pos": "0"}}, "says that this is row 1"),
        ({"id2label": {"0": "neg", "1": "pos"}, "label2id": {"NEG": 1, "POS": 0}}, "says that this is row 1"),
        ({"label2id": {"neg": 0, "pos": 1}}, r"is not there, and label2id has names \(neg, pos\)"),
    ],
)
def test_half_a_table_of_labels_is_refused(said, words):
    with pytest.raises(Incompatible, match=words):
        labels_of(said, "m")
    fine = {"id2label": {"0": "neg", "1": "pos"}, "label2id": {"neg": "0", "pos": 1.0}}
    assert labels_of(fine, "m") == ["neg", "pos"]
