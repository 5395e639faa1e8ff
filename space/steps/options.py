"""The options of a merge's method, as the app asks for them and tells them again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusehub.methods import METHODS, Method


def options_of(method: Method) -> dict[str, Any]:
    """A method's options by name, those that can be said of each model included: here they hold for all."""
    own = {name: field for name, field in method.own_options.fields().items() if name != "weight"}
    return method.options.fields() | own


def changed_options(method: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a method that are not at their defaults."""
    known = options_of(METHODS[method])
    return {key: value for key, value in parameters.items() if key not in known or known[key].default != value}
