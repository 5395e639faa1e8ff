"""Everything a user of FuseHub can cause or fix, as exceptions that say what happened and what to do.

    FuseHubError
    |-- NotFound              a repo, revision, file, dataset or column that is not there
    |-- AccessDenied          gated, private, or no (valid) token
    |-- Offline               the Hub cannot be reached
    |-- BadFile               truncated, corrupt or not what its name says
    |   `-- OtherHeader       not what its header told from afar
    |-- UnsafeFile            would run code: pickles that are not plain weights, remote code
    |-- NonFinite             NaN or infinity where numbers must be finite
    |-- Incompatible          models that cannot be merged with each other
    |   `-- Indivisible       a model that cannot be run block by block
    |-- LicenseForbids        what a license, or two of them, do not allow
    |-- BadStatistics         statistics that are broken, or not of these weights
    |-- BadData               texts or labels that cannot be used
    |-- BadRecipe             unknown or wrong method, option or recipe key
    |-- Outdated              a plan whose models or statistics have changed since
    |-- OutputExists          an output folder or repo that is already there
    |-- PartlyPublished       a model that is on the Hub without what was to go with it
    |-- NoSpace               the disk is full
    `-- NoMemory              the machine has too little memory, or the process may not have it

The command line prints such an error without a traceback and exits with 1; the app shows the same text.
Any other exception is a bug of ours and keeps its traceback.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar


def is_panic(error: BaseException) -> bool:
    """Whether a library in Rust gave up, as on an expression that takes too many steps: what it raises is no
    `Exception`."""
    return type(error).__name__ == "PanicException"


def first_line(error: BaseException) -> str:
    """What another library's error says, as a part of a sentence: its first line, or its kind where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".")[:200] if lines else type(error).__name__


def shortly(value: object) -> str:
    """A value that a stranger gave, as a part of a sentence: as Python writes it, and no more of it than is read."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


# What a terminal takes for an order, turns other text around, or cannot show.
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# No path has more characters.
_LONGEST = 4096


# As many problems as a person reads at once.
_MOST = 12


def _shown(text: str) -> str:
    """`text` as it may be shown: names that strangers gave stand in it, of any length and any characters."""
    escaped = _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return re.sub(r"\S+", lambda found: found[0] if len(found[0]) <= _LONGEST else f"{found[0][:200]}...", escaped)


ACTIONS = {
    "name-base": "Name the pretrained model that the models share.",
    "collect-statistics": "Make statistics of models, or say where some are.",
    "collect-fisher": "Make statistics with Fisher diagonals.",
    "give-texts": "Give texts of each model's kind, for a method that runs the models over them.",
    "choose-models": "Take other models, or another number of them.",
    "leave-out": "Leave models out that do not fit the others.",
    "choose-method": "Merge by another method.",
    "name-labels": "Say what the rows of a model's head mean.",
    "keep-heads": "Keep each model's own head.",
    "set-shares": "Say how much each model counts.",
    "give-data": "Give texts, or labelled data.",
    "name-columns": "Name the columns of the data.",
    "leave-ensemble": "Leave the ensemble out.",
    "choose-dtype": "Store the result in a wider dtype.",
    "merge-whole": "Write the merged weights as a whole.",
    "name-another": "Choose another name for the repo.",
    "push-again": "Push into the repo that is there, once more.",
    "keep-private": "Keep the repo private, or leave the model out.",
    "leave-demo": "Push the model without a demonstration.",
}
"""What can be done, by its code: whoever shows an error offers it in their own way, as a button or an option."""


@dataclass(frozen=True)
class Action:
    """Something that can be done about an error, or would let a method run: its code, and what it is done with.

    Attributes:
        code: One of `ACTIONS`.
        models: The models that it is about, as they are named; none where it is about all.
        count: How many models are wanted, where that is what has to change.
    """

    code: str
    models: tuple[str, ...] = ()
    count: int | None = None

    def __post_init__(self) -> None:
        if self.code not in ACTIONS:
            raise ValueError(f"no action has the code {self.code}")


LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN."
"""How a user of the command line gets what only a token of the Hub opens."""


class FuseHubError(Exception):
    """Something that the user can cause or fix.

    Args:
        what: What happened.
        fix: What to do about it.
        log_in: Whether a token of the Hub can be (a part of) the way out. How one logs in is said after `own_fix`: as
            `LOG_IN` says it, or as `fix_by` is told where people sign in another way.
        actions: What can be done, by codes. How one does it is said by whoever shows the error: the command line by
            its options, the app by a button.

    Attributes:
        what: What happened.
        own_fix: What to do about it, but for how one logs in.
        actions: What can be done, by codes.

    Examples:
        >>> try:
        ...     fusehub.check(["user/expert-1", "user/expert-7"])
        ... except fusehub.FuseHubError as error:
        ...     print(error.what)
        user/expert-7 does not exist on ..., or is private.
    """

    always: ClassVar[tuple[Action, ...]] = ()
    """What can be done about every error of the kind, where nothing else is said."""

    def __init__(self, what: str, fix: str, *, log_in: bool = False, actions: Iterable[Action] = ()) -> None:
        self.what, self.own_fix, self.log_in = _shown(what), _shown(fix), log_in
        self.actions = tuple(actions) or self.always
        # Exceptions are pickled by what they are given here and their attributes, and must cross to other processes.
        super().__init__(self.what, self.own_fix)

    def __str__(self) -> str:
        return f"{self.what}\n  -> {self.fix}"

    @property
    def fix(self) -> str:
        """What to do, for a user of the command line or of Python."""
        return self.fix_by(LOG_IN)

    def fix_by(self, log_in: str) -> str:
        """What to do, where one logs in as the sentence `log_in` says."""
        return " ".join(filter(None, [self.own_fix, log_in if self.log_in else ""]))

    def retold(self, what: str, fix: str | None = None, *, kind: "type[FuseHubError] | None" = None) -> "FuseHubError":
        """The same in other words, and of another `kind` where one is given: with the same way out, `fix` unless
        something else is said."""
        own_fix = self.own_fix if fix is None else fix
        return (kind or type(self))(what, own_fix, log_in=self.log_in, actions=self.actions)


class NotFound(FuseHubError):
    """A repo, revision, file, dataset, split or column does not exist, or is not visible with this token; `among` are
    the configs or splits of data that one can be named from, `part` says which of both these are."""

    part: str = ""
    among: tuple[str, ...] = ()


class AccessDenied(FuseHubError):
    """The Hub refuses: the repo is gated, the token is missing, wrong, or has too few rights."""


class Offline(FuseHubError):
    """The Hub cannot be reached, or offline mode is on and the file is not in the cache."""


class BadFile(FuseHubError):
    """A file is truncated, corrupt, or not of the kind that its name says."""


class OtherHeader(BadFile):
    """A file holds other tensors than its header told when it was read from afar, before the file was here."""


class UnsafeFile(FuseHubError):
    """Reading the file would run somebody else's code."""


class NonFinite(FuseHubError):
    """A tensor holds NaN or infinity."""


class Incompatible(FuseHubError):
    """Models differ in something that must agree before they can be merged; `codes` are those of the findings that
    say so, where a check found it."""

    codes: tuple[str, ...] = ()


class Indivisible(Incompatible):
    """A model cannot be run block by block: what its blocks give is used in ways that need the whole of it."""


class LicenseForbids(FuseHubError):
    """A license does not allow what is asked, or two of them cannot hold together."""


class BadStatistics(FuseHubError):
    """Statistics are corrupt, of an unknown version, or were made for other weights."""

    always = (Action("collect-statistics"),)


class BadData(FuseHubError):
    """Data is empty, lacks a column, or its labels do not fit the model."""


class BadRecipe(FuseHubError):
    """A method, an option or a key of a recipe is unknown or has a value that it cannot have."""


class Outdated(FuseHubError):
    """What a plan was made from has changed since: it would not be the merge that was planned."""


class OutputExists(FuseHubError):
    """An output folder is not empty, or the name of a repo is taken."""


class PartlyPublished(FuseHubError):
    """A model is on the Hub, and what was to go with it is not; `published` says where the model is."""

    published: Any = None


class NoSpace(FuseHubError):
    """The disk has too little room; `place` is what could not be written to it, where that is known."""

    place: Path | None = None


class NoMemory(FuseHubError):
    """The machine has too little memory for it, or the process may not have so much."""


def together(errors: Sequence[FuseHubError]) -> FuseHubError:
    """All of them as one, of the first's kind, with each way out once."""
    told = list(dict.fromkeys(error.what for error in errors))
    fixes = list(dict.fromkeys(error.own_fix for error in errors if error.own_fix))
    more = [f"And {len(told) - _MOST} more."] if len(told) > _MOST else []
    return type(errors[0])(
        "\n".join([*told[:_MOST], *more]),
        "\n     ".join(fixes[:_MOST]),
        log_in=any(error.log_in for error in errors),
        actions=dict.fromkeys(action for error in errors for action in error.actions),
    )


def unknown(kind: str, name: str, known: Iterable[str]) -> BadRecipe:
    """The error for a name that is not one of `known`: it names the closest one, whatever the case, and lists all."""
    known = sorted(known)
    by_key = {own.casefold(): own for own in known}
    close = difflib.get_close_matches(name.casefold(), by_key, n=1, cutoff=0.5)
    hint = f"Did you mean '{by_key[close[0]]}'? " if close else ""
    listed = ", ".join(known) if known else "none"
    return BadRecipe(f"There is no {kind} '{name}'.", f"{hint}Known: {listed}.")
