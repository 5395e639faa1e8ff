"""Every command against a Hub that does everything wrong that one can, and then once more against one that is well.

    python -m tests.reliability.faults                 # each fault in each command, at one kind of its questions
    python -m tests.reliability.faults --places 0      # at every kind of question that the command asks: many hours
    python -m tests.reliability.faults --minutes 30    # as many of them, in random order, as fit into that

An outcome is right, or a refusal in words with nothing left behind; and the second run must give what is right.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fusehub.hub.wire import Patience
from fusehub.localhub import running
from tests.reliability.misbehaviour import ANSWERS, BEFORE, SPECIAL, Fault, plan
from tests.reliability.report import keep
from tests.reliability.trials import COMMANDS, Outcome, World, kind_of, kinds_of, trial, world


@dataclass(frozen=True)
class Case:
    """A fault of one kind of question that a command asks."""

    fault: str
    command: str
    method: str | None
    path: str
    once: bool

    @property
    def faults(self) -> list[Fault]:
        """The plan for the Hub."""
        known = ANSWERS[self.fault] if self.fault in ANSWERS else SPECIAL[self.fault][1]
        return plan(known, self.path, self.method, once=self.once)


def cases(asked: dict[str, list[tuple[str, str]]], places: int, seed: int = 0) -> list[Case]:
    """Each fault in each command for ever, at `places` of the kinds of questions that it asks; in every fourth once.

    With 0 places at all of them, and as often once as for ever. In random order.
    """
    draw = random.Random(seed)
    found, number = [], 0
    for fault in ANSWERS:
        for command, kinds in asked.items():
            number += 1
            for once in (False, True) if not places or number % 4 == 0 else (False,):
                for method, path in draw.sample(kinds, min(places, len(kinds)) or len(kinds)):
                    found.append(Case(fault, command, method, path, once))
    pushing = [command for command in asked if command.startswith("publish")]
    for fault, (path, _) in SPECIAL.items():
        for command in pushing if not places else draw.sample(pushing, min(2, len(pushing))):
            found.append(Case(fault, command, None, path, False))
    draw.shuffle(found)
    return found


def campaign(at: World, places: int, commands: Sequence[str], seed: int) -> Iterator[tuple[Case, Outcome]]:
    """What came of every case, as it comes."""
    right, asked = {}, {}
    for command in commands:
        outcome, right[command] = trial(at, command, [], None)
        if outcome.kind != "right":
            raise SystemExit(f"{command} does not work at all: {outcome}")
        asked[command] = kinds_of(at.last)
    for case in cases(asked, places, seed):
        yield case, trial(at, case.command, case.faults, right[case.command])[0]


def waited(fault: str, tries: int) -> float:
    """Seconds that so many tries of an answer take with the patience that FuseHub has."""
    real = Patience()
    each = real.answer if fault in ("stalls", "late") else 0.0
    pauses = [1.0] * 3 if fault == "429, again in 1 s" else list(real.pauses)
    return min(tries, real.tries) * each + sum(pauses[: max(0, tries - 1)])


def table(found: Sequence[tuple[Case, Outcome]]) -> list[list[object]]:
    """A row for each fault."""
    rows = []
    for fault in (*ANSWERS, *SPECIAL):
        own = [(case, outcome) for case, outcome in found if case.fault == fault]
        if not own:
            continue
        most = max(outcome.tries for _, outcome in own)
        cells = [_counted(outcome.kind for case, outcome in own if case.once == once) for once in (True, False)]
        again = Counter(outcome.repeated for _, outcome in own if outcome.repeated)
        second = f"{again['right']} of {again.total()}" if again else "-"
        said = BEFORE.get(fault, "-")
        rows.append(
            [fault, len({case.command for case, _ in own}), *cells, f"{waited(fault, most):.0f} s", second, said]
        )
    return rows


def _counted(kinds: Iterable[str]) -> str:
    counts = Counter(kinds)
    return ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items())) or "-"


def run(places: int, commands: Sequence[str], seed: int, minutes: float) -> list[tuple[Case, Outcome]]:
    """What came of the cases that fit into so many minutes; each is printed as it comes, as a line of JSON."""
    found: list[tuple[Case, Outcome]] = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, running(Path(folder, "hub")) as hub:
        hub.add_user("ann")
        work = Path(folder, "work")
        work.mkdir()
        with world(hub, work) as at:
            for case, outcome in campaign(at, places, commands, seed):
                found.append((case, outcome))
                print(json.dumps([asdict(case), asdict(outcome)], ensure_ascii=False), flush=True)
                if len(found) % 20 == 0:
                    print(f"{len(found)} cases in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
                if time.monotonic() - started > 60 * minutes:
                    break
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--places", type=int, default=1, help="kinds of questions of each command; 0 for all")
    options.add_argument("--minutes", type=float, default=float("inf"), help="0 to try nothing anew")
    options.add_argument("--commands", nargs="*", default=list(COMMANDS), choices=list(COMMANDS))
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--kept", type=Path, nargs="*", default=(), help="what earlier runs printed, for one table")
    given = options.parse_args()
    known: dict[tuple[str, ...], tuple[Case, Outcome]] = {}
    for line in (line for path in given.kept for line in path.read_text(encoding="utf-8").splitlines()):
        case, outcome = json.loads(line)
        key = (case["fault"], case["command"], case["method"] or "", kind_of(case["path"]), str(case["once"]))
        known[key] = Case(**case), Outcome(**outcome)
    found = list(known.values())
    if given.minutes:
        found += run(given.places, given.commands, given.seed, given.minutes)
    head = ["what the Hub does", "commands", "once", "for ever", "longest wait", "then well: right", "at 7af6baa"]
    keep("faults", "python -m tests.reliability.faults", head, table(found))
    if not all(outcome.is_fine for _, outcome in found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
