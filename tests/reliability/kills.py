"""Kills commands and the Hub under them at random moments, starts two at once, and interrupts them.

    python -m tests.reliability.kills --times 100

After each kill the result must be absent or complete, the same command must succeed, and nothing of the killed run may
be left. Half of the kills wait until the result is being written.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.reliability import report
from tests.reliability.processes import Process, Warm, warm_hub
from tests.reliability.subjects import ABSENT, AFTER, COMPLETE, MOMENTS, Folder, Repo, Subject

MODELS = ("ann/expert-0", "ann/expert-1")
DEADLINE = math.inf
THERE = ("exists and is not empty", "exists already")
HEAD = ("command", "killed while", "kills", "absent", "complete", "half", "then succeeds", "left behind", "at 7af6baa")


@dataclass
class Found:
    """What was seen after the kills of one kind."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, moment: str, *kinds: str) -> None:
        self.counts.update((moment, kind) for kind in kinds)

    def fail(self, moment: str, kind: str, said: str) -> None:
        self.add(moment, kind)
        self.wrong.append(f"{moment}, {kind}: {said}")


@contextmanager
def workshop(home: Path) -> Iterator[tuple[Warm, dict[str, Subject], Path, list[Process]]]:
    """Two experts with statistics on a local Hub, and the commands that are killed, each with its reference."""
    from huggingface_hub import HfApi, constants

    from tests.unit.experts import relatives, texts_of, with_statistics

    constants.HF_HUB_DISABLE_XET = True  # The client reads the environment once, and others may have imported it.
    parts = with_statistics(relatives(home / "models", hidden=64))
    (home / "texts.txt").write_text("\n".join(texts_of(0, 60)))
    with warm_hub(home / "warm") as (warm, hub, root):
        api = HfApi(endpoint=warm.env["HF_ENDPOINT"], token=warm.env["HF_TOKEN"])
        for repo, part in zip(MODELS, parts, strict=True):
            api.create_repo(repo)
            api.upload_folder(repo_id=repo, folder_path=part, commit_message="Model")
        for name in ("merged", "collected"):
            (home / name).mkdir()
        merged = warm.run("merge", *MODELS, "--method", "mean", "--out", home / "pushed", learn=True)
        assert merged.end()[0] == 0, merged.end()
        subjects: dict[str, Subject] = {
            "merge": Folder(
                "merge", warm, ["merge", *MODELS, "--method", "regmean", "--out", home / "merged" / "out"]
            ),
            "collect": Folder(
                "collect",
                warm,
                ["collect", MODELS[0], "--data", home / "texts.txt", "--out", home / "collected" / "out"],
            ),
            "publish": Repo("publish", warm, ["publish", home / "pushed", "merged"], root=root),
        }
        for subject in subjects.values():
            code, said = subject.run(learn=True).end()
            assert code == 0, said
            subject.reference = subject.found()
            subject.clear()
        yield warm, subjects, root, [hub]


def spans(subject: Subject) -> tuple[float, float]:
    """Seconds that the command takes undisturbed, and those of them after the first byte of the result."""
    subject.clear()
    started, wrote = time.monotonic(), None
    process = subject.run()
    while process.is_running():
        if wrote is None and subject.is_written():
            wrote = time.monotonic()
        time.sleep(0.002)
    now = time.monotonic()
    process.end()
    return now - started, now - (wrote or now)


@dataclass
class Aim:
    """Draws the moments: of all that the command takes, or of those in which its result is being written.

    `span` is how long both are (seconds, undisturbed). The second can be so short that most that is meant for it comes
    afterwards: after a miss the next comes earlier, after a hit later, so that the whole window is met.
    """

    rng: random.Random
    span: tuple[float, float]
    reach: float = 1.0
    meant: bool = False

    def disturb(self, subject: Subject, act: Callable[[], None], process: Process) -> None:
        """Calls `act` at the next moment."""
        self.meant = self.rng.random() < 0.5
        if self.meant:
            while not subject.is_written() and process.is_running():
                time.sleep(0.002)
            time.sleep(self.rng.random() * self.span[1] * self.reach)
        else:
            time.sleep(self.rng.uniform(0, self.span[0]))
        act()

    def learn(self, moment: str) -> None:
        """Tells the moment that it was, as it is named by what was on the disk then."""
        if self.meant:
            self.reach = max(0.01, self.reach * 0.7) if moment == AFTER else min(1.0, self.reach * 1.3)


def check(subject: Subject, found: Found, moment: str) -> None:
    """What is there now, and whether the same command then succeeds and leaves nothing else."""
    outcome = subject.outcome()
    found.add(moment, "kills")
    if outcome not in (ABSENT, COMPLETE):
        found.fail(moment, "half", outcome)
    else:
        found.add(moment, outcome)
    code, said = subject.run().end()
    if outcome == COMPLETE and code == 1 and any(words in said for words in THERE):
        found.add(moment, "then succeeds")
    elif code or "Traceback" in said or subject.outcome() != COMPLETE:
        found.fail(moment, "then fails", f"{code} {subject.outcome()[:300]} {said[-1500:]}")
    else:
        found.add(moment, "then succeeds")
    if left := subject.left():
        found.fail(moment, "left behind", ", ".join(left))


def turns(times: int) -> Iterator[int]:
    """So many turns, or as many as there is time for."""
    for number in range(times):
        if time.monotonic() > DEADLINE:
            return
        yield number


def kill(subject: Subject, times: int, seed: int = 0) -> Found:
    """Kills the command itself."""
    rng, found = random.Random(seed), Found()
    aim = Aim(rng, spans(subject))
    for _ in turns(times):
        # Downloads are a part of every second run.
        subject.clear() if rng.random() < 0.5 else subject.remove_result()
        process = subject.run()
        aim.disturb(subject, process.kill, process)
        moment = subject.moment()
        aim.learn(moment)
        check(subject, found, moment)
    subject.clear()
    return found


def kill_hub(
    subjects: Sequence[Subject], warm: Warm, root: Path, hubs: list[Process], times: int, seed: int = 0
) -> Found:
    """Kills the Hub under commands, and starts it again on the same folder."""
    rng, found = random.Random(seed), Found()
    aims = {subject.name: Aim(rng, spans(subject)) for subject in subjects}
    for number in turns(times):
        subject = subjects[number % len(subjects)]
        subject.clear()
        process = subject.run()
        aims[subject.name].disturb(subject, hubs[-1].kill, process)
        moment = subject.moment()
        aims[subject.name].learn(moment)
        hubs[-1] = warm.serve(root)
        code, said = process.end()
        if code not in (0, 1) or "Traceback" in said:
            found.fail(moment, "no words", said[-1500:])
        if code == 0 and subject.outcome() != COMPLETE:
            found.fail(moment, "half", f"exit code 0, and {subject.outcome()}")
        check(subject, found, moment)
    for subject in subjects:
        subject.clear()
    return found


def interrupt(subject: Subject, times: int, seed: int = 0) -> Found:
    """Sends SIGINT or SIGTERM: one line, 130 or 143, and nothing left."""
    rng, found = random.Random(seed), Found()
    aim = Aim(rng, spans(subject))
    for _ in turns(times):
        subject.clear() if rng.random() < 0.5 else subject.remove_result()
        number = rng.choice((signal.SIGINT, signal.SIGTERM))
        process = subject.run()
        aim.disturb(subject, lambda process=process, number=number: process.signal(number), process)
        code, said = process.end()
        outcome = subject.outcome()
        moment = "interrupted" if code == 128 + number else AFTER
        aim.learn(moment)
        if code == 128 + number and said.count("Interrupted. Nothing half-made was left behind.") != 1:
            found.fail(moment, "no words", said[-1500:])
        if "Traceback" in said or code not in (0, 128 + number, -number):
            found.fail(moment, "no words", f"{code} {said[-1500:]}")
        if left := subject.left():
            found.fail(moment, "left behind", ", ".join(left))
        found.add(moment, "kills")
        found.add(moment, outcome) if outcome in (ABSENT, COMPLETE) else found.fail(moment, "half", outcome)
    subject.clear()
    return found


def at_once(first: Subject, second: Subject, times: int, seed: int = 0) -> Found:
    """Starts two commands of one result: one succeeds, and the other says so, or comes too late and says that."""
    rng, found, moment = random.Random(seed), Found(), "two at once"
    for _ in turns(times):
        first.clear()
        processes = [first.run()]
        time.sleep(rng.random() ** 2 * 0.3)
        processes.append(second.run())
        ends = [process.end() for process in processes]
        codes = sorted(code for code, _ in ends)
        found.add(moment, "kills")
        if codes not in ([0, 1], [0, 0]) or any("Traceback" in said for _, said in ends):
            found.fail(moment, "no words", str(ends)[-1500:])
        if first.outcome() != COMPLETE:
            found.fail(moment, "half", f"{first.outcome()} {ends}")
        else:
            found.add(moment, COMPLETE, "one wins" if codes == [0, 1] else "one after the other")
        if left := first.left():
            found.fail(moment, "left behind", ", ".join(left))
    first.clear()
    return found


def rows(name: str, found: Found, before: Mapping[str, str]) -> list[list[object]]:
    """Lines of the table, one for each moment."""
    lines = []
    for moment in [*MOMENTS, "interrupted", "two at once"]:
        count = found.counts
        if not count[moment, "kills"]:
            continue
        then: object = "" if moment == "interrupted" else count[moment, "then succeeds"]
        if moment == "two at once":
            then = f"{count[moment, 'one wins']} lose and say so"
        seen = [count[moment, kind] for kind in ("kills", ABSENT, COMPLETE, "half")]
        lines.append([name, moment, *seen, then, count[moment, "left behind"], before.get(moment, "")])
    return lines


def main() -> None:
    global DEADLINE
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=100, help="kills of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("parts", nargs="*", help="some alone; what others found stays")
    parser.add_argument("--minutes", type=float, default=math.inf, help="the most that it takes, with fewer kills")
    given = parser.parse_args()
    DEADLINE = time.monotonic() + 60 * given.minutes
    wrong = []
    with tempfile.TemporaryDirectory() as home, workshop(Path(home)) as made:
        for part in given.parts or PARTS:
            for name, found in PARTS[part](*made, given.times, given.seed):
                if not found.counts:
                    continue
                lines = rows(name, found, BEFORE.get(name, {}))
                print(*lines, *found.wrong, sep="\n", flush=True)
                wrong += found.wrong
                _keep(name, lines, given.times)
    if wrong:
        raise SystemExit(f"{len(wrong)} wrong")


def _keep(name: str, lines: list[list[object]], times: int) -> None:
    """Puts the lines of one name into the table, in the place of older ones."""
    record = report.RECORDS / "kills.json"
    before = json.loads(record.read_text(encoding="utf-8"))["rows"] if record.exists() else []
    report.keep(
        "kills",
        f"python -m tests.reliability.kills --times {times}",
        HEAD,
        [row for row in before if row[0] != name] + lines,
    )


def _kills(name: str) -> Part:
    return lambda warm, subjects, root, hubs, times, seed: [(f"`{name}`", kill(subjects[name], times, seed))]


def _hub_kills(
    warm: Warm, subjects: dict[str, Subject], root: Path, hubs: list[Process], times: int, seed: int
) -> Iterator[tuple[str, Found]]:
    yield "the Hub under them", kill_hub([*subjects.values()], warm, root, hubs, times, seed)


def _interrupts(
    warm: Warm, subjects: dict[str, Subject], root: Path, hubs: list[Process], times: int, seed: int
) -> Iterator[tuple[str, Found]]:
    for name, subject in subjects.items():
        yield f"`{name}`, Ctrl-C or SIGTERM", interrupt(subject, times // 4 or 1, seed)


def _at_once(
    warm: Warm, subjects: dict[str, Subject], root: Path, hubs: list[Process], times: int, seed: int
) -> Iterator[tuple[str, Found]]:
    for name, subject in subjects.items():
        yield f"two of `{name}`", at_once(subject, subject, times // 4 or 1, seed)


Part = Callable[..., Iterable[tuple[str, Found]]]
PARTS: dict[str, Part] = {
    **{name: _kills(name) for name in ("merge", "collect", "publish")},
    "hub": _hub_kills,
    "interrupts": _interrupts,
    "at-once": _at_once,
}
BEFORE: dict[str, dict[str, str]] = {
    "`merge`": {"writing": "its hidden folder stayed for ever, 25 of 25"},
    "`publish`": {"writing": "an empty repo, and the next run was refused"},
    "two of `merge`": {"two at once": "the loser's traceback, 5 of 6"},
}
"""What was seen at that version, where it was tried."""


if __name__ == "__main__":
    main()
