"""A Hub that misbehaves as it is told, so that its clients can be tried: errors, cut answers, wrong bytes.

A fault plan is a list in JSON. Each fault says which requests it is for and what happens to them:

    [{"path": "/api/models/.*", "method": "GET", "skip": 1, "count": 2, "do": "status", "status": 503}]

`path` is a regular expression for the whole path, `method` any if not said. The first `skip` of its requests pass,
then `count` of them (all, if not said) meet what it does:

    status      an answer of that `status`, with `retry_after` and other `headers` where said
    html        200 and the page of a captive portal
    json        200 and the text `body`, said to be JSON; `{}` if not said
    stall       nothing for `seconds`, then the answer
    drop        the connection ends, and nothing is carried out
    cut         the answer's body ends after `after` bytes, and the connection with it
    flip        one bit of the body's byte number `at` is another
    longer      the header promises 10 bytes more than come
    shorter     header and body have 10 bytes less than the answer
    late        the request is carried out at once, and answered after `seconds`
    lost        the request is carried out, and the connection ends without an answer

The plan is `faults.json` in the hub's folder, read again whenever it was written: a running hub can be told anew.
While there is one, `faults.log` beside it has a line for each request: `["GET", "/api/models", 0, 2]` with the number
of the fault that it met, or null, and how many others had no answer yet.
"""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import LocalHubError

FILENAME, LOG = "faults.json", "faults.log"
_ANSWERS = ("status", "html", "json")
_KINDS = (*_ANSWERS, "stall", "drop", "cut", "flip", "longer", "shorter", "late", "lost")
_KEYS = {"path", "method", "skip", "count", "do", "status", "retry_after", "headers", "body", "seconds", "after", "at"}
_BYTES = 10
"""By how many bytes an answer of wrong length is wrong."""
_PORTAL = "<html><head><title>Sign in</title></head><body>Welcome to the network.</body></html>"


def read_plan(text: str) -> list[dict[str, Any]]:
    """The faults of a plan. Raises `LocalHubError` for one that says something unknown."""
    plan = json.loads(text)
    for fault in plan:
        if fault.get("do") not in _KINDS or not set(fault) <= _KEYS:
            raise LocalHubError(
                f"No such fault: {fault}. Known: {', '.join(_KINDS)}, with {', '.join(sorted(_KEYS))}."
            )
    return plan


class Faults:
    """Middleware that does what the plan in the hub's folder says."""

    def __init__(self, app: ASGIApp, root: Path) -> None:
        self.app, self.path = app, Path(root) / FILENAME
        self._read_at: int | None = None
        self._plan: list[dict[str, Any]] = []
        self._seen: list[int] = []
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        fault = self._fault_for(scope)
        self._open += 1
        try:
            await self._meet(fault, scope, receive, send)
        finally:
            self._open -= 1

    async def _meet(self, fault: dict[str, Any] | None, scope: Scope, receive: Receive, send: Send) -> None:
        if fault is None:
            await self.app(scope, receive, send)
        elif fault["do"] in _ANSWERS:
            await _answer(fault)(scope, receive, send)
        else:
            if fault["do"] in ("drop", "lost"):
                if fault["do"] == "lost":
                    await self.app(scope, receive, _unsent)
                return await _hang_up(scope, receive)
            if fault["do"] == "stall":
                await asyncio.sleep(fault["seconds"])
            await self.app(scope, receive, _Misbehaving(fault, send).send)

    def _fault_for(self, scope: Scope) -> dict[str, Any] | None:
        try:
            written = self.path.stat().st_mtime_ns
        except FileNotFoundError:
            return None
        if written != self._read_at:
            self._plan = read_plan(self.path.read_text(encoding="utf-8"))
            self._read_at, self._seen = written, [0] * len(self._plan)
        number = self._number_of_fault(scope)
        with self.path.with_name(LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps([scope["method"], scope["path"], number, self._open]) + "\n")
        return None if number is None else self._plan[number]

    def _number_of_fault(self, scope: Scope) -> int | None:
        for number, fault in enumerate(self._plan):
            if fault.get("method") not in (None, scope["method"]) or not re.fullmatch(fault["path"], scope["path"]):
                continue
            self._seen[number] += 1
            place = self._seen[number] - fault.get("skip", 0)
            if 0 < place <= fault.get("count", place):
                return number
        return None


def _answer(fault: dict[str, Any]) -> Response:
    if fault["do"] == "html":
        return HTMLResponse(_PORTAL)
    if fault["do"] == "json":
        return Response(fault.get("body", "{}"), media_type="application/json")
    headers = {"X-Error-Message": "This hub was told to fail", **fault.get("headers", {})}
    if "retry_after" in fault:
        headers["Retry-After"] = str(fault["retry_after"])
    return Response(status_code=fault["status"], headers=headers)


async def _hang_up(scope: Scope, receive: Receive) -> None:
    """Ends the connection, which the server hands on (see `fusehub.localhub.process`)."""
    scope["state"]["transport"].abort()
    while (await receive())["type"] != "http.disconnect":
        pass


async def _unsent(message: Message) -> None:
    """Where an answer goes that is lost."""


class _Misbehaving:
    """The way of one answer to the client, with a fault on it."""

    def __init__(self, fault: dict[str, Any], send: Send) -> None:
        self.fault, self._send = fault, send
        self._sent = 0
        self._length = 0
        self._is_over = False

    async def send(self, message: Message) -> None:
        kind = self.fault["do"]
        if self._is_over:
            return
        if message["type"] == "http.response.start":
            if kind == "late":
                await asyncio.sleep(self.fault["seconds"])
            if kind in ("longer", "shorter"):
                headers, self._length = _resized(message["headers"], -_BYTES if kind == "shorter" else _BYTES)
                message = {**message, "headers": headers}
            await self._send(message)
            return
        if message["type"] == "http.response.body":
            message = {**message, "body": self._changed(message.get("body", b""))}
        await self._send(message)

    def _changed(self, body: bytes) -> bytes:
        start, self._sent = self._sent, self._sent + len(body)
        if self.fault["do"] == "flip" and start <= self.fault["at"] < self._sent:
            changed = bytearray(body)
            changed[self.fault["at"] - start] ^= 1
            return bytes(changed)
        if self.fault["do"] == "cut" and self._sent > self.fault["after"]:
            # The server ends the connection when fewer bytes come than were promised.
            self._is_over = True
            return body[: self.fault["after"] - start]
        if self.fault["do"] == "shorter":
            return body[: max(0, self._length - start)]
        return body


def _resized(headers: list[tuple[bytes, bytes]], by: int) -> tuple[list[tuple[bytes, bytes]], int]:
    """The headers with a length that is `by` more, and that length."""
    length = next((int(value) for name, value in headers if name.lower() == b"content-length"), 0)
    kept = [(name, value) for name, value in headers if name.lower() not in (b"content-length", b"transfer-encoding")]
    told = max(0, length + by)
    return [*kept, (b"content-length", str(told).encode())], told
