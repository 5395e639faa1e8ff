"""Findings: what they are called, and what a person reads about them."""

from pathlib import Path

import pytest

from fusehub.checking.report import ModelFacts, Report, with_ways_out
from fusehub.errors import Action, BadRecipe
from fusehub.statistics.few_texts import FEW_TEXTS, few_texts_finding
from fusehub.utils.findings import CODES, Allowed, Finding, document


def test_the_document_has_every_code():
    """docs/findings.md holds what `fusehub findings --markdown` prints, between its marks."""
    text = (Path(__file__).parents[2] / "docs" / "findings.md").read_text(encoding="utf-8")
    written = text.partition("--markdown` -->\n")[2].partition("<!-- /findings -->")[0]
    assert written == document(), "write the output of `fusehub findings --markdown` between the marks"


def test_only_what_can_be_sensible_all_the_same_is_ignored():
    assert {kind.ignorable for kind in CODES.values()} == {True, False}
    for code, kind in CODES.items():
        if kind.ignorable:
            assert Allowed.of(ignore=[code]).ignored == {code}
        else:
            with pytest.raises(BadRecipe, match="can be ignored"):
                Allowed.of(ignore=[code])


def test_a_report_names_what_a_merge_may_ignore_only_where_nothing_else_stands_against_it():
    config = Finding("config-differs", "error", "config hidden_act differs.")
    note = Finding("dtype-differs", "note", "Dtypes differ.")
    assert Report([], [config, note, config]).ignorable == ["config-differs"]
    assert Report([], [config, Finding("shapes-differ", "error", "Shapes differ.")]).ignorable == []


@pytest.mark.parametrize(("examples", "said"), [(1, "of 1 text:"), (FEW_TEXTS - 1, "of 99 texts:")])
def test_few_texts_are_warned_of(examples, said):
    finding = few_texts_finding({"examples": examples, "model": {"id": "ann/expert"}})
    assert (finding.code, finding.level) == ("few-texts", "warning") and said in finding.what


@pytest.mark.parametrize("examples", [FEW_TEXTS, None])
def test_enough_texts_and_unknown_numbers_are_not(examples):
    assert few_texts_finding({"examples": examples, "model": {"id": "ann/expert"}}) is None


def facts(name: str, base: str | None = None, architecture: str | None = "Bert") -> ModelFacts:
    return ModelFacts(name, name, None, architecture, None, (), 0, (), None, False, base, False)


SHAPES = Finding("shapes-differ", "error", "Shapes differ.")
KINDS = Finding("architecture-differs", "error", "Architectures differ.")
LABELS = Finding("labels", "error", "Labels are numbers.", actions=(Action("name-labels"),))


@pytest.mark.parametrize(
    ("finding", "models", "left_out"),
    [
        # Whatever the owner is called: a mirror of the base is the base.
        (SHAPES, [facts("a", "x/bert"), facts("b", "y/roberta"), facts("c", "z/BERT")], ("b",)),
        (SHAPES, [facts("a", "x/bert"), facts("b"), facts("c", "x/bert")], None),
        (SHAPES, [facts("a", "x/bert"), facts("b", "y/roberta")], None),
        (SHAPES, [facts("a"), facts("b"), facts("c", "x/bert")], None),
        (KINDS, [facts("a"), facts("b"), facts("c", architecture="T5"), facts("d", architecture=None)], None),
        (KINDS, [facts("a"), facts("b"), facts("e"), facts("c", architecture="T5")], ("c",)),
    ],
)
def test_what_stands_against_a_merge_says_which_model_to_leave_out_where_most_agree(finding, models, left_out):
    note = Finding("license-result", "note", "License of the result: mit.")
    first, second, third = with_ways_out([finding, LABELS, note], models)
    wanted = [Action("leave-out", left_out)] if left_out else []
    assert list(first.actions) == [*wanted, Action("choose-models")]
    assert (second, third) == (LABELS, note), "what says already what can be done, or needs nothing, stays"
