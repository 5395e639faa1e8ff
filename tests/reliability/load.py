"""Two hours of visitors: does the app grow? Visits in a real browser, and programs, that merge, compare and score.

    python -m tests.reliability.load --hours 2 --visits 20 --merges 200

`--visits` pages are open at once; each is one person's for a while, who picks, checks, merges, compares, scores,
changes the models, reloads, cancels or goes away amid a merge, and then another comes. Half of the merges are theirs,
half those of programs. Visits end sooner than they do for real (the table says when), so that what they leave is due
to go many times. What the app takes is looked at all the while.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fusehub.localhub import Running, running
from tests.app.conftest import _QUIET, CHROMIUM, Served, fill, serving
from tests.reliability.report import keep
from tests.reliability.visitors import Programs, at_their_times, visit
from tests.reliability.watching import BUSY, MEMORY, Sample, Watching, sample, thirds, wait_until

# What is taken as growth: more in the last third than in the first by this share, and by this much.
_SHARE = 0.05
_LEAST = {MEMORY: 10e6, "bytes": 5e6, "handles": 5, "threads": 5, "processes": 2, "temporary files": 100}
# Connections to the Hub that are kept for the next question, at most: httpx's own limit.
_CONNECTIONS = 20
# Whatever these do, it is no leak.
_NO_LEAK = {"cache bytes": "grows by design", "log bytes": "grows by design", BUSY: "of all, not of the app alone"}


@dataclass
class Load:
    """What was done, what it took, and what went wrong."""

    seconds: float
    visits: int = 0
    merges: int = 0
    samples: list[Sample] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    left: dict[str, Any] = field(default_factory=dict)
    """What there was before anybody came, and when all that they left was due to be gone."""

    def grown(self) -> list[str]:
        """The measures that grew from the first third to the last, or that did not come back to what they were."""
        found = [
            name for name in measures(self.samples) if name not in _NO_LEAK and _is_more(name, *_ends(self, name))
        ]
        return found + [f"{name}, at the end" for name in self.left_over()]

    def left_over(self) -> list[str]:
        """What is still there when all that they left was due to be gone."""
        return [name for name, ends in self.left.items() if not _is_gone(name, *ends)]


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--visits", type=int, default=20, help="Pages that are open at once.")
    parser.add_argument("--merges", type=int, default=200)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fusehub-load-") as name, sync_playwright() as playwright:
        folder, browser = Path(name), playwright.chromium.launch(executable_path=CHROMIUM, args=_QUIET)
        with running(folder / "hub") as hub:
            fill(hub, folder / "experts")
            load = carry(hub, browser, folder, asked.hours * 3600, asked.visits, asked.merges)
        browser.close()
    for said in load.failed:
        print(said, flush=True)
    command = (
        f"python -m tests.reliability.load --hours {asked.hours:g} --visits {asked.visits} --merges {asked.merges}"
    )
    keep("load", command, ("what", "first third", "second third", "last third", "outcome"), rows(load))
    if load.failed or load.grown():
        raise SystemExit(f"Something went wrong {len(load.failed)} times; what grew: {load.grown() or 'nothing'}.")


def carry(hub: Running, browser: Any, folder: Path, seconds: float, visits: int, merges: int) -> Load:
    """Lets them all come in `seconds`, of which the last sixth is for what they left to go."""
    idle = max(45.0, seconds / 12)
    setting = {"shared": True, "left": idle / 5, "idle": idle, "sweep": idle / 20}
    with serving(hub, folder, setting=setting) as app:
        try:
            load = _carry_on(app, browser, seconds * 5 / 6, visits, merges, folder)
        except Exception as error:
            raise RuntimeError(f"The app says: {app.log.read_text()[-5000:]}") from error
        _settle(app, load, idle * 2)
        if "Traceback" in (said := app.log.read_text()):
            load.failed.append(said[-3000:])
    return load


def _carry_on(app: Served, browser: Any, seconds: float, visits: int, merges: int, folder: Path) -> Load:
    generations = max(1, merges // (2 * visits))
    load, programs = Load(seconds), Programs(app.url)
    # What the process that answers needs once and for all is there.
    programs.merge(0)
    load.left = dict(sample(app))
    started = time.monotonic()
    count = merges - visits * generations
    every = seconds / max(count, 1)
    acts = [(number * every, lambda number=number: programs.merge(number)) for number in range(count)]
    asks = max(count * 3, 30)
    lights = [(number * seconds / asks, lambda number=number: programs.ask(number)) for number in range(asks)]
    threads = [
        threading.Thread(target=at_their_times, args=(those, load.failed, started + seconds, started))
        for those in (acts, lights)
    ]
    with Watching(app, max(seconds / 240, 0.5)) as watching:
        for thread in threads:
            thread.start()
        _walk(app.url, browser, visits, generations, folder, load)
        for thread in threads:
            thread.join()
    load.samples, load.answers, load.merges = watching.samples, programs.seconds, load.merges + programs.merges
    return load


def _walk(url: str, browser: Any, visits: int, generations: int, folder: Path, load: Load) -> None:
    """All visits, in the one thread that the browser may be used in: whoever's time has come takes a step.

    Who is still there when the time is over goes away where he is.
    """
    rng, numbers, started = random.Random(0), itertools.count(), time.monotonic()
    stay = load.seconds / generations
    turns: list[tuple[float, int, Iterator[str] | None, Any]] = []
    for place, generation in itertools.product(range(visits), range(generations)):
        heapq.heappush(turns, (stay * (generation + place / visits), next(numbers), None, None))
    while turns:
        when, number, steps, context = heapq.heappop(turns)
        if when > load.seconds:
            if context is not None:
                context.close()
            continue
        time.sleep(max(0.0, started + when - time.monotonic()))
        try:
            if steps is None:
                load.visits += 1
                context = browser.new_context()
                context.set_default_timeout(600_000)
                page = context.new_page()
                page.goto(url)
                page.get_by_role("list", name="Models found").wait_for()
                steps = visit(page, number, folder)
            load.merges += next(steps) in ("merged", "abandoned", "cancelled")
            # Six steps or fewer, in the time until the next one comes.
            reads = rng.uniform(0.5, 1) * stay / 7
            heapq.heappush(turns, (time.monotonic() - started + reads, number, steps, context))
        except StopIteration:
            context.close()
        except Exception as error:
            load.failed.append(f"visit {number}: {error}")
            context.close()


def _settle(app: Served, load: Load, seconds: float) -> None:
    """Waits until what visits left is gone, which it is due to be, and notes what is there then."""
    names = ("processes", "temporary files", "page: handles", "answers: handles", "start of processes: handles")
    before = {name: load.left[name] for name in names}

    def is_gone() -> bool:
        after = sample(app)
        load.left = {name: (value, after[name]) for name, value in before.items()}
        return not load.left_over()

    wait_until(is_gone, seconds)


def measures(samples: Sequence[Sample]) -> list[str]:
    """The names of all that was measured, in the order in which it is shown."""
    return list(dict.fromkeys(name for sample in samples for name in sample))


def rows(load: Load) -> list[tuple[str, ...]]:
    """The table: what was done, what it took in each third of the time, and how it was in the end."""
    did = f"{load.visits} visits, {load.merges} merges, {len(load.answers)} light questions"
    found = [(f"{did} in {load.seconds / 60:.0f} minutes", "", "", "", f"{len(load.failed)} went wrong")]
    third = len(load.answers) // 3
    parts = [load.answers[:third], load.answers[third : 2 * third], load.answers[2 * third :]]
    found.append(("answer to a light question, median", *(f"{statistics.median(part):.2f} s" for part in parts), ""))
    for name in measures(load.samples):
        first, _, last = thirds(load.samples, name)
        said = _NO_LEAK.get(name) or ("grew" if _is_more(name, first, last) else "holds")
        found.append((name, *(_told(name, value) for value in thirds(load.samples, name)), said))
    for name, (before, after) in load.left.items():
        said = "gone" if _is_gone(name, before, after) else "left over"
        found.append((f"{name}, before they came and in the end", _told(name, before), "", _told(name, after), said))
    return found


def _ends(load: Load, name: str) -> tuple[float, float]:
    first, _, last = thirds(load.samples, name)
    return first, last


def _is_more(name: str, first: float, last: float) -> bool:
    least = next(value for kind, value in _LEAST.items() if kind in name)
    return last - first > max(least, _SHARE * first)


def _is_gone(name: str, before: float, after: float) -> bool:
    return after <= before + (_CONNECTIONS if "handles" in name else 0)


def _told(name: str, value: float) -> str:
    return f"{value / 1e6:.1f} MB" if MEMORY in name or "bytes" in name else f"{value:.3g}"


if __name__ == "__main__":
    main()
