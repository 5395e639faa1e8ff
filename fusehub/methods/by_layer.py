"""Options that differ from layer to layer and from model to model, in mergekit's words.

    parameters:
      t:
        - {filter: self_attn, value: [0, 0.5, 1]}   # a gradient: over the layers from first to last
        - {filter: mlp, value: 0.3}                 # tensors that have `mlp` in their name
        - {value: 0.5}                              # all others

A value is one value, a list of them (numbers are interpolated over the depth), or a list of filters, of which the
first that is part of the tensor's name holds. What a model says of itself goes before what the recipe says of all,
and that before the default.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fusehub.errors import BadRecipe, FuseHubError, shortly, together
from fusehub.methods.base import Method, Options
from fusehub.methods.mergekit import MERGEKIT_METHODS, MERGEKIT_OPTIONS, REQUIRED
from fusehub.utils.frozen import freeze, thawed

_LAYER = re.compile(r"^(.*?)\.(\d+)(?:\.|$)")


@dataclass(frozen=True)
class Settings:
    """What a recipe says of its method and of each model, checked, and ready to be asked for any tensor."""

    method: Method
    shared: Mapping[str, Any]
    common: Mapping[str, Any]
    """What is said once of every model (a `weight` or `density` under the recipe's own parameters)."""
    models: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()
    """What is said and does nothing in this method."""
    _known: dict[Any, tuple[Options, tuple[Options, ...]]] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        freeze(self, "shared", "common", "models")

    @classmethod
    def of(cls, method: Method, parameters: Mapping[str, Any], models: Sequence[Mapping[str, Any]]) -> Settings:
        """Checks every name and every value that occurs. Raises `BadRecipe` naming all that are wrong.

        Options of mergekit's that a method of mergekit's does not ask for are left out, and noted.
        """
        idle = MERGEKIT_OPTIONS - {*method.options.fields(), *method.own_options.fields()}
        if method.name not in MERGEKIT_METHODS:
            idle = frozenset()
        own = method.own_options.fields()
        problems: list[FuseHubError] = []
        shared = {name: value for name, value in parameters.items() if name not in own and name not in idle}
        common = {name: value for name, value in parameters.items() if name in own}
        notes = [f"{name} does nothing in {method.title}." for name in parameters if name in idle]
        kept: list[dict[str, Any]] = []
        for said in models:
            kept.append({})
            for name, value in said.items():
                if name in idle:
                    notes.append(f"{name} does nothing in {method.title}.")
                elif name not in method.options.fields():
                    kept[-1][name] = value
                elif method.name in MERGEKIT_METHODS and name not in REQUIRED - set(parameters):
                    notes.append(
                        f"{name} is one value for the whole merge: said of one model, it does nothing. If it is "
                        "meant, move it to the recipe's own parameters."
                    )
                else:
                    problems.append(
                        BadRecipe(
                            f"{name} is one value for the whole merge, and is said of one model.",
                            f"Move {name} to the recipe's own parameters.",
                        )
                    )
        checked = [
            _checked(method, kind, said, problems)
            for kind, said in (
                (method.options, shared),
                (method.own_options, common),
                *((method.own_options, said) for said in kept),
            )
        ]
        if problems:
            raise together(problems)
        return cls(method, checked[0], checked[1], tuple(checked[2:]), tuple(dict.fromkeys(notes)))

    def at(self, name: str, depth: float) -> tuple[Options, tuple[Options, ...]]:
        """The method's options and those of each model for the tensor `name` at `depth`, 0 (first layer) to 1."""
        shared = _at((self.shared,), name, depth)
        own = [_at((said, self.common), name, depth) for said in self.models]
        key = (_frozen(shared), tuple(map(_frozen, own)))
        if key not in self._known:
            kind = self.method.own_options
            self._known[key] = (
                self.method.parse(shared),
                tuple(kind.parse(self.method.name, said) for said in own),
            )
        return self._known[key]

    def written(self) -> dict[str, Any]:
        """The recipe's parameters with the defaults filled in."""
        return {**self.method.parse({}).model_dump(), **thawed(self.shared), **thawed(self.common)}

    def filters(self) -> list[str]:
        """The texts that tensors' names are asked for, each once."""
        found = [
            str(case["filter"])
            for said in self._all()
            for value in said.values()
            for case in (value if isinstance(value, tuple) else ())
            if isinstance(case, Mapping) and not _always(case)
        ]
        return list(dict.fromkeys(found))

    def _all(self) -> Iterator[Mapping[str, Any]]:
        yield from (self.shared, self.common, *self.models)


def depths(names: Iterable[str]) -> dict[str, float]:
    """How deep in the model each tensor lies: 0 for the first layer, 1 for the last, 0 for what is in no layer.

    Layers are told by the first number in a name; encoder and decoder count for themselves. One layer is at 1.
    """
    places = {name: match.groups() for name in names if (match := _LAYER.match(name))}
    last: dict[str, int] = {}
    for stack, number in places.values():
        last[stack] = max(last.get(stack, 0), int(number))
    return {name: int(number) / last[stack] if last[stack] else 1.0 for name, (stack, number) in places.items()}


def _checked(
    method: Method, kind: type[Options], said: Mapping[str, Any], problems: list[FuseHubError]
) -> dict[str, Any]:
    """`said` with every single value as its type has it; what cannot be is added to `problems`."""
    fields = kind.fields()
    names = {field.alias or name: name for name, field in kind.model_fields.items()}

    def one(name: str, value: Any) -> Any:
        if name not in fields:
            # The error of the kind that the user meant: options of the merge and of models are listed together.
            known = method.options if kind is method.own_options else kind
            return known.parse(method.name, {name: value})
        return getattr(kind.parse(method.name, {name: value}), names[name])

    checked = {}
    for name, value in said.items():
        try:
            checked[name] = _mapped(name, value, partial(one, name))
        except BadRecipe as error:
            problems.append(error)
    return checked


def _mapped(name: str, value: Any, change: Callable[[Any], Any]) -> Any:
    """`value` with `change` applied to every single value in it. Raises `BadRecipe` for other forms."""
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list | tuple):
        return change(value)
    if not value:
        raise BadRecipe(f"{name} is an empty list.", f"Give {name} a value.")
    if not any(isinstance(item, Mapping) for item in value):
        return [change(item) for item in value]
    cases = []
    for item in value:
        if not isinstance(item, Mapping) or "value" not in item or set(item) - {"filter", "value"}:
            raise BadRecipe(
                f"{name}={shortly(thawed(item))} is not of the form {{filter: TEXT, value: VALUE}}.",
                "Give each a value, and all but the last a filter: a part of tensors' names.",
            )
        if isinstance(item["value"], Mapping):
            raise BadRecipe(f"{name}: a filter inside a filter.", "Give each filter a number or a list of numbers.")
        inner = _mapped(name, item["value"], change)
        cases.append({"filter": str(item["filter"]), "value": inner} if item.get("filter") else {"value": inner})
    return cases


def _at(sources: Sequence[Mapping[str, Any]], name: str, depth: float) -> dict[str, Any]:
    """The single values that hold for a tensor; what no source says of it is left out."""
    found: dict[str, Any] = {}
    for said in sources:
        for option, setting in said.items():
            value = _value(setting, name, depth)
            if value is not None:
                found.setdefault(option, value)
    return found


def _value(setting: Any, name: str, depth: float) -> Any:
    if not isinstance(setting, tuple):
        return setting
    if isinstance(setting[0], Mapping):
        case = next((case for case in setting if _always(case) or case["filter"] in name), None)
        return None if case is None else _value(case["value"], name, depth)
    place = depth * (len(setting) - 1)
    before = int(place)
    if any(isinstance(item, bool | str) for item in setting):
        return setting[before]
    after = min(len(setting) - 1, before + 1)
    return (1 - (place - before)) * setting[before] + (place - before) * setting[after]


def _always(case: Mapping[str, Any]) -> bool:
    return case.get("filter") in (None, "*")


def _frozen(values: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(values.items()))
