"""Packages that come with an extra: what needs one says so, and how to have it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fusehub.errors import FuseHubError


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """A block of imports for which `extra` must be installed; `what` is what needs them, as "Images".

    Raises `FuseHubError` where a package is missing.
    """
    try:
        yield
    except ImportError as error:
        raise FuseHubError(
            f"{what} cannot be had without the package {error.name}, which is not installed.",
            f'Install it with: pip install "fusehub[{extra}]"',
        ) from error
