"""Markdown from templates, safe with words from outside: names, labels and licenses cannot break a table or a page."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

# Addresses are left alone; a path of several parts is somebody's machine.
_PATH = re.compile(r"(?<![\w./:~@-])(?:~|\.{1,2})?/(?:[^\s/,;:'\"]+/)*([^\s/,;:'\"]*[\w-])")
_WINDOWS_PATH = re.compile(r"(?<!\w)(?:[A-Za-z]:[\\/]|\\\\)(?:[^\s\\/,;:'\"]+[\\/])*([^\s\\/,;:'\"]*[\w-])")


def md(text: object) -> str:
    """`text` as Markdown that shows exactly it, on one line, in a table too."""
    return re.sub(r"([\\`*_{}\[\]<>|#~$])", r"\\\1", " ".join(str(text).split()))


def link(text: object, url: str | None) -> str:
    """A link where there is an address, else the text."""
    return f"[{md(text)}]({url})" if url else md(text)


def without_paths(text: str) -> str:
    """`text` with paths of this machine cut to their last part: "/home/ann/films" -> "films"."""
    return _WINDOWS_PATH.sub(r"\1", _PATH.sub(r"\1", text))


def fence_for(text: str) -> str:
    """A fence longer than any run of backticks in `text`."""
    return "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))


def listed(items: list[str], most: int = 30) -> str:
    """`a, b and c`; of very many the first."""
    if len(items) > most:
        items = [*items[:most], f"{len(items) - most} more"]
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def render(template: str, **facts: Any) -> str:
    """The template of that name in `templates/`, filled in; "card" is card.md, and "app.py.jinja" a program.

    A fact that it names and is not given is an error.
    """
    name = template if "." in template else f"{template}.md"
    return _environment().get_template(name).render(facts).strip() + "\n"


@cache
def _environment() -> Any:
    """Where the templates are, each of which is compiled once."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parents[1] / "publishing" / "cards" / "templates"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,
    )
    environment.filters |= {"md": md, "py": repr}
    return environment
