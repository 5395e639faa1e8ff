"""What a way to merge lacks is one click away."""

from __future__ import annotations

from tests.app.conftest import publish
from tests.app.steps import go, merge, pick
from tests.unit.experts import relatives

NAMES = ["ada/no-base-said", "ben/no-base-said"]


def test_a_base_that_nobody_has_named_is_named_from_the_way_that_needs_it(visitor, hub, tmp_path) -> None:
    for repo, path in zip(NAMES, relatives(tmp_path), strict=True):
        publish(hub, repo, path)
    publish(hub, "ada/their-base", tmp_path / "base")
    page = visitor()
    pick(page, *NAMES)
    go(page, "Merge")
    page.locator("#merge").wait_for()
    page.get_by_role("button", name="Other ways to merge").click()
    ties = page.locator("#methods").get_by_label("TIES", exact=True)
    ties.wait_for()
    assert ties.is_disabled()
    page.locator("#methods").get_by_role("button", name="Name the base model").first.click()
    # The field is open where it leads to.
    base = page.locator("#base-model").get_by_role("textbox")
    base.fill("ada/their-base")
    page.locator("#check").click()
    page.get_by_text("What a merge will take").wait_for()
    merge(page, "TIES")
    page.get_by_role("list", name="Merged models").get_by_role("heading", name="ties").wait_for()
    made = page.get_by_role("list", name="Merged models").inner_text()
    assert "ada/their-base" in made, made
