"""What a link to the app holds, so that a colleague sees the same: models at their commits, ways to merge, texts.

    ?step=merge&model=ada/films@1a2b...&model=ben/shops@3c4d...&method=regmean&option=regmean.alpha=0.5&text=Not bad.

The address of the page is such a link too. Opening one fills in what it says and computes nothing. There is no token
in it and no file, nor anything else that is on this machine alone. What strangers write into one is read part by part:
a part that cannot be is told in words (`problems`), and the others hold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any
from urllib.parse import parse_qsl, urlencode

from fusehub.errors import BadData, BadRecipe, FuseHubError, NotFound, unknown
from fusehub.methods import METHODS, Options, find_method
from fusehub.utils.reach import local_path

from ..render.nav import STEPS
from ..setting import Setting, is_name
from ..steps.options import options_of
from ..visit import PICK, Visit

KEYS = ("step", "model", "base", "method", "option", "share", "text")
# Characters of a link, and the parts of it. Browsers and servers differ in how long an address may be.
_LONGEST = 6000
_MOST_PARTS = 300
_MOST_SHARE = 2.0
_NAMES = [name.casefold() for name in STEPS]


@dataclass(frozen=True)
class Link:
    """What a link says. `shares` are in the order of the models; `options` have a method's by its name."""

    step: int = PICK
    models: tuple[str, ...] = ()
    base: str = ""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    shares: tuple[float, ...] = ()
    texts: tuple[str, ...] = ()
    problems: tuple[FuseHubError, ...] = ()

    @property
    def says_something(self) -> bool:
        """Whether it is more than the address of a step."""
        return bool(self.models or self.base or self.options or self.texts or self.problems)

    @property
    def shown_texts(self) -> tuple[str, ...]:
        """The texts that go into an address: the first ones, if all are too long for it."""
        length = len(self._head)
        ends = accumulate(len(urlencode([("&text", text)])) for text in self.texts)
        return tuple(text for text, end in zip(self.texts, ends, strict=True) if length + end <= _LONGEST)

    def query(self) -> str:
        """The same as the query of an address."""
        return "&".join(filter(None, [self._head, *(urlencode([("text", text)]) for text in self.shown_texts)]))

    @property
    def _head(self) -> str:
        """All but the texts."""
        parts = [("step", _NAMES[self.step])] if self.step != PICK else []
        parts += [("model", model) for model in self.models]
        parts += [("base", self.base)] if self.base else []
        for method, options in self.options.items():
            parts.append(("method", method))
            parts += [("option", f"{method}.{name}={json.dumps(value)}") for name, value in options.items()]
        if any(share != 1.0 for share in self.shares):
            parts += [("share", f"{share:g}") for share in self.shares]
        return urlencode(parts, safe="/@:,=")


def link_of(visit: Visit) -> Link:
    """A link to what the visit has: of models those that are on the Hub, at their commits."""
    picks = [pick for pick in visit.picks if pick.url is not None]
    chosen = visit.chosen if visit.chosen is not None else list(visit.options)
    return Link(
        step=visit.step,
        models=tuple(pick.id for pick in picks),
        base=visit.base if visit.base and not visit.base_is_found and is_of_hub(visit.base) else "",
        options={name: visit.options.get(name, {}) for name in chosen},
        shares=tuple(visit.shares.get(pick.name, 1.0) for pick in picks),
        texts=tuple(visit.typed),
    )


def read_link(query: str, setting: Setting) -> Link:
    """What the query of an address says."""
    problems: list[FuseHubError] = []

    def read(function: Callable[..., Any], *values: Any, otherwise: Any) -> Any:
        try:
            return function(*values)
        except FuseHubError as error:
            problems.append(error)
            return otherwise

    said = read(_parts, query.removeprefix("?"), otherwise={key: [] for key in KEYS})
    models = [read(_model, text, setting, otherwise="") for text in said["model"]]
    models = read(_few, list(dict.fromkeys(filter(None, models))), setting, otherwise=[])
    options: dict[str, dict[str, Any]] = {}
    for text in said["method"]:
        if name := read(_method, text, otherwise=""):
            options.setdefault(name, {})
    for text in said["option"]:
        if found := read(_option, text, options, otherwise=None):
            method, name, value = found
            options[method][name] = value
    return Link(
        step=read(_step, said["step"], otherwise=PICK),
        models=tuple(models),
        base=next((read(_model, text, setting, otherwise="") for text in said["base"] if text), ""),
        options=options,
        shares=read(_shares, said["share"], len(models), otherwise=()),
        texts=read(_texts, said["text"], setting, otherwise=()),
        problems=tuple(problems),
    )


def _parts(query: str) -> dict[str, list[str]]:
    """Key -> what is said under it; what others put into addresses is passed over."""
    if len(query) > 2 * _LONGEST:
        raise BadData(f"This link is too long ({len(query):,} characters).", "Ask for a shorter one.")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST_PARTS, errors="replace")
    except ValueError:
        raise BadData(f"This link has more than {_MOST_PARTS} parts.", "Ask for a shorter one.") from None
    return {key: [value.strip() for own, value in pairs if own == key] for key in KEYS}


def _step(said: Sequence[str]) -> int:
    if not said:
        return PICK
    if said[0].casefold() not in _NAMES:
        raise unknown("step", said[0], _NAMES)
    return _NAMES.index(said[0].casefold())


def _model(text: str, setting: Setting) -> str:
    """A model's name on the Hub: also where folders can be named, a link that somebody sent names none."""
    name = setting.require_name(text)
    if not is_of_hub(name):
        raise NotFound(
            f"This link names '{name}', which is no model on the Hub.", "Links name models as user/name@commit."
        )
    return name


def is_of_hub(name: str) -> bool:
    """Whether a name, or each of two of an adapter, can be one on the Hub alone."""
    parts = name.split("+")
    here = [local_path(part) for part in parts]
    return all(map(is_name, parts)) and not any(path is not None and path.exists() for path in here)


def _few(models: list[str], setting: Setting) -> list[str]:
    if len(models) > setting.most_models:
        raise BadData(
            f"This link names {len(models)} models: {setting.most_models} fit here.", "Ask for one with fewer models."
        )
    return models


def _method(text: str) -> str:
    method = find_method(text)
    if method.needs_data:
        raise BadRecipe(f"{method.title} needs more than the app can give it.", "Use the command line.")
    return method.name


def _option(text: str, options: Mapping[str, Any]) -> tuple[str, str, Any]:
    """The method, the option and its value, of `regmean.alpha=0.5`."""
    whose, equals, said = text.partition("=")
    method, _, name = whose.partition(".")
    if not equals or method not in options:
        raise BadRecipe(f"This link says '{text[:60]}' of no method that it names.", "Write METHOD.OPTION=VALUE.")
    try:
        value = json.loads(said)
    except (ValueError, RecursionError):
        value = said
    if isinstance(value, list | dict) or (isinstance(value, float) and not math.isfinite(value)):
        raise BadRecipe(f"{name} cannot be {said[:60]}.", "Links say one number, word or yes or no of an option.")
    known = METHODS[method]
    if name not in options_of(known):
        raise unknown(f"option of {method}", name, options_of(known))
    kind: type[Options] = known.options if name in known.options.fields() else known.own_options
    kind.parse(method, {name: value})
    return method, name, value


def _shares(said: Sequence[str], models: int) -> tuple[float, ...]:
    if not said:
        return ()
    try:
        shares = tuple(float(share) for share in said)
    except ValueError:
        raise BadRecipe(f"A share cannot be '{said[0][:60]}'.", "Shares are numbers.") from None
    if len(shares) != models or not all(0 <= share <= _MOST_SHARE for share in shares):
        raise BadRecipe(
            "The shares of this link do not fit its models.", f"Each model has one, from 0 to {_MOST_SHARE:g}."
        )
    return shares


def _texts(said: Sequence[str], setting: Setting) -> tuple[str, ...]:
    lines = [" ".join(text.split()) for text in said]
    texts = tuple(filter(None, lines))
    if len(texts) > setting.most_texts:
        raise BadData(f"This link has {len(texts)} texts: {setting.most_texts} fit here.", "Ask for one with fewer.")
    return texts
