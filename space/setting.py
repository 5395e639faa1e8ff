"""Where the app runs, and what that allows: a Space is shared by strangers and small, a laptop belongs to its user.

On a shared machine no folder of it can be named, and no token that lies on it is ever used: what a visitor does is
done with the visitor's own token, or with none.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fusehub.errors import FuseHubError, NoSpace, NotFound

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_ONE = r"(https://[\w.-]+/|http://[\w.-]+(:\d+)?/|hf://)?[\w-][\w.-]*(/[\w.%-]+){0,9}(@[\w./%-]+)?"
# One model, or an adapter behind its base.
_NAME = re.compile(rf"{_ONE}(\+{_ONE})?")
# Characters of a name: as many as a path of Linux may have.
_LONGEST = 4096
# Characters of a search.
_MOST_WORDS = 200
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")


@dataclass(frozen=True)
class Setting:
    """`shared`: others than the machine's owner come here. Sizes are in bytes, times in seconds.

    `most_merges` are those of one visit, `most_kept` those of all programs; `most_sessions` are the pages and programs
    that gradio keeps in mind, half a megabyte each; `undo` is how long a deleted merge can be brought
    back; `idle` and `left` are how long a visit lasts after the last touch
    and after its page was closed; `running` and `waiting` are the queue.
    """

    shared: bool
    examples: tuple[str, ...] = ()
    most_models: int = 8
    most_merges: int = 8
    most_kept: int = 20
    most_sessions: int = 1000
    most_texts: int = 50
    most_files: int = 10
    upload: int = 20 * 1000**2
    running: int = 1
    waiting: int = 20
    undo: float = 600
    idle: float = 3600
    left: float = 1800
    sweep: float = 30

    @classmethod
    def of(cls, models: Sequence[str] = (), host: str | None = None) -> Setting:
        """The setting of this machine, as the environment tells it; forgets its tokens where it is shared."""
        shared = bool(os.environ.get("SPACE_ID")) or (host is not None and host not in _LOOPBACK)
        if shared:
            _forget_tokens()
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
        named = tuple(models) or tuple(filter(None, os.environ.get("FUSEHUB_EXAMPLE", "").replace(",", " ").split()))
        return cls(shared, named)

    @property
    def signs_in(self) -> bool:
        """Whether visitors sign in with Hugging Face (OAuth of a Space)."""
        return bool(os.environ.get("OAUTH_CLIENT_ID"))

    def names(self, host: str | None = None) -> tuple[str, ...]:
        """The names under which the app is served: what the Host header of a request may say."""
        from fusehub.localhub.hosts import allowed_names

        here = (host, os.environ.get("GRADIO_SERVER_NAME"))
        # Who is shown a Space by another name gains nothing by it: no token of the machine is used there.
        space = ("*.hf.space", *os.environ.get("SPACE_HOST", "").split(",")) if os.environ.get("SPACE_ID") else ()
        return allowed_names(*here, *space)

    @property
    def upload_size(self) -> str:
        """How large an uploaded file may be, as people say it."""
        return f"{self.upload / 1000**2:g} MB"

    def require_name(self, text: str, what: str = "model") -> str:
        """`text` if a visitor may name it: on a shared machine a name or link of the Hub and nothing else."""
        text = text.strip()
        if not text:
            raise NotFound(f"The name of the {what} is empty.", "Write user/name, or paste a link.")
        if len(text) > _LONGEST:
            raise NotFound(
                f"'{text[:40]}...' is too long to be the name of a {what}.", "Write user/name, or paste a link."
            )
        # Words at once; whatever has such a form, `fusehub.utils.reach` keeps it from leading to a file here.
        if self.shared and not is_name(text):
            raise NotFound(f"'{text}' is not the name of a {what} on the Hub.", "Write user/name, or paste a link.")
        return text

    def require_words(self, text: str) -> str:
        """Words to search for, of a length that a name may have."""
        text = " ".join(text.split())
        if len(text) > _MOST_WORDS:
            raise NotFound(f"'{text[:40]}...' is too long to search for.", "Use a word or two of the model's name.")
        return text

    def require_dataset(self, text: str) -> str:
        """`text` if a visitor may name it as data: user/dataset[:config][/split]."""
        self.require_name(text if "://" in text else text.partition(":")[0], "dataset")
        return text.strip()

    def memory(self) -> int:
        """Bytes of memory that the machine (or its container) has."""
        import psutil

        whole = psutil.virtual_memory().total
        try:
            return min(whole, int(Path("/sys/fs/cgroup/memory.max").read_text()))
        except (OSError, ValueError):
            return whole

    def require_room(self, memory: int, download: int, written: int, command: str) -> None:
        """Raises `FuseHubError` with the command that does it elsewhere, where this machine is too small: for what is
        downloaded into the Hub's cache, and `written` where visits keep their results."""
        from huggingface_hub.constants import HF_HUB_CACHE

        from fusehub.utils.folders.places import Room, require_room
        from fusehub.utils.formats import size

        if memory > self.memory():
            raise FuseHubError(
                f"This merge needs about {size(memory)} of memory, and this machine has {size(self.memory())}.",
                f"Do it on a larger one: {command}",
            )
        cache, results = Path(HF_HUB_CACHE), Path(tempfile.gettempdir())
        try:
            require_room([Room("The download", download, cache, ""), Room("The merged model", written, results, "")])
        except NoSpace as error:
            raise error.retold(error.what, f"Do it on a larger machine: {command}") from error


def is_name(text: str) -> bool:
    """Whether `text` has the form of a name or a link of the Hub, and none of a path."""
    return len(text) <= _LONGEST and _NAME.fullmatch(text) is not None and ".." not in text


def _forget_tokens() -> None:
    """Tokens of the machine's owner are taken out of this process and of all that it starts."""
    for name in _TOKENS:
        os.environ.pop(name, None)
    os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
    os.environ["HF_TOKEN_PATH"] = os.devnull
