"""May this visitor read this model? Asked of the Hub with the visitor's token, every time.

Files that were downloaded once lie in one cache for all visitors. Whoever may not read a gated or private model on
the Hub must not read it from there.
"""

from __future__ import annotations

from collections.abc import Iterable

from fusehub.hub.access import Access
from fusehub.models.resolve import refs_of


def require_all(models: Iterable[str], token: str | None) -> None:
    """Raises `AccessDenied` or `NotFound` where the visitor may not download a model, or the base of an adapter.

    Resolving asks the Hub for every repo that a name leads to; folders of the visit itself need no asking.
    """
    refs_of(models, Access(token))
