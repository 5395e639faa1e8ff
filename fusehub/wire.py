"""How long the Hub is waited for: a few tries with growing pauses, a stated longest wait, then words.

`huggingface_hub` asks for most things once, and where it asks again, waits for as long as the server says (an hour).
Programs that a person sits in front of use the client here instead: the command line, and what works for the app.
Whoever imports the package keeps their own client.
"""

from __future__ import annotations

import re
import time
from typing import Any

import httpx2

from fusehub.errors import Offline

PAUSES = (1.0, 2.0, 4.0)
"""Seconds between the tries, where the server does not say how many."""
TRIES = len(PAUSES) + 1
"""How often something is asked for that may be asked twice."""
LONGEST_PAUSE = 30.0
"""Seconds that a server may ask for (`Retry-After`); one that wants more is not waited for."""
TIMEOUT = httpx2.Timeout(connect=10, read=60, write=60, pool=None)
"""Seconds without a byte after which a request counts as lost. A commit of many files takes a while to be answered."""
_COMMIT_TIMEOUT = {"connect": 10.0, "read": 600.0, "write": 60.0, "pool": None}
_PASSING = (408, 429, 500, 502, 503, 504)
# What only asks, although it is a POST: the Hub is the same afterwards.
_ASKING = re.compile(r".*/(validate-yaml|preupload/.*|paths-info/.*|info/lfs/objects/batch|info/lfs/verify)")


class PatientClient(httpx2.Client):
    """Asks again where that can help and does no harm; raises `Offline` when it gives up.

    An answer that breaks off in its middle is for `huggingface_hub` to go on with, as only it knows what it has.
    """

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        may_repeat = request.method in ("GET", "HEAD") or _ASKING.fullmatch(request.url.path) is not None
        if "/commit/" in request.url.path:
            request.extensions = {**request.extensions, "timeout": _COMMIT_TIMEOUT}
        for number, pause in enumerate((*PAUSES, None)):
            try:
                response = super().send(request, **options)
            except httpx2.TransportError as error:
                # Of what never left this machine, the other side knows nothing.
                unsent = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
                if pause is not None and (may_repeat or unsent):
                    time.sleep(pause)
                    continue
                raise Offline(
                    f"{_origin(request)} cannot be reached ({type(error).__name__}, tried {_times(number + 1)}).",
                    "Check the network and HF_ENDPOINT, then try again.",
                ) from error
            if response.status_code not in _PASSING:
                return response
            asked = _asked_pause(response)
            if asked is not None and asked > LONGEST_PAUSE:
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
            time.sleep(pause if asked is None else asked)
        raise Offline(
            f"{_origin(request)} answered with an error of its own ({response.status_code}, tried {_times(TRIES)}).",
            "Try again in a while.",
        )


def be_patient() -> None:
    """Has `huggingface_hub` use the client above, in this process."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import hf_request_event_hook

    def factory() -> httpx2.Client:
        # What has a timeout of its own (a download, a question for a hash) keeps it.
        return PatientClient(event_hooks={"request": [hf_request_event_hook]}, follow_redirects=True, timeout=TIMEOUT)

    set_client_factory(factory)


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _asked_pause(response: httpx2.Response) -> float | None:
    """Seconds that the server asks to be left alone; None where it says nothing that can be read."""
    said: Any = response.headers.get("Retry-After", "")
    return float(said) if re.fullmatch(r"\d{1,9}", said.strip()) else None


def _origin(request: httpx2.Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc.decode()}"
