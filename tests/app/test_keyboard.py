"""The whole way by keyboard alone: from the first screen to the Hub by Tab, Enter and Space, and the focus is seen."""

from __future__ import annotations

from typing import Any

from huggingface_hub import HfApi

from tests.app.steps import SLOW_FRAMES, compare, example

# Where the focus is: what it is called, and whether that is seen, in the window.
_FOCUS = """() => {
  const at = document.activeElement;
  if (!at || at === document.body || !at.checkVisibility()) return null;
  const box = at.getBoundingClientRect();
  const marked = [at, at.parentElement, at.closest('label, .block')].filter(Boolean).some((one) => {
    const style = getComputedStyle(one);
    return (style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0) || style.boxShadow !== 'none';
  });
  const said = at.getAttribute('aria-label') || (at.labels && at.labels[0] ? at.labels[0].innerText : at.innerText);
  return {name: (said || '').trim().split('\\n')[0].trim(), marked,
          seen: box.bottom > 0 && box.top < innerHeight, html: at.outerHTML.slice(0, 120)};
}"""


def focus(page: Any) -> dict[str, Any]:
    """Where the focus is; it is somewhere, and seen."""
    page.wait_for_function(f"() => ({_FOCUS})() !== null")
    at = page.evaluate(_FOCUS)
    assert at["marked"] and at["seen"], at
    return at


def reach(page: Any, name: str) -> None:
    """Goes on by Tab to what is called so."""
    passed = []
    for _ in range(120):
        page.keyboard.press("Tab")
        at = page.evaluate(_FOCUS)
        if at is None:
            continue  # Between the page's end and its beginning is the browser itself.
        assert at["marked"] and at["seen"], at
        passed.append(at["name"])
        if at["name"] == name:
            return
    raise AssertionError(f"{name} is not among {passed}")


def test_the_whole_way_can_be_gone_by_keyboard(visitor, hub) -> None:
    page = visitor()

    def press(name: str, key: str) -> None:
        reach(page, name)
        page.keyboard.press(key)

    def write(name: str, text: str) -> None:
        reach(page, name)
        page.keyboard.insert_text(text)

    press("Try the example", "Enter")
    page.get_by_role("list", name="Your models").wait_for()
    focus(page)
    press("Check these models", "Enter")
    page.get_by_text("What a merge will take").wait_for()
    assert focus(page)["name"] == "Check that they fit", "what led here is gone"
    press("Go on to statistics", "Space")
    page.get_by_text("All statistics are there").wait_for()
    assert focus(page)["name"] == "Statistics"
    press("Go on to merge", "Enter")
    page.locator("#merge").wait_for()
    assert focus(page)["name"] == "Merge"
    press("Merge", "Space")
    page.get_by_role("list", name="Merged models").wait_for()
    page.wait_for_timeout(1000)  # The result comes into view.
    assert focus(page)["name"] == "Merge"
    press("Compare the results", "Enter")
    page.locator("#step-compare").wait_for()
    assert focus(page)["name"] == "Compare"
    write("Texts, one a line", "a very good film")
    press("Compare", "Enter")
    page.wait_for_function(
        "() => document.querySelector('.fh-compared')?.getBoundingClientRect().top < innerHeight / 2"
    )
    page.wait_for_timeout(1000)
    assert page.evaluate(_FOCUS)["name"] == "Compare"
    press("Push a result", "Enter")
    page.locator("#step-push").wait_for()
    assert focus(page)["name"] == "Push to the Hub"
    write("Token", hub.token("carl"))
    reach(page, "Name on the Hub")
    page.keyboard.press("Control+a")
    page.keyboard.insert_text("carl/by-keyboard")
    press("With a demonstration", "Space")
    assert page.get_by_label("With a demonstration").is_checked()
    page.keyboard.press("Space")
    press("Push", "Enter")
    page.get_by_role("heading", name="The model is on the Hub").wait_for()
    # The result is brought into view, and the focus with it: what was pressed is above the window then.
    page.wait_for_timeout(1000)
    assert focus(page)["name"] == "The model is on the Hub"
    assert HfApi(endpoint=hub.url, token=hub.token("carl")).repo_exists("carl/by-keyboard")


def test_whoever_goes_on_by_tab_is_not_taken_to_a_result(visitor) -> None:
    """A result that comes is brought into view, but not away from where somebody is by then."""
    page = visitor()
    page.set_viewport_size({"width": 1100, "height": 500})
    example(page)
    compare(page, "a very good film")
    page.locator("#layers").focus()
    page.evaluate(SLOW_FRAMES)
    scrolled = page.evaluate("scrollY")
    page.evaluate("window.fusehub.show('.fh-compared')")
    page.keyboard.press("Shift+Tab")
    page.wait_for_timeout(2500)
    assert page.evaluate("scrollY") <= scrolled and focus(page)["name"] == "Push a result"
    # Who stays where it was pressed is taken there, the focus too.
    page.evaluate("window.fusehub.show('.fh-compared')")
    page.wait_for_timeout(2500)
    assert page.evaluate("scrollY") < scrolled - 300
    focus(page)
