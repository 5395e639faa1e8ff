"""How long the Hub is waited for: a few tries with growing pauses, a stated longest wait, then words.

`huggingface_hub` asks for most things once, and where it asks again, waits for as long as the server says (an hour).
Programs that a person sits in front of use the client here instead: the command line, and what works for the app.
Whoever imports the package keeps their own client.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from fusehub.errors import Offline
from fusehub.hub import replies
from fusehub.utils import interrupts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How often is asked and how long waited, in seconds.

    `pauses` lie between the tries, where the server does not say how long they shall be; a server that wants more than
    `longest_pause` (`Retry-After`) is not waited for. A request is lost that is not connected within `connect`, or
    answered by no byte for `answer`. A commit of many files takes a while to be answered: `commit`.
    """

    pauses: tuple[float, ...] = (1.0, 2.0, 4.0)
    longest_pause: float = 30.0
    connect: float = 10.0
    answer: float = 60.0
    commit: float = 600.0

    @property
    def tries(self) -> int:
        """How often something is asked for that may be asked twice."""
        return len(self.pauses) + 1

    @property
    def longest(self) -> float:
        """The longest time that goes by before a question is answered or given up, a commit apart."""
        return self.tries * (self.connect + self.answer) + len(self.pauses) * self.longest_pause


patience = Patience()
"""That of this process, which its client is made with."""

_PASSING = (408, 429, 500, 502, 503, 504)
# What only asks, or sets what it says: the Hub is the same after the second time.
_ASKING = re.compile(r".*/(validate-yaml|preupload/.*|paths-info/.*|info/lfs/objects/batch|info/lfs/verify|settings)")
# A pause that somebody at a terminal would wonder about.
_NOTICED = 5.0


class PatientClient(httpx2.Client):
    """Asks again where that can help and does no harm; raises `Offline` when it gives up.

    What may not be asked twice raises at once, and an upload or an answer that breaks off in its middle is for
    `huggingface_hub` to go on with, as only it knows what it has.
    """

    def __init__(self, patience: Patience, **options: Any) -> None:
        super().__init__(follow_redirects=True, timeout=None, **options)
        self.patience = patience
        replies.hold(self)

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        may_repeat = request.method in ("GET", "HEAD") or _ASKING.fullmatch(request.url.path) is not None
        request.extensions = {**request.extensions, "timeout": _limits(request, self.patience)}
        for number, pause in enumerate((*self.patience.pauses, None)):
            try:
                response = super().send(request, **options)
            except httpx2.TransportError as error:
                # Of what never left this machine, the other side knows nothing. A file may be read to its end by then.
                unsent = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
                unsent = unsent and isinstance(request.stream, httpx2.ByteStream)
                if not may_repeat and not unsent:
                    raise
                if pause is None:
                    raise Offline(
                        f"{_origin(request)} cannot be reached ({type(error).__name__}, tried {_times(number + 1)}).",
                        "Check the network and HF_ENDPOINT, then try again.",
                    ) from error
                self._wait(request, pause, type(error).__name__)
                continue
            if response.status_code not in _PASSING:
                if options.get("stream"):
                    assert isinstance(response.stream, httpx2.SyncByteStream)  # This client is no asynchronous one.
                    response.stream = _Stoppable(response.stream)
                return response
            asked = _asked_pause(response)
            if asked is not None and asked > self.patience.longest_pause:
                response.close()
                raise Offline(
                    f"{_origin(request)} wants to be asked again in {asked:.0f} seconds ({response.status_code}).",
                    "It has had too many requests, or is being repaired: try again then."
                    + (" Logged in (`hf auth login`), more are allowed." if response.status_code == 429 else ""),
                )
            if not may_repeat:
                return response
            response.close()
            if pause is None:
                break
            self._wait(request, pause if asked is None else asked, str(response.status_code))
        raise Offline(
            f"{_origin(request)} answered with an error of its own ({response.status_code}, "
            f"tried {_times(self.patience.tries)}).",
            "Try again in a while.",
        )

    def _wait(self, request: httpx2.Request, seconds: float, why: str) -> None:
        if seconds >= _NOTICED:
            logger.warning("%s: %s. Asking again in %.0f seconds.", _origin(request), why, seconds)
        time.sleep(seconds)


class _Stoppable(httpx2.SyncByteStream):
    """The bytes of an answer, until the process is told to end: a thread hears of no signal otherwise."""

    def __init__(self, stream: httpx2.SyncByteStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._stream:
            if interrupts.is_ending():
                raise KeyboardInterrupt
            yield piece

    def close(self) -> None:
        self._stream.close()


def be_patient() -> None:
    """Has `huggingface_hub` use the client above, in this process."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import hf_request_event_hook

    set_client_factory(lambda: PatientClient(patience, event_hooks={"request": [hf_request_event_hook]}))


def _limits(request: httpx2.Request, patience: Patience) -> dict[str, float | None]:
    """Seconds for each part of an exchange.

    What has a timeout of its own (a download, a question for a hash) keeps it; most functions of the client say that
    there is none, unless they are told one.
    """
    said = {part: time for part, time in request.extensions.get("timeout", {}).items() if time is not None}
    answer = patience.commit if "/commit/" in request.url.path else patience.answer
    return {"connect": patience.connect, "read": answer, "write": patience.answer, "pool": None, **said}


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _asked_pause(response: httpx2.Response) -> float | None:
    """Seconds that the server asks to be left alone; None where it says nothing that can be read.

    It says so as a number, as a date, or as when a count of requests begins anew, which the client would obey too.
    """
    from huggingface_hub.utils._http import parse_ratelimit_headers

    if (limit := parse_ratelimit_headers(response.headers)) is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    said: Any = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d+", said):
        return float(said[:18])
    try:
        until = parsedate_to_datetime(said)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _origin(request: httpx2.Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc.decode()}"
