"""Models that were described a moment ago, so that many comparisons at once do not ask the Hub the same over and over.

    recent.describe("user/model", token)

Only of models that anyone may read: whether a visitor may read a gated or private one is asked of the Hub every time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from .visit import Picked

# Seconds for which a public model is taken as it was: so much later a new commit of it is seen.
_LASTS = 15.0
_MOST = 1000


class Recent:
    """What `describe` (of `space.steps.pick`) said of public models, for `lasts` seconds."""

    def __init__(self, describe: Callable[[str, str | None], Picked], lasts: float = _LASTS) -> None:
        self._describe, self._lasts = describe, lasts
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Picked]] = {}

    def describe(self, name: str, token: str | None) -> Picked:
        """What the card of a model says. Raises a `FuseHubError` where the visitor may not read it."""
        with self._lock:
            told, picked = self._known.get(name, (0.0, None))
        if picked is not None and time.monotonic() - told < self._lasts:
            return picked
        picked = self._describe(name, token)
        with self._lock:
            self._known.pop(name, None)
            if not picked.gated and picked.url is not None:
                if len(self._known) >= _MOST:
                    self._known.clear()
                self._known[name] = (time.monotonic(), picked)
        return picked
