"""The registry as Markdown, for docs/methods.md: a table of when to use which, and a section for each method."""

from __future__ import annotations

from collections.abc import Iterator

from fusehub.methods.base import Method, option_words, value_words
from fusehub.methods.registry import ALIASES, METHODS

_BASE = {"needed": "needed", "optional": "for `scale`", "origin": "optional", "end": "one of the two"}
_STATISTICS = {
    "nothing": "weights",
    "updates": "weights",
    "grams": "weights, statistics",
    "texts": "weights, data",
    "fisher": "weights, Fisher diagonals",
}


def document() -> str:
    """The methods that come with FuseHub, and all of their options."""
    methods = [method for method in METHODS.values() if method.plugin is None]
    names = ["method", *facts(methods[0])]
    lines = [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
    lines += [f"| [`{method.name}`](#{method.name}) | {' | '.join(facts(method).values())} |" for method in methods]
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
            yield f"| `{name}` | {whose} | `{value_words(field.default)}` | {field.description} |"


def facts(method: Method) -> dict[str, str]:
    """What a method needs and what it can, in a few words each."""
    fewest, most = method.models
    whole = "solved" if method.needs_statistics else "whole"
    return {
        "needs": _STATISTICS[method.statistics],
        "base": _base(method),
        "weights": _weights(method),
        "models": str(fewest) if fewest == most else f"{fewest} or more" if most is None else f"{fewest} to {most}",
        "tensors": "in pieces" if method.is_elementwise or method.survey is not None else whole,
        "biases": _biases(method) if method.needs_statistics else "as weights",
        "as an adapter": "yes" if method.factors else "no",
    }


def _base(method: Method) -> str:
    if method.base_with is None:
        return _BASE[method.base]
    asked = option_words(method.base_with)
    return f"{_BASE[method.base]}, needed with `{asked}`" if asked else _BASE["needed"]


def _biases(method: Method) -> str:
    if method.biases_with is None:
        return "averaged"
    asked = option_words(method.biases_with)
    return f"averaged; solved with `{asked}`" if asked else "solved"


def _weights(method: Method) -> str:
    if "weight" not in method.own_options.fields():
        return "none"
    return "any" if method.negative_weights else "not negative"
