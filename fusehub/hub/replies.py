"""What the Hub replies, held to what a Hub replies before anything is made of it.

The page of a captive portal, a proxy or a server that is half broken reply too, and not every client is surprised: to
`huggingface_hub` an empty object is a list of no models. A reply of another form raises `Offline`, in whatever
program asks, the command line, the app or somebody's own.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from fusehub.errors import Offline

if TYPE_CHECKING:
    import httpx2


def _inside(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError("leads out of its repo")
    return path


Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0, lt=2**63)]
Inside = Annotated[str, AfterValidator(_inside)]


class _Said(BaseModel):
    """The keys that are read here or by the client; there may be others."""

    model_config = ConfigDict(extra="ignore", strict=True)


class _Large(_Said):
    sha256: Sha256 | None = None
    oid: Sha256 | None = None
    size: Size | None = None


class _Sibling(_Said):
    rfilename: Inside
    size: Size | None = None
    blobId: Commit | None = None
    lfs: _Large | None = None


class _Listed(_Said):
    id: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")]
    sha: Commit | None = None
    private: bool | None = None
    gated: bool | str | None = None
    downloads: int | None = None
    likes: int | None = None
    lastModified: str | None = None
    pipeline_tag: str | None = None
    tags: list[str] | None = None
    cardData: dict[str, Any] | None = None
    safetensors: dict[str, Any] | None = None
    siblings: list[_Sibling] | None = None


class _Repo(_Listed):
    sha: Commit


class _Entry(_Said):
    type: str
    path: Inside
    oid: Commit
    size: Size = 0
    lfs: _Large | None = None


class _Past(_Said):
    id: Commit


class _Account(_Said):
    name: str
    auth: dict[str, Any] | None = None


class _Made(_Said):
    url: str


class _Way(_Said):
    path: str
    uploadMode: Annotated[str, Field(pattern="^(lfs|regular)$")]
    shouldIgnore: bool = False
    oid: str | None = None


class _Ways(_Said):
    files: list[_Way]


class _Committed(_Said):
    commitOid: Commit
    commitUrl: str
    pullRequestUrl: str | None = None


class _Uploads(_Said):
    objects: list[dict[str, Any]]


# What may stand behind the name of a repo that has no user in it.
_PARTS = "auth-check|refs|settings|discussions|runtime|likers|tree|commits|revision"
_REPO = rf"/api/(models|datasets|spaces)/[^/]+(/(?!({_PARTS})(/|$))[^/]+)?"
_FORMS: list[tuple[str, str, Any]] = [
    ("GET", r"/api/(models|datasets|spaces)", list[_Listed]),
    ("GET", rf"{_REPO}(/revision/.+)?", _Repo),
    ("GET", r"/api/whoami-v2", _Account),
    ("GET", rf"{_REPO}/tree/.+", list[_Entry]),
    ("GET", rf"{_REPO}/commits/.+", list[_Past]),
    ("POST", rf"{_REPO}/paths-info/.+", list[_Entry]),
    ("POST", rf"{_REPO}/preupload/.+", _Ways),
    ("POST", rf"{_REPO}/commit/.+", _Committed),
    ("POST", r"/api/repos/create", _Made),
    ("POST", r"/.+\.git/info/lfs/objects/batch", _Uploads),
]


def hold(session: httpx2.Client) -> None:
    """Has the replies to `session` held to their forms from now on."""
    hooks = session.event_hooks
    if require_form not in hooks["response"]:
        session.event_hooks = {**hooks, "response": [*hooks["response"], require_form]}


def require_form(response: httpx2.Response) -> None:
    """Raises `Offline` where a reply to one of the questions above is none that a Hub gives."""
    request = response.request
    form = _form(request.method, str(request.url))
    if form is None:
        return
    if response.has_redirect_location:
        target = str(request.url.join(response.headers["Location"]))
        if _form(request.method, target) is None:
            raise _strange(request, f"it sends on to {target[:200]}")
    elif response.is_success:
        response.read()
        try:
            form.validate_json(response.content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise _strange(request, f"{place}: {first['msg']}" if place else first["msg"]) from error


def _form(method: str, url: str) -> TypeAdapter | None:
    """What is replied to a question; None where that is a file, or nobody reads it."""
    from huggingface_hub import constants

    asked = urlsplit(url)
    path = asked.path.removeprefix(urlsplit(constants.ENDPOINT).path.rstrip("/"))
    for one, pattern, form in _FORMS:
        if method == one and re.fullmatch(pattern, path):
            # Who asks for some keys alone is told those.
            return _checked(_Listed if form is _Repo and "expand" in asked.query else form)
    return None


@cache
def _checked(form: Any) -> TypeAdapter:
    return TypeAdapter(form)


def _strange(request: httpx2.Request, why: str) -> Offline:
    origin = f"{request.url.scheme}://{request.url.netloc.decode()}"
    return Offline(
        f"{origin} gave an answer that is none of the Hub's to {request.method} {request.url.path} ({why}).",
        "Is there a page to sign in to this network, and is HF_ENDPOINT right? Then try again.",
    )
