"""Labels that models call differently are matched by hand: one choice a label, in place of a refusal."""

from __future__ import annotations

import json
from dataclasses import replace

import httpx
import pytest

from space.render.labels import labels_html, labels_said, to_map
from space.visit import Picked
from tests.app.conftest import SENTIMENT, publish
from tests.app.steps import go, grave_faults, merge, pick, sticks_out
from tests.unit.experts import relatives

OTHER, NUMBERED = "ben/other-names", "ben/numbered"


@pytest.fixture(scope="module")
def others(hub, tmp_path_factory):
    """Relatives of the sentiment experts: one with names of its own, in another order, and one without any."""
    labels = (("negative", "positive"), ("GOOD", "BAD"), ("LABEL_0", "LABEL_1"))
    _, *made = relatives(tmp_path_factory.mktemp("others"), labels=labels)
    for name, path in zip((OTHER, NUMBERED), made, strict=True):
        publish(hub, name, path, base="ada/base")


def test_labels_with_other_names_are_chosen_from_those_of_the_first(visitor, app, others) -> None:
    page = visitor(width=360)
    pick(page, SENTIMENT[0], OTHER)
    go(page, "Check")
    page.get_by_text("Each expert keeps its own head").wait_for()
    page.get_by_role("heading", name="Labels that are called differently").wait_for()
    good, bad = (page.get_by_label(f"{label} of {OTHER}") for label in ("GOOD", "BAD"))
    assert good.locator("option").all_inner_texts() == ["GOOD (as it is)", "negative", "positive"]
    good.select_option("positive")
    bad.select_option("negative")
    assert grave_faults(page) == [] and sticks_out(page) == []
    page.get_by_role("button", name="Use these names").click()
    page.get_by_text("Each expert keeps its own head").wait_for(state="detached")
    page.get_by_text("The experts have their labels in different orders").wait_for()
    assert good.input_value() == "positive" and bad.input_value() == "negative"
    # What is checked again with another base keeps them.
    page.locator("#check").click()
    page.get_by_text("The experts have their labels in different orders").wait_for()
    merge(page)
    made = page.get_by_role("list", name="Merged models").get_by_role("article").first
    made.locator("summary", has_text="Download").click()
    address = app.url + made.get_by_role("link", name="config.json", exact=True).get_attribute("href")
    assert httpx.get(address).json()["id2label"] == {"0": "negative", "1": "positive"}


def test_numbers_are_named_by_what_another_model_calls_its_labels(visitor, others) -> None:
    page = visitor()
    pick(page, SENTIMENT[0], NUMBERED)
    go(page, "Check")
    page.get_by_text("does not name its labels").wait_for()
    page.get_by_label(f"LABEL_0 of {NUMBERED}").select_option("negative")
    page.get_by_label(f"LABEL_1 of {NUMBERED}").select_option("positive")
    page.get_by_role("button", name="Use these names").click()
    page.get_by_text("What a merge will take").wait_for()
    assert page.get_by_text("does not name its labels").count() == 0


def test_what_the_page_sends_is_held_against_its_choices() -> None:
    one = Picked("ada/one", "ada/one", "text-classification", None, None, None, None, ("neg", "pos"), False, None)
    two = replace(one, name="ben/two", id="ben/two", labels=("<bad>", "Pos"))
    numbered = replace(one, name="ben/three", id="ben/three", labels=("LABEL_0", "LABEL_1"))
    assert to_map([one, two]) == (one, [two]) and to_map([numbered, one]) == (one, [numbered])
    for same in ([one, replace(two, labels=("POS", "Neg"))], [numbered, numbered], [], [one],
                 [one, replace(two, task="token-classification")],
                 [one, replace(two, labels=tuple(f"label {number}" for number in range(40)))]):  # fmt: skip
        assert to_map(same) == (None, []) and labels_html(same, {}) == ""
    shown = labels_html([one, two], {"ben/two": ["neg", "Pos"]})
    assert '<option value="neg" selected>' in shown and "<bad>" not in shown
    # Whoever has fewer labels calls none of them differently, unless it was said so.
    fewer = replace(one, name="ben/fewer", id="ben/fewer", labels=("POS",))
    assert labels_html([one, fewer], {}) == ""
    assert "ben/two" in (both := labels_html([one, fewer, two], {})) and "ben/fewer" not in both
    assert '<option value="neg" selected>' in labels_html([one, fewer], {"ben/fewer": ["neg"]})
    said = {"ben/two": ["neg", "Pos"]}
    assert labels_said(json.dumps(said), [one, two]) == said
    refused = ["[", "[]", '{"ben/two": 1}', '{"ben/two": ["neg"]}', '{"ben/two": ["neg", {}]}']
    refused += ['{"ben/two": ["neg", "mine"]}', '{"ada/one": ["neg", "pos"]}', '{"ben/two": ["<bad>", "Pos"]}']
    for wrong in refused:
        assert labels_said(wrong, [one, two]) == {}, wrong
