"""Several pages at once: of several visits, which know nothing of each other, and of one, which show the same."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from space.setting import Setting
from space.visits import Visits
from space.workers.jobs import Jobs
from tests.app.conftest import ENTITIES, SENTIMENT
from tests.app.steps import example, go, merge, pick


def test_two_visitors_do_not_see_each_other(visitor) -> None:
    one, two = visitor(alone=True), visitor()
    pick(one, SENTIMENT[0])
    pick(two, ENTITIES[0])
    two.reload()
    two.get_by_role("button", name=f"Remove {ENTITIES[0]}").wait_for()
    assert two.get_by_role("button", name=f"Remove {SENTIMENT[0]}").count() == 0
    # A new tab of the same person is a visit of its own.
    other = one.context.new_page()
    other.goto(one.url)
    other.get_by_text("Nothing is picked yet").wait_for()


def test_a_tab_that_was_duplicated_shows_the_same_visit(visitor) -> None:
    """What stands in the boxes of one stands in those of the other when its turn comes, and nothing is empty."""
    one = visitor(alone=True)
    example(one)
    merge(one)
    with one.context.expect_page() as opened:
        one.evaluate("window.open(location.pathname)")
    two = opened.value
    two.get_by_role("list", name="Your models").wait_for()
    for page in (two, one):
        go(page, "Push")
        expect(page.locator("#push-repo input")).to_have_value("sentiment-regmean", timeout=60_000)
        expect(page.locator("#push-license input")).to_have_value("apache-2.0", timeout=60_000)
    one.locator("#push-repo input").fill("carl/two-tabs")
    one.get_by_role("button", name="Model card").click()
    one.get_by_role("tab", name="Edit").click()
    expect(one.locator("#push-card textarea")).to_have_value(re.compile('model="carl/two-tabs"'), timeout=60_000)
    go(two, "Merge")
    go(two, "Push")
    expect(two.locator("#push-repo input")).to_have_value("carl/two-tabs", timeout=60_000)
    # What one of them has going on the other one tells of, and can end.
    go(one, "Pick")
    one.get_by_role("button", name=f"Remove {SENTIMENT[0]}").click()
    one.get_by_role("button", name=f"Remove {SENTIMENT[0]}").wait_for(state="detached")
    go(two, "Check")
    two.get_by_text("A merge takes two models or more").wait_for()


def test_a_visit_that_two_pages_show_is_left_with_the_one_that_asked_last() -> None:
    visits = Visits(Setting(shared=True), Jobs(1, 1))
    visit = visits.open(page="one")
    assert visits.open(visit.key, "two") is visit
    assert visits.of(visit.key, "one") is visit
    visits.leave("two")
    assert visit.left_at is None, "the first is still there, and in use"
    visits.leave("one")
    assert visit.left_at is not None
    # A program that works with it is no page.
    assert visits.of(visit.key).page == "one"
    visits.close()
