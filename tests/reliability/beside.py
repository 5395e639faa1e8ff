"""Is the app a lighter or a heavier load than at another commit? The same visits on two checkouts, in turn.

    git worktree add ../before COMMIT
    python -m tests.reliability.beside ../before . --pairs 3

Each checkout runs its own app and its own visitor (`tests.reliability.visitors`), who takes the same steps by what the
page is there. All come one after the other and read nothing; then programs do. The main figure is processor time of
the app's processes, which other work on the machine hardly changes; seconds are told beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

VISITS, MERGES, QUESTIONS = 10, 8, 40
# Steps that a visitor waits for, in the order of the visit; what else there is, is counted with all steps.
STEPS = ("came", "picked", "checked", "merged", "compared", "scored", "reloaded")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trees", type=Path, nargs="*", help="The folders of two checkouts, the older one first.")
    parser.add_argument("--pairs", type=int, default=3, help="Runs of each, in turn.")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        asked.one.write_text(json.dumps(_one()))
        return
    trees = [tree.resolve() for tree in asked.trees]
    runs: list[list[dict[str, Any]]] = [[], []]
    for pair in range(asked.pairs):
        # Whoever is first in one pair is second in the next.
        for place in (0, 1) if pair % 2 == 0 else (1, 0):
            runs[place].append(_run(trees[place]))
            print(json.dumps({"tree": trees[place].name, **runs[place][-1]}), flush=True)
    from tests.reliability.report import keep

    commits = [_commit(tree) for tree in trees]
    command = f"python -m tests.reliability.beside ../before . --pairs {asked.pairs}"
    keep("beside", command, ("what", *commits, "after to before"), rows(*runs))


def rows(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The table: medians of the runs, with the least and the most of them."""
    found = []
    for name in dict.fromkeys(name for run in after for name in run):
        own = [[run[name] for run in runs if name in run] for runs in (before, after)]
        if not all(own):
            continue
        medians = [statistics.median(values) for values in own]
        ratio = f"{medians[1] / medians[0]:.2f}" if all(medians) else ""
        found.append((name, *(_told(values) for values in own), ratio))
    return found


def _told(values: Sequence[float]) -> str:
    def shown(value: float) -> str:
        return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"

    middle, least, most = (shown(own) for own in (statistics.median(values), min(values), max(values)))
    return middle if least == most else f"{middle} ({least} to {most})"


def _commit(tree: Path) -> str:
    return subprocess.check_output(["git", "-C", tree, "rev-parse", "--short", "HEAD"], text=True).strip()


def _run(tree: Path) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".json") as told:
        # The app and the tests of that checkout, whose own copy of this file may not be there yet.
        env = os.environ | {"PYTHONPATH": str(tree)}
        command = [sys.executable, "-P", str(Path(__file__).resolve()), "--one", told.name]
        subprocess.run(command, cwd=tree, env=env, check=True, stdout=subprocess.DEVNULL)
        return json.loads(Path(told.name).read_text())  # type: ignore[no-any-return]


def _one() -> dict[str, Any]:
    """The load on the app of the checkout that is imported."""
    import psutil
    from playwright.sync_api import sync_playwright

    import fusehub
    from fusehub.localhub import running
    from tests.app import conftest
    from tests.reliability.visitors import Programs, visit

    assert Path(fusehub.__file__).is_relative_to(Path.cwd()), "the app is that of the checkout"
    found: dict[str, Any] = {}
    seconds: dict[str, list[float]] = defaultdict(list)
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="fusehub-beside-") as name, sync_playwright() as playwright:
        folder = Path(name)
        browser = playwright.chromium.launch(executable_path=conftest.CHROMIUM, args=conftest._QUIET)
        with running(folder / "hub") as hub:
            conftest.fill(hub, folder / "experts")
            setting = {"shared": True, "left": 20, "idle": 300, "sweep": 10}
            with conftest.serving(hub, folder, setting=setting) as app:
                top, programs = psutil.Process(app.process.pid), Programs(app.url)
                # What is made once and for all is there, and the first visitor has been.
                programs.merge(0)
                _walk(browser, app.url, visit, 0, folder, defaultdict(list), failed)
                programs.seconds.clear()

                def measured(what: str, count: int, work: Callable[[], None]) -> None:
                    used, started = _used(top), time.monotonic()
                    work()
                    took = time.monotonic() - started
                    found[f"processor seconds of the app a {what}"] = (_used(top) - used) / count
                    found[f"{what}s a minute"] = 60 * count / took

                def visits() -> None:
                    for number in range(1, VISITS + 1):
                        _walk(browser, app.url, visit, number, folder, seconds, failed)

                measured("visit", VISITS, visits)
                measured("program's merge", MERGES, lambda: _tried(programs.merge, range(1, MERGES + 1), failed))
                programs.seconds.clear()
                measured("light question", QUESTIONS, lambda: _tried(programs.ask, range(QUESTIONS), failed))
                found["light question, median s"] = statistics.median(programs.seconds)
                programs.seconds.clear()
                asking = threading.Thread(target=_tried, args=(programs.ask, range(QUESTIONS), failed))
                asking.start()
                beside: dict[str, list[float]] = defaultdict(list)
                for number in range(1, 4):
                    _walk(browser, app.url, visit, number, folder, beside, failed)
                asking.join()
                quantiles = statistics.quantiles(programs.seconds, n=20)
                found["light question beside visits, median s"] = statistics.median(programs.seconds)
                found["light question beside visits, 95 % within s"] = quantiles[-1]
                found["memory of all processes at the end, MB"] = _memory(top) / 1e6
            if "Traceback" in (said := app.log.read_text()):
                failed.append(said[-3000:])
        browser.close()
    for step in STEPS:
        if own := seconds[step]:
            found[f"step '{step}', median s"] = statistics.median(own)
    every = [value for own in seconds.values() for value in own]
    found["all steps, 95 % within s"] = statistics.quantiles(every, n=20)[-1]
    found["went wrong"] = len(failed)
    found["processes on this machine that want a core"] = os.getloadavg()[1]
    for said in failed:
        print(said, file=sys.stderr, flush=True)
    return found


def _walk(
    browser: Any, url: str, visit: Callable[..., Any], number: int, folder: Path, seconds: dict, failed: list[str]
) -> None:
    """One visit, whose steps are timed."""
    context = browser.new_context()
    context.set_default_timeout(120_000)
    try:
        page, started = context.new_page(), time.perf_counter()
        page.goto(url)
        page.get_by_role("list", name="Models found").wait_for()
        seconds["came"].append(time.perf_counter() - started)
        steps = visit(page, number, folder)
        while True:
            started = time.perf_counter()
            step = next(steps)
            seconds[step].append(time.perf_counter() - started)
    except StopIteration:
        pass
    except Exception as error:
        failed.append(f"visit {number}: {error}")
    finally:
        context.close()


def _tried(act: Callable[[int], None], numbers: Sequence[int], failed: list[str]) -> None:
    for number in numbers:
        try:
            act(number)
        except Exception as error:
            failed.append(f"{number}: {error}")


def _used(top: Any) -> float:
    """Processor seconds of a process and of all that it has started, those that have ended too."""
    import psutil

    total = 0.0
    for process in [top, *top.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _memory(top: Any) -> float:
    """Bytes of all processes; what several share is counted once."""
    import psutil

    total = 0
    for process in [top, *top.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total


if __name__ == "__main__":
    main()
