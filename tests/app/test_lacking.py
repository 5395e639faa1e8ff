"""What a way to merge lacks is one click away."""

from __future__ import annotations

from playwright.sync_api import expect

from fusehub.recommending.recommendation import NEEDS, sentence_of
from space.steps.advice import offered
from tests.app.conftest import ENTITIES, SENTIMENT, publish
from tests.app.steps import example, go, grave_faults, loud, merge, pick
from tests.unit.experts import relatives

NAMES = ["ada/no-base-said", "ben/no-base-said"]


def test_one_way_is_recommended_and_what_cannot_run_leads_to_what_it_lacks(visitor) -> None:
    page = visitor()
    for step, why in (
        ("Check", "A merge takes two models or more"), ("Statistics", "Pick two models or more first"),
        ("Merge", "Pick two models or more first"), ("Compare", "Pick models first"),
        ("Push", "Nothing is merged yet"),
    ):  # fmt: skip
        go(page, step)
        here = page.locator(f"#step-{step.lower()}")
        here.get_by_text(why).wait_for()
        shown = here.locator("button, input, textarea").locator("visible=true").all_inner_texts()
        assert shown == ["Go to Pick"], "it says why it cannot be taken, what leads on, and nothing else"
        here.get_by_role("button", name="Go to Pick").click()
        page.locator("#step-pick").wait_for()
    example(page)
    go(page, "Check")
    # The base that both cards name is filled in.
    page.get_by_role("button", name="Base model").click()
    assert page.locator("#base-model").get_by_role("textbox").input_value() == "ada/base"
    page.get_by_role("button", name="Heads").click()
    for keeps in (True, False):
        page.locator("#keep-heads input").set_checked(keeps)
        page.locator("#check").click()
        page.get_by_text("Each expert keeps its own head").wait_for(state="visible" if keeps else "detached")
    go(page, "Merge")
    page.get_by_role("heading", name="Recommended: RegMean").wait_for()
    page.get_by_text("+2.2 points in our tests, higher in 17 of 18 runs").wait_for()
    assert page.locator("#recommended input").is_checked() and page.locator("#baseline input").is_checked()
    page.get_by_role("button", name="Other ways to merge").click()
    methods = page.locator("#methods")
    methods.get_by_label("TIES", exact=True).wait_for()
    assert methods.locator("h4").all_inner_texts() == [NEEDS[need] for need in ("fisher", "base", "pair")]
    for name, method in offered().items():
        if name not in ("regmean", "mean"):
            methods.get_by_text(f"{sentence_of(method)} In code: {name}.", exact=True).wait_for()
    assert methods.get_by_label("TIES", exact=True).is_enabled()
    assert methods.get_by_label("Fisher-weighted averaging", exact=True).is_disabled()
    assert grave_faults(page) == []
    methods.get_by_role("button", name="Make Fisher statistics").click()
    page.get_by_text("2 models have no Fisher diagonals yet").wait_for()
    assert page.locator("#statistics-fisher input").is_checked()


def test_a_base_that_nobody_has_named_is_named_from_the_way_that_needs_it(visitor, hub, tmp_path) -> None:
    for repo, path in zip(NAMES, relatives(tmp_path), strict=True):
        publish(hub, repo, path)
    publish(hub, "ada/their-base", tmp_path / "base")
    page = visitor()
    pick(page, *NAMES)
    go(page, "Merge")
    page.locator("#merge").wait_for()
    page.get_by_role("button", name="Other ways to merge").click()
    ways = page.locator("#methods")
    ties = ways.get_by_label("TIES", exact=True)
    ties.wait_for()
    assert ties.is_disabled()
    ways.get_by_text("Cannot run now: The base model is not known").first.wait_for()
    ties.click(force=True)
    assert not ties.is_checked() and ways.get_by_label("SLERP", exact=True).is_enabled()
    ways.get_by_role("button", name="Name the base model").first.click()
    # The field is open where it leads to.
    base = page.locator("#base-model").get_by_role("textbox")
    base.fill("ada/their-base")
    before = page.locator("#step-check").get_by_text("Download", exact=True).locator("xpath=..").inner_text()
    page.locator("#check").click()
    # What was told before the base was named stays until it is told anew: there is one model more to download.
    page.wait_for_function(
        """before => [...document.querySelectorAll('#step-check *')].some(
            one => /^Download\\s/.test(one.innerText) && one.innerText.length < 40 && one.innerText !== before)""",
        arg=before,
    )
    merge(page, "TIES")
    page.get_by_role("list", name="Merged models").get_by_role("heading", name="ties").wait_for()
    made = page.get_by_role("list", name="Merged models").inner_text()
    assert "ada/their-base" in made, made


def test_heads_that_cannot_be_matched_are_kept_by_what_the_check_offers(visitor, tmp_path) -> None:
    """One model names its labels, the other numbers them: they can be named, or each keeps its own head."""
    page = visitor()
    pick(page, *map(str, relatives(tmp_path, labels=(("negative", "positive"), ("LABEL_0", "LABEL_1")))))
    go(page, "Check")
    here, keeps = page.locator("#step-check"), page.locator("#keep-heads input")
    here.get_by_text("does not name its labels").wait_for()
    offered = here.locator(".fh-findings").get_by_role("button")
    assert offered.all_inner_texts() == ["Name the labels", "Keep the heads"] and not keeps.is_visible()
    offered.get_by_text("Keep the heads").click()
    # It is ticked where it leads to, in the part that is open now.
    keeps.wait_for()
    expect(keeps).to_be_checked(timeout=180_000)
    assert grave_faults(page) == []
    page.locator("#check").click()
    here.get_by_text("Each expert keeps its own head").wait_for()
    assert here.get_by_text("does not name its labels").count() == 0
    merge(page)
    made = page.get_by_role("list", name="Merged models").get_by_role("article")
    made.get_by_text("one for each expert: expert-0, expert-1").wait_for()
    made.locator("summary", has_text="Recipe").click()
    assert "\nheads: keep\n" in made.locator("code").inner_text()


def test_what_does_not_fit_is_an_answer_and_the_way_on_from_it_is_the_one_loud_thing(visitor) -> None:
    """Of three models one is of another kind: leaving it out is one press, at every step that is refused for it."""
    page = visitor()
    pick(page, *SENTIMENT, "ada/other-sentiment")
    leave = "Leave out other-sentiment"
    for step in ("Check", "Statistics", "Merge"):
        go(page, step)
        here = page.locator(f"#step-{step.lower()}")
        here.get_by_role("alert").get_by_text("These models cannot be merged as they are, for 1 reason.").wait_for()
        assert loud(page) == [leave], step
        assert "Error:" not in here.inner_text()
    assert grave_faults(page) == []
    go(page, "Pick")
    page.get_by_role("button", name="Merge and compare in one go").click()
    said = page.locator(".fh-dock").get_by_text("These models do not fit as they are, so nothing was merged.")
    said.wait_for()
    assert "Error:" not in page.locator(".fh-dock").inner_text()
    page.get_by_role("button", name=leave).click()
    page.get_by_text("What a merge will take").wait_for()
    assert loud(page) == ["Go on to statistics"]
    go(page, "Pick")
    assert page.get_by_role("button", name="Remove ada/other-sentiment").count() == 0


def test_of_two_models_that_do_not_fit_nobody_says_which_is_wrong(visitor) -> None:
    page = visitor()
    pick(page, SENTIMENT[0], "ada/other-sentiment")
    go(page, "Check")
    page.get_by_role("button", name="Choose other models").wait_for()
    assert loud(page) == ["Choose other models"]
    page.get_by_role("button", name="Choose other models").click()
    page.get_by_role("button", name="Remove ada/other-sentiment").wait_for()


def test_statistics_that_somebody_came_for_are_made_first(visitor) -> None:
    """The mean is recommended as RegMean lacks statistics of one: that is said, and making them is one press away."""
    page = visitor()
    pick(page, *ENTITIES)
    go(page, "Merge")
    page.get_by_text(f"{ENTITIES[1]} has no published statistics. Once they are made, RegMean can run.").wait_for()
    assert loud(page) == ["Merge"]
    page.locator("#step-merge .fh-card").get_by_role("button", name="Make statistics").click()
    page.locator("#step-statistics").wait_for()
    page.locator("#make-statistics").wait_for()
    assert loud(page) == ["Make statistics"]
    page.get_by_label("Texts that I paste").check()
    page.locator("#statistics-texts textarea").fill("Anna visited Paris .\nBruno lives in London .")
    page.locator("#make-statistics").click()
    page.get_by_text("All statistics are there").wait_for()
    assert loud(page) == ["Go on to merge"]


def test_a_merge_that_turns_out_to_be_of_strangers_leads_to_other_models(visitor) -> None:
    """Weights tell it, which a check does not read: an answer, whose way out is louder than what was tried."""
    page = visitor()
    pick(page, SENTIMENT[0], ENTITIES[0])
    go(page, "Merge")
    page.locator("#merge").click()
    said = page.locator(".fh-dock").get_by_role("alert")
    said.get_by_text("have unrelated weights").wait_for()
    assert "Error:" not in said.inner_text() and loud(page) == ["Choose other models"]
    assert grave_faults(page) == []
    page.get_by_role("button", name="Close this message").click()
    said.wait_for(state="detached")
    assert loud(page) == ["Merge"]
