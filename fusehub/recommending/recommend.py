"""Recommends a way to merge: what can run with what is at hand, held against what was measured.

    recommend(["user/expert-1", "user/expert-2"]).recommended.method

A method is recommended where it was above the plain mean by half a point or more, in three runs of four or more, on
experts of the same tasks. Of several that are level, the one that is above most often, and then the one that does
best on texts of a kind that no expert knows. Otherwise the mean is, and what would be better is said. Of tasks that
were not measured nothing is known: there a method must have been a whole point above on all that was.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.checking.reading import read_ahead
from fusehub.errors import Action, BadRecipe, unknown
from fusehub.hub.access import Access
from fusehub.methods import METHODS, Method, find_method
from fusehub.methods.base import option_words
from fusehub.models.resolve import ModelRef, refs_of
from fusehub.recommending.at_hand import AtHand, at_hand
from fusehub.recommending.measured import Gain, Measured, Record, record
from fusehub.recommending.recommendation import Obstacle, Recommendation, Way, grouped, need_of, sentence_of

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_WORTH = 0.5
"""Points by which a method must be above the mean on the task."""
_WORTH_ELSEWHERE = 1.0
"""The same, where the task itself was not measured."""
_MOSTLY = 0.75
"""The part of the runs in which it must be above."""
_LEVEL = 0.5
"""Ways whose points differ by less are level: so much the runs of one way differ among themselves."""


def recommend(
    models: Sequence[str | os.PathLike[str] | ModelRef],
    *,
    base_model: str | ModelRef | None = None,
    statistics: Mapping[str, str] | None = None,
    data: Mapping[str, str] | None = None,
    among: Collection[str] | None = None,
    token: bool | str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Recommendation:
    """Which way to merge these models, why, and what each of the others would need. Reads no weights.

    Args:
        models: Two or more: `user/name`, `user/name@revision`, a folder, `BASE+ADAPTER`.
        base_model: The pretrained model that they share; where nothing is said, the one that all of them name.
        statistics: Where each model's statistics are, by model: `auto` (where nothing is said), a file, a folder, a
            repo, or `data-free`.
        data: Texts of each model's kind, by model, for methods that run the models over them.
        among: Names of the methods that may be recommended; all where nothing is said.
        token: The Hub's token; None for the one of `hf auth login` if there is one, True where there must be, False
            for none.
        cache_dir: Where downloads lie; the Hub's cache of this machine where nothing is said.
        local_files_only: Read what is in the cache already, and ask the Hub for nothing.

    Returns:
        The recommended way with its options and its reason, the mean, and all other methods by what they need.

    Raises:
        NotFound: A model is not there.
        AccessDenied: A model is gated or private.
        BadRecipe: There are fewer than two models, or no such method.

    Examples:
        >>> found = fusehub.recommend(["user/expert-1", "user/expert-2"])
        >>> result = fusehub.merge(["user/expert-1", "user/expert-2"], "merged", method=found.recommended.method)
    """
    access = Access(token, cache_dir, local_files_only)
    named = [model.id if isinstance(model, ModelRef) else os.fspath(model) for model in models]
    refs = refs_of(models, access)
    return recommend_of(named, refs, base_model=base_model, statistics=statistics or {}, data=data or {}, among=among)


def recommend_of(
    named: Sequence[str],
    refs: Sequence[ModelRef],
    *,
    base_model: str | ModelRef | None,
    statistics: Mapping[str, str],
    data: Mapping[str, str],
    among: Collection[str] | None,
) -> Recommendation:
    """The same of models that are resolved already; `named` is how `statistics` and `data` call them."""
    if len(refs) < 2:
        raise BadRecipe("A merge takes at least two models.", "Name two or more.")
    read_ahead(refs)
    return recommended(at_hand(named, refs, base_model, statistics, [*data]), among)


def suiting(
    *,
    parameters: Collection[str] = (),
    weights: Mapping[str, Any] | None = None,
    statistics: Mapping[str, str] | None = None,
    data: Mapping[str, str] | None = None,
    as_adapter: bool = False,
    tuned: Collection[str] | None = None,
) -> list[str]:
    """The methods that have a use for what is said of a merge; where nothing is said, all.

    Args:
        parameters: Names of options.
        weights: Shares by model.
        statistics: Statistics by model that somebody named.
        data: Texts by model.
        as_adapter: The result is to be an adapter.
        tuned: Options that data is to choose, by their names; none means those that the method itself tells; None
            that nothing is to be chosen.

    Raises:
        BadRecipe: No method has an option of that name.
    """

    everywhere = {name for method in METHODS.values() for name in _options_of(method)}
    named = {*parameters, *(tuned or ())}
    for name in sorted(named - everywhere):
        raise unknown("option of any method", name, everywhere)

    def suits(method: Method) -> bool:
        return (
            named <= {*_options_of(method)}
            and (not weights or "weight" in method.own_options.fields())
            and (not statistics or method.statistics in ("grams", "fisher"))
            and (not data or method.needs_data)
            and (not as_adapter or method.factors is not None)
            and (tuned is None or bool(tuned or method.tune_over))
        )

    return [name for name, method in METHODS.items() if suits(method)]


def recommended(there: AtHand, among: Collection[str] | None = None) -> Recommendation:
    """The recommendation for what is at hand; `among` names the methods that may be it."""
    known = record()
    is_measured = there.tasks in known.tasks()
    rows = {name: _rows(method, there, known, is_measured) for name, method in METHODS.items()}
    ways = {name: _way(method, there, rows[name]) for name, method in METHODS.items()}
    allowed = [ways[find_method(name).name] for name in (METHODS if among is None else among)]
    baseline = ways[known.baseline]
    worth = [way for way in allowed if _is_worth(way, is_measured)]
    runnable = [way for way in worth if way.can_run]
    best = _best(runnable, rows)
    better = _best(worth if best is None else [best, *_clearly_above(worth, best, rows)], rows)
    if best is None:
        possible = [way for way in (baseline, *allowed) if way.can_run and way in allowed]
        best = next(iter(possible), better or next(iter(allowed), baseline))
    better = None if better is best else better
    rest = [way for way in ways.values() if way not in (best, baseline)]
    reason = _reason(best, allowed, runnable, better, there, is_measured)
    return Recommendation(best, reason, baseline, better, grouped(rest), is_measured, there)


def _rows(method: Method, there: AtHand, known: Record, is_measured: bool) -> list[Measured]:
    """What was measured of a method and can be said of these models, the nearest number of models first."""
    if there.by_update and method.statistics == "grams":
        return []  # That is another method: all that was measured had statistics of all.
    count = len(there.models)
    rows = [
        row
        for tasks in ([there.tasks] if is_measured else known.tasks())
        for row in known.of(method.name, tasks)
        # A weight of what is added to the base is of a number of models.
        if row.models == count or not _has_absolute_weights(method, row)
    ]
    return sorted(rows, key=lambda row: abs(row.models - count))


def _way(method: Method, there: AtHand, rows: Sequence[Measured]) -> Way:
    gains = list({row.tasks: row for row in reversed(rows)}.values())
    said = dict(gains[0].options) if gains else {}
    fields = _options_of(method)
    takes_base = method.needs_base(method.options()) or (there.by_update and method.statistics == "grams")
    return Way(
        method=method.name,
        title=method.title,
        sentence=sentence_of(method),
        need=need_of(method),
        options={name: value for name, value in said.items() if fields[name].default != value},
        base_model=there.base if takes_base else None,
        gains=tuple(gains),
        gain=Gain.together([row.in_domain for row in gains]) if gains else None,
        outside=_outside(gains),
        obstacles=tuple(_obstacles(method, there)),
    )


def _options_of(method: Method) -> dict[str, FieldInfo]:
    return method.options.fields() | method.own_options.fields()


def _has_absolute_weights(method: Method, row: Measured) -> bool:
    own = {name: value for name, value in row.options.items() if name in method.options.fields()}
    return method.has_absolute_weights(method.parse(own))


def _is_worth(way: Way, is_measured: bool) -> bool:
    gain, wanted = way.gain, _WORTH if is_measured else _WORTH_ELSEWHERE
    return gain is not None and gain.points >= wanted and gain.above >= _MOSTLY * gain.runs


def _best(ways: Sequence[Way], rows: Mapping[str, Sequence[Measured]]) -> Way | None:
    """The way that was above the mean by most; of those that are level with it the one that was above most often, and
    then the one that was best on texts that no model knew."""
    if not ways:
        return None
    shared = {method: Gain.together([row.in_domain for row in own]) for method, own in _shared(ways, rows).items()}
    outside = {method: _outside(own) for method, own in _shared(ways, rows).items()}
    most = max(gain.points for gain in shared.values())
    level = [way for way in ways if shared[way.method].points > most - _LEVEL]

    def rank(way: Way) -> tuple[float, float]:
        gain, elsewhere = shared[way.method], outside[way.method]
        return gain.above / gain.runs, elsewhere.points if elsewhere else 0.0

    return max(level, key=rank)


def _clearly_above(ways: Sequence[Way], best: Way, rows: Mapping[str, Sequence[Measured]]) -> list[Way]:
    """Those that are more than level with the best."""
    found = []
    for way in ways:
        shared = _shared([way, best], rows)
        points = {name: Gain.together([row.in_domain for row in own]).points for name, own in shared.items()}
        if points[way.method] > points[best.method] + _LEVEL:
            found.append(way)
    return found


def _shared(ways: Sequence[Way], rows: Mapping[str, Sequence[Measured]]) -> dict[str, list[Measured]]:
    """What was measured of each way on the kinds of experts that all of them were measured on; all of its own where
    there are none."""
    own = {way.method: {(row.tasks, row.models): row for row in rows[way.method]} for way in ways}
    kinds = set.intersection(*(set(cells) for cells in own.values()))
    return {
        method: [row for kind, row in cells.items() if not kinds or kind in kinds] for method, cells in own.items()
    }


def _outside(rows: Sequence[Measured]) -> Gain | None:
    found = [row.out_of_domain for row in rows if row.out_of_domain]
    return Gain.together(found) if found else None


def _obstacles(method: Method, there: AtHand) -> list[Obstacle]:
    found = []
    fewest, most = method.models
    count = len(there.models)
    if count < fewest:
        found.append(Obstacle("too-few-models", f"It merges at least {fewest} models.", _number(fewest)))
    if most is not None and count > most:
        found.append(Obstacle("too-many-models", f"It merges {most} models and no more.", _number(most)))
    by_update = method.statistics == "grams" and there.by_update
    if (method.needs_base(method.options()) or by_update) and there.base is None:
        read = f"The base that all models name cannot be read: {there.base_problem}"
        what = read if there.base_problem else "The base model is not known."
        found.append(Obstacle("no-base", what, Action("name-base")))
    if method.statistics == "grams":
        lacking = there.without([*there.statistics, *there.by_update])
        if lacking:
            what = " ".join(there.problems.get(name, f"There are no statistics of {name}.") for name in lacking)
            found.append(Obstacle("no-statistics", what, Action("collect-statistics", lacking)))
    if method.needs_fisher and (lacking := there.without(there.fisher)):
        what = f"There are no Fisher diagonals of {_listed(lacking)}."
        found.append(Obstacle("no-fisher", what, Action("collect-fisher", lacking)))
    if method.needs_data and (lacking := there.without(there.texts)):
        what = f"There are no texts for {_listed(lacking)}."
        found.append(Obstacle("no-texts", what, Action("give-texts", lacking)))
    return found


def _number(count: int) -> Action:
    return Action("choose-models", count=count)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _reason(
    best: Way, allowed: Sequence[Way], worth: Sequence[Way], better: Way | None, there: AtHand, is_measured: bool
) -> str:
    """Sentences on the way that is recommended: the first says what was measured of it, or that nothing was.

    `allowed` are the ways that may be, `worth` those that can run and were clearly above the mean.
    """
    kind = " and ".join(task.replace("-", " ") for task in there.tasks) or "models like these"
    where = f"on {kind}" if is_measured else "on other tasks"
    said = [] if is_measured else [f"No method was measured on {kind} yet."]
    if best.gain is not None:
        said.append(_told(best, where))
        said += [f"That was with {option_words(best.options)}."] if best.options else []
    elif best.can_run:
        said.append("Nothing that can run here was clearly above the mean of the weights.")
        said += [_told(way, where) for way in _closest([way for way in allowed if way.can_run])]
        if better is None:
            said += _for_lack_of_statistics(allowed, where)
    if best.outside is not None and best.outside.points < 0 and (other := _best_outside(worth)) is not None:
        said.append(_told(other, where))
    if best.base_model and not there.base_is_named:
        said.append(f"Its base is {best.base_model}, which all of the models name.")
    if better is not None:
        said.append(_told(better, where))
    said += [obstacle.what for way in (better, best) if way is not None for obstacle in way.obstacles]
    return " ".join(dict.fromkeys(said))


def _closest(ways: Sequence[Way]) -> list[Way]:
    """The way that came closest to being worth it, if any was measured."""
    measured = [way for way in ways if way.gain is not None]
    return sorted(measured, key=lambda way: way.gain.points if way.gain else 0.0)[-1:]


def _for_lack_of_statistics(ways: Sequence[Way], where: str) -> list[str]:
    """What could run if all statistics were there, although our numbers do not speak for it: whoever has texts of the
    models' kind may still want to try."""
    found = _closest([way for way in ways if {obstacle.code for obstacle in way.obstacles} == {"no-statistics"}])
    return [
        sentence
        for way in found
        for sentence in (
            *(obstacle.what for obstacle in way.obstacles),
            f"Once they are made, {way.title} can run.",
            _told(way, where),
        )
    ]


def _best_outside(ways: Sequence[Way]) -> Way | None:
    """Of ways that are worth it, the one that is most above the mean on texts that no model knows; None if none is."""
    above = [way for way in ways if way.outside is not None and way.outside.points > 0]
    return max(above, key=lambda way: way.outside.points if way.outside else 0.0, default=None)


def _told(way: Way, where: str) -> str:
    assert way.gain is not None
    counts = {row.models for row in way.gains}
    of = f" of {counts.pop()} models" if len(counts) == 1 else ""
    outside = f", and {way.outside.words('it')} on texts of a kind that no model knew" if way.outside else ""
    return f"In our tests{of} {where}, {way.title} was {way.gain.words('the mean')}{outside}."
