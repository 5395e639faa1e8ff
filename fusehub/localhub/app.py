"""The routes: which address of the Hub's protocol is answered by which function.

/api/{models,datasets,spaces}/{ns}/{name}/...   JSON, for the client
/{datasets/,spaces/,}{ns}/{name}/resolve/...    files
/{datasets/,spaces/,}{ns}/{name}.git/info/lfs   big files
everything else                                 pages for people
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import disk
from .access import Tickets, Users
from .errors import HubError, LocalHubError, repo_not_found
from .faults import Faults
from .handlers import account, pages, repos
from .hosts import HostCheck, allowed_names
from .lfs import Uploads
from .request import SLASH, WEB_PREFIX, Call, Handler, Hub, endpoint
from .store import Store


class KindConvertor(Convertor[str]):
    """`models`, `datasets` or `spaces` in an address."""

    regex = "models|datasets|spaces"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("kind", KindConvertor())

# (method, what follows /api/{kind}/{ns}/{name}, handler, need, body)
API: list[tuple[str, str, Handler, str | None, str | None]] = [
    ("GET", "", repos.info, "read", None),
    ("GET", "/revision/{rev}", repos.info, "read", None),
    ("GET", "/tree/{rest:path}", repos.tree_page, "read", None),
    ("POST", "/paths-info/{rev}", repos.paths, "read", "form"),
    ("GET", "/refs", repos.refs, "read", None),
    ("GET", "/commits/{rev}", repos.commit_list, "read", None),
    ("POST", "/preupload/{rev}", repos.preuploading, "propose", "json"),
    ("POST", "/commit/{rev}", repos.commit, "propose", "spool"),
    ("POST", "/branch/{rev}", repos.add_branch, "write", "json"),
    ("DELETE", "/branch/{rev}", repos.remove_branch, "write", None),
    ("POST", "/tag/{rev}", repos.add_tag, "write", "json"),
    ("DELETE", "/tag/{rev}", repos.remove_tag, "write", None),
    ("PUT", "/settings", repos.settings, "write", "json"),
    ("GET", "/auth-check", repos.auth_check, "read", None),
    ("GET", "/auth-check/{write}", repos.auth_check, "read", None),
    ("GET", "/discussions", repos.discussion_list, "read", None),
    ("POST", "/discussions", repos.discussion_new, "propose", "json"),
    ("GET", "/discussions/{num:int}", repos.discussion_details, "read", None),
    ("POST", "/discussions/{num:int}/{resource}", repos.discussion_change, "propose", "json"),
    ("POST", "/like", repos.like, "read", None),
    ("DELETE", "/like", repos.like, "read", None),
    ("GET", "/safetensors-metadata/{rest:path}", repos.safetensors_headers, "files", None),
    ("GET", "/user-access-request/{status}", repos.access_requests, "write", None),
    ("POST", "/user-access-request/{action}", repos.access_decide, "write", "json"),
    ("GET", "/runtime", repos.runtime, "read", None),
]

# The same after /{ns}/{name} of the site itself.
SITE: list[tuple[str, str, Handler, str | None, str | None]] = [
    ("GET", "/resolve/{rest:path}", repos.download, "files", None),
    ("GET", "/raw/{rest:path}", repos.download, "files", None),
    ("POST", ".git/info/lfs/objects/batch", repos.lfs_batch, "propose", "json"),
    ("POST", ".git/info/lfs/verify", repos.lfs_verify, "propose", "json"),
    ("POST", "/ask-access", repos.ask_access, "read", None),
    ("GET", "", pages.repo, "read", None),
    ("GET", "/tree/{rest:path}", pages.tree, "read", None),
    ("GET", "/blob/{rest:path}", pages.blob, "files", None),
    ("GET", "/commits/{rest:path}", pages.commits, "read", None),
    ("GET", "/commit/{rest}", pages.commit, "read", None),
    ("GET", "/discussions", pages.discussions, "read", None),
    ("GET", "/discussions/{num:int}", pages.discussion, "read", None),
]

GLOBAL: list[tuple[str, str, Handler, str | None]] = [
    ("GET", "/api/whoami-v2", account.whoami, None),
    ("POST", "/api/repos/create", repos.create, "json"),
    ("DELETE", "/api/repos/delete", repos.delete, "json"),
    ("POST", "/api/repos/move", repos.move, "json"),
    ("POST", "/api/validate-yaml", repos.validate_card, "json"),
    ("GET", "/api/users/{who}/overview", account.user_overview, None),
    ("GET", "/api/users/{who}/likes", account.liked, None),
    ("GET", "/api/organizations/{who}/overview", account.org_overview, None),
    ("GET", "/api/organizations/{who}/members", account.org_members, None),
    ("GET", "/api/organizations/{who}/settings/repositories", account.own_repos, None),
    ("GET", "/api/settings/repositories", account.own_repos, None),
    ("GET", "/api/{kind:kind}", repos.listing, None),
    ("GET", "/avatars/{who}", account.avatar, None),
    ("GET", "/", pages.home, None),
    ("GET", "/login", pages.login, None),
    ("POST", "/login", account.sign_in, "form"),
    ("POST", "/logout", account.sign_out, None),
]


async def _upload(request: Request) -> JSONResponse:
    etag = await request.app.state.hub.uploads.put(request, request.path_params["ticket"])
    return JSONResponse({}, headers={"ETag": f'"{etag}"'})


def _finish_upload(call: Call) -> dict:
    call.hub.uploads.finish(call.params["ticket"])
    return {"success": True}


async def _no_such_repo(request: Request) -> None:
    """`gpt2` and other ids without a namespace: this hub has none."""
    raise repo_not_found(signed_in="authorization" in request.headers)


async def _no_such_route(request: Request) -> None:
    raise HubError(404, "NotFound", f"This hub does not serve {request.method} {request.url.path}")


def _routes() -> list[Route]:
    found = [Route(path, endpoint(f, body=body), methods=[method]) for method, path, f, body in GLOBAL]
    found.append(Route("/_lfs/{ticket}", _upload, methods=["PUT"]))
    found.append(Route("/_lfs/{ticket}", endpoint(_finish_upload, body="json"), methods=["POST"]))
    for method, path, handler, need, body in API:
        found.append(
            Route("/api/{kind:kind}/{ns}/{name}" + path, endpoint(handler, need=need, body=body), methods=[method])
        )
    found.append(Route("/api/{kind:kind}/{name}", _no_such_repo))
    found.append(Route("/api/{kind:kind}/{name}/revision/{rev}", _no_such_repo))
    found.append(Route("/api/{rest:path}", _no_such_route, methods=["GET", "POST", "PUT", "DELETE", "PATCH"]))
    for kind in ("dataset", "space", "model"):
        for method, path, handler, need, body in SITE:
            prefix = f"/{WEB_PREFIX[kind]}{{ns}}/{{name}}"
            found.append(Route(prefix + path, endpoint(handler, need=need, body=body, kind=kind), methods=[method]))
        found.append(Route(f"/{WEB_PREFIX[kind]}{{name}}/resolve/{{rest:path}}", _no_such_repo))
    found.append(Route("/datasets", endpoint(pages.home, kind="dataset")))
    found.append(Route("/spaces", endpoint(pages.home, kind="space")))
    found.append(Route("/{who}", endpoint(pages.home)))
    return found


class EncodedSlashes:
    """Keeps `%2F` apart from `/` (revisions hold the former), and gives every refusal its headers.

    Servers decode an address before routing; `refs%2Fpr%2F1` would fall apart into three.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                headers = MutableHeaders(scope=message)
                headers.setdefault("X-Error-Code", "Error")
                headers.setdefault("X-Error-Message", f"The request failed with status {message['status']}")
            await send(message)

        raw = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1").partition("?")[0]
        if re.search(r"%[01][0-9a-f]|%7f", raw, re.IGNORECASE):
            refusal = HubError(400, "BadRequest", "Control characters in the address")
            return await refusal.response()(scope, receive, send_marked)
        path = unquote(re.sub("%2f", SLASH, raw, flags=re.IGNORECASE))
        await self.app({**scope, "path": path}, receive, send_marked)


async def _refuse(request: Request, error: HubError) -> Response:
    wants_page = "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/")
    return pages.refusal(request, error) if wants_page else error.response()


async def _http_error(request: Request, error: HTTPException) -> Response:
    code = {404: "NotFound", 405: "MethodNotAllowed"}.get(error.status_code, "Error")
    message = f"{request.method} {request.url.path}: {error.detail}"
    return await _refuse(request, HubError(error.status_code, code, message, headers=dict(error.headers or {})))


async def _gone(request: Request, error: ClientDisconnect) -> Response:
    """The client broke off: nobody reads this answer, and it is no failure of the hub."""
    return Response(status_code=499)


async def _crash(request: Request, error: Exception) -> Response:
    return HubError(500, "InternalError", "The hub failed on this request; its log says why").response()


def lock_folder(root: Path) -> IO[str]:
    """One server a folder: two would not see each other's locks. The lock goes with the process."""
    root.mkdir(parents=True, exist_ok=True)
    lock = open(root / "server.lock", "a")  # noqa: SIM115 - held as long as the server lives
    try:
        disk.lock(lock, wait=False)
    except OSError:
        lock.close()
        raise LocalHubError(f"Another hub is already serving {root}: stop it first, or use another folder.") from None
    return lock


def create_app(
    root: Path,
    users: Users | None = None,
    *,
    host: str | None = None,
    page_size: int = 1000,
    part_size: int = 512 * 2**20,
) -> Starlette:
    """The hub of a folder as an ASGI application, served at `host` (see `hosts`).

    Files over `part_size` bytes are uploaded in parts.
    """
    root = Path(root)
    lock = lock_folder(root)
    users = users or Users(root)
    store, tickets = Store(root), Tickets(root)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        lock.close()

    handlers: dict[type[Exception], Callable[..., Awaitable[Response]]] = {
        HubError: _refuse,
        HTTPException: _http_error,
        ClientDisconnect: _gone,
        Exception: _crash,
    }
    app = Starlette(routes=_routes(), exception_handlers=handlers, lifespan=lifespan)
    app.add_middleware(EncodedSlashes)
    app.add_middleware(Faults, root=root)
    app.add_middleware(HostCheck, names=allowed_names(host))
    app.state.hub = Hub(store, users, tickets, Uploads(store, tickets, part_size), page_size)
    app.state.lock = lock
    return app
