"""Merges to download: each file as it lies on the disk, and all of them as one zip that is written while it is sent.

    GET gradio_api/merged/SECRET.zip        GET gradio_api/merged/SECRET/model.safetensors

The secret is the merge's own, and only the page of the visit that made it shows it. Nothing of a merge is held in
memory or copied on the disk, and what is sent is what a push would upload: no path of this machine is in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from fusehub.errors import FuseHubError
from fusehub.merging.recipe import FILENAME

from .render.reproduce import recipe_file
from .visit import DOWNLOADS, Made, Visit

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from .frame import Frame

_CHUNK = 1 << 20
# What is as large or larger needs the longer form of a zip, which old programs do not read.
_ZIP64 = (1 << 31) - 1
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def add_downloads(app: Starlette, frame: Frame) -> None:
    """Serves the merges of visits; before the app's own routes, which take every address."""

    def whole(request: Request) -> Response:
        found = frame.visits.merge_of(request.path_params["secret"])
        if found is None:
            return _gone()
        visit, made = found
        try:
            files = files_of(frame, visit, made)
        except FuseHubError:
            return _gone()

        def held() -> Iterator[bytes]:
            with frame.visits.held(visit.key):
                yield from zipped(files, made.name)

        name = {"Content-Disposition": f'attachment; filename="{made.name}.zip"'}
        return StreamingResponse(held(), media_type="application/zip", headers=_HEADERS | name)

    def one(request: Request) -> Response:
        found = frame.visits.merge_of(request.path_params["secret"])
        try:
            content = files_of(frame, *found).get(request.path_params["path"]) if found else None
        except FuseHubError:
            content = None
        if content is None:
            return _gone()
        name = request.path_params["path"].rpartition("/")[2]
        if isinstance(content, Path):
            return FileResponse(content, filename=name, media_type="application/octet-stream", headers=_HEADERS)
        said = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(content, media_type="application/octet-stream", headers=_HEADERS | said)

    app.router.routes[:0] = [
        Route(f"/{DOWNLOADS}/{{secret}}.zip", whole),
        Route(f"/{DOWNLOADS}/{{secret}}/{{path:path}}", one),
    ]


def files_of(frame: Frame, visit: Visit, made: Made) -> dict[str, Path | bytes]:
    """What a push would upload: path in the merge -> a file here, or its content.

    Its recipe takes statistics that were made in the visit from where the commands put them that are shown beside it.
    """
    draft = visit.cards.get(made.name)
    asked = {"folder": str(made.folder), "card": draft.text if draft is not None else None}
    told: dict[str, Any] = frame.worker.ask("files", asked)
    told[FILENAME] = recipe_file(told[FILENAME].decode(), made.asked).encode()
    return {name: Path(content) if isinstance(content, str) else content for name, content in told.items()}


def size_of(content: Path | bytes) -> int:
    """Bytes of a file here, or of its content."""
    return content.stat().st_size if isinstance(content, Path) else len(content)


def _gone() -> Response:
    return PlainTextResponse("There is no such merge here: it was deleted, or its visit has ended.", 404)


def zipped(files: Mapping[str, Path | bytes], folder: str) -> Iterator[bytes]:
    """A zip of `files` in `folder`, piece by piece. Weights cannot be made smaller, so nothing is compressed."""
    sink = _Sink()
    with ZipFile(sink, "w", ZIP_STORED) as archive:
        for name, content in files.items():
            with archive.open(ZipInfo(f"{folder}/{name}"), "w", force_zip64=size_of(content) > _ZIP64) as entry:
                for piece in _pieces(content):
                    entry.write(piece)
                    yield sink.take()
    yield sink.take()


def _pieces(content: Path | bytes) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while piece := file.read(_CHUNK):
            yield piece


class _Sink:
    """What was written since it was last taken."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._written.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing waits: `take` has it all."""

    def close(self) -> None:
        """Nothing is held."""

    def take(self) -> bytes:
        taken = b"".join(self._written)
        self._written.clear()
        return taken
