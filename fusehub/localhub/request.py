"""From an HTTP request to a plain function: identify the caller, find the repository, check, read the body.

A handler is `def handler(call: Call) -> dict | list | Response`. It runs in a worker thread, so it may use the disk;
only uploads are asynchronous.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .access import Caller, Tickets, Users, check, identify
from .errors import HubError, bad_request, repo_not_found, unauthorized
from .lfs import Uploads, spool
from .names import split_revision
from .store import Repo, Store

SLASH = "\x1f"  # stands for a %2F of the address, see app.EncodedSlashes
MAX_JSON = 32 * 2**20
MAX_COMMIT = 2 * 2**30
SESSION = "fusehub_hub"
WEB_PREFIX = {"model": "", "dataset": "datasets/", "space": "spaces/"}


@dataclass(frozen=True)
class Hub:
    """All that handlers need to know of the server."""

    store: Store
    users: Users
    tickets: Tickets
    uploads: Uploads
    page_size: int


@dataclass
class Call:
    """One request, understood."""

    hub: Hub
    request: Request
    caller: Caller | None
    params: dict[str, str]
    kind: str = "model"
    found: Repo | None = None
    body: Any = None

    @property
    def repo(self) -> Repo:
        """The repository of the address, for an endpoint that needs one."""
        assert self.found is not None
        return self.found

    @property
    def user(self) -> Caller:
        """Who asks. Raises 401 for someone unknown."""
        if self.caller is None:
            raise unauthorized()
        return self.caller

    @property
    def base(self) -> str:
        return str(self.request.base_url).rstrip("/")

    @property
    def query(self) -> QueryParams:
        return self.request.query_params

    def repo_url(self, repo: Repo | None = None) -> str:
        repo = repo or self.repo
        return f"{self.base}/{WEB_PREFIX[repo.kind]}{repo.id}"

    def revision_and_path(self) -> tuple[str, str]:
        """The `{rest}` of an address: revision (its slashes encoded or not), then a path."""
        rest = self.params.get("rest", "").rstrip("/")
        revision, _, path = rest.partition("/")
        if SLASH in revision:
            return decode(revision), decode(path)
        return split_revision(decode(rest))


Reply = dict | list | Response
"""What a handler answers; what is no response yet is sent as JSON."""
Handler = Callable[[Call], Reply]


def decode(param: str) -> str:
    return param.replace(SLASH, "/")


def caller_of(hub: Hub, request: Request) -> Caller | None:
    """By token, or for reading only by the browser's session cookie."""

    def session() -> Caller | None:
        cookie = request.cookies.get(SESSION)
        if not cookie or request.method not in ("GET", "HEAD"):
            return None
        try:
            return hub.users.caller(hub.tickets.open(cookie, "session")["name"], role="read")
        except HubError:
            return None

    return identify(hub.users, request.headers.get("authorization"), session)


async def read_json(request: Request) -> dict:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > MAX_JSON:
            raise HubError(413, "TooLarge", f"The request is larger than {MAX_JSON} bytes")
    try:
        body = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        raise bad_request("The body of the request is not JSON") from None
    if not isinstance(body, dict):
        raise bad_request("The body of the request must be a JSON object")
    return body


async def read_form(request: Request) -> dict[str, list[str]]:
    """A form, or the same as JSON (clients of paths-info send both)."""
    if request.headers.get("content-type", "").startswith("application/json"):
        body = await read_json(request)
        return {key: value if isinstance(value, list) else [str(value)] for key, value in body.items()}
    form = await request.form(max_files=0, max_fields=10_000)
    return {key: [str(item) for item in form.getlist(key)] for key in form}


def endpoint(
    handler: Handler, *, need: str | None = None, body: str | None = None, kind: str = ""
) -> Callable[[Request], Awaitable[Response]]:
    """An ASGI endpoint of `handler`. `need` is checked on the repository of the address (see access.check); `body`
    is `json`, `form` or `spool` (a temporary file)."""

    async def answer(request: Request) -> Response:
        hub: Hub = request.app.state.hub
        params = dict(request.path_params)
        call = Call(hub, request, None, params, kind or params.get("kind", "models").removesuffix("s"))
        await run_in_threadpool(_prepare, call, need)
        temp: Path | None = None
        try:
            if body == "json":
                call.body = await read_json(request)
            elif body == "form":
                call.body = await read_form(request)
            elif body == "spool":
                call.body = temp = await spool(request, hub.store.temp, MAX_COMMIT)
            result = await run_in_threadpool(handler, call)
        finally:
            if temp:
                temp.unlink(missing_ok=True)
        return result if isinstance(result, Response) else JSONResponse(result)

    return answer


def _prepare(call: Call, need: str | None) -> None:
    call.caller = caller_of(call.hub, call.request)
    if need is None:
        return
    repo_id = f"{call.params.get('ns', '')}/{call.params.get('name', '')}"
    call.found = find_repo(call.hub, call.kind, repo_id, call.caller)
    check(call.caller, call.found, need)


def find_repo(hub: Hub, kind: str, repo_id: str, caller: Caller | None) -> Repo:
    try:
        return hub.store.repo(kind, repo_id)
    except HubError:
        raise repo_not_found(signed_in=caller is not None) from None
