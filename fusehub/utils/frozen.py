"""Plain data that cannot be changed any more: mappings become read-only views, lists and tuples become tuples."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any


def frozen(value: Any) -> Any:
    """`value` as data that nobody can change, all the way down; what is no mapping, list or set stays as it is."""
    if isinstance(value, Mapping):
        return MappingProxyType({key: frozen(own) for key, own in value.items()})
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return tuple(map(frozen, value))
    return frozenset(value) if isinstance(value, set) else value


def thawed(value: Any) -> Any:
    """`value` as JSON has it: dicts and lists."""
    if isinstance(value, Mapping):
        return {key: thawed(own) for key, own in value.items()}
    return list(map(thawed, value)) if isinstance(value, list | tuple) else value


def freeze(owner: object, *names: str) -> None:
    """Makes the fields `names` of a frozen dataclass data that nobody can change; for its `__post_init__`."""
    for name in names:
        object.__setattr__(owner, name, frozen(getattr(owner, name)))
