"""What one visitor has: models, statistics, merges, results, the work going on, a folder that goes with the visit."""

from __future__ import annotations

import itertools
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.errors import Action

if TYPE_CHECKING:
    from fusehub.checking.heads import Heads

    from .readings import Readings
    from .shelves import Shelf
    from .workers.jobs import Job

PICK, CHECK, STATISTICS, MERGE, COMPARE, PUSH = range(6)
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
    missing: int | None = None
    """Bytes of its weights that have to be downloaded; None where that is not known."""

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
class Ended:
    """The presses of a visit that were answered in this moment."""

    count: int = 0
    recent: list[tuple[float, int, str, str | None]] = field(default_factory=list)

    def and_now(self, press: str, shows: str | None) -> list[tuple[int, str, str | None]]:
        """Those, and one more: their numbers, what was pressed, and what it shows."""
        now = time.monotonic()
        self.count += 1
        self.recent = [one for one in self.recent if now - one[0] < 2] + [(now, self.count, press, shows)]
        return [one[1:] for one in self.recent]


@dataclass
class Visit:
    """All that belongs to one visitor. Only its own key leads to it."""

    key: str
    folder: Path
    step: int = PICK
    picks: list[Picked] = field(default_factory=list)
    found: list[Shelf] | None = None
    """What the last search found; None before the first has answered."""
    ended: Ended = field(default_factory=Ended)
    sought: dict[str, Any] = field(default_factory=dict)
    """What the last search asked for; nothing where nothing was searched for."""
    task: str | None = None
    """The task whose button was pressed: the box for tasks is to say it."""
    example: list[str] = field(default_factory=list)
    """The models that the example has picked."""
    left_over: str | None = None
    """Of the models that were named those that have become no cards: what the box for names is to hold."""
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
    uploads: dict[str, str] = field(default_factory=dict)
    """Name -> file with labels, to score on."""
    readings: dict[str, Readings] = field(default_factory=dict)
    """Form -> what was found in the data that was given to it, and what of it is read."""
    pictures: dict[str, str] = field(default_factory=dict)
    """Name -> image that models of images are asked about."""
    comparison: dict[str, Any] | None = None
    datasets: str = ""
    """The datasets on the Hub that were named to be scored on, as they were typed."""
    filled_with: tuple[str | None, str | None] = (None, None)
    """The page whose box for texts was given examples last, and for which task."""
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
    """What came of the last push: the model's address, the merge that it is (`made`), what that was asked for by, and
    its recipe. It stays when the merge is deleted here."""
    published_recipe: dict[str, Any] | None = None
    """Where the recipe of a merge went that was published alone."""
    telling: tuple[str | None, str, str] = (None, "", "")
    """Which page shows the words for the owner of which repo, about the merge at which address."""
    told: dict[str, str] = field(default_factory=dict)
    """Repo -> the discussion in which its owner was told of the merge that was pushed."""
    job: Job | None = None
    notices: dict[int, str] = field(default_factory=dict)
    """Step -> what it has to say, as HTML."""
    touched: float = field(default_factory=time.monotonic)
    page: str | None = None
    """The page (gradio's session) that shows the visit: a reload is another page."""
    goes: dict[str | None, int] = field(default_factory=dict)
    """Page -> how often it went to a step."""
    starting: threading.Lock = field(default_factory=threading.Lock, repr=False)
    """Two pages of a visit may begin work in the same moment."""
    left_at: float | None = None
    users: int = 0
    """Calls of programs and downloads that read what it has at this moment."""
    numbers: int = 0

    def go_to(self, step: int) -> Callable[[], bool]:
        """Goes to a step. What it gives tells whether the page that is there has gone nowhere since."""
        page = self.page
        count = self.goes[page] = self.goes.get(page, 0) + 1
        self.step = step
        return lambda: self.step == step and self.goes[page] == count

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


def statistics_of(visit: Visit) -> Mapping[str, str]:
    """Model -> its statistics, as a recipe wants them, where they are not simply the published ones."""
    return {name: known["source"] for name, known in visit.statistics.items() if known.get("source")}
