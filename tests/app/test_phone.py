"""How long a page is on a phone, and that whatever opens there can be read."""

from __future__ import annotations

from tests.app.steps import compare, example, go, grave_faults, merge, push, sticks_out

_HEIGHT = 900


def test_what_is_said_of_two_texts_fits_into_one_window(visitor) -> None:
    """And the whole step into three: bars, plots and what scores need come on demand."""
    page = visitor(width=360)
    example(page)
    merge(page)
    compare(page, "a very good film", "an awful bad plot")
    first, last = page.locator(".fh-compared").bounding_box(), page.locator(".fh-downloads").bounding_box()
    assert last["y"] + last["height"] - first["y"] < _HEIGHT
    assert page.evaluate("document.documentElement.scrollHeight") < 3 * _HEIGHT
    page.get_by_text("Bars of all answers").click()
    page.locator(".fh-answers").first.wait_for()


def test_whatever_opens_fits_a_phone_and_can_be_read_in_the_dark(visitor, hub) -> None:
    """Every part of every step that is folded away, down to the letter to an owner; axe-core finds nothing grave."""
    page, faults = visitor(width=360, dark=True), {}

    def look(step: str) -> None:
        _open_all(page, step)
        faults[step] = grave_faults(page), sticks_out(page)

    example(page)
    look("pick")
    go(page, "Check")
    page.get_by_text("What a merge will take").wait_for()
    look("check")
    go(page, "Statistics")
    page.get_by_role("list", name="Statistics of each model").wait_for()
    look("statistics")
    merge(page)
    look("merge")
    compare(page, "a very good film", "an awful bad plot")
    page.locator("#datasets").get_by_role("textbox").fill("ada/reviews")
    page.locator("#score").click()
    page.get_by_role("list", name="What the numbers mean").wait_for()
    look("compare")
    go(page, "Push")
    page.get_by_label("Public: everybody can").check()
    push(page, "carl/opened-on-a-phone", hub.token("carl"))
    page.get_by_role("heading", name="Tell the owners").wait_for()
    look("push")
    assert faults == dict.fromkeys(faults, ([], [])) and len(faults) == 6


def _open_all(page, step: str) -> None:
    """Opens the parts of a step, and the parts within them."""
    folded = page.locator(f"#step-{step}").locator("button.label-wrap:not(.open), details:not([open]) > summary")
    opened = 0
    while (left := folded.filter(visible=True)).count():
        left.first.click()
        page.wait_for_timeout(200)
        opened += 1
        assert opened < 60, "each opens once"
    assert opened, f"nothing opens in {step}"
