"""One case: a copy of a sound repo, some changes, every question, and what came of it; all of it by one `random`."""

from __future__ import annotations

import os
import shutil
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.reliability.fuzzing.answers import Asked, Defect
from tests.reliability.fuzzing.asking import ask
from tests.reliability.fuzzing.changes import change, copy_of
from tests.reliability.fuzzing.watching import watched
from tests.reliability.fuzzing.worlds import Repo, World

# How often each repo is drawn; 2 where nothing is said.
_OFTEN = {"model": 9, "adapter": 6, "merged": 4, "recipe": 5, "again": 3, "pieces": 1, "kept": 1}


@dataclass
class Verdict:
    """What came of a case: `outcome` is right, refused, noted or failed."""

    repo: str
    kind: str
    """The kind of the file that was changed first."""
    change: str
    """The kind of its change."""
    changes: list[str]
    outcome: str
    said: list[str]
    defects: list[Defect] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def run(world: World, random: Random, place: Path, only: str | None = None, *, thorough: bool = True) -> Verdict:
    """Carries out a case in the folder `place`, which is made and taken away. `only`: of one repo."""
    repo = world.repos[only or random.choices(list(world.repos), [_OFTEN.get(name, 2) for name in world.repos])[0]]
    number = random.choices((1, 2, 3, 5), (60, 22, 12, 6))[0]
    return _run(world, repo, random, place, number, thorough=thorough)


def usual(world: World, place: Path, only: str | None = None) -> None:
    """Asks all of each repo (or of `only` one) as it is, and keeps what came of it."""
    for repo in world.repos.values() if only is None else [world.repos[only]]:
        ways = ("mean", "regmean") if (repo.folder / "fusehub").exists() else (None,)
        for method in ways:
            verdict = _run(world, repo, Random(0), place, number=0, method=method)
            if verdict.outcome != "right":
                raise RuntimeError(f"{repo.name} is not sound: {verdict}")


def _run(
    world: World,
    repo: Repo,
    random: Random,
    place: Path,
    number: int,
    method: str | None = None,
    thorough: bool = True,
) -> Verdict:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    folder = copy_of(repo.folder, place / "stranger")
    changes = []
    for _ in range(number):
        name = random.choice(list(repo.files))
        changes.append((name, change(random, folder, name, world.spares)))
    before = _listing(folder)
    asked = Asked(world, repo, folder, random, changes, method, thorough)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with watched(place) as told:
            ask(asked)
    for text in told:
        asked.fail(text.partition(":")[0], "all", text)
    if (after := _listing(folder)) != before:
        asked.fail("changed what it was given", "all", str(set(after) ^ set(before))[:300])
    known = {"stranger", "tmp", "here", "out", "made"}
    if left := [path.name for path in place.iterdir() if path.name not in known]:
        asked.fail("left", "all", str(left))
    shutil.rmtree(place, ignore_errors=True)
    first = changes[0] if changes else ("", "none")
    return Verdict(
        repo.name,
        repo.files.get(first[0], ""),
        first[1].partition(":")[0],
        [f"{name}: {said}" for name, said in changes],
        asked.outcome(),
        [*asked.refused, *asked.noted],
        asked.defects,
    )


def _listing(folder: Path) -> list[tuple[str, int, int]]:
    found = []
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            stat = os.lstat(os.path.join(root, name))
            size = 0 if name in folders else stat.st_size
            found.append((os.path.join(root, name), size, 0 if name in folders else stat.st_mtime_ns))
    return sorted(found)
