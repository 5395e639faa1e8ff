"""What a visitor does at each step of the app, in the words that the page shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe

_axe = Axe()
GRAVE = ("serious", "critical")


def pick(page: Any, *models: str) -> None:
    """Names models in the box; each becomes a card."""
    page.locator("#named").get_by_role("textbox").fill(", ".join(models))
    page.get_by_role("button", name="Add", exact=True).click()
    for model in models:
        page.get_by_role("button", name=f"Remove {model}").wait_for()


def example(page: Any) -> None:
    page.locator("#example").click()
    page.get_by_role("list", name="Your models").wait_for()


def go(page: Any, step: str) -> None:
    """Goes to a step by the navigation."""
    page.get_by_role("navigation", name="Steps").get_by_role("button", name=step).click()
    page.locator(f"#step-{step.lower()}").wait_for()


def merge(page: Any, *others: str) -> None:
    """Merges by what is chosen already, and by `others`; returns when it is done."""
    go(page, "Merge")
    page.locator("#merge").wait_for()
    for method in others:
        box = page.locator("#methods").get_by_label(method, exact=True)
        if not box.is_visible():
            page.get_by_role("button", name="Other ways to merge").click()
        box.check()
    page.locator("#merge").click()
    page.get_by_role("list", name="Merged models").wait_for()


def compare(page: Any, *texts: str) -> None:
    go(page, "Compare")
    page.locator("#texts").get_by_role("textbox").fill("\n".join(texts))
    page.locator("#compare").click()
    page.locator(f".fh-compared[data-texts='{len(texts)}']").wait_for()


def push(page: Any, repo: str, token: str) -> None:
    go(page, "Push")
    page.locator("#push-repo").get_by_role("textbox").fill(repo)
    page.locator("#push-token input").fill(token)
    page.locator("#push").click()


_LOUD = """() => {
  const probe = document.createElement('button');
  probe.className = 'fh-button fh-loud';
  document.querySelector('.gradio-container').append(probe);
  const colour = getComputedStyle(probe).backgroundColor;
  probe.remove();
  return [...document.querySelectorAll('button:not(.fh-nav *), a.fh-button')].filter((one) =>
    one.checkVisibility({visibilityProperty: true}) && getComputedStyle(one).backgroundColor === colour
  ).map((one) => one.innerText.trim());
}"""


def loud(page: Any) -> list[str]:
    """What the page's loud buttons say, once it has settled: one of them says what comes next."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)
    return page.evaluate(_LOUD)


def grave_faults(page: Any) -> list[str]:
    """What axe-core finds on the page that is serious or critical, once nothing fades or moves any more.

    A page that is still being drawn has texts of little contrast; what is wrong with it stays.
    """
    for _ in range(10):
        if not (found := _grave_faults(page)):
            break
        page.wait_for_timeout(500)
    return found


def _grave_faults(page: Any) -> list[str]:
    found = _axe.run(page).response["violations"]
    return [
        f"{fault['id']}: {node['html'][:120]}"
        for fault in found
        if fault["impact"] in GRAVE
        for node in fault["nodes"]
    ]


_STICKS_OUT = """() => {
  const width = document.documentElement.clientWidth;
  const scrolls = (one) => ['auto', 'scroll'].includes(getComputedStyle(one).overflowX);
  const found = [];
  for (const one of document.querySelectorAll('.gradio-container main *')) {
    if (!one.checkVisibility({visibilityProperty: true}) || one.closest('.fh-sr, svg')) continue;
    let up = one.parentElement;
    while (up && !up.matches('main') && !scrolls(up)) up = up.parentElement;
    if (up && !up.matches('main')) continue;
    // What a page hides where it ends makes it no wider; so does what is wider than its button.
    const by = Math.max(one.getBoundingClientRect().right - width, one.matches('.fh-nav button') ?
      Math.max(0, ...[...one.querySelectorAll('*')].map((part) => part.getBoundingClientRect().right)) -
      one.getBoundingClientRect().right : 0);
    if (by >= 1) found.push(`${one.outerHTML.slice(0, 90)} by ${Math.ceil(by)}`);
  }
  return found;
}"""


def sticks_out(page: Any) -> list[str]:
    """What lies beyond the right edge of the window, or of its step in the navigation, and by how many pixels."""
    return page.evaluate(_STICKS_OUT)


def open_form(page: Any) -> None:
    """Opens the form for statistics where it was folded away, as nothing is missing."""
    page.get_by_role("list", name="Statistics of each model").wait_for()
    if page.get_by_text("All statistics are there").is_visible():
        page.locator("#statistics-source").wait_for(state="hidden")
        page.get_by_role("button", name="Make statistics from texts").click()
    page.locator("#statistics-source").wait_for()


def collect_file(page: Any, path: Path) -> None:
    """Uploads a file in the step of statistics, and asks for statistics of it."""
    go(page, "Statistics")
    open_form(page)
    page.get_by_label("A file", exact=True).check()
    page.locator("#statistics-file input").set_input_files(path)
    page.get_by_role("list", name="File with texts").get_by_text(path.name).wait_for()
    page.locator("#statistics-limit input[type=number]").fill("5000")
    page.locator("#make-statistics").click()


# A busy machine: whatever waits for the next frame of the page waits for a second.
SLOW_FRAMES = """() => {
  const frame = window.requestAnimationFrame.bind(window);
  window.requestAnimationFrame = (then) => frame(() => setTimeout(() => frame(then), 1000));
}"""
