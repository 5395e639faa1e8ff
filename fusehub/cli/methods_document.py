"""The registry as Markdown, for docs/methods.md: a table of when to use which, and a section for each method."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fusehub.methods.registry import ALIASES, METHODS, Method

_BASE = {"needed": "needed", "optional": "for `scale`", "origin": "optional", "end": "one of the two"}


def document() -> str:
    """The methods that come with FuseHub, and all of their options."""
    methods = [method for method in METHODS.values() if method.plugin is None]
    lines = ["| method | needs | base | weights |", "| --- | --- | --- | --- |"]
    lines += [
        f"| [`{method.name}`](#{method.name}) | {_needs(method)} | {_BASE[method.base]} | {_weights(method)} |"
        for method in methods
    ]
    for method in methods:
        lines += ["", *_section(method)]
    return "\n".join(lines) + "\n"


def _section(method: Method) -> Iterator[str]:
    yield f"### `{method.name}`"
    yield ""
    others = [f"`{alias}`" for alias, name in ALIASES.items() if name == method.name]
    called = f" In mergekit: {', '.join(others)}." if others else ""
    yield f"**{method.title}** ([source]({method.paper})). {method.summary}{called} {method.when}"
    options = [*method.options.fields().items()]
    own = [*method.own_options.fields().items()]
    if options or own:
        yield ""
        yield "| option | of | default | |"
        yield "| --- | --- | --- | --- |"
    for whose, fields in (("the merge", options), ("each model", own)):
        for name, field in fields:
            yield f"| `{name}` | {whose} | `{_text(field.default)}` | {field.description} |"


def _needs(method: Method) -> str:
    if method.data_free:
        return "weights"
    if method.needs_fisher:
        return "weights, Fisher diagonals"
    if method.needs_data:
        return "weights, data"
    return "weights, statistics" if method.needs_statistics else "weights"


def _weights(method: Method) -> str:
    if "weight" not in method.own_options.fields():
        return "none"
    return "any" if method.negative_weights else "not negative"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
