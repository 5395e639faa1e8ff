"""What is recommended for a visit's models, asked for once for all that is at hand, and how the page says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fusehub.checking.configs import common_base
from fusehub.errors import Action
from fusehub.methods import METHODS, Method
from fusehub.recommending.recommendation import NEEDS
from fusehub.utils.formats import describe

from ..frame import Frame
from ..render import html
from ..render.offers import action_of
from ..visit import Visit, statistics_of
from ..workers.pace import Tell, untold


def offered() -> dict[str, Method]:
    """The methods that the app has all for: models, a base, and statistics that are published or were made."""
    return {name: method for name, method in METHODS.items() if not wants_more(method)}


def wants_more(method: Method) -> bool:
    """Whether a method needs what the app cannot give it: texts, while it merges."""
    return method.needs_data


def advise(frame: Frame, visit: Visit, token: str | None, heard: Tell = untold) -> dict[str, Any]:
    """The recommendation (as `Recommendation.to_dict` has it) for what the visit has now."""
    while (advice := known_advice(visit)) is None:
        at_hand = _at_hand(visit)
        found = frame.worker.ask("recommend", what_to_recommend(visit), token, heard)
        if _at_hand(visit) == at_hand:
            take_in_advice(visit, found)
    return advice


def known_advice(visit: Visit) -> dict[str, Any] | None:
    """The recommendation that is known for what the visit has now."""
    return visit.advice if visit.advised_on == _at_hand(visit) else None


def what_to_recommend(visit: Visit) -> dict[str, Any]:
    """What is asked for a recommendation."""
    return {
        "models": visit.names(),
        # What all models name is looked at there, and may be gone.
        "base_model": None if visit.base_is_found else visit.base or None,
        "statistics": dict(statistics_of(visit)),
        "among": list(offered()),
    }


def take_in_advice(visit: Visit, found: dict[str, Any]) -> None:
    visit.advice = found
    if visit.base_is_found:
        visit.base = found["at_hand"]["base"] or ""
    visit.advised_on = _at_hand(visit)
    visit.chosen = None


def _at_hand(visit: Visit) -> tuple[Any, ...]:
    return tuple(visit.names()), visit.base, tuple(sorted(statistics_of(visit).items()))


def fill_in_base(visit: Visit) -> None:
    """The base that all models name is taken for theirs until somebody says another."""
    if not visit.base and not visit.base_is_said:
        visit.base = common_base([pick.base for pick in visit.picks]) or ""
        visit.base_is_found = bool(visit.base)


def suggested(advice: Mapping[str, Any]) -> list[str]:
    """What is chosen until the visitor chooses: the recommended way, and the mean to compare it with."""
    return list(dict.fromkeys([advice["recommended"]["method"], advice["baseline"]["method"]]))


def parameters_of(advice: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The same with the options that are recommended, by method."""
    known = ways(advice)
    return {name: dict(known[name]["options"]) for name in suggested(advice)}


def ways(advice: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """All ways by method."""
    others = [way for own in advice["alternatives"].values() for way in own]
    return {way["method"]: way for way in (advice["recommended"], advice["baseline"], *others)}


def advice_html(advice: Mapping[str, Any]) -> str:
    """The recommended way with its reason, and what would be better, with the click that makes it possible."""
    way, better = advice["recommended"], advice["better"]
    facts = {
        "Against the mean": _gain(way["gain"]),
        "Options": describe(way["options"]) if way["options"] else "the defaults",
        "Base": way["base_model"],
        "In code": way["method"],
    }
    body = f"<p>{html.esc(way['sentence'])}</p>{html.facts(facts)}"
    body += f"<details open><summary>Why this one</summary><p>{html.esc(advice['reason'])}</p></details>"
    if better is not None:
        gain = _gain(better["gain"]) or ""
        body += (
            f"<p><strong>{html.esc(better['title'])}</strong> promises more than the mean: {html.esc(gain)}.</p>"
            f"{html.offers(_actions(better['obstacles']))}"
        )
    elif way["method"] == advice["baseline"]["method"]:
        body += html.offers(_missing_statistics(advice["at_hand"]))
    return html.card(f"Recommended: {way['title']}", body, kind="fh-picked")


def _missing_statistics(at_hand: Mapping[str, Any]) -> list[Action]:
    """What would make those statistics that are not there: the reason says what could run with them."""
    known = {*at_hand["statistics"], *at_hand["by_update"]}
    lacking = tuple(name for name in at_hand["models"] if name not in known)
    return [Action("collect-statistics", lacking)] if lacking else []


def need_html(need: str, group: Sequence[Mapping[str, Any]]) -> str:
    """The head of a group of ways, and why those of it that cannot run do not."""
    words = {str(own): text for own, text in NEEDS.items()}
    parts = [f"<h4>{html.esc(words[need])}</h4>"]
    told: dict[str, list[Mapping[str, Any]]] = {}
    for way in group:
        for obstacle in way["obstacles"]:
            told.setdefault(obstacle["what"], []).append(obstacle)
    for what, obstacles in told.items():
        parts.append(f'<p class="fh-misfit">Cannot run now: {html.esc(what)}</p>')
        parts.append(html.offers(_actions(obstacles)))
    return "".join(parts)


def _actions(obstacles: Sequence[Mapping[str, Any]]) -> list[Action]:
    return [action_of(obstacle["action"]) for obstacle in obstacles]


def _gain(gain: Mapping[str, Any] | None) -> str | None:
    if gain is None:
        return None
    return f"{gain['points']:+.1f} points in our tests, higher in {gain['above']} of {gain['runs']} runs"
