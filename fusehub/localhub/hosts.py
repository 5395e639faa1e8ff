"""Which addresses a server answers under, as the Host header of a request says.

A web page of a stranger can have its own name point at this machine once the browser has loaded it (DNS rebinding),
and then counts as the same site: it could read and do whatever the server lets a person of this machine do. Its
requests carry the stranger's name. An address in numbers cannot be made to point elsewhere.
"""

import ipaddress
import os
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

VARIABLE = "FUSEHUB_ALLOWED_HOSTS"
"""The environment variable with more names, commas between them: of a proxy in front of the server."""


def allowed_names(*served: str | None) -> tuple[str, ...]:
    """The names that the server is `served` at, `localhost`, and those of the environment."""
    named = ("localhost", *served, *os.environ.get(VARIABLE, "").split(","))
    return tuple(dict.fromkeys(name.strip().lower() for name in named if name and name.strip()))


def is_served(host: str | None, names: Iterable[str]) -> bool:
    """Whether a request with this Host header is meant for a server with these `names` (`*.example.com` for all
    below a domain)."""
    name = _without_port((host or "").strip().lower()).removesuffix(".")
    try:
        ipaddress.ip_address(name.strip("[]"))
        return True
    except ValueError:
        return any(name == own or (own.startswith("*.") and name.endswith(own[1:])) for own in names)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


class HostCheck:
    """Middleware that refuses requests for other names than the server's own, before anything is done for them."""

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        self.app, self.names = app, tuple(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and not is_served(Headers(scope=scope).get("host"), self.names):
            said = f"This is not the address that is served here. If it should be, name it in {VARIABLE}.\n"
            await PlainTextResponse(said, status_code=421)(scope, receive, send)
            return
        await self.app(scope, receive, send)
