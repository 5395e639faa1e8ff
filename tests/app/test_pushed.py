"""What becomes of a push: a license that follows its box however that is changed, and a page that its owner opens."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from huggingface_hub import HfApi, ModelCard
from playwright.sync_api import expect

from fusehub.localhub.faults import FILENAME, LOG
from tests.app.steps import compare, example, go, grave_faults, loud, merge, push


@pytest.fixture
def at_push(visitor) -> Any:
    """A page at the push of a merge, with its card open to be edited."""
    page = visitor(alone=True)
    example(page)
    merge(page)
    go(page, "Push")
    page.get_by_role("button", name="Model card").click()
    page.get_by_role("tab", name="Edit").click()
    return page


def test_the_license_that_is_published_is_what_the_box_says_however_it_came_there(at_push, hub, tmp_path) -> None:
    """Typed, cut, pasted, undone, deleted; and so it is with the name."""
    page, card = at_push, at_push.locator("#push-card textarea")
    box, name = page.locator("#push-license input"), page.locator("#push-repo input")

    def says(line: str | None) -> None:
        if line:
            expect(card).to_have_value(re.compile(f"^{line}$", re.M), timeout=60_000)
        else:
            expect(card).not_to_have_value(re.compile("^license:", re.M), timeout=60_000)

    says("license: apache-2.0")
    box.press("Control+a")
    box.press("Control+x")
    says(None)
    box.press("Control+v")
    says("license: apache-2.0")
    box.press("Control+z")
    says(None)
    box.press_sequentially("mitx")
    says("license_name: mitx")
    box.press("Backspace")
    says("license: mit")
    name.fill("carl/licensed2")
    expect(card).to_have_value(re.compile('model="carl/licensed2"'), timeout=180_000)
    name.press("End")
    name.press("Backspace")
    expect(card).to_have_value(re.compile('model="carl/licensed"'), timeout=180_000)
    # What is typed right before the press, of which the page has told nobody yet.
    page.locator("#push-token input").fill(hub.token("carl"))
    page.locator("#push-token input").press("Tab")
    page.locator("#push-who").get_by_text("You push as carl").wait_for()
    waiting: list[Any] = []
    page.route("**/queue/join*", lambda route: route.continue_() if waiting else waiting.append(route))
    box.fill("apache-2.0")
    while not waiting:
        page.wait_for_timeout(50)
    page.locator("#push").click()
    page.get_by_role("heading", name="The model is on the Hub").wait_for()
    api = HfApi(endpoint=hub.url, token=hub.token("carl"))
    said = ModelCard.load(api.hf_hub_download("carl/licensed", "README.md", local_dir=tmp_path))
    assert said.data.license == "apache-2.0"
    waiting[0].continue_()
    says("license: apache-2.0")
    box.press("Control+a")
    box.press("Delete")
    says(None)
    push(page, "carl/unlicensed", hub.token("carl"))
    page.get_by_role("link", name=f"{hub.url}/carl/unlicensed", exact=True).first.wait_for()
    pushed = ModelCard.load(api.hf_hub_download("carl/unlicensed", "README.md"))
    assert pushed.data.license is None and pushed.content == card.input_value()


def test_the_page_of_a_private_push_opens_for_whoever_pushed_it(at_push, hub) -> None:
    """It is private unless something else is said; who is not signed in on the Hub is told how to, and led there."""
    page, token = at_push, hub.token("carl")
    assert page.get_by_label("Private: only I can see it").is_checked()
    page.locator("#push-token input").fill(token)
    page.locator("#push-token input").press("Tab")
    page.locator("#push-who").get_by_text("You push as carl").wait_for()
    # One that is cancelled leaves nothing at the Hub, which takes its time to answer.
    api, plan, told = HfApi(endpoint=hub.url, token=token), hub.root / FILENAME, hub.root / LOG
    dropped = {"path": "/api/repos/delete", "method": "DELETE", "do": "drop"}
    commit = "/api/models/carl/opened/commit"
    for place, does, deletes in (
        ("/api/repos/create", "late", []),
        (commit, "stall", []),
        (commit, "stall", [dropped]),
    ):
        plan.write_text(json.dumps([{"path": f"{place}.*", "do": does, "seconds": 4}, *deletes]))
        try:
            push(page, "carl/opened", token)
            while not told.is_file() or f'["POST", "{place}' not in told.read_text():
                page.wait_for_timeout(50)
            page.get_by_role("button", name="Cancel: Pushing").click()
            left = "The Hub did not answer" if deletes else "Nothing half-made is left."
            page.get_by_text(f"Pushing regmean was cancelled. {left}").wait_for()
            assert api.repo_exists("carl/opened") == bool(deletes)
        finally:
            plan.unlink()
            told.unlink(missing_ok=True)
    push(page, "carl/opened", token)
    page.get_by_text("Its page opens for carl alone, who signs in there").wait_for()
    with page.context.expect_page() as opened:
        page.get_by_role("link", name=f"{hub.url}/carl/opened", exact=True).first.click()
    there = opened.value
    there.get_by_text("A private or gated repository? Sign in").wait_for()
    there.get_by_label("Token").fill(token)
    there.get_by_role("button", name="Sign in").click()
    there.get_by_role("heading", name="opened", exact=True).wait_for()
    assert there.url == f"{hub.url}/carl/opened"


def test_what_comes_after_a_push_leads_and_its_address_stays(at_push, hub) -> None:
    """Also when the merge is deleted here; and what was asked of all models is there to be asked again."""
    page, address = at_push, f"{hub.url}/carl/led"
    assert loud(page) == ["Push"]
    push(page, "carl/led", hub.token("carl"))
    page.get_by_role("heading", name="The model is on the Hub").wait_for()
    expect(page.get_by_role("link", name="Open the model", exact=True)).to_have_attribute("href", address)
    assert page.locator("#push-token input").input_value() == ""
    assert loud(page) == ["Open the model"] and grave_faults(page) == []
    # Another merge is there to be pushed: that comes next.
    page.locator("#push-which input").click()
    page.get_by_role("option", name="mean (default options)", exact=True).click()
    expect(page.locator("#push")).to_have_class(re.compile(r"\bprimary\b"), timeout=180_000)
    assert loud(page) == ["Push"]
    compare(page, "a good film", "an awful plot")
    # From answers to scores to the push, as one reads.
    order = page.locator("#step-compare").locator("button, .fh-empty").all_inner_texts()
    way = ["Compare", "Score", "Name datasets or upload files above and press Score.", "Push a result"]
    assert [said for said in map(str.strip, order) if said in way] == way
    go(page, "Merge")
    page.get_by_role("button", name="Delete regmean").click()
    page.get_by_role("button", name="Delete mean").click()
    page.get_by_text("mean was deleted").nth(1).wait_for()
    go(page, "Compare")
    asked = "Press Compare. Nothing is merged yet: the experts alone will answer."
    page.get_by_text(asked, exact=True).wait_for()
    go(page, "Push")
    page.get_by_role("link", name=address, exact=True).wait_for()


def test_a_merge_is_proposed_to_a_repo_of_somebody_else(at_push, hub) -> None:
    """As a pull request, of which its owner decides; and the license stands there with its reason."""
    page, token = at_push, hub.token("carl")
    page.get_by_text(re.compile(r"apache-2\.0: .*apache-2\.0.* This is no legal advice")).wait_for()
    owner = HfApi(endpoint=hub.url, token=hub.token("ada"))
    owner.create_repo("ada/to-be-improved")
    page.get_by_label("A pull request to a repo that is there").check()
    push(page, "ada/to-be-improved", token)
    page.get_by_role("heading", name="The pull request is open").wait_for()
    page.get_by_role("link", name=f"{hub.url}/ada/to-be-improved/discussions/1", exact=True).wait_for()
    page.get_by_text("The pull request is ada's to decide on").wait_for()
    assert page.get_by_role("heading", name="Tell the owners").count() == 0, "that is for its owner to do"
    (proposed,) = owner.get_repo_discussions("ada/to-be-improved")
    assert proposed.is_pull_request and proposed.author == "carl" and proposed.status == "open"
    assert "model.safetensors" not in owner.list_repo_files("ada/to-be-improved")
    assert "model.safetensors" in owner.list_repo_files("ada/to-be-improved", revision=proposed.git_reference)
