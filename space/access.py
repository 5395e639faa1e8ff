"""May this visitor read this model? Asked of the Hub with the visitor's token, every time.

Files that were downloaded once lie in one cache for all visitors. Whoever may not read a gated or private model on
the Hub must not read it from there.
"""

from __future__ import annotations

from collections.abc import Iterable

from fusehub.hub import client, hub_errors
from fusehub.refs import ModelRef, resolve


def require_access(ref: ModelRef) -> None:
    """Raises `AccessDenied` where the visitor (by `ref.token`) may not download the model."""
    if ref.repo_id is not None and (ref.gated or ref.private):
        with hub_errors(ref.name):
            client(ref.token).auth_check(ref.repo_id)


def require_all(models: Iterable[str], token: str | None) -> None:
    """The same for models by name; folders of the visit itself need no asking."""
    for model in models:
        require_access(resolve(model, token=token))
