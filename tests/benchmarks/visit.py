"""A visit from the first paint to a repo on the Hub, in clicks and seconds: `python -m tests.benchmarks.visit HUB`.

HUB is the folder of a local Hub as `make demo` leaves it in demo/hub; a copy of it is used. Clicks are those that the
browser hears; texts are filled in without any. With --one-go, one press leads from the models to their comparison.

The app of another commit is visited from its checkout, by what its pages have:

    cd ../before && PYTHONPATH=$PWD python -P ../fusehub/tests/benchmarks/visit.py HUB
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from fusehub.localhub import running
from tests.app.conftest import _QUIET, CHROMIUM, serving
from tests.app.steps import compare, example, merge, push

TEXTS = ("The battery died after two days.", "I laughed, I cried.", "The plot is thin, but the actors are good.")
_COUNT = (
    "addEventListener('click', (event) => { if (event.isTrusted) window.clicks = (window.clicks || 0) + 1; }, true)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("hub", type=Path)
    parser.add_argument("--one-go", action="store_true", help="From picked to compared by one press.")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(asked.hub, Path(folder, "hub"))
        with (
            running(copy) as hub,
            serving(hub, Path(folder), FUSEHUB_EXAMPLE="") as app,
            sync_playwright() as playwright,
        ):
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_QUIET)
            steps = _visit(browser, app.url, hub.token("you"), one_go=asked.one_go)
            browser.close()
    whole = {"clicks": sum(own["clicks"] for own in steps.values())}
    whole["seconds"] = round(sum(own["seconds"] for own in steps.values()), 1)
    print(json.dumps({**steps, "all": whole}, indent=1))


def _visit(browser, url: str, token: str, *, one_go: bool) -> dict[str, dict[str, float]]:
    """Step -> its clicks, and its seconds until what it gives is there."""
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    page.set_default_timeout(400_000)
    page.add_init_script(_COUNT)
    told: dict[str, dict[str, float]] = {}

    def took(step: str, started: float, before: int) -> None:
        clicks = page.evaluate("window.clicks || 0") - before
        told[step] = {"clicks": clicks, "seconds": round(time.perf_counter() - started, 1)}

    def first() -> None:
        page.goto(url)
        page.get_by_role("list", name="Models found").wait_for()

    def check() -> None:
        page.get_by_role("button", name="Check these models").click()
        page.get_by_text("What a merge will take").wait_for()

    def statistics() -> None:
        page.get_by_role("button", name="Go on to statistics").click()
        page.get_by_role("list", name="Statistics of each model").wait_for()

    def at_once() -> None:
        page.get_by_role("button", name="Merge and compare in one go").click()
        page.locator(".fh-compared").wait_for()

    def published() -> None:
        push(page, "you/minilm-of-a-visit", token)
        page.get_by_role("heading", name="The model is on the Hub").wait_for()

    each = [
        ("check", check), ("statistics", statistics), ("merge", lambda: merge(page)),
        ("compare", lambda: compare(page, *TEXTS)),
    ]  # fmt: skip
    way = [("check, merge and compare in one go", at_once)] if one_go else each
    for step, do in [("first paint", first), ("pick", lambda: example(page)), *way, ("push", published)]:
        before = page.evaluate("window.clicks || 0") if told else 0
        started = time.perf_counter()
        do()
        took(step, started, before)
    return told


if __name__ == "__main__":
    main()
