"""Everything that a Hub can do wrong, as plans of faults (see `fusehub.localhub.faults`), by name."""

from email.utils import formatdate
from typing import Any

Fault = dict[str, Any]

WAIT = 6.0
"""Seconds that a stalled answer takes here: longer than anything that the tried client waits for."""


def _status(status: int, **more: Any) -> Fault:
    return {"do": "status", "status": status, **more}


def _body(text: str) -> Fault:
    return {"do": "json", "body": text}


ANSWERS: dict[str, Fault] = {
    "429": _status(429),
    "429, again in 1 s": _status(429, retry_after=1),
    "429, again in an hour": _status(429, retry_after=3600),
    "429, again at a date": _status(429, retry_after=formatdate(4e9, usegmt=True)),
    "429, again at rubbish": _status(429, retry_after="soon; perhaps"),
    "429, no requests left for an hour": _status(429, headers={"ratelimit": '"api";r=0;t=3600'}),
    **{str(status): _status(status) for status in (500, 502, 503, 504, 401, 403, 404, 410)},
    "dropped before it": {"do": "drop"},
    "lost after it was done": {"do": "lost"},
    "cut after 0 bytes": {"do": "cut", "after": 0},
    "cut after 100 bytes": {"do": "cut", "after": 100},
    "stalls": {"do": "stall", "seconds": WAIT},
    "late": {"do": "late", "seconds": WAIT},
    "10 bytes fewer than promised": {"do": "longer"},
    "10 bytes missing": {"do": "shorter"},
    "a wrong bit": {"do": "flip", "at": 40},
    "page of a captive portal": {"do": "html"},
    "`{}`": _body("{}"),
    "`[]`": _body("[]"),
    "`null`": _body("null"),
    "JSON that breaks off": _body('{"id": "ann/exp'),
    "redirects in a loop": _status(302, headers={"Location": ""}),
    "redirect to a page to sign in": _status(302, headers={"Location": "/login"}),
    "redirect to another host": _status(302, headers={"Location": "http://127.0.0.1:9/portal"}),
}
"""What can become of any answer."""

_ENTRY = '{"path": "model.safetensors", "uploadMode": %s, "shouldIgnore": false}'
SPECIAL: dict[str, tuple[str, Fault]] = {
    "batch: an error of each file": (
        ".*/info/lfs/objects/batch",
        _body(
            '{"transfer": "basic", "objects": [{"oid": "0", "size": 1, "error": {"code": 507, "message": "full"}}]}'
        ),
    ),
    "batch: no objects": (".*/info/lfs/objects/batch", _body('{"objects": []}')),
    "batch: objects are a number": (".*/info/lfs/objects/batch", _body('{"objects": 5}')),
    "batch: unknown transfer": (".*/info/lfs/objects/batch", _body('{"transfer": "pigeon", "objects": []}')),
    "preupload: no files": (".*/preupload/.*", _body('{"files": []}')),
    "preupload: a number for a mode": (".*/preupload/.*", _body(f'{{"files": [{_ENTRY % 3}]}}')),
    "preupload: an unknown mode": (".*/preupload/.*", _body(f'{{"files": [{_ENTRY % chr(34) + "odd" + chr(34)}]}}')),
    "preupload: of other files": (".*/preupload/.*", _body(f'{{"files": [{_ENTRY}]}}' % '"lfs"')),
    "commit: an odd hash": (".*/commit/.*", _body('{"commitOid": 7, "commitUrl": "x"}')),
    "whoami: no name": ("/api/whoami-v2", _body('{"type": "user"}')),
}
"""What can become of one kind of answer: the paths that give it, and the fault."""

_ONE = "all but `find` gave up at once"
BEFORE = {
    "429": _ONE,
    "429, again in an hour": "`find` waited 3601 s, the others gave up at once",
    "500": f"{_ONE}; a traceback where a file was pushed",
    "dropped before it": f"{_ONE}; a traceback where a file was pushed",
    "lost after it was done": "a push that was complete was not said to be",
    "cut after 100 bytes": "a traceback",
    "10 bytes missing": "a traceback",
    "a wrong bit": "merged in silence",
    "page of a captive portal": "a traceback",
    "`{}`": "a traceback, or no models",
}
"""What came of it at 7af6baa, as it was noted then."""


def plan(fault: Fault, path: str, method: str | None, *, once: bool) -> list[Fault]:
    """One fault at one path, once or for ever."""
    return [{**fault, "path": path, **({"method": method} if method else {}), **({"count": 1} if once else {})}]
