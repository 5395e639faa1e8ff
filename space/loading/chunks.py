"""Which of gradio's files a page of given components is made of, as gradio's own build says it.

The browser learns of them one after the other: the first script asks for the next ones, these for the page, and that
for each kind of component, when all else of it is there already. Told with the page, it gets them all at once.

What is read here is private to gradio. Where a version of it is built in another way, nothing is found, and the
browser asks for everything as gradio has it do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import gradio as gr

BUILD = Path(gr.__file__).parent / "templates" / "frontend"
_FOLDER = "assets"
_FIRST = re.compile(rf'="\./{_FOLDER}/([\w.-]+\.(?:js|css))"')
_NAMES = re.compile(r"m\.f=\[([^\]]*)\]")
# An import that comes later, with the places of all files that it needs in the script's list of names.
_LATER = re.compile(r"import\(`\./([\w.-]+)`\)[^[]{0,80}?__vite__mapDeps\(\[([\d,]*)\]\)")
# The scripts that ask for the others, one after the other: the frame of all pages, the page, the kinds of components.
_FRAME, _PAGE, _KINDS = "Index-", "Blocks-", "core-"


def chunks_of(kinds: Iterable[str], build: Path = BUILD) -> list[str]:
    """The files of `build` that the browser loads for a page with components of these `kinds`, in about the order in
    which it asks for them: paths such as "assets/Index-x9Lwa_7O.js"."""
    folder = build / _FOLDER
    try:
        found = dict.fromkeys(_FIRST.findall((build / "index.html").read_text(encoding="utf-8")))
        for script in [name for name in found if name.endswith(".js")]:
            for name, needed in _later((folder / script).read_text(encoding="utf-8")):
                found |= dict.fromkeys(needed)
                if name.startswith(_FRAME):
                    for other, own in _later((folder / name).read_text(encoding="utf-8")):
                        found |= dict.fromkeys(own if other.startswith(_PAGE) else ())
        for script in [name for name in found if name.startswith(_KINDS) and name.endswith(".js")]:
            text = (folder / script).read_text(encoding="utf-8")
            for kind in kinds:
                found |= dict.fromkeys(_needed_for(kind, text))
    except OSError:
        return []
    return [f"{_FOLDER}/{name}" for name in found]


def _later(text: str, part: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """What a script, or a `part` of it, imports later, each with all files that this needs."""
    listed = _NAMES.search(text)
    names = [name.strip('"').removeprefix("./") for name in listed[1].split(",")] if listed else []
    for match in _LATER.finditer(text if part is None else part):
        yield match[1], [names[int(place)] for place in match[2].split(",") if place and int(place) < len(names)]


def _needed_for(kind: str, text: str) -> list[str]:
    """The files of one kind of component; none where the script does not name it."""
    own = re.search(rf"[{{,]{re.escape(kind)}:\{{[^{{}}]*?component:(\(\)=>[^{{}}]*)\}}", text)
    return [name for _, needed in _later(text, own[1]) for name in needed] if own else []
