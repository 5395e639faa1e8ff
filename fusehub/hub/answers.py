"""What the Hub has answered in one run, so that it is asked everything once.

A run is one call of a function of the package, or one question of a visitor of the app: the next one asks anew who
may read what, and what is newest. What a commit holds never changes, and may be taken along.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Question(NamedTuple):
    """What is asked of a repo: `about` says what, `revision` where that matters."""

    about: str
    repo_id: str
    revision: str = ""

    @property
    def is_of_commit(self) -> bool:
        """Whether the answer stays the same for ever."""
        return re.fullmatch(r"[0-9a-f]{40}", self.revision) is not None


class Answers:
    """The answers of one run; threads that ask the same wait for the first of them. `most` are kept, where that is
    said."""

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._known: dict[Question, Future[Any]] = {}

    def once(self, question: Question, ask: Callable[[], T]) -> T:
        """The answer to `question`, by `ask` where it is not known yet. What `ask` raises is no answer."""
        with self._lock:
            is_known = question in self._known
            if not is_known and self._most is not None and len(self._known) >= self._most:
                self._known.pop(next(iter(self._known)))
            answer = self._known.setdefault(question, Future())
        if is_known:
            return answer.result()
        try:
            answer.set_result(ask())
        except BaseException as error:
            with self._lock:
                self._known.pop(question, None)
            answer.set_exception(error)
            raise
        return answer.result()

    def learn(self, question: Question, answer: object) -> None:
        """Takes what is known without asking."""
        known: Future[Any] = Future()
        known.set_result(answer)
        with self._lock:
            self._known.setdefault(question, known)

    def learn_commits(self, other: Answers) -> None:
        """Takes what another run was answered of commits."""
        if other is self:
            return
        with other._lock:
            known = {question: answer for question, answer in other._known.items() if question.is_of_commit}
        with self._lock:
            self._known = {**{q: answer for q, answer in known.items() if answer.done()}, **self._known}

    def forget(self) -> None:
        """Has everything asked again."""
        with self._lock:
            self._known.clear()
