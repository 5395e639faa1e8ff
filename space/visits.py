"""What one visitor has: models, statistics, merges, results, the work going on, and a folder that goes with the visit.

A visit is known by a secret key that only its browser tab has; a reload of the page finds it again by that. It ends
when it was idle for an hour, or half an hour after its page was closed. Then its work is stopped, its folder deleted.
"""

from __future__ import annotations

import itertools
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
    from fusehub.checking.heads import Heads

    from .readings import Readings
    from .setting import Setting
    from .shelves import Shelf
    from .workers.jobs import Job, Jobs

PICK, CHECK, STATISTICS, MERGE, COMPARE, PUSH = range(6)
# Seconds for which what is pressed on a page waits for the visit that the page is just opening.
_OPENING = 5.0
# Where merges are downloaded, from the address of the page on.
DOWNLOADS = "gradio_api/merged"


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
    datasets: tuple[str, ...] = ()
    """The datasets on the Hub that its card names as what it was trained on."""

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
    at: float = field(default_factory=time.time)
    """When it was made, in seconds of the clock."""
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    """Whoever has it may download this merge, while the visit has it."""

    @property
    def models(self) -> dict[str, str]:
        """Name -> folder of every model in it."""
        if not self.parts:
            return {self.name: str(self.folder)}
        return {f"{self.name}/{part}": str(self.folder / part) for part in self.parts}

    @property
    def address(self) -> str:
        """Where it is downloaded: `.zip` is all of it, and `/` a file."""
        return f"{DOWNLOADS}/{self.secret}"

    def files(self) -> list[tuple[str, int]]:
        """Its files by their paths in it, with their sizes in bytes."""
        found = sorted(path for path in self.folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        return [(path.relative_to(self.folder).as_posix(), path.stat().st_size) for path in found]


@dataclass(frozen=True)
class Deleted:
    """A merge that can be brought back, and what was known of it; `at` is of `time.monotonic`."""

    made: Made
    at: float
    comparison: dict[str, Any] | None
    evaluation: dict[str, Any] | None


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
    heads: Heads = "auto"
    """Whether each model keeps its own head, or heads are merged where their labels agree."""
    heads_filled: tuple[str | None, str] = (None, "")
    """The page whose box for that was filled last, and with what."""
    base: str = ""
    base_is_found: bool = False
    """It is the one that all of the models name: nobody has typed it."""
    base_is_said: bool = False
    """The visitor has said what the base is, or that there is none."""
    report: dict[str, Any] | None = None
    statistics: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Model -> where its statistics are and what is known of them."""
    advice: dict[str, Any] | None = None
    """The recommendation for what is at hand (see `fusehub.recommend`), and what that was."""
    advised_on: tuple[Any, ...] = ()
    chosen: list[str] | None = None
    """The methods that the visitor chose; None for those that are recommended."""
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Method -> those of its options that are not at their defaults, as the last merge had them or a link says."""
    shares: dict[str, float] = field(default_factory=dict)
    """Model -> how much it counts, from the same."""
    typed: list[str] = field(default_factory=list)
    """The texts that were compared on last, or that a link has."""
    opened_by: str = ""
    """The query of the link that it was opened by, until what that says is filled in."""
    linked: list[str] | None = None
    """The methods that a link has chosen, until the step that offers them is reached."""
    wanted: Action | None = None
    """What the visitor pressed to have done: the step where that is finds it chosen."""
    turns: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    """Numbers what is painted of the visit: answers may overtake each other on their way to the page."""
    base_filled: tuple[str | None, str] = (None, "")
    """The page whose box for the base was filled last, and with what: what is typed meanwhile stays."""
    merges: dict[str, Made] = field(default_factory=dict)
    deleted: dict[str, Deleted] = field(default_factory=dict)
    """Merges that are gone but for their files."""
    texts: Path | None = None
    """A file with texts, to make statistics of."""
    form_filled: tuple[str | None, bool] | None = None
    """The page that shows the form for statistics, and whether it was opened or folded away there."""
    uploads: dict[str, str] = field(default_factory=dict)
    """Name -> file with labels, to score on."""
    readings: dict[str, Readings] = field(default_factory=dict)
    """Form -> what was found in the data that was given to it, and what of it is read."""
    pictures: dict[str, str] = field(default_factory=dict)
    """Name -> image that models of images are asked about."""
    comparison: dict[str, Any] | None = None
    asked_for_them: str | None = None
    """Texts that all models were asked without the visitor having typed any: the box for texts is to have them."""
    evaluation: dict[str, Any] | None = None
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Merge -> what each of its layers kept of each expert (see `fusehub.layer_changes`)."""
    cards: dict[str, Any] = field(default_factory=dict)
    """Merge -> the draft of its card (see `space.steps.card`)."""
    pushing: str = ""
    """The merge that is shown in the last step."""
    painted_card: tuple[Any, ...] = ()
    """Which page shows which version of whose card."""
    pushes_as: tuple[int, str] | None = None
    """What was last asked of the Hub: a token's hash, and whose it is."""
    token_given: bool = False
    """A token was pasted for a push that has begun: its box is to be emptied."""
    published: dict[str, Any] | None = None
    published_recipe: dict[str, Any] | None = None
    """Where the recipe of a merge went that was published alone."""
    telling: str = ""
    """The repo whose owner is about to be told of the merge."""
    told: dict[str, str] = field(default_factory=dict)
    """Repo -> the discussion in which its owner was told of the merge that was pushed."""
    painted_letter: tuple[Any, ...] = ()
    """Which page shows the words for whom."""
    job: Job | None = None
    notices: dict[int, str] = field(default_factory=dict)
    """Step -> what it has to say, as HTML."""
    touched: float = field(default_factory=time.monotonic)
    page: str | None = None
    """The page (gradio's session) that shows the visit: a reload is another page."""
    left_at: float | None = None
    users: int = 0
    """Calls of programs that work with what it has at this moment."""
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
        self.readings.clear()
        if self.base_is_found:
            self.base, self.base_is_found = "", False
        self.base_is_said = bool(self.base)
        self.notices.clear()

    def merges_of_picks(self) -> dict[str, Made]:
        """The merges of just those models that are picked now."""
        here = set(self.names())
        return {name: made for name, made in self.merges.items() if set(made.asked.get("models", ())) == here}

    def delete(self, name: str) -> None:
        """Takes a merge out of the visit; its files stay until it is purged."""
        made = self.merges.pop(name, None)
        self.layers.pop(name, None)
        if made is not None:
            self.deleted[name] = Deleted(made, time.monotonic(), self.comparison, self.evaluation)
            self.comparison = self.evaluation = None

    def restore(self, name: str) -> None:
        """Brings a deleted merge back, with what was known of it where nothing else is known since."""
        gone = self.deleted.pop(name, None)
        if gone is not None:
            self.merges[name] = gone.made
            if self.comparison is None and self.evaluation is None:
                self.comparison, self.evaluation = gone.comparison, gone.evaluation

    def purge(self, name: str) -> None:
        """Deletes the files of a deleted merge: nothing brings it back."""
        gone = self.deleted.pop(name, None)
        if gone is not None:
            self.cards.pop(name, None)
            shutil.rmtree(gone.made.folder.parent, ignore_errors=True)

    def all_models(self) -> dict[str, str]:
        """Name -> what to load, of the experts that are picked and their merges."""
        everyone = {pick.name: pick.id for pick in self.picks}
        for made in self.merges_of_picks().values():
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

    def merge_of(self, secret: str) -> tuple[Visit, Made] | None:
        """The merge with that secret, and its visit; None where there is none, or it was deleted."""
        with self._lock:
            everyone = [(visit, made) for visit in self._visits.values() for made in list(visit.merges.values())]
        found = (own for own in everyone if secrets.compare_digest(own[1].secret.encode(), secret.encode()))
        return next(found, None)

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
        """Ends visits that are idle or were left, and says how many. Work that goes on keeps an open visit alive.

        Merges that were deleted long enough ago go for good, where no work may still read them.
        """
        now = time.monotonic() if now is None else now
        with self._lock:
            over = [visit for visit in self._visits.values() if self._is_over(visit, now)]
            for visit in over:
                del self._visits[visit.key]
            kept = {visit.folder for visit in self._visits.values()}
            # What was still at work for a visit that has ended may have written there again.
            left = [folder for folder in self.root.iterdir() if folder not in kept]
            rest = [visit for visit in self._visits.values() if visit.job is None or not visit.job.is_open]
        for visit in over:
            self._end(visit)
        for folder in left:
            shutil.rmtree(folder, ignore_errors=True)
        for visit in rest:
            for name, gone in list(visit.deleted.items()):
                if now - gone.at > self.setting.undo:
                    visit.purge(name)
        return len(over)

    def trim(self, most: int) -> None:
        """What programs made and nobody asked for longest goes; that of `most` of their calls is left."""
        with self._lock:
            everyone = [visit for visit in self._visits.values() if visit.page is None and not visit.users]
            kept = [visit for visit in everyone if visit.merges or visit.statistics]
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
