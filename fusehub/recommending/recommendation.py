"""What a recommendation says: one way to merge with its reason, the mean beside it, and the others by their needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from fusehub.errors import Action
from fusehub.methods import Method
from fusehub.recommending.at_hand import AtHand
from fusehub.recommending.measured import Gain, Measured
from fusehub.utils.frozen import freeze, thawed

Need = Literal["weights", "statistics", "fisher", "base", "pair", "texts"]
"""What a method needs beside the models: nothing (`weights`); the `statistics` of each; those with `fisher` diagonals;
the `base`; that there are two models and no more (`pair`); or `texts` of each model's kind."""

NEEDS: dict[Need, str] = {
    "weights": "Needs nothing but the models",
    "statistics": "Needs statistics of each model",
    "fisher": "Needs statistics with Fisher diagonals",
    "base": "Needs the base model",
    "pair": "Merges two models and no more",
    "texts": "Needs texts of each model's kind",
}

ObstacleCode = Literal["no-statistics", "no-fisher", "no-base", "no-texts", "too-few-models", "too-many-models"]


@dataclass(frozen=True)
class Obstacle:
    """Why a method cannot run with what is at hand, and what would change it.

    Attributes:
        code: One of `no-statistics`, `no-fisher`, `no-base`, `no-texts`, `too-few-models`, `too-many-models`.
        what: The same in words.
        action: What would change it.
    """

    code: ObstacleCode
    what: str
    action: Action

    def __post_init__(self) -> None:
        if self.code not in get_args(ObstacleCode):
            raise ValueError(f"no obstacle has the code {self.code}")


@dataclass(frozen=True)
class Way:
    """One method, as it would be used here.

    Attributes:
        method: Its name.
        title: Its name for people.
        sentence: What it does.
        need: What it needs: see `Need`.
        options: Those that are not at their defaults, as a recipe's `parameters` have them.
        base_model: The base, where it takes one.
        gains: What was measured of it on experts of these tasks, each on its own number of models; nothing where it
            was not measured.
        gain: The same as one number; None where it was not measured.
        outside: That on texts of a kind that none of the experts knows; None where it was not measured.
        obstacles: Why it cannot run; none where it can.
    """

    method: str
    title: str
    sentence: str
    need: Need
    options: Mapping[str, Any]
    base_model: str | None = None
    gains: tuple[Measured, ...] = ()
    gain: Gain | None = None
    outside: Gain | None = None
    obstacles: tuple[Obstacle, ...] = ()

    def __post_init__(self) -> None:
        freeze(self, "options")

    @property
    def can_run(self) -> bool:
        """Whether all that it needs is there."""
        return not self.obstacles


@dataclass(frozen=True)
class Recommendation:
    """Which way to merge these models, and what else there is.

    Attributes:
        recommended: The way that the numbers speak for, of those that can run.
        reason: Why, in sentences: what was measured, and what was not.
        baseline: The way that it is to be compared with: the plain mean.
        better: A way that the numbers speak for and that cannot run yet; None where there is none.
        alternatives: All other methods by what they need.
        is_measured: Whether the numbers are of experts of these tasks; otherwise they are of all that was measured.
        at_hand: What there is to merge by.

    Examples:
        >>> found = fusehub.recommend(["user/expert-1", "user/expert-2"])
        >>> found.recommended.method, found.recommended.can_run
        ('regmean', True)
        >>> [way.method for way in found.alternatives["fisher"]]
        ['fisher']
        >>> [obstacle.code for obstacle in found.way("fisher").obstacles]
        ['no-fisher']
    """

    recommended: Way
    reason: str
    baseline: Way
    better: Way | None
    alternatives: Mapping[Need, tuple[Way, ...]]
    is_measured: bool
    at_hand: AtHand

    def __post_init__(self) -> None:
        freeze(self, "alternatives")

    def ways(self) -> list[Way]:
        """All methods, each once.

        Returns:
            The recommended one, the baseline, then all others.
        """
        first = {way.method: way for way in (self.recommended, self.baseline)}
        return [*first.values(), *(way for own in self.alternatives.values() for way in own)]

    def way(self, method: str) -> Way:
        """What is said of one method.

        Args:
            method: One of `fusehub.METHODS`.

        Returns:
            What it needs, and what speaks against it.

        Raises:
            KeyError: There is no such method.
        """
        return {way.method: way for way in self.ways()}[method]

    def to_dict(self) -> dict[str, Any]:
        """The recommendation as plain data, for `--json` and for programs.

        Returns:
            Each attribute by its name.
        """
        return {
            "recommended": _plain(self.recommended),
            "reason": self.reason,
            "baseline": _plain(self.baseline),
            "better": self.better and _plain(self.better),
            "alternatives": {need: [_plain(way) for way in ways] for need, ways in self.alternatives.items()},
            "is_measured": self.is_measured,
            "at_hand": thawed({key: getattr(self.at_hand, key) for key in self.at_hand.__dataclass_fields__}),
        }


def need_of(method: Method) -> Need:
    """What a method needs beside the models, whatever its options."""
    if method.needs_data:
        return "texts"
    if method.needs_fisher:
        return "fisher"
    if method.statistics == "grams":
        return "statistics"
    if method.needs_base(method.options()):
        return "base"
    return "pair" if method.models == (2, 2) else "weights"


def sentence_of(method: Method) -> str:
    """The first sentence of a method's summary."""
    return method.summary.partition(". ")[0].rstrip(".") + "."


def _plain(way: Way) -> dict[str, Any]:
    return {
        "method": way.method,
        "title": way.title,
        "sentence": way.sentence,
        "need": way.need,
        "options": thawed(way.options),
        "base_model": way.base_model,
        "gain": way.gain and asdict(way.gain),
        "out_of_domain": way.outside and asdict(way.outside),
        "can_run": way.can_run,
        "obstacles": [asdict(obstacle) for obstacle in way.obstacles],
    }


def grouped(ways: Sequence[Way]) -> dict[Need, tuple[Way, ...]]:
    """Ways by what they need, in the order of `NEEDS`; what none needs is left out."""
    found = {need: tuple(way for way in ways if way.need == need) for need in NEEDS}
    return {need: own for need, own in found.items() if own}
