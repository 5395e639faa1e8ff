"""Broken repos by the thousand: `python -m tests.reliability.fuzz --cases 20000`, one of them again by `--case 17`.

Each case is decided by its number alone. Batches of them run in children of their own, so that one that crashes the
interpreter, or never ends, is seen as what it is, and the others go on. The counts go into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

BATCH = 100
HUB_SHARE = 60
PATIENCE = 300.0
"""Seconds without a word after which a child hangs."""
LARGEST = 6 * 2**30
"""Bytes of address space of a child; what asks for more fails by a MemoryError."""
OUTCOMES = ("right", "refused", "noted", "failed")
HEAD = ("file", "change", "cases", "right", "refused", "noted", "failed at 7af6baa", "failed now")
BEFORE = Path(__file__).parents[2] / "docs" / "reliability" / "before" / "fuzz.json"


def main() -> int:
    """Runs what the command line says; 1 where a case failed."""
    said = argparse.ArgumentParser(description=__doc__)
    said.add_argument("--cases", type=int, default=20000, help="how many")
    said.add_argument("--start", type=int, default=0, help="the number of the first")
    said.add_argument("--case", type=int, help="one of them alone, with all that was said")
    said.add_argument("--repo", help="of this repo only (see tests/reliability/fuzzing/worlds.py)")
    said.add_argument("--jobs", type=int, default=1, help="how many processes at a time")
    said.add_argument("--hub", type=int, help="how many answers of the Hub are broken; one for 60 cases if not said")
    said.add_argument("--minutes", type=float, default=1e9, help="end after that many, with what was done by then")
    said.add_argument("--counts", type=Path, help="write the counts there, and not into docs/reliability.md")
    options = said.parse_args()
    ends = time.monotonic() + 60 * options.minutes
    _be_quiet()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        place = Path(folder)
        if options.case is not None:
            verdict = _Cases(place, options.repo).one(options.case)
            print(json.dumps(verdict, indent=1, ensure_ascii=False, default=str))
            return 0
        answers = options.cases // HUB_SHARE if options.hub is None else options.hub
        of_hub = list(_of_the_hub(place / "hub", range(options.start, options.start + answers), ends))
        cases = _Cases(place, options.repo)
        numbers = range(options.start, options.start + options.cases)
        found = list(_told(cases, numbers, ends, options.jobs))
    verdicts = [*found, *of_hub]
    _print(verdicts)
    counts = _counts(verdicts)
    if options.counts:
        options.counts.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps([[*key, dict(own)] for key, own in counts.items()], indent=1)
        options.counts.write_text(text + "\n", encoding="utf-8")
    else:
        from tests.reliability.report import keep

        keep("fuzz", f"python -m tests.reliability.fuzz --cases {len(found)} --hub {len(of_hub)}", HEAD, _rows(counts))
    return int(any(verdict["outcome"] == "failed" for verdict in verdicts))


def _be_quiet() -> None:
    """Without warnings, of which broken files make many."""
    import logging
    import warnings

    import transformers

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


class _Cases:
    """The sound repos, and cases by their numbers."""

    def __init__(self, folder: Path, only: str | None) -> None:
        from huggingface_hub import constants

        from tests.reliability.fuzzing import watching
        from tests.reliability.fuzzing.cases import usual
        from tests.reliability.fuzzing.worlds import World

        self.folder, self.only = folder, only
        # Off the network, where a changed name may lead.
        constants.HF_HUB_OFFLINE = True
        watching.install()
        # What takes all of the machine's memory takes other programs with it.
        resource.setrlimit(resource.RLIMIT_AS, (LARGEST, LARGEST))
        self.world = World(folder / "world")
        # What is collected in each case is what the case made.
        gc.freeze()
        usual(self.world, folder / "usual", only)
        gc.collect()
        gc.freeze()

    def one(self, number: int) -> dict[str, Any]:
        """The verdict of one case."""
        from tests.reliability.fuzzing.cases import run

        return run(self.world, Random(number), self.folder / f"case-{number}", self.only).plain() | {"case": number}


class _Child:
    """A process that takes some cases, one after the other, and tells a line of JSON for each."""

    def __init__(self, cases: _Cases, numbers: Sequence[int]) -> None:
        self.left = list(numbers)
        self.reader, writer = os.pipe()
        self._text = b""
        self.silent = 0.0
        """Seconds without a word; those in which the campaign itself stood still are not among them."""
        self.is_over = False
        self.process = os.fork()
        if not self.process:
            # Whatever happens, this copy of the campaign must not go on with it.
            try:
                os.close(self.reader)
                with os.fdopen(writer, "w", encoding="utf-8") as file:
                    for number in numbers:
                        print(json.dumps(cases.one(number), default=str), file=file, flush=True)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(writer)

    def read(self) -> list[dict[str, Any]]:
        """The verdicts that came; and where it has ended too early, that of the case that it ended in."""
        piece = os.read(self.reader, 1 << 16)
        self.silent = 0.0
        *lines, self._text = (self._text + piece).split(b"\n")
        verdicts = [json.loads(line) for line in lines]
        del self.left[: len(verdicts)]
        if not piece:
            status = os.waitstatus_to_exitcode(self._end())
            verdicts += self._lost(f"crash: {status}")
        return verdicts

    def stop(self) -> list[dict[str, Any]]:
        """Ends a child that hangs; the verdict of the case that it hangs in."""
        os.kill(self.process, signal.SIGKILL)
        self._end()
        return self._lost("hang")

    def _end(self) -> int:
        self.is_over = True
        os.close(self.reader)
        return os.waitpid(self.process, 0)[1]

    def _lost(self, said: str) -> list[dict[str, Any]]:
        if not self.left:
            return []
        defect = {"kind": said, "step": "all", "said": "", "where": ""}
        facts = {"repo": "?", "kind": "?", "change": "?", "changes": [], "said": [], "case": self.left.pop(0)}
        return [facts | {"outcome": "failed", "defects": [defect]}]


def _told(cases: _Cases, numbers: Sequence[int], ends: float, jobs: int) -> Iterator[dict[str, Any]]:
    """The verdicts of all cases, each batch in a child, `jobs` of them at a time."""
    started, done, failed, told = time.monotonic(), 0, 0, 0
    waiting = [list(numbers[at : at + BATCH]) for at in range(0, len(numbers), BATCH)]
    children: dict[int, _Child] = {}
    while children or (waiting and time.monotonic() < ends):
        while waiting and len(children) < jobs and time.monotonic() < ends:
            child = _Child(cases, waiting.pop(0))
            children[child.reader] = child
        asked = time.monotonic()
        ready = select.select(list(children), [], [], 1.0)[0]
        for reader, child in list(children.items()):
            child.silent += min(time.monotonic() - asked, 2.0)
            if reader not in ready and child.silent < PATIENCE:
                continue
            found = child.read() if reader in ready else child.stop()
            if child.is_over:
                del children[reader]
                # The rest of its batch goes on in another.
                waiting[:0] = [child.left] if child.left else []
            for verdict in found:
                if verdict["defects"]:
                    print(f"--case {verdict['case']}  {verdict['repo']}  {verdict['defects'][0]}"[:300], flush=True)
                yield verdict
            done += len(found)
            failed += sum(verdict["outcome"] == "failed" for verdict in found)
        if done - told >= BATCH:
            told = done
            rate = (time.monotonic() - started) / done
            said = f"{done} of {len(numbers)}, {failed} failed, {rate:.2f} s each"
            print(f"{time.strftime('%H:%M')}  {said}", flush=True)


def _of_the_hub(folder: Path, numbers: Sequence[int], ends: float) -> Iterator[dict[str, Any]]:
    """The verdicts of cases in which the Hub's answers are broken."""
    if not numbers:
        return
    from tests.reliability.fuzzing.hub_answers import asking

    with asking(folder) as hub:
        for number in numbers:
            if time.monotonic() > ends:
                return
            yield hub.run(Random(number)).plain() | {"case": f"{number} --hub"}


def _counts(verdicts: Sequence[dict[str, Any]]) -> dict[tuple[str, str], Counter[str]]:
    """How often each outcome came of each kind of change in each kind of file, by what was changed first."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for verdict in verdicts:
        counts.setdefault((verdict["kind"], verdict["change"]), Counter())[verdict["outcome"]] += 1
    return dict(sorted(counts.items()))


def _rows(counts: dict[tuple[str, str], Counter[str]]) -> list[list[object]]:
    before = {}
    if BEFORE.exists():
        before = {(kind, change): own for kind, change, own in json.loads(BEFORE.read_text(encoding="utf-8"))}

    def row(kind: str, change: str, own: Counter[str], then: dict[str, int]) -> list[object]:
        share = f"{100 * then.get('failed', 0) / sum(then.values()):.1f} %" if then else ""
        return [kind, change, own.total(), *(own[name] for name in OUTCOMES[:3]), share, own["failed"]]

    rows = [row(kind, change, own, before.get((kind, change), {})) for (kind, change), own in counts.items()]
    all_now, all_then = sum(counts.values(), Counter()), sum(map(Counter, before.values()), Counter())
    return [*rows, row("**all**", "", all_now, all_then)]


def _print(verdicts: Sequence[dict[str, Any]]) -> None:
    """All defects, those of one kind together, the first of each with its case."""
    found: dict[tuple[str, str, str], list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for verdict in verdicts:
        for defect in verdict["defects"]:
            key = (defect["kind"], defect["step"], defect["where"] or defect["said"][:60])
            found.setdefault(key, []).append((verdict, defect))
    for (kind, step, where), own in sorted(found.items(), key=lambda item: -len(item[1])):
        print(f"{len(own)} x {kind} ({step}) {where}")
        for verdict, defect in own[:3]:
            print(f"    --case {verdict['case']}  {verdict['repo']}: {'; '.join(verdict['changes'])[:300]}")
            print(f"        {defect['said'][:300]}")


if __name__ == "__main__":
    sys.exit(main())
