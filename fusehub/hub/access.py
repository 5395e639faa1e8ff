"""How the Hub is asked: by whose token, into which cache, and whether it is asked at all.

    access = Access(token=False, cache_dir="/data/hub")

Functions of the package take the three under the names that the Hub's client has for them, and hand them on as one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fusehub.hub.client import is_offline


@dataclass(frozen=True)
class Access:
    """What the Hub's client wants to know beside what is asked for.

    `token`: one of one's own; None for the one that is stored, if one is; True where it must be; False for none.
    `cache_dir`: where downloads lie, the Hub's cache of this machine unless said. `local_files_only`: whether only
    what is there already is read, without a request.
    """

    token: bool | str | None = field(default=None, repr=False)
    cache_dir: str | Path | None = None
    local_files_only: bool = False

    @property
    def is_offline(self) -> bool:
        """Whether no request may be made: so it was said here, or to the Hub's client."""
        return self.local_files_only or is_offline()

    @property
    def cache(self) -> Path:
        """The folder that downloads lie in."""
        from huggingface_hub.constants import HF_HUB_CACHE

        return Path(self.cache_dir or HF_HUB_CACHE).expanduser()


STORED = Access()
"""As the Hub's client does by itself."""
