"""Findings: what they are called, and what a person reads about them."""

from pathlib import Path

import pytest

from fusehub.checking.report import Report
from fusehub.errors import BadRecipe
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
