"""The documents that the app comes with, as pages of it.

They are README.md and docs/ where these lie beside it, in a checkout or a Space, and the README in the package's
metadata where it is installed.

    GET documents/README.md        GET documents/docs/methods.md
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt
from markdown_it.token import Token
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route

from fusehub.utils.untrusted.yaml_text import split_front_matter

if TYPE_CHECKING:
    from starlette.applications import Starlette

PLACE = "documents"
FIRST = "README.md"
_ROOT = Path(__file__).parents[1]
_FOLDER = "docs"
_PICTURES = (".png", ".svg")
_HEADERS = {"X-Content-Type-Options": "nosniff"}
_STYLE = """
:root { color-scheme: light dark }
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.6 system-ui, sans-serif }
pre { overflow-x: auto; padding: .8rem; border: 1px solid #8886; border-radius: 8px }
table { display: block; overflow-x: auto; border-collapse: collapse }
th, td { padding: .3rem .6rem; border: 1px solid #8886; text-align: left; vertical-align: top }
img { max-width: 100% }
"""


def add_documents(app: Starlette) -> None:
    """Serves them; before the app's own routes, which take every address."""

    def page(request: Request) -> Response:
        path = request.path_params["path"]
        if (picture := picture_of(path)) is not None:
            return FileResponse(picture, headers=_HEADERS)
        text = text_of(path)
        if text is None:
            words = (
                f"There is no {html.escape(path)} here: it may be with FuseHub's source, which this app is part of."
            )
            return HTMLResponse(_page(FIRST, f'<p>{words}</p><p><a href="/{PLACE}/{FIRST}">{FIRST}</a></p>'), 404)
        return HTMLResponse(_page(path, rendered(text)), headers=_HEADERS)

    app.router.routes[:0] = [Route(f"/{PLACE}/{{path:path}}", page)]


def text_of(path: str, root: Path = _ROOT) -> str | None:
    """The Markdown of a document; None for what is none."""
    if not _is_beside(root):
        return _described() if path == FIRST else None
    file = (root / path).resolve()
    inside = file.parent == root.resolve() or file.is_relative_to((root / _FOLDER).resolve())
    if not inside or file.suffix != ".md" or not file.is_file():
        return None
    return split_front_matter(file.read_text(encoding="utf-8"))[1]


def picture_of(path: str, root: Path = _ROOT) -> Path | None:
    """The file of a picture in the documents; None for what is none."""
    file = (root / path).resolve()
    inside = _is_beside(root) and file.is_relative_to((root / _FOLDER).resolve())
    return file if inside and file.suffix in _PICTURES and file.is_file() else None


def are_there() -> bool:
    """Whether there is a first page."""
    return text_of(FIRST) is not None


def rendered(text: str) -> str:
    """Markdown as HTML, with the headings' names to link to that GitHub gives them."""
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    tokens = parser.parse(text)
    _name_headings(tokens)
    return str(parser.renderer.render(tokens, parser.options, {}))


def _name_headings(tokens: Sequence[Token]) -> None:
    for place, token in enumerate(tokens):
        if token.type == "heading_open":
            said = re.sub(r"[^\w\- ]", "", tokens[place + 1].content.lower())
            token.attrSet("id", said.strip().replace(" ", "-"))


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)} - FuseHub</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main>{body}</main></body></html>"
    )


def _is_beside(root: Path) -> bool:
    """Whether the app lies in a checkout or a Space, and not among installed packages."""
    return (root / "pyproject.toml").is_file() and (root / FIRST).is_file()


def _described() -> str | None:
    """The README that the package was built with."""
    try:
        said = metadata("fusehub").get_payload()  # type: ignore[attr-defined]  # It is a message of `email`.
    except PackageNotFoundError:
        return None
    return split_front_matter(said)[1] if isinstance(said, str) and said.strip() else None
