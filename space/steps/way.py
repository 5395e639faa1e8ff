"""From the models that are picked to what everybody says of some texts, in one go and with one progress.

The ways to merge, their options, the models' shares and the texts are those that a link brought or the visitor chose;
else the recommended way and the mean, and example texts.

Each part of it is what a step does by itself, and what comes of it is kept as there: every step is open behind it, and
what is known already is not asked again. What cannot be done without asking ends it at its step, with words and with
what can be done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fusehub.comparing.tasks import answers_of
from fusehub.errors import Action, BadStatistics, FuseHubError, Incompatible
from fusehub.methods import METHODS
from fusehub.models.tasks import TASKS
from fusehub.utils.formats import describe
from fusehub.utils.markdown import listed

from ..access import require_all
from ..frame import Frame
from ..render import html
from ..render.offers import action_of
from ..visit import CHECK, COMPARE, MERGE, STATISTICS, Visit
from ..workers.jobs import Job, Part
from ..workers.pace import DISK, START, seconds_of
from .advice import known_advice, parameters_of, take_in_advice, ways, what_to_recommend
from .check import require_two, take_in_check, what_to_check
from .compare import is_of_images, models_to_ask, renamed, require_texts
from .counting import counting, named_for
from .merge import merging

_TITLE = "Merging and comparing"
# About how long the Hub is asked, in seconds: all models side by side.
_ASKED = 1.0


def start_way(frame: Frame, visit: Visit, token: str | None) -> None:
    """Puts all of it into the queue. The visitor is led to the step where it ends."""
    require_two(visit)
    frame.start_parts(visit, "way", _TITLE, Way(frame, visit, token).parts, token)


def seconds_of_way(visit: Visit) -> float:
    """About how long it takes, from what is known of the models."""
    return sum(_expected(visit).values())


def methods_of_way(visit: Visit) -> list[str]:
    """The methods that a link or the visitor chose; none where the recommended ones are meant."""
    return list(visit.linked or visit.chosen or ())


def said_of_way(visit: Visit) -> str:
    """How it merges and what it compares on, as the end of a sentence."""
    named = [METHODS[name].title + _bracketed(visit.options.get(name)) for name in methods_of_way(visit)]
    ways = f"by {listed(named)}" if named else "by the recommended way and by the mean"
    shares = [f"{share:g}" for share in _shares(visit).values()]
    counted = f" with the shares {' : '.join(shares)}" if shares else ""
    if is_of_images(visit):
        return f"and merged {ways}{counted}; then images can be added, to compare them on"
    texts = "example texts" if _are_examples(visit) else f"your {html.count(len(visit.typed), 'text')}"
    return f"merged {ways}{counted}, and compared on {texts}"


def _are_examples(visit: Visit) -> bool:
    """Whether nobody has typed the texts that the visit's models are to be asked about."""
    known = [answers_of(task).typed.splitlines() for task in TASKS]
    return not visit.typed or visit.typed in known


def _bracketed(options: Mapping[str, Any] | None) -> str:
    return f" ({describe(options)})" if options else ""


def _shares(visit: Visit) -> dict[str, float]:
    """Model -> how much it counts, where that was said and is not the same for all."""
    shares = {name: visit.shares.get(name, 1.0) for name in visit.names()}
    return shares if set(shares.values()) != {1.0} else {}


class Way:
    """One run of it: what is asked part by part, by what the parts before have found out."""

    def __init__(self, frame: Frame, visit: Visit, token: str | None) -> None:
        self.frame, self.visit, self.token = frame, visit, token
        self.models = visit.names()
        self.methods, self.shares = methods_of_way(visit), _shares(visit)
        # Examples are those of the task that the models have now.
        self.typed = [] if _are_examples(visit) else list(visit.typed)
        self.left = _expected(visit)

    def parts(self, job: Job) -> Iterator[Part]:
        visit = self.visit
        job.place = CHECK
        if visit.report is None:
            yield self._question("check", what_to_check, take_in_check)
        self._require_fit()
        job.place = MERGE
        yield from self._advice()
        if lacking := self._lacking():
            job.place = STATISTICS
            yield from self._statistics(lacking)
            job.place = MERGE
            yield from self._advice()
        part, _ = merging(self.frame, visit, self._parameters(), self.shares, self.token)
        if part is not None:
            yield self._timed(part)
        self.left.pop("merge", None)
        job.place = COMPARE
        self._require_same(visit.report is not None)
        if is_of_images(visit):
            # There are none to compare them on: the step where they are added comes next.
            job.title = "Merging"
            return
        texts = self._texts()
        require_all(self.models, self.token)

        def what_to_compare(visit: Visit) -> dict[str, Any]:
            return {"models": models_to_ask(visit), "texts": texts}

        def take_in(visit: Visit, found: dict[str, Any]) -> None:
            visit.comparison = renamed(found, models_to_ask(visit)) | {"only": False}
            visit.asked_for_them = "\n".join(texts)
            # A reload and a link have them as they have what was typed.
            visit.typed = texts

        yield self._question("compare", what_to_compare, take_in)

    def _question(
        self, kind: str, asked_of: Callable[[Visit], dict[str, Any]], take_in: Callable[[Visit, Any], None]
    ) -> Part:
        """A part that asks something of the visit as it is now; what was changed meanwhile is asked something else."""
        asked = asked_of(self.visit)

        def keep(found: Any) -> None:
            self._require_same(asked_of(self.visit) == asked)
            take_in(self.visit, found)

        return self._timed(Part(kind, asked, keep))

    def _timed(self, part: Part) -> Part:
        """The part with the seconds that it and all after it are expected to take."""
        return replace(part, seconds=self.left.pop(part.kind, _ASKED), rest=sum(self.left.values()))

    def _require_same(self, is_same: bool = True) -> None:
        """Raises `FuseHubError` where the visitor has picked other models meanwhile, or said other things of them."""
        if not is_same or self.visit.names() != self.models:
            raise FuseHubError("What is to be merged was changed meanwhile.", "Begin again with what is there now.")

    def _advice(self) -> Iterator[Part]:
        self._require_same(self.visit.report is not None)
        if known_advice(self.visit) is None:
            yield self._question("recommend", what_to_recommend, take_in_advice)
            if self.methods:
                # New advice has the choice made anew: the step that offers it finds the one that was there.
                self.visit.linked = list(self.methods)
        self.left.pop("recommend", None)

    def _parameters(self) -> dict[str, dict[str, Any]]:
        """The methods to merge by with their options: those that were said, and else those that are recommended."""
        recommended = parameters_of(self._advised())
        named = self.methods or recommended
        return {name: recommended.get(name, {}) | self.visit.options.get(name, {}) for name in named}

    def _advised(self) -> dict[str, Any]:
        advice = known_advice(self.visit)
        self._require_same(advice is not None)
        assert advice is not None  # It was just asked for.
        return advice

    def _require_fit(self) -> None:
        """Raises `Incompatible` where the check says that they cannot be merged, and takes in what a merge costs."""
        report = self.visit.report
        self._require_same(report is not None)
        assert report is not None  # It was just asked for.
        if not report["ok"]:
            raise Incompatible(
                "These models do not fit as they are, so nothing was merged.",
                "Why, and what can be done, stands in step 2.",
            )
        # What a merge costs is known by now.
        self.left = _expected(self.visit)
        del self.left["check"]

    def _wanting(self) -> list[Mapping[str, Any]]:
        """The ways that would be taken if nothing was lacking, and cannot be taken as it is."""
        advice = self._advised()
        if not self.methods:
            return [advice["better"]] if advice["better"] else []
        known = ways(advice)
        return [known[name] for name in self.methods if name in known and not known[name]["can_run"]]

    def _lacking(self) -> dict[str, bool]:
        """The models whose statistics are all that is lacking, and whether they are to have Fisher diagonals.

        Raises `Incompatible` where a way that was chosen lacks more; a better one than those is left.
        """
        wanting = self._wanting()
        actions = [action_of(obstacle["action"]) for way in wanting for obstacle in way["obstacles"]]
        codes = {action.code for action in actions}
        if codes and codes <= {"collect-statistics", "collect-fisher"}:
            return {model: "collect-fisher" in codes for action in actions for model in action.models}
        if self.methods and wanting:
            raise Incompatible(
                " ".join(f"{way['title']} cannot run now: {_obstacles(way)}" for way in wanting),
                "Do that first, or choose another way.",
                actions=dict.fromkeys([*actions, Action("choose-method")]),
            )
        return {}

    def _statistics(self, lacking: Mapping[str, bool]) -> Iterator[Part]:
        """Those that can be made without asking: where each card names the one dataset that they are to be made of."""
        named = named_for(self.visit, list(lacking))
        if unnamed := [model for model in lacking if model not in named]:
            titles = " and ".join(way["title"] for way in self._wanting())
            wants = f"{titles} was chosen" if self.methods else f"{titles} promises more than what can be done now"
            kind = "none with Fisher diagonals" if any(lacking[model] for model in unnamed) else "none"
            theirs = "its card does" if len(unnamed) == 1 else "their cards do"
            raise BadStatistics(
                f"{wants}, and needs statistics of each model. There are {kind} "
                f"of {' and '.join(unnamed)}, and {theirs} not name one data set to make them of.",
                "Make them from texts, or choose another way.",
                actions=[Action("collect-statistics", tuple(unnamed)), Action("choose-method")],
            )
        for number, (model, texts) in enumerate(named.items(), 1):
            part = counting(self.visit, model, texts, fisher=lacking[model])
            after = (len(named) - number) * part.seconds + sum(self.left.values())
            yield replace(part, rest=after)
            self._require_same(self.visit.report is not None)

    def _texts(self) -> list[str]:
        """The texts that were said, and else examples for the models' task."""
        task = self.visit.picks[0].task
        assert task is not None  # They fit, so it is known.
        return require_texts(self.typed or answers_of(task).typed.splitlines(), self.frame.setting.most_texts)


def _obstacles(way: Mapping[str, Any]) -> str:
    return " ".join(obstacle["what"] for obstacle in way["obstacles"])


def seconds_expected(sizes: Sequence[int], missing: int) -> float:
    """About how long the way takes for models of so many bytes each, of which so many bytes are not here yet."""
    cost = {"download_bytes": missing, "output_bytes": max(sizes, default=0), "gflop": 0}
    return sum(_parts(sizes, cost, merges=2).values())


def _expected(visit: Visit) -> dict[str, float]:
    """About how many seconds each part takes."""
    sizes = [pick.size or 0 for pick in visit.picks]
    unknown = [pick.size or 0 if pick.missing is None else pick.missing for pick in visit.picks]
    first = (visit.report or {}).get("cost") or {
        "download_bytes": sum(unknown), "output_bytes": max(sizes, default=0), "gflop": 0
    }  # fmt: skip
    if visit.merges_of_picks():
        first = {**first, "download_bytes": 0}  # What was merged is here.
    return _parts(sizes, first, merges=len(methods_of_way(visit)) or 2)


def _parts(sizes: Sequence[int], first: Mapping[str, int], *, merges: int) -> dict[str, float]:
    """The seconds of each part, where the first merge has that cost; the others read what is here by then."""
    others = (merges - 1) * (seconds_of({**first, "download_bytes": 0, "gflop": 0}) - START)
    return {
        "check": 2 * _ASKED,
        "recommend": _ASKED,
        "merge": seconds_of(first) + others,
        "compare": START + (sum(sizes) + merges * max(sizes, default=0)) / DISK,
    }
