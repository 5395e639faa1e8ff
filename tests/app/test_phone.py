"""How long a page is on a phone."""

from __future__ import annotations

from tests.app.steps import compare, example, merge

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
    bars = page.get_by_text("Bars of all answers")
    bars.click()
    page.locator(".fh-answers").first.wait_for()
