"""From picked to compared in one go, and what is said while models are read."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from fusehub.errors import FuseHubError
from fusehub.localhub.faults import FILENAME
from space.serve import close, new_frame
from space.setting import Setting
from space.steps.pick import describe
from space.steps.way import Way
from space.workers.jobs import Job
from tests.app.conftest import NAMED, SENTIMENT, SLOW, publish
from tests.app.steps import example, go, grave_faults, pick, sticks_out
from tests.unit.experts import relatives

IN_ONE_GO = "Merge and compare in one go"


def test_one_button_leads_from_picked_to_compared(visitor, hub) -> None:
    """With one progress over all of it, on a Hub that takes its time; every step is open behind it, and nothing is
    made twice."""
    page = visitor(width=360)
    press = page.get_by_role("button", name=IN_ONE_GO)
    assert not press.is_visible()
    example(page)
    page.locator("#example").wait_for(state="hidden")  # It is picked.
    plan = hub.root / FILENAME
    plan.write_text(json.dumps([{"path": ".*", "do": "stall", "seconds": 1}]))
    shares = []
    try:
        press.click()
        work = page.get_by_role("region", name="Work that goes on")
        work.wait_for()
        while work.is_visible():
            share = page.evaluate(
                "document.querySelector('.fh-work [role=progressbar]')?.getAttribute('aria-valuenow')"
            )
            shares += [float(share)] if share else []
            page.wait_for_timeout(100)
    finally:
        plan.unlink()
    # What the app has read for a visitor of the tests before is not read again, and then there are three at the least.
    assert shares == sorted(shares) and len(set(shares)) >= 3, shares
    page.locator(".fh-compared").wait_for()
    page.get_by_role("status").get_by_text("Merging and comparing: done").wait_for()
    assert {"films-sentiment", "shops-sentiment", "ensemble", "regmean", "mean"} == {
        *page.locator("#step-compare thead .fh-name").all_inner_texts()
    }
    # What they were asked is there to be changed.
    asked = page.locator("#texts textarea").input_value().splitlines()
    assert page.locator(".fh-compared").get_attribute("data-texts") == str(len(asked)) == "3"
    steps = page.get_by_role("navigation", name="Steps")
    assert steps.get_by_text("done", exact=True).count() == 5
    assert grave_faults(page) == [] and sticks_out(page) == []
    caption = page.locator(".fh-table caption span").first.bounding_box()
    assert caption["x"] + caption["width"] <= 360, "the table is wider, what it is of is not"
    # Nobody has typed them: a reload finds them, and so does whoever opens the address.
    page.reload()
    page.locator(".fh-compared").wait_for()
    page.wait_for_function("() => document.querySelector('#texts textarea').value !== ''")
    assert page.locator("#texts textarea").input_value().splitlines() == asked
    assert parse_qs(urlsplit(page.url).query)["text"] == asked
    go(page, "Pick")
    page.get_by_text("compared on example texts").wait_for()
    go(page, "Check")
    page.get_by_text("What a merge will take").wait_for()
    go(page, "Merge")
    page.get_by_role("list", name="Merged models").get_by_role("article").nth(1).wait_for()
    page.locator("#merge").click()
    page.get_by_text("You have regmean and mean already").wait_for()


def test_one_go_makes_statistics_of_what_cards_name_and_else_stops_where_they_are_missing(visitor) -> None:
    page = visitor()
    pick(page, *SLOW)
    page.get_by_role("button", name=IN_ONE_GO).click()
    said = page.get_by_role("alert")
    said.get_by_text("RegMean promises more").wait_for()
    # It is led to the step where they are made, and what was found out before is kept.
    page.locator("#step-statistics").wait_for()
    assert page.locator("#make-statistics").is_visible()
    said.get_by_role("button", name="Choose another way").click()
    page.get_by_role("heading", name="Recommended: ").wait_for()
    go(page, "Pick")
    for model in SLOW:
        page.get_by_role("button", name=f"Remove {model}").click()
    pick(page, *NAMED)
    page.get_by_role("button", name=IN_ONE_GO).click()
    page.locator(".fh-compared").wait_for()
    go(page, "Statistics")
    made = page.get_by_role("list", name="Statistics of each model")
    assert made.get_by_text("made in this visit").count() == 2
    for model in NAMED:
        page.get_by_role("button", name=f"Forget statistics of {model}").click()
    page.get_by_role("button", name="Make statistics of what the cards name").click()
    made.get_by_text("made in this visit").nth(1).wait_for()


def test_one_go_does_what_a_link_says(visitor, app) -> None:
    """Its method, option, shares and texts, and not what is recommended; one that cannot run says what it lacks."""
    said = f"{app.url}?model={SENTIMENT[0]}&model={SENTIMENT[1]}&share=1&share=0.5&text=Not+bad.&text=So+sad."
    page = visitor(f"{said}&method=regmean&option=regmean.alpha%3D0.5")
    page.get_by_text("merged by RegMean (alpha 0.5) with the shares 1 : 0.5, and compared on your 2 texts").wait_for()
    page.get_by_role("button", name=IN_ONE_GO).click()
    page.locator(".fh-compared[data-texts='2']").wait_for()
    assert page.locator("#texts textarea").input_value() == "Not bad.\nSo sad."
    go(page, "Merge")
    made = page.get_by_role("list", name="Merged models").get_by_role("article")
    made.get_by_text("alpha 0.5, shares 1 : 0.5").wait_for()
    assert made.count() == 1 and not page.locator("#baseline input").is_checked()

    page = visitor(f"{said}&method=fisher&method=slerp")
    page.get_by_role("button", name=IN_ONE_GO).click()
    wanted = "was chosen, and needs statistics of each model. There are none with Fisher diagonals of"
    page.get_by_role("alert").get_by_text(wanted).wait_for()
    page.get_by_role("alert").get_by_role("button", name="Choose another way").wait_for()


def test_what_was_changed_meanwhile_is_not_taken_for_what_was_asked(tmp_path) -> None:
    frame = new_frame(Setting(shared=False))
    visit = frame.visits.open()
    visit.picks = [describe(str(path), None) for path in relatives(tmp_path)]
    parts = Way(frame, visit, None).parts(Job("way", "All of it"))
    check = next(parts)
    visit.picks.reverse()
    with pytest.raises(FuseHubError, match="changed meanwhile"):
        check.keep({"ok": True})
    close(frame)
    assert visit.report is None


def test_what_is_read_is_said_and_who_does_not_wait_goes_on(visitor, hub, tmp_path) -> None:
    """On a Hub that is far away, of models that nobody has read yet."""
    far = ["ada/far-sentiment", "ben/far-sentiment"]
    for repo, path in zip(far, relatives(tmp_path), strict=True):
        publish(hub, repo, path)
    page = visitor()
    pick(page, *far)
    plan = hub.root / FILENAME
    slow = [{"path": path, "do": "stall", "seconds": seconds} for path, seconds in (("/ben/.*", 6), (".*", 2))]
    plan.write_text(json.dumps(slow))
    try:
        go(page, "Check")
        read = page.get_by_role("region", name="Being read")
        read.get_by_text("Reading 1 of 2").wait_for()
        # The step is there meanwhile.
        page.locator("#step-check").get_by_text("One moment").wait_for()
        read.get_by_text("Reading 2 of 2").wait_for()
        go(page, "Compare")
        page.get_by_text("Nothing is merged yet: the experts alone will answer").wait_for()
        read.wait_for(state="detached")
        go(page, "Check")
        page.get_by_text("What a merge will take").wait_for()
        assert read.count() == 0
    finally:
        plan.unlink()


def test_one_go_can_be_cancelled_and_begun_again(visitor, hub) -> None:
    page = visitor()
    pick(page, *SENTIMENT)
    plan = hub.root / FILENAME
    plan.write_text(json.dumps([{"path": ".*", "do": "stall", "seconds": 3}]))
    try:
        page.get_by_role("button", name=IN_ONE_GO).click()
        page.get_by_role("button", name="Cancel: Merging and comparing").click()
        page.get_by_text("Merging and comparing was cancelled").wait_for()
        assert page.locator("#step-pick").is_visible()
    finally:
        plan.unlink()
    page.get_by_role("button", name=IN_ONE_GO).click()
    page.locator(".fh-compared").wait_for()
