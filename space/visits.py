"""What one visitor has: models, statistics, merges, results, the work going on, and a folder that goes with the visit.

A visit is known by a secret key that only its browser tab has; a reload of the page finds it again by that. It ends
when it was idle for an hour, or half an hour after its page was closed. Then its work is stopped, its folder deleted.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.errors import Action, NotFound

if TYPE_CHECKING:
    from .setting import Setting
    from .shelves import Shelf
    from .workers.jobs import Job, Jobs

PICK, CHECK, STATISTICS, MERGE, COMPARE, PUSH = range(6)
# Seconds for which what is pressed on a page waits for the visit that the page is just opening.
_OPENING = 5.0


@dataclass
class Picked:
    """One model of the visit, and what its card in the app says. `name` is how the visitor called it."""

    name: str
    id: str
    task: str | None
    base: str | None
    size: int | None
    license: str | None
    downloads: int | None
    labels: tuple[str, ...]
    gated: bool
    statistics: str | None
    """The repo or folder where its statistics are published."""
    url: str | None = None

    @property
    def short(self) -> str:
        return self.name.rpartition("/")[2] if "/" in self.name else self.name


@dataclass
class Made:
    """One merge of the visit: its name here, its folder, the models in it (several where heads are kept)."""

    name: str
    folder: Path
    method: str
    options: str
    parts: tuple[str, ...]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    recipe: str = ""
    asked: dict[str, Any] = field(default_factory=dict)
    """What the visit asked for: models, method, parameters, weights, labels, base, statistics."""

    @property
    def models(self) -> dict[str, str]:
        """Name -> folder of every model in it."""
        if not self.parts:
            return {self.name: str(self.folder)}
        return {f"{self.name}/{part}": str(self.folder / part) for part in self.parts}


@dataclass
class Visit:
    """All that belongs to one visitor. Only its own key leads to it."""

    key: str
    folder: Path
    step: int = PICK
    picks: list[Picked] = field(default_factory=list)
    found: list[Shelf] | None = None
    """What the last search found; None before the first has answered."""
    task: str | None = None
    """The task whose button was pressed: the box for tasks is to say it."""
    taken_in: bool = False
    """The models that were named have become cards: the box for names is to be emptied."""
    labels: dict[str, list[str]] = field(default_factory=dict)
    base: str = ""
    base_is_found: bool = False
    """It is the one that all of the models name: nobody has typed it."""
    report: dict[str, Any] | None = None
    statistics: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Model -> where its statistics are and what is known of them."""
    advice: dict[str, Any] | None = None
    """The recommendation for what is at hand (see `fusehub.recommend`), and what that was."""
    advised_on: tuple[Any, ...] = ()
    chosen: list[str] | None = None
    """The methods that the visitor chose; None for those that are recommended."""
    wanted: Action | None = None
    """What the visitor pressed to have done: the step where that is finds it chosen."""
    base_filled: tuple[str | None, str] = (None, "")
    """The page whose box for the base was filled last, and with what: what is typed meanwhile stays."""
    merges: dict[str, Made] = field(default_factory=dict)
    texts: Path | None = None
    """A file with texts, to make statistics of."""
    uploads: dict[str, str] = field(default_factory=dict)
    """Name -> file with labels, to score on."""
    comparison: dict[str, Any] | None = None
    evaluation: dict[str, Any] | None = None
    card: dict[str, Any] = field(default_factory=dict)
    card_of: str = ""
    """The merge that `card` is of."""
    token_given: bool = False
    """A token was pasted for a push that has begun: its box is to be emptied."""
    published: dict[str, Any] | None = None
    job: Job | None = None
    notices: dict[int, str] = field(default_factory=dict)
    """Step -> what it has to say, as HTML."""
    touched: float = field(default_factory=time.monotonic)
    page: str | None = None
    """The page (gradio's session) that shows the visit: a reload is another page."""
    left_at: float | None = None
    users: int = 0
    """Calls of programs that work with its merges at this moment."""
    numbers: int = 0

    def names(self) -> list[str]:
        return [pick.name for pick in self.picks]

    def new_folder(self, name: str) -> Path:
        """A folder of the visit that is not there yet."""
        self.numbers += 1
        return self.folder / f"{self.numbers}" / name

    def changed_models(self) -> None:
        """Forgets what was found out about another choice of models."""
        self.report, self.comparison, self.evaluation = None, None, None
        self.advice = self.chosen = None
        if self.base_is_found:
            self.base, self.base_is_found = "", False
        self.notices.clear()

    def all_models(self) -> dict[str, str]:
        """Name -> what to load, of experts and merges."""
        everyone = {pick.name: pick.id for pick in self.picks}
        for made in self.merges.values():
            everyone |= made.models
        return everyone


class Visits:
    """The visits that go on, by their keys."""

    def __init__(self, setting: Setting, jobs: Jobs) -> None:
        self.setting, self.jobs = setting, jobs
        self._visits: dict[str, Visit] = {}
        self._lock = threading.Lock()
        self._opened = threading.Condition(self._lock)
        self.root = Path(tempfile.mkdtemp(prefix="fusehub-visits-"))

    def open(self, key: str | None = None, page: str | None = None) -> Visit:
        """The visit of that key, or a new one; `page` is the one that shows it from now on."""
        with self._lock:
            visit = self._visits.get(key or "")
            if visit is None:
                new = secrets.token_urlsafe(32)
                visit = self._visits[new] = Visit(new, Path(tempfile.mkdtemp(dir=self.root)))
            visit.touched, visit.left_at, visit.page = time.monotonic(), None, page
            self._opened.notify_all()
            return visit

    def __len__(self) -> int:
        return len(self._visits)

    def of(self, key: str, page: str | None = None) -> Visit:
        """The visit of that key. Raises `NotFound` where it has ended.

        A page that has no key yet has only just come: its visit is being opened, and is waited for.
        """
        with self._lock:
            if not key and page is not None:
                self._opened.wait_for(lambda: self._of_page(page) is not None, _OPENING)
                visit = self._of_page(page)
            else:
                visit = self._visits.get(key)
            if visit is None:
                raise NotFound("This visit has ended: it was idle for too long.", "Reload the page to begin anew.")
            visit.touched, visit.left_at = time.monotonic(), None
            return visit

    def _of_page(self, page: str) -> Visit | None:
        return next((visit for visit in self._visits.values() if visit.page == page), None)

    def find(self, key: str) -> Visit | None:
        """The visit of that key; None where there is none."""
        with self._lock:
            return self._visits.get(key)

    @contextmanager
    def held(self, key: str) -> Iterator[Visit | None]:
        """The visit of that key, which does not end before the block does; None where there is none."""
        with self._lock:
            visit = self._visits.get(key)
            if visit is not None:
                visit.users += 1
        try:
            yield visit
        finally:
            if visit is not None:
                with self._lock:
                    visit.users -= 1
                    visit.touched = time.monotonic()

    def leave(self, page: str) -> None:
        """A page was closed. Its visit may be shown again in a moment, or is shown by another page already."""
        with self._lock:
            for visit in self._visits.values():
                if visit.page == page:
                    visit.left_at = time.monotonic()

    def end(self, visit: Visit) -> None:
        """Stops what goes on in a visit and deletes its files."""
        with self._lock:
            self._visits.pop(visit.key, None)
        self._end(visit)

    def sweep(self, now: float | None = None) -> int:
        """Ends visits that are idle or were left, and says how many. Work that goes on keeps an open visit alive."""
        now = time.monotonic() if now is None else now
        with self._lock:
            over = [visit for visit in self._visits.values() if self._is_over(visit, now)]
            for visit in over:
                del self._visits[visit.key]
            kept = {visit.folder for visit in self._visits.values()}
            # What was still at work for a visit that has ended may have written there again.
            left = [folder for folder in self.root.iterdir() if folder not in kept]
        for visit in over:
            self._end(visit)
        for folder in left:
            shutil.rmtree(folder, ignore_errors=True)
        return len(over)

    def trim(self, most: int) -> None:
        """Of the merges of programs, which no page shows, those that nobody asked for longest go; `most` are left."""
        with self._lock:
            everyone = self._visits.values()
            kept = [visit for visit in everyone if visit.page is None and visit.merges and not visit.users]
            over = sorted(kept, key=lambda visit: visit.touched)[: max(0, len(kept) - most)]
        for visit in over:
            self.end(visit)

    def _is_over(self, visit: Visit, now: float) -> bool:
        if visit.users:
            return False
        if visit.left_at is not None and now - visit.left_at > self.setting.left:
            return True
        if visit.job is not None and visit.job.is_open:
            return False
        # Whoever waited longer than that for work to end is not gone when it has ended.
        used = max(visit.touched, visit.job.ended or 0) if visit.job is not None else visit.touched
        return now - used > self.setting.idle

    def _end(self, visit: Visit) -> None:
        if visit.job is not None:
            self.jobs.cancel(visit.job)
        shutil.rmtree(visit.folder, ignore_errors=True)

    def close(self) -> None:
        """Ends all visits and deletes everything that they made."""
        with self._lock:
            everyone, self._visits = list(self._visits.values()), {}
        for visit in everyone:
            self._end(visit)
        shutil.rmtree(self.root, ignore_errors=True)


def statistics_of(visit: Visit) -> Mapping[str, str]:
    """Model -> its statistics, as a recipe wants them, where they are not simply the published ones."""
    return {name: known["source"] for name, known in visit.statistics.items() if known.get("source")}
