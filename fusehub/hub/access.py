"""How the Hub is asked: by whose token, into which cache, and whether it is asked at all.

    access = Access(token=False, cache_dir="/data/hub")

Functions of the package take the three under the names that the Hub's client has for them, and hand them on as one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fusehub.hub.answers import Answers, Question
from fusehub.hub.client import client, is_offline

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

T = TypeVar("T")


@dataclass(frozen=True)
class Access:
    """What the Hub's client wants to know beside what is asked for.

    `token`: one of one's own; None for the one that is stored, if one is; True where it must be; False for none.
    `cache_dir`: where downloads lie, the Hub's cache of this machine unless said. `local_files_only`: whether only
    what is there already is read, without a request. `answers`: what the Hub has said in this run; None remembers
    nothing.
    """

    token: bool | str | None = field(default=None, repr=False)
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    answers: Answers | None = field(default_factory=Answers, repr=False, compare=False)

    def once(self, question: Question, ask: Callable[[], T]) -> T:
        """The answer to `question`, which is asked once a run, by `ask`."""
        return ask() if self.answers is None else self.answers.once(question, ask)

    def info(self, repo_id: str, revision: str = "") -> ModelInfo:
        """What the Hub says of a model's repo at a revision, its listing with sizes and hashes among it.

        Everyone may see that of a gated repo: see `require_readable`. Raises what the Hub's client raises.
        """

        def ask() -> ModelInfo:
            info = client(self.token).model_info(repo_id, revision=revision or None, files_metadata=True)
            if self.answers is not None and info.sha:
                self.answers.learn(Question("info", info.id, info.sha), info)
                self.answers.learn(Question("info", info.id, revision), info)
            return info

        return self.once(Question("info", repo_id, revision), ask)

    def require_readable(self, info: ModelInfo) -> None:
        """Raises what the Hub's client raises where this token may not download from the repo that `info` is of.

        Its files may lie in the cache since somebody else asked for them.
        """
        if info.gated:
            self.once(Question("may be read", info.id), lambda: client(self.token).auth_check(info.id))

    @property
    def is_offline(self) -> bool:
        """Whether no request may be made: so it was said here, or to the Hub's client."""
        return self.local_files_only or is_offline()

    @property
    def cache(self) -> Path:
        """The folder that downloads lie in."""
        from huggingface_hub.constants import HF_HUB_CACHE

        return Path(self.cache_dir or HF_HUB_CACHE).expanduser()


STORED = Access(answers=None)
"""As the Hub's client does by itself; for longer than a run."""
