"""Work that waits for others, such as requests to the Hub, done side by side.

refs = side_by_side(resolve, ["user/one", "user/two"])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_MOST = 16

One = TypeVar("One")
Made = TypeVar("Made")


def side_by_side(work: Callable[[One], Made], items: Iterable[One]) -> list[Made]:
    """What `work` makes of each item, in their order. Of several errors the one of the first item is raised; what has
    not begun by then is left."""
    items = list(items)
    if len(items) < 2:
        return [work(item) for item in items]
    pool = ThreadPoolExecutor(min(_MOST, len(items)))
    try:
        return list(pool.map(work, items))
    finally:
        pool.shutdown(cancel_futures=True)
