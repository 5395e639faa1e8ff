"""What a card says of what went into a merge: a line of its table an expert, and whose texts were used for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusehub.hub.client import endpoint
from fusehub.merging.sources import source_of
from fusehub.publishing.cards.front_matter import page_of
from fusehub.publishing.cards.statistics_card import data_words
from fusehub.publishing.merged_folder import PINNED, MergedFolder, is_local
from fusehub.statistics.sources import is_same_owner
from fusehub.utils.markdown import link, listed, md

# Who made an expert's statistics -> what is true of them.
_MAKERS = {
    "owner": "{of} were made from texts by the owner, who published the sums alone",
    "others": "{of} were made from texts by others than the owner, and published",
    "publisher": "{of} were made from texts by whoever made this merge",
    "nobody": "in the place of {of} stands the difference to the base",
}


def source_line(merge: MergedFolder, source: Mapping[str, Any]) -> dict[str, str]:
    """One line of the table of what went in."""
    base = source.get("adapter_base")
    on = f" on {link(base['name'], page_of(base))}" if base else ""
    return {
        "link": link(source["repo_id"] or source["short_name"], page_of(source)) + on,
        "weight": f"{source['weight']:g}" if isinstance(source["weight"], int | float) else "by layer",
        "license": source["license"] or "not stated",
        "statistics": _statistics(merge, source) if source["statistics"] else "none",
    }


def texts_used(merge: MergedFolder) -> str:
    """Of whose texts anything went into the merge, as far as it is known of each expert's statistics."""
    kinds: dict[str, list[str]] = {}
    for source in merge.sources:
        if source["statistics"]:
            kinds.setdefault(_maker(source), []).append(md(source["short_name"]))
    said: list[str] = []
    for maker, names in kinds.items():
        of = f"those of {listed(names)}" if said else f"The statistics of {listed(names)}"
        said.append(_MAKERS[maker].format(of=of))
    return f"{'; '.join(said)}." if said else ""


def _maker(source: Mapping[str, Any]) -> str:
    """Who made an expert's statistics, or in which place there are none: a key of `_MAKERS`."""
    origin = source["statistics"]["origin"]
    if source_of(origin).stands_by_update:
        return "nobody"
    if is_local(origin):
        return "publisher"
    pinned = PINNED.fullmatch(origin)
    own = bool(source["repo_id"] and pinned and is_same_owner(pinned[1], source["repo_id"]))
    return "owner" if own else "others"


def _statistics(merge: MergedFolder, source: Mapping[str, Any]) -> str:
    statistics = source["statistics"]
    place, counted = _statistics_place(statistics["origin"], source), _counted(statistics)
    return f"{place}: {counted}" if counted else place


def _statistics_place(origin: str, source: Mapping[str, Any]) -> str:
    if words := source_of(origin).place:
        return words
    pinned = PINNED.fullmatch(origin)
    if pinned:
        own = pinned[1] == source["repo_id"]
        return link(
            "its own repo" if own else pinned[1],
            f"{endpoint()}/{pinned[1]}/tree/{pinned[3]}{pinned[2]}/fusehub",
        )
    return "a local folder" if is_local(origin) else md(origin)


def _counted(statistics: Mapping[str, Any]) -> str:
    """`1,000 texts, 20,000 tokens of reviews.csv`, as far as it is known."""
    counts = [
        f"{statistics[key]:,} {word}" for key, word in (("examples", "texts"), ("tokens", "tokens")) if statistics[key]
    ]
    data = f" of {data_words(statistics['data'])}" if (statistics["data"] or {}).get("source") else ""
    return f"{', '.join(counts)}{data}" if counts else ""
