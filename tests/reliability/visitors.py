"""People and programs that come to the app, as a load: each step is one that a visitor takes, and then reads.

for _ in visit(page, SENTIMENT, leave="abandon", folder=folder):
    time.sleep(30)
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.app.conftest import DATASET, ENTITIES, SENTIMENT, SLOW
from tests.app.programs import Client, Refused
from tests.app.steps import compare, go, merge, pick

TEXTS = ("a very good film", "an awful bad plot", "music was fine", "not bad at all", "Anna visited Paris")
ENDS = ("close", "abandon", "reload", "cancel", "change")
_ROWS = "text,label\na good film,positive\nan awful plot,negative\nfine music,positive\nsad and bad,negative\n"


def visit(page: Any, number: int, folder: Path) -> Iterator[str]:
    """One visit, to be gone through one step at a time; it merges once. `ENDS` says how it ends, by its number."""
    end = ENDS[number % len(ENDS)]
    models = SLOW if end == "cancel" else ENTITIES if number % 7 == 3 else SENTIMENT
    pick(page, *models)
    yield "picked"
    go(page, "Check")
    page.get_by_text("What a merge will take").wait_for()
    yield "checked"
    go(page, "Merge")
    # One way to merge alone: where the mean is not the recommended one, it is chosen beside it.
    page.locator("#merge").wait_for()
    if page.locator("#baseline").is_visible():
        page.locator("#recommended input").uncheck()
    if end in ("abandon", "cancel"):
        page.locator("#merge").click()
        if end == "cancel":
            cancel = page.get_by_role("region", name="Work that goes on").get_by_role("button", name="Cancel")
            done = page.get_by_role("list", name="Merged models")
            cancel.or_(done).first.wait_for()
            if cancel.is_visible():
                cancel.click()
                page.get_by_text("was cancelled").or_(done).first.wait_for()
        yield "cancelled" if end == "cancel" else "abandoned"
        return
    merge(page)
    yield "merged"
    compare(page, random.Random(number).choice(TEXTS))
    yield "compared"
    if models is SENTIMENT and number % 2:
        rows = folder / f"rows-{number}.csv"
        rows.write_text(_ROWS)
        with page.expect_file_chooser() as chosen:
            page.get_by_role("button", name="Add files with texts and labels").click()
        chosen.value.set_files(rows)
        page.get_by_role("list", name="Files to score on").get_by_text(rows.name).wait_for()
        page.locator("#score").click()
        page.get_by_role("list", name="What the numbers mean").wait_for()
        yield "scored"
    if end == "reload":
        page.reload()
        page.locator(".fh-compared").wait_for()
        yield "reloaded"
    if end == "change":
        go(page, "Pick")
        page.get_by_role("button", name=f"Remove {models[1]}").click()
        page.get_by_role("button", name=f"Remove {models[1]}").wait_for(state="detached")
        pick(page, "ada/base")
        go(page, "Check")
        page.get_by_text("The models").first.wait_for()
        yield "changed"


class Programs:
    """Merges by programs, each by one that comes for it alone, and light questions in between, which are timed."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seconds: list[float] = []
        self.merges = 0
        self._client = Client(url)
        self._merged: str | None = None

    def merge(self, number: int) -> None:
        client = Client(self.url)
        method = ("mean", "regmean")[number % 2]
        self._merged = client.predict(models=SENTIMENT, method=method, options={}, api_name="/merge")["name"]
        self.merges += 1
        if number % 4 == 0:
            client.predict(models=SENTIMENT, api_name="/check")
        with self._merge_that_may_be_gone():
            everyone = [*SENTIMENT, self._merged]
            if number % 5 == 0:
                data = {"films": f"{DATASET}/test"}
                client.predict(models=everyone, data=data, limit=4, api_name="/evaluate")
            client.predict(models=everyone, texts=[TEXTS[0]], api_name="/compare")

    def ask(self, number: int) -> None:
        """A light question: what three models and their ensemble say of one text."""
        models = [*SENTIMENT, *([self._merged] if self._merged else [])]
        started = time.perf_counter()
        with self._merge_that_may_be_gone():
            self._client.predict(models=models, texts=[TEXTS[number % len(TEXTS)]], api_name="/compare")
            self.seconds.append(time.perf_counter() - started)

    @contextmanager
    def _merge_that_may_be_gone(self) -> Iterator[None]:
        """On a machine that has other things to do, a merge has been idle for too long by the time it is asked."""
        try:
            yield
        except Refused as error:
            if "There is no merge" not in str(error):
                raise
            self._merged = None


def at_their_times(
    acts: list[tuple[float, Callable[[], None]]], failed: list[str], until: float, started: float
) -> None:
    """Does each act at its second after `started` (or as soon as the ones before it are done); not after `until`."""
    for when, act in sorted(acts, key=lambda act: act[0]):
        time.sleep(max(0.0, started + when - time.monotonic()))
        if time.monotonic() > until:
            return
        try:
            act()
        except Exception as error:
            failed.append(f"{time.monotonic() - started:.0f} s: {error}")
