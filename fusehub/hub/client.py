"""The one door to the Hub: a client that says who it is, and the Hub's errors in words a user understands.

All traffic of FuseHub goes through `huggingface_hub`, so its cache, `HF_ENDPOINT`, `HF_HUB_OFFLINE` and
`HF_TOKEN` work as everywhere. Tokens are passed on to the client and kept nowhere else.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Literal

from fusehub.errors import AccessDenied, Action, FuseHubError, NotFound, Offline, OutputExists

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub import HfApi


_making = threading.Lock()
_patience: Literal["", "wanted", "there"] = ""


@cache
def fusehub_version() -> str:
    """The installed version of this package, read from its metadata so that it is written down once.

    Returns:
        The version; `0.0.0+source` in a checkout that nobody installed, as in a Space.

    Examples:
        >>> fusehub.fusehub_version() == fusehub.__version__
        True
    """
    try:
        return version("fusehub")
    except PackageNotFoundError:
        return "0.0.0+source"


def software(*packages: str) -> dict[str, str]:
    """Versions of FuseHub and of the installed `packages`, for the files that are made with them."""
    return {"fusehub": fusehub_version(), **{name: version(name) for name in packages}}


def be_patient() -> None:
    """For programs that a person waits for: the Hub is asked again where that helps, and never waited for too long
    (see `fusehub.hub.wire`). Takes effect with the first question, so that nothing is imported before it."""
    global _patience
    _patience = "wanted"


def cut_token(token: bool | str | None) -> bool | str | None:
    """The token without the spaces and line ends that surround it in a file; None for an empty one. True and False,
    which say whether the one that is stored is wanted, stay what they are.

    Raises `AccessDenied` for what can be no token: it says what is wrong with it, and nothing of it.
    """
    if isinstance(token, bool):
        return token
    own = (token or "").strip()
    if own.lower().startswith("bearer"):
        wrong = 'it begins with "Bearer", which belongs to the header that it is sent in'
    elif any(character.isspace() for character in own):
        wrong = "there is a space or the end of a line in it"
    elif not (own.isascii() and own.isprintable()):
        wrong = "there is a character in it that no token has"
    else:
        return own or None
    raise AccessDenied(f"What was given as a token is none: {wrong}.", f"Copy it anew: {endpoint()}/settings/tokens")


def _require_sound_login() -> None:
    """Raises `AccessDenied` where the token that the client would take by itself can be none."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return
    try:
        cut_token(get_token())
    except (OSError, UnicodeDecodeError) as error:
        raise AccessDenied(
            f"The token that is stored on this machine cannot be read ({type(error).__name__}).",
            "",
            log_in=True,
        ) from None


def client(token: bool | str | None = None) -> HfApi:
    """A Hub client with FuseHub's user agent. `token` None stands for the one that the user is logged in with, if any;
    True for that one, which there must be; False for none."""
    from huggingface_hub import HfApi

    _, own = session(token)
    return HfApi(token=own, library_name="fusehub", library_version=fusehub_version())


def session(token: bool | str | None = None) -> tuple[httpx2.Client, bool | str | None]:
    """What sends the client's requests, for one that it has no function for; and `token` as it is to be sent.

    Raises `AccessDenied` for what can be no token.
    """
    from huggingface_hub import get_session

    from fusehub.hub import replies

    global _patience
    own = cut_token(token)
    if own is None or own is True:
        _require_sound_login()
    # The client's session is closed and made anew by the first thread, which no other one may see.
    with _making:
        if _patience == "wanted":
            from fusehub.hub import wire

            wire.be_patient()
            _patience = "there"
        sending = get_session()
        replies.hold(sending)
    return sending, own


def endpoint() -> str:
    """Web address of the Hub in use, without a slash at the end."""
    from huggingface_hub import constants

    return constants.ENDPOINT.rstrip("/")


def is_offline() -> bool:
    """Whether the user asked `huggingface_hub` to stay off the network."""
    from huggingface_hub import constants

    return constants.is_offline_mode()


@contextmanager
def hub_errors(subject: str) -> Iterator[None]:
    """Turns what the Hub client raises while working on `subject` ("user/model") into `FuseHubError`s."""
    try:
        yield
    except FuseHubError:
        raise
    except Exception as error:
        translated = _translate(error, subject)
        if translated is None:
            raise
        raise translated from error


def _translate(error: Exception, subject: str) -> FuseHubError | None:
    """The `FuseHubError` for an exception of the Hub client; None where the exception is not the Hub's."""
    import httpx2
    from huggingface_hub import errors as hf

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, hf.GatedRepoError):
        return AccessDenied(
            f"{subject} is gated: its owner decides who may download it.",
            f"Ask for access on {endpoint()}/{subject.partition('@')[0]} first.",
            log_in=True,
        )
    if isinstance(error, hf.RevisionNotFoundError):
        return NotFound(f"{subject}: there is no such revision.", "Give a branch, a tag or a commit of the repo.")
    if isinstance(error, hf.RepositoryNotFoundError):
        if status == 401 and _is_about_the_token(error):
            return AccessDenied("The Hub does not accept your token.", "", log_in=True)
        return NotFound(
            f"{subject} does not exist on {endpoint()}, or is private.",
            "Check the spelling. If it is private:",
            log_in=True,
        )
    if isinstance(error, hf.LocalTokenNotFoundError):
        return AccessDenied("This needs a Hub token, and there is none.", "", log_in=True)
    if isinstance(error, hf.OfflineModeIsEnabled):
        return Offline(
            f"{subject}: offline mode is on (HF_HUB_OFFLINE) and this needs the Hub.",
            "Unset HF_HUB_OFFLINE, or use models that are in the cache or in a local folder.",
        )
    if isinstance(error, hf.LocalEntryNotFoundError):
        return Offline(
            f"{subject} is not in the cache and {endpoint()} cannot be reached.",
            "Check the network (and HF_ENDPOINT, HF_HUB_OFFLINE), then try again.",
        )
    if isinstance(error, hf.EntryNotFoundError):
        return NotFound(f"{subject}: a file that is needed is not in the repo ({error}).", "Is it a model repo?")
    if isinstance(error, hf.HFValidationError):
        return NotFound(
            f"'{subject}' is not the name of a repo.",
            "Write user/name, user/name@revision or a local folder.",
        )
    if isinstance(error, httpx2.RequestError | ConnectionError) and not isinstance(error, httpx2.TooManyRedirects):
        return Offline(
            f"{endpoint()} cannot be reached ({type(error).__name__}).", "Check the network and HF_ENDPOINT."
        )
    if isinstance(error, hf.HfHubHTTPError):
        return _http_error(error, status, subject)
    strange = hf.FileMetadataError | httpx2.TooManyRedirects | httpx2.StreamError
    if isinstance(error, strange) or _is_about_an_answer(error):
        return Offline(
            f"{endpoint()} gave an answer that is none of the Hub's ({type(error).__name__}), asked for {subject}.",
            "Is there a page to sign in to this network, and is HF_ENDPOINT right? Then try again.",
        )
    if _is_short_download(error):
        return Offline(f"{subject}: a download ended before its end.", "Try again: what is broken was not kept.")
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        # An upload that failed: the client says of which file, and why is behind it.
        return error.__cause__ if isinstance(error.__cause__, FuseHubError) else _translate(error.__cause__, subject)
    return None


def _is_about_the_token(error: Exception) -> bool:
    """Whether a 401 is the token's fault: the client makes one kind of it and of a repo that is not there, and hands
    on what the Hub says ("Invalid credentials in Authorization header", "Invalid username or password.")."""
    return "invalid" in str(error).lower()


def _is_short_download(error: Exception) -> bool:
    """Whether a download ended before its end: a plain `OSError` of the client, told by its text alone."""
    return isinstance(error, OSError) and "Consistency check failed" in str(error)


def _is_about_an_answer(error: Exception) -> bool:
    """Whether the Hub client failed to make sense of what it was sent, as of the page of a captive portal."""
    if not isinstance(error, ValueError | LookupError | TypeError | AttributeError | NameError):
        return False
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    module = frame.tb_frame.f_globals.get("__name__", "") if frame is not None else ""
    return module.partition(".")[0] in ("huggingface_hub", "httpx2", "json")


def _http_error(error: Exception, status: int | None, subject: str) -> FuseHubError:
    said = getattr(error, "server_message", None) or str(error).splitlines()[0]
    if status == 401:
        return AccessDenied(f"{subject}: the Hub does not accept your token.", "", log_in=True)
    if status == 403:
        return AccessDenied(
            f"{subject}: your token may not do this ({said}).",
            "Use a token with write access to that user or organisation.",
        )
    if status == 409:
        return OutputExists(
            f"{subject} exists already.", "Choose another name, or say --exist-ok.", actions=[Action("name-another")]
        )
    if status is not None and status >= 500:
        return Offline(f"{endpoint()} answered with an error of its own ({status}).", "Try again in a while.")
    return FuseHubError(f"{subject}: the Hub refused ({status}): {said}", "See the message of the Hub.")
