"""A provider of identities, as huggingface.co is one for Spaces: OpenID Connect, with the local Hub's tokens.

    with provider(hub) as identities:
        identities.user = "ada"          # who is sitting in front of the browser

It asks no questions: whoever comes to sign in is `user`.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlencode

import uvicorn
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse
from starlette.routing import Route

from fusehub.localhub import Running

CLIENT = "the-space"


@dataclass
class Identities:
    """Where the provider is, who signs in, and what has been asked of it by one-time codes."""

    url: str
    hub: Running
    user: str = "carl"
    codes: dict[str, tuple[str, str]] = field(default_factory=dict)
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "1"}))

    def environment(self) -> dict[str, str]:
        """What a Space's environment says of its provider."""
        return {
            "OAUTH_CLIENT_ID": CLIENT,
            "OAUTH_CLIENT_SECRET": "the-space's secret",
            "OAUTH_SCOPES": "openid profile read-repos write-repos",
            "OPENID_PROVIDER_URL": self.url,
        }

    def routes(self) -> list[Route]:
        return [
            Route("/.well-known/openid-configuration", self._configuration),
            Route("/authorize", self._authorize),
            Route("/token", self._token, methods=["POST"]),
            Route("/keys", lambda request: JSONResponse(KeySet([self.key]).as_dict(private=False))),
        ]

    def _configuration(self, request: Request) -> JSONResponse:
        return JSONResponse(
            {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/keys",
            }
        )

    def _authorize(self, request: Request) -> RedirectResponse:
        asked = request.query_params
        code = f"code-{len(self.codes)}"
        self.codes[code] = (self.user, asked["nonce"])
        back = urlencode({"code": code, "state": asked["state"]})
        return RedirectResponse(f"{asked['redirect_uri']}{'&' if '?' in asked['redirect_uri'] else '?'}{back}")

    async def _token(self, request: Request) -> JSONResponse:
        user, nonce = self.codes.pop((await request.form())["code"])
        now = int(time.time())
        claims = {
            "iss": self.url, "aud": CLIENT, "sub": user, "iat": now, "exp": now + 600, "nonce": nonce,
            "name": user, "preferred_username": user, "profile": f"{self.url}/{user}", "picture": "",
        }  # fmt: skip
        return JSONResponse(
            {
                "access_token": self.hub.token(user),
                "token_type": "bearer",
                "expires_in": 600,
                "scope": "openid profile",
                "id_token": jwt.encode({"alg": "RS256", "kid": "1"}, claims, self.key),
            }
        )


@contextmanager
def provider(hub: Running) -> Iterator[Identities]:
    """A provider in a thread of this process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    identities = Identities(f"http://127.0.0.1:{port}", hub)
    server = uvicorn.Server(
        uvicorn.Config(Starlette(routes=identities.routes()), port=port, log_level="warning", lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield identities
    server.should_exit = True
    thread.join(10)
