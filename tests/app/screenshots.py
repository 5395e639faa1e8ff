"""Pictures of every step of the app, for docs/images: `python tests/app/screenshots.py HUB [--out docs/images]`.

HUB is the folder of a local Hub whose models have statistics, as `make demo` leaves it in demo/hub.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from fusehub.localhub import running
from tests.app.conftest import _QUIET, CHROMIUM, serving
from tests.app.steps import compare, example, go, merge

TEXTS = ("Not bad at all.", "I waited three weeks, and then it broke.", "The plot is thin, but the actors are good.")
KINDS = {"wide": (1100, "light"), "wide-dark": (1100, "dark"), "narrow": (360, "light"), "narrow-dark": (360, "dark")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("hub", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--kind", choices=KINDS, action="append", help="Which to take; all if not said.")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        running(asked.hub) as hub,
        serving(hub, Path(folder), FUSEHUB_EXAMPLE="") as app,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_QUIET)
        for kind in asked.kind or KINDS:
            width, scheme = KINDS[kind]
            page = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme).new_page()
            page.goto(app.url)
            _visit(page, asked.out, kind)
        browser.close()


def _visit(page, out: Path, kind: str) -> None:
    def take(step: str) -> None:
        page.wait_for_timeout(500)
        path = out / f"app-{step}-{kind}.png"
        page.screenshot(path=path, full_page=True)
        # A page has few colours: a palette takes a third of the room.
        Image.open(path).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)

    page.get_by_role("list", name="Models found").wait_for()
    example(page)
    take("pick")
    go(page, "Check")
    page.get_by_text("What a merge will take").wait_for()
    take("check")
    go(page, "Statistics")
    page.get_by_role("list", name="Statistics of each model").wait_for()
    take("statistics")
    merge(page)
    take("merge")
    compare(page, *TEXTS)
    take("compare")
    go(page, "Push")
    page.locator("#push").wait_for()
    take("push")


if __name__ == "__main__":
    main()
