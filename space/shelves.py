"""The models that are shown before anything is searched for, under headings; asked of the Hub once a minute.

shelves.of(token)       # those whose statistics are published, and those that were changed last
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fusehub import FoundModel, find
from fusehub.hub.client import client

_LASTS = 60.0
# Models on the first shelf, and on the others.
_FIRST, _OTHERS = 9, 3


@dataclass(frozen=True)
class Shelf:
    """Models under a heading; `label` names their list to who cannot see it."""

    title: str
    label: str
    models: Sequence[FoundModel]


class Shelves:
    """What is shown first. Who has a token of their own, and may see more, is asked for anew."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: tuple[float, list[Shelf]] | None = None

    def of(self, token: str | None) -> list[Shelf]:
        """The shelves that have something on them. Raises `Offline` where the Hub cannot be reached."""
        if token is not None:
            return _shelves(token)
        with self._lock:
            if self._known is None or time.monotonic() - self._known[0] > _LASTS:
                self._known = time.monotonic(), _shelves(None)
            return self._known[1]


def _shelves(token: str | None) -> list[Shelf]:
    # The client makes its session with the first question, and not in two threads at once.
    client(token)
    with ThreadPoolExecutor(2) as asking:
        known = asking.submit(find, with_statistics=True, limit=_FIRST, token=token)
        changed = asking.submit(find, sort="last_modified", limit=_FIRST + _OTHERS, token=token)
        models, others = known.result(), changed.result()
    taken = {model.id for model in models}
    new = [model for model in others if model.id not in taken]
    if not models:
        return [Shelf("New on the Hub", "Models found", new)] if new else []
    shelves = [Shelf("With published statistics", "Models found", models)]
    return [*shelves, Shelf("New on the Hub", "New models", new[:_OTHERS])] if new else shelves
