"""All visits: who has come, which page shows which visit, and when one has ended.

A visit is known by a secret key that only its browser tab has; a reload of the page finds it again by that. It ends
when it was idle for an hour, or half an hour after its page was closed. Then its work is stopped, its folder deleted.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fusehub.errors import NotFound

from .visit import Made, Visit

if TYPE_CHECKING:
    from .setting import Setting
    from .workers.jobs import Jobs

# Seconds for which what is pressed on a page waits for the visit that the page is just opening.
_OPENING = 5.0


class Visits:
    """The visits that go on, by their keys."""

    def __init__(self, setting: Setting, jobs: Jobs) -> None:
        self.setting, self.jobs = setting, jobs
        self._visits: dict[str, Visit] = {}
        self._lock = threading.Lock()
        self._opened = threading.Condition(self._lock)
        self.root = Path(tempfile.mkdtemp(prefix="fusehub-visits-"))

    def open(self, key: str | None = None, page: str | None = None) -> Visit:
        """The visit of that key, or a new one; `page` is the one that shows it from now on."""
        with self._lock:
            visit = self._visits.get(key or "")
            if visit is None:
                new = secrets.token_urlsafe(32)
                visit = self._visits[new] = Visit(new, Path(tempfile.mkdtemp(dir=self.root)))
            visit.touched, visit.left_at, visit.page = time.monotonic(), None, page
            self._opened.notify_all()
            return visit

    def __len__(self) -> int:
        return len(self._visits)

    def of(self, key: str, page: str | None = None) -> Visit:
        """The visit of that key. Raises `NotFound` where it has ended.

        A page that has no key yet has only just come: its visit is being opened, and is waited for. Of several pages
        that show a visit, as a tab that was duplicated does, the one that asks is painted.
        """
        with self._lock:
            if not key and page is not None:
                self._opened.wait_for(lambda: self._of_page(page) is not None, _OPENING)
                visit = self._of_page(page)
            else:
                visit = self._visits.get(key)
            if visit is None:
                raise NotFound("This visit has ended: it was idle for too long.", "Reload the page to begin anew.")
            visit.touched, visit.left_at, visit.page = time.monotonic(), None, page or visit.page
            return visit

    def _of_page(self, page: str) -> Visit | None:
        return next((visit for visit in self._visits.values() if visit.page == page), None)

    def find(self, key: str) -> Visit | None:
        """The visit of that key; None where there is none."""
        with self._lock:
            return self._visits.get(key)

    @contextmanager
    def held(self, key: str) -> Iterator[Visit | None]:
        """The visit of that key, which does not end before the block does; None where there is none."""
        with self._lock:
            visit = self._visits.get(key)
            if visit is not None:
                visit.users += 1
        try:
            yield visit
        finally:
            if visit is not None:
                with self._lock:
                    visit.users -= 1
                    visit.touched = time.monotonic()

    def merge_of(self, secret: str) -> tuple[Visit, Made] | None:
        """The merge with that secret, and its visit; None where there is none, or it was deleted."""
        with self._lock:
            everyone = [(visit, made) for visit in self._visits.values() for made in list(visit.merges.values())]
        found = (own for own in everyone if secrets.compare_digest(own[1].secret.encode(), secret.encode()))
        return next(found, None)

    def leave(self, page: str) -> None:
        """A page was closed. Its visit may be shown again in a moment, or is shown by another page already."""
        with self._lock:
            for visit in self._visits.values():
                if visit.page == page:
                    visit.left_at = time.monotonic()

    def end(self, visit: Visit) -> None:
        """Stops what goes on in a visit and deletes its files."""
        with self._lock:
            self._visits.pop(visit.key, None)
        self._end(visit)

    def sweep(self, now: float | None = None) -> int:
        """Ends visits that are idle or were left, and says how many. Work that goes on keeps an open visit alive.

        Merges that were deleted long enough ago go for good, where no work and no download may still read them.
        """
        now = time.monotonic() if now is None else now
        with self._lock:
            over = [visit for visit in self._visits.values() if self._is_over(visit, now)]
            for visit in over:
                del self._visits[visit.key]
            kept = {visit.folder for visit in self._visits.values()}
            # What was still at work for a visit that has ended may have written there again.
            left = [folder for folder in self.root.iterdir() if folder not in kept]
            rest = [
                visit
                for visit in self._visits.values()
                if not visit.users and (visit.job is None or not visit.job.is_open)
            ]
        for visit in over:
            self._end(visit)
        for folder in left:
            shutil.rmtree(folder, ignore_errors=True)
        for visit in rest:
            for name, gone in list(visit.deleted.items()):
                if now - gone.at > self.setting.undo:
                    visit.purge(name)
        return len(over)

    def trim(self, most: int) -> None:
        """What programs made and nobody asked for longest goes; that of `most` of their calls is left."""
        with self._lock:
            everyone = [visit for visit in self._visits.values() if visit.page is None and not visit.users]
            kept = [visit for visit in everyone if visit.merges or visit.statistics]
            over = sorted(kept, key=lambda visit: visit.touched)[: max(0, len(kept) - most)]
        for visit in over:
            self.end(visit)

    def _is_over(self, visit: Visit, now: float) -> bool:
        if visit.users:
            return False
        if visit.left_at is not None and now - visit.left_at > self.setting.left:
            return True
        if visit.job is not None and visit.job.is_open:
            return False
        # Whoever waited longer than that for work to end is not gone when it has ended.
        used = max(visit.touched, visit.job.ended or 0) if visit.job is not None else visit.touched
        return now - used > self.setting.idle

    def _end(self, visit: Visit) -> None:
        if visit.job is not None:
            self.jobs.cancel(visit.job)
        shutil.rmtree(visit.folder, ignore_errors=True)

    def close(self) -> None:
        """Ends all visits and deletes everything that they made."""
        with self._lock:
            everyone, self._visits = list(self._visits.values()), {}
        for visit in everyone:
            self._end(visit)
        shutil.rmtree(self.root, ignore_errors=True)
