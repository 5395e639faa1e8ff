"""Answers of what the first paint waits for: the page, with the list of all files that it is made of, and these files.

Gradio reads and compresses each file anew for everyone who comes, and a page is made of sixty of them; here they are
in memory, compressed once. Their names change with what is in them, so the browser need not ask for them again.
"""

from __future__ import annotations

import functools
import gzip
from pathlib import Path

import gradio as gr
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .chunks import BUILD, chunks_of

_KINDS = {".js": "text/javascript", ".css": "text/css"}
_HEADERS = {
    "Cache-Control": "public, max-age=31536000, immutable",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
}
_HEAD = b"<head>"


class Front:
    """Middleware that tells whoever asks for the page which `files` it is made of, and has those in memory."""

    def __init__(self, app: ASGIApp, page: gr.Blocks) -> None:
        files = chunks_of(kinds_of(page))
        self.app, self.known = app, frozenset(files)
        theme = f'<link rel="preload" as="style" href="./theme.css?v={page.theme_hash}">'
        self.links = "".join([*map(_link, files), theme]) if files else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", "")) if scope["type"] == "http" else None
        if path is None or scope["method"] != "GET":
            await self.app(scope, receive, send)
        elif path.removeprefix("/") in self.known:
            await self._file(path.removeprefix("/"), Headers(scope=scope))(scope, receive, send)
        elif path == "/":
            await self.app(scope, receive, _with_links(self.links.encode(), Headers(scope=scope), send))
        else:
            await self.app(scope, receive, send)

    def _file(self, name: str, asked: Headers) -> Response:
        plain, packed = _content(BUILD / name)
        headers = dict(_HEADERS)
        if is_packed := "gzip" in asked.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
        return Response(packed if is_packed else plain, headers=headers, media_type=_KINDS[Path(name).suffix])


def kinds_of(page: gr.Blocks) -> list[str]:
    """The kinds of components that the browser makes for the page, in its order."""
    shown = [block for block in page.blocks.values() if getattr(block, "visible", True) is not False]
    return list(dict.fromkeys(block.get_block_name() for block in shown))


@functools.cache
def _content(path: Path) -> tuple[bytes, bytes]:
    """A file as it is, and compressed."""
    plain = path.read_bytes()
    return plain, gzip.compress(plain)


def _link(file: str) -> str:
    if file.endswith(".js"):
        return f'<link rel="modulepreload" crossorigin href="./{file}">'
    return f'<link rel="preload" as="style" crossorigin href="./{file}">'


def _with_links(links: bytes, asked: Headers, send: Send) -> Send:
    """`send` for a page, which gets `links` into its head and is compressed."""
    start: Message = {}
    body = bytearray()

    async def told(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            start = message
            return
        if message["type"] != "http.response.body":
            await send(message)
            return
        body.extend(message.get("body", b""))
        if message.get("more_body", False):
            return
        headers, page = MutableHeaders(raw=start["headers"]), bytes(body)
        if headers.get("content-type", "").startswith("text/html") and "content-encoding" not in headers:
            page = page.replace(_HEAD, _HEAD + links, 1)
            headers.add_vary_header("Accept-Encoding")
            if "gzip" in asked.get("accept-encoding", ""):
                page = gzip.compress(page, 1)
                headers["Content-Encoding"] = "gzip"
            headers["Content-Length"] = str(len(page))
        await send(start)
        await send({"type": "http.response.body", "body": page})

    return told
