"""How long the app's first page takes, and a comparison in twenty visits at once while a merge runs.

    python -m tests.benchmarks.app demo/hub              # the Hub that `make demo` made, with its three experts

The page is timed in Chromium, from the address to its first step, with what the browser knows of it already. Each
visit compares the experts, their ensemble and a merge on one text, reads for a while, and asks again.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import threading
import time
from pathlib import Path

from gradio_client import Client

from fusehub.localhub import running
from tests.app.conftest import _QUIET, CHROMIUM, serving

TEXTS = ("The battery died after two days.", "I laughed, I cried.", "Rain is expected on Friday.", "Not bad at all.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("hub", type=Path, help="Folder of a local Hub whose models have statistics.")
    parser.add_argument("--visits", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--read", type=float, default=5.0, help="Seconds that a visitor reads between two questions.")
    asked = parser.parse_args()
    work = Path(os.environ.get("TMPDIR", "/tmp")) / f"fusehub-load-{os.getpid()}"
    work.mkdir()
    with running(asked.hub) as hub:
        os.environ["HF_ENDPOINT"] = hub.url
        from huggingface_hub import HfApi

        from fusehub.statistics.file import FILENAME

        api = HfApi(endpoint=hub.url)
        models = [info.id for info in api.list_models() if _has(api, info.id, f"fusehub/{FILENAME}")][:3]
        with serving(hub, work) as app:
            painted = _paint(app.url)
            times, merges = _load(app.url, models, asked.visits, asked.rounds, asked.read)
    if painted:
        print(f"first page: median {statistics.median(painted):.2f} s, slowest {max(painted):.2f} s of {len(painted)}")
    times.sort()
    cores = len(os.sched_getaffinity(0))
    print(f"{len(times)} comparisons of {len(models)} experts, their ensemble and a merge, on {cores} cores,")
    print(f"{asked.visits} visits at once and {merges} merges meanwhile:")
    print(f"median {statistics.median(times):.2f} s, slowest tenth {times[len(times) * 9 // 10]:.2f} s")


def _has(api, repo: str, path: str) -> bool:
    return api.file_exists(repo, path)


def _paint(url: str, times: int = 5) -> list[float]:
    """Seconds until the first step stands, each time the page is loaded; nothing where there is no Chromium."""
    if CHROMIUM is None:
        return []
    from playwright.sync_api import sync_playwright

    painted = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_QUIET)
        page = browser.new_page()
        for _ in range(times + 1):
            started = time.perf_counter()
            page.goto(url)
            page.get_by_role("heading", name="Pick models").wait_for()
            painted.append(time.perf_counter() - started)
        browser.close()
    return painted[1:]


def _load(url: str, models: list[str], visits: int, rounds: int, read: float) -> tuple[list[float], int]:
    """Seconds of all comparisons, and how many merges were made meanwhile."""
    clients = [Client(url, verbose=False) for _ in range(visits)]
    merged = clients[0].predict(models=models, method="regmean", options={}, api_name="/merge")
    everyone = [*models, merged["name"]]
    clients[0].predict(models=everyone, texts=[TEXTS[0]], api_name="/compare")
    over = threading.Event()
    made: list[str] = []
    merging = threading.Thread(target=_merge_on, args=(Client(url, verbose=False), models, over, made))
    merging.start()
    times: list[float] = []

    def visit(number: int) -> None:
        rng = random.Random(number)
        for place in range(rounds):
            time.sleep(rng.uniform(0, 2 * read))
            started = time.perf_counter()
            text = TEXTS[(number + place) % len(TEXTS)]
            clients[number].predict(models=everyone, texts=[text], api_name="/compare")
            times.append(time.perf_counter() - started)

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(visits)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    merging.join()
    return times, len(made)


def _merge_on(client: Client, models: list[str], over: threading.Event, made: list[str]) -> None:
    while not over.is_set():
        made.append(client.predict(models=models, method="regmean", options={}, api_name="/merge")["name"])


if __name__ == "__main__":
    main()
