"""What programs made here, by its secret names: `regmean@KEY` and `statistics@KEY`, whose key is that of a visit.

Nothing hangs on sessions, because all MCP clients share one: whoever has a name may use what it names, and nobody else
can. What is named is held until the call ends, however long it takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from fusehub.errors import BadRecipe, FuseHubError, NotFound
from fusehub.merging.sources import AUTO, is_place

from ..frame import Frame
from ..links.recipes import is_text
from ..steps.compare import require_readers
from ..steps.pick import describe
from ..visit import Made, Visit

STATISTICS = "statistics"


@dataclass(frozen=True)
class Asked:
    """Models of one call: what to load of each by the name that it was asked by, the visits of those that are merges,
    and the task of the first."""

    places: dict[str, str]
    merges: dict[str, tuple[Visit, Made]]
    task: str | None


@contextmanager
def visit_of(frame: Frame, models: Sequence[str], token: str | None, *, keep: bool = False) -> Iterator[Visit]:
    """A visit with these models, called as they were asked for; with `keep`, and if the block succeeds, it stays."""
    visit, done = frame.visits.open(), False
    try:
        with frame.visits.held(visit.key):
            require_few(models, frame.setting.most_models)
            for model in dict.fromkeys(models):
                name = frame.setting.require_name(model)
                visit.picks.append(replace(describe(name, token), name=model))
            yield visit
        done = keep
    finally:
        if done:
            frame.visits.trim(frame.setting.most_kept)
        else:
            frame.visits.end(visit)


@contextmanager
def asked(frame: Frame, models: Sequence[str], token: str | None) -> Iterator[Asked]:
    """Models of the Hub, as this caller may read them, and merges by their secret names."""
    if not models:
        raise NotFound("No model was named.", 'Give ["user/one", "user/two"].')
    require_few(models, frame.setting.most_models + frame.setting.most_merges)
    places: dict[str, str] = {}
    merges: dict[str, tuple[Visit, Made]] = {}
    tasks: list[str | None] = []
    with ExitStack() as held:
        for model in dict.fromkeys(models):
            visit = held.enter_context(frame.visits.held(_key_of(model)))
            if visit is None and (_key_of(model) and "/" not in model.partition("@")[0]):
                raise _gone(model)
            picks = [frame.recent.describe(frame.setting.require_name(model), token)] if visit is None else visit.picks
            require_readers((pick.task for pick in picks), frame.setting)
            tasks += [pick.task for pick in picks]
            if visit is None:
                places[model] = picks[0].id
            else:
                made, places[model] = _model_in(visit, model)
                merges[model] = visit, made
        yield Asked(places, merges, tasks[0])


@contextmanager
def merge_named(frame: Frame, name: str) -> Iterator[tuple[Visit, Made]]:
    """A merge by its secret name. Raises `NotFound` where there is none."""
    with frame.visits.held(_key_of(name)) as visit:
        if visit is None:
            raise _gone(name)
        own = name.partition("@")[0]
        if own not in visit.merges:
            raise NotFound(f"There is no merge {own} here.", f"Give one of {', '.join(visit.merges)}, with its key.")
        yield visit, visit.merges[own]


@contextmanager
def statistics_named(frame: Frame, visit: Visit, sources: Mapping[str, str]) -> Iterator[None]:
    """Takes into `visit` what stands for the statistics of its models: what was made here, a repo, or `data-free`.

    What was made here keeps its name, so that no answer tells where it lies (see `public`).
    """
    require_known(visit, sources, STATISTICS)
    with ExitStack() as held:
        for model, said in sources.items():
            own, _, key = said.partition("@")
            if own == STATISTICS and key:
                made = held.enter_context(frame.visits.held(key))
                if made is None or not made.statistics:
                    raise NotFound("There are no statistics with that key here.", "They are gone: make them again.")
                visit.statistics[model] = {**next(iter(made.statistics.values())), "named": said}
            elif said != AUTO:
                place = frame.setting.require_name(said, "repo of statistics") if is_place(said) else said
                visit.statistics[model] = {"source": place, "free": True}
        yield


def public(text: str, visit: Visit) -> str:
    """`text` on a merge of the visit, with the names of statistics that were made here in the place of folders."""
    for known in visit.statistics.values():
        if "named" in known:
            text = text.replace(known["source"], known["named"])
    return text


def may_be_merge(name: str) -> bool:
    """Whether `name` has the form of a merge's that was made here: no repo's is without an owner and has an @."""
    return "@" in name and "/" not in name and not is_text(name)


def require_two(visit: Visit) -> None:
    """Raises `BadRecipe` where there is nothing to merge."""
    if len(visit.picks) < 2:
        raise BadRecipe("A merge takes two models or more.", 'Give ["user/one", "user/two"].')


def take_base(frame: Frame, visit: Visit, base: str | None) -> None:
    """Has the visit take that base, or know that there is none."""
    visit.base = frame.setting.require_name(base) if base else ""
    visit.base_is_said = True


def take_labels(visit: Visit, labels: dict[str, list[str]] | None) -> None:
    """Has the visit take labels that were said, by model."""
    require_known(visit, labels or {}, "labels")
    visit.labels = dict(labels or {})


def require_known(visit: Visit, said: Mapping[str, Any], what: str) -> None:
    """Raises `NotFound` where something is said of a model that is none of the visit's."""
    for model in said:
        if model not in visit.names():
            raise NotFound(
                f"{what}: {model} is none of the models.", f"Name them as under `models`: {', '.join(visit.names())}."
            )


def require_few(models: Sequence[str], most: int) -> None:
    """Raises `FuseHubError` for more models than fit here."""
    if len(models) > most:
        raise FuseHubError(f"{len(models)} models are too many: {most} fit here.", "Do more with the command line.")


def _key_of(name: str) -> str:
    return name.partition("@")[2]


def _gone(name: str) -> NotFound:
    own = name.partition("@")[0]
    return NotFound(f"There is no merge {own} with that key here.", "It is gone, or never was: merge again.")


def _model_in(visit: Visit, model: str) -> tuple[Made, str]:
    own = model.partition("@")[0]
    for made in visit.merges.values():
        if own in made.models:
            return made, made.models[own]
    known = [name for made in visit.merges.values() for name in made.models]
    raise NotFound(f"There is no merge {own} here.", f"Give one of {', '.join(known)}, with its key.")
