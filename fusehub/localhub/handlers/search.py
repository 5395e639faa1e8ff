"""Lists of repositories: filters, search, order and pages, as `list_models` and its sisters ask for them.

A page's Link header names where the next one starts by the last item's place in the order, not by a number, so that
a repository that appears meanwhile makes no other one appear twice or never.
"""

import base64
import json
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import URL, QueryParams

from ..access import Caller
from ..errors import bad_request
from ..repo_info import describe, facts
from ..store import Repo, Store

SORTS = {"downloads", "likes", "lastModified", "createdAt", "trendingScore", "usedStorage"}
ALIASES = {"last_modified": "lastModified", "created_at": "createdAt", "trending_score": "trendingScore"}
BRIEF = {"_id", "id", "modelId", "author", "likes", "private", "gated", "downloads", "tags", "createdAt"}
BRIEF |= {"pipeline_tag", "library_name", "lastModified", "sha", "sdk", "disabled", "trendingScore"}
SIZES = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def visible(store: Store, kind: str, caller: Caller | None) -> list[Repo]:
    """The public repositories and the caller's own."""
    repos = store.all(kind)
    return [repo for repo in repos if not repo.state["private"] or (caller and caller.belongs_to(repo.namespace))]


def values(query: QueryParams, *keys: str) -> list[str]:
    """All values of a repeated, bracketed or comma-separated parameter."""
    found = [item for key in keys for name in (key, f"{key}[]") for item in query.getlist(name)]
    return [part for item in found for part in item.split(",") if part]


def find(store: Store, kind: str, caller: Caller | None, query: QueryParams) -> list[dict]:
    """Descriptions of all repositories that match, in order."""
    wanted = values(query, "filter")
    wanted += [
        f"{key}:{item}" for key in ("task_categories", "language", "size_categories") for item in values(query, key)
    ]
    result = []
    for repo in visible(store, kind, caller):
        known = facts(store, repo, repo.state["heads"]["main"])
        if _matches(repo, known, wanted, query):
            result.append(describe(store, repo, repo.state["heads"]["main"]))
    return result


def _matches(repo: Repo, known: dict, wanted: list[str], query: QueryParams) -> bool:
    tags = {tag.lower() for tag in known["tags"]}
    words = " ".join(query.getlist("search")).lower().split()
    author, task, gated = query.get("author"), query.get("pipeline_tag"), query.get("gated")
    return (
        all(tag.lower() in tags for tag in wanted)
        and all(word in repo.id.lower() for word in words)
        and (not author or repo.namespace.lower() == author.lower())
        and (not task or known.get("pipeline_tag") == task)
        and (gated is None or bool(repo.state["gated"]) == (gated.lower() in ("true", "1")))
        and not any(query.get(key) for key in ("inference", "inference_provider", "apps"))  # nothing is served here
        and _has_size(known, query.get("num_parameters"))
    )


def _has_size(known: dict, bounds: str | None) -> bool:
    """`min:6B,max:128B` against the parameter count."""
    if not bounds:
        return True
    total = (known.get("safetensors") or {}).get("total")
    if total is None:
        return False
    for bound in bounds.split(","):
        side, _, size = bound.partition(":")
        try:
            number = float(size[:-1]) * SIZES[size[-1].upper()] if size[-1:].upper() in SIZES else float(size)
        except ValueError:
            raise bad_request(f"num_parameters must look like min:6B,max:128B, not {bounds!r}") from None
        if (side == "min" and total < number) or (side == "max" and total > number):
            return False
    return True


def order(items: list[dict], sort: str | None, direction: str | None) -> list[tuple[list, dict]]:
    """Items with their place, [value, id], by which they are sorted; newest or largest first unless told."""
    sort = ALIASES.get(sort or "", sort) or "lastModified"
    if sort not in SORTS:
        raise bad_request(f"Cannot sort by {sort!r}; use one of {', '.join(sorted(SORTS))}")
    placed = sorted((([item[sort], item["id"]], item) for item in items), key=lambda pair: pair[0][1])
    placed.sort(key=lambda pair: pair[0][0], reverse=direction != "1")
    return placed


def _after(placed: list[tuple[list, dict]], cursor: str, ascending: bool) -> list[tuple[list, dict]]:
    try:
        value, last_id = json.loads(base64.urlsafe_b64decode(cursor))
        return [pair for pair in placed if _is_after(pair[0], value, last_id, ascending)]
    except (ValueError, TypeError):
        raise bad_request("Invalid cursor") from None


def _is_after(place: list, value: Any, last_id: str, ascending: bool) -> bool:
    if place[0] == value:
        return place[1] > last_id
    return (place[0] > value) == ascending


def next_link(url: URL, cursor: str) -> dict[str, str]:
    """The Link header that leads to the next page of this very query."""
    query = [(key, value) for key, value in parse_qsl(url.query, keep_blank_values=True) if key != "cursor"]
    return {"Link": f'<{url.replace(query=urlencode([*query, ("cursor", cursor)]))}>; rel="next"'}


def page_of(items: list[dict], url: URL, query: QueryParams, size: int) -> tuple[list[dict], dict[str, str]]:
    """(one page, headers) of found repositories."""
    direction = query.get("direction")
    placed = order(items, query.get("sort"), direction)
    if query.get("cursor"):
        placed = _after(placed, query["cursor"], ascending=direction == "1")
    page = placed[:size]
    headers = {}
    if len(placed) > size:
        cursor = base64.urlsafe_b64encode(json.dumps(page[-1][0]).encode()).decode()
        headers = next_link(url, cursor)
    return [item for _, item in page], headers


def pick(item: dict, query: QueryParams, listing: bool) -> dict:
    """The fields that were asked for: `expand` names them, else a list is brief and a single answer complete."""
    expand = values(query, "expand")
    if expand:
        keys = {"_id", "id", *expand}
    elif listing:
        keys = set(BRIEF)
        keys |= {"siblings"} if is_true(query.get("full")) else set()
        keys |= {key for key in ("cardData", "config") if is_true(query.get(key))}
        keys |= {"cardData"} if is_true(query.get("full")) and "modelId" not in item else set()
    else:
        keys = set(item) - {"downloadsAllTime", "trendingScore", "baseModels"}
    return {key: value for key, value in item.items() if key in keys and (value is not None or key in expand)}


def is_true(value: str | None) -> bool:
    return (value or "").lower() in ("true", "1", "yes")


def children_count(store: Store, caller: Caller | None, model_id: str) -> dict[str, int]:
    """How many visible models say that they come from this one, by relation."""
    counts = dict.fromkeys(("adapter", "merge", "quantized", "finetune"), 0)
    for repo in visible(store, "model", caller):
        base = facts(store, repo, repo.state["heads"]["main"])["baseModels"]
        if base and any(model["id"] == model_id for model in base["models"]):
            counts[base["relation"]] += 1
    return counts
