"""Pictures of every step of the app, for docs/images: `python -m tests.app.screenshots HUB [--out docs/images]`.

With --kinds, HUB is one as `fusehub demo --kinds` leaves it, and the comparison of each kind of model is taken.

HUB is the folder of a local Hub as `make demo` leaves it in demo/hub; a copy of it is used.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from fusehub.demo import kinds
from fusehub.localhub import running
from fusehub.methods import METHODS
from tests.app.conftest import _QUIET, CHROMIUM, serving
from tests.app.steps import compare, example, go, merge, pick, push

TEXTS = ("The battery died after two days.", "I laughed, I cried.", "The plot is thin, but the actors are good.")
KINDS = {"wide": (1100, "light"), "wide-dark": (1100, "dark"), "narrow": (360, "light"), "narrow-dark": (360, "dark")}
DATA = "products=ada/product-reviews\nfilms=ben/film-reviews\neditorials=cleo/editorials\ntweets=dana/tweets"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("hub", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--kind", choices=KINDS, action="append", help="Which to take; all if not said.")
    parser.add_argument("--step", action="append", help="Of the visit, which to take; all if not said.")
    parser.add_argument("--kinds", action="store_true", help="The comparisons of each kind of model alone.")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(asked.hub, Path(folder, "hub"))
        with (
            running(copy) as hub,
            serving(hub, Path(folder), FUSEHUB_EXAMPLE="") as app,
            sync_playwright() as playwright,
        ):
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_QUIET)
            camera = _Camera(browser, app.url, asked.out, asked.kind or list(KINDS), asked.step)
            if asked.kinds:
                for kind in kinds.KINDS:
                    _kind(camera, kind, Path(folder))
            else:
                _visit(camera, hub.token("you"))
            browser.close()


class _Camera:
    """One page after the other, of which pictures are taken: each wide and narrow, light and dark."""

    def __init__(self, browser, url: str, out: Path, kinds: list[str], steps: list[str] | None) -> None:
        self.browser, self.url, self.out, self.kinds, self.steps = browser, url, out, kinds, steps

    def page(self):
        page = self.browser.new_page(viewport={"width": 1100, "height": 800}, color_scheme="light")
        page.set_default_timeout(400_000)
        page.goto(self.url)
        page.get_by_role("list", name="Models found").wait_for()
        return page

    def take(self, page, step: str) -> None:
        if self.steps and step not in self.steps:
            return
        for kind in self.kinds:
            width, scheme = KINDS[kind]
            page.set_viewport_size({"width": width, "height": 800})
            page.emulate_media(color_scheme=scheme)
            page.mouse.move(0, 0)
            # A picture of the whole page has the bar at the bottom of the window in its middle.
            for said in page.get_by_role("button", name="Close this message").all():
                said.click()
            page.wait_for_timeout(700)
            path = self.out / f"app-{step}-{kind}.png"
            page.screenshot(path=path, full_page=True)
            # A page has few colours: a palette takes a third of the room.
            Image.open(path).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
        page.set_viewport_size({"width": 1100, "height": 800})
        page.emulate_media(color_scheme="light")


def _visit(camera: _Camera, token: str) -> None:
    page = camera.page()
    camera.take(page, "first")
    example(page)
    camera.take(page, "pick")
    go(page, "Check")
    page.get_by_text("What a merge will take").wait_for()
    camera.take(page, "check")
    go(page, "Statistics")
    page.get_by_role("list", name="Statistics of each model").wait_for()
    camera.take(page, "statistics")
    merge(page)
    camera.take(page, "merge")
    compare(page, *TEXTS)
    page.locator("#datasets").get_by_role("textbox").fill(DATA)
    page.locator("#score-limit input[type=number]").fill("100")
    page.locator("#score").click()
    page.get_by_role("list", name="What the numbers mean").wait_for()
    camera.take(page, "compare")
    go(page, "Push")
    page.get_by_label("Public: everybody can").check()
    page.get_by_label("With a demonstration").check()
    push(page, "you/minilm-sentiment-merged-in-the-app", token)
    page.get_by_role("heading", name="The model is on the Hub").wait_for()
    page.locator("#push-token input").fill(token)
    page.get_by_role("button", name="Publish the recipe only").click()
    page.get_by_role("heading", name="The recipe is on the Hub").wait_for()
    page.get_by_role("heading", name="Tell the owners").wait_for()
    camera.take(page, "push")
    page.close()


def _kind(camera: _Camera, kind: kinds.Kind, folder: Path) -> None:
    """Two tiny experts, the mean and RegMean: what they say of an example of each one's own, and how good that is."""
    page = camera.page()
    pick(page, *kinds.names_of(kind))
    go(page, "Merge")
    page.locator("#merge").wait_for()
    for method in ("mean", "regmean"):
        _choose(page, METHODS[method].title)
    page.locator("#merge").click()
    page.get_by_role("list", name="Merged models").get_by_role("article").nth(1).wait_for()
    rows = [kind.rows(owner, 1, random.Random(5))[0] for owner in range(2)]
    if kind.task == "image-classification":
        go(page, "Compare")
        paths = [folder / f"{row['label']}-{name}.png" for row, name in zip(rows, kind.about, strict=True)]
        for row, path in zip(rows, paths, strict=True):
            row["image"].save(path)
        with page.expect_file_chooser() as chosen:
            page.get_by_role("button", name="Add images").click()
        chosen.value.set_files(paths)
        page.get_by_role("list", name="Images to ask about").get_by_text(paths[1].name).wait_for()
        page.locator("#compare").click()
        page.locator(".fh-compared").wait_for()
    else:
        compare(page, *map(_asked, rows))
    data = "\n".join(f"{name}={source}" for name, source in zip(kind.about, kinds.data_of(kind), strict=True))
    page.locator("#datasets").get_by_role("textbox").fill(data)
    page.locator("#score").click()
    page.get_by_role("list", name="What the numbers mean").wait_for()
    page.locator("#score-columns").wait_for()
    camera.take(page, f"kind-{kind.short}")
    page.close()


def _choose(page, method: str) -> None:
    """Has a method taken, whether it is recommended, the baseline, or one of the others."""
    chosen = page.get_by_label(method, exact=True)
    if not chosen.first.is_visible():
        page.get_by_role("button", name="Other ways to merge").click()
    chosen.first.check()


def _asked(row: dict) -> str:
    """What a person types of an example: of a text, its beginning."""
    if "context" in row:
        return f"{row['question']} | {row['context']}"
    return " ".join(row["tokens"]) if "tokens" in row else " ".join(row["text"].split()[:2])


if __name__ == "__main__":
    main()
