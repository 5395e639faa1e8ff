"""Models on the Hub that could be merged, and where their statistics are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class FoundModel:
    """One model of the Hub. `statistics` names the repo that holds its statistics: itself, a companion, or None."""

    id: str
    task: str | None
    base: str | None
    downloads: int
    likes: int
    licence: str | None
    gated: bool
    private: bool
    updated: datetime | None
    parameters: int | None
    statistics: str | None


def find(
    query: str | None = None,
    *,
    base: str | None = None,
    task: str | None = None,
    with_statistics: bool = False,
    author: str | None = None,
    limit: int = 20,
    token: str | None = None,
) -> list[FoundModel]:
    """Models that match, the most downloaded first."""
    raise NotImplementedError
