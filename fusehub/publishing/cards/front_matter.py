"""The front matter of a merge's card: what the Hub reads, in the Hub's words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fusehub.data.tables.hub_datasets import trained_on
from fusehub.hub.client import endpoint
from fusehub.hub.licenses import is_ordered
from fusehub.publishing.cards.results import Results
from fusehub.publishing.merged_folder import MergedFolder

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

# Licenses that the Hub knows and `fusehub.hub.licenses` does not order; any other is `other` with a name.
_HUB_LICENSES = frozenset(
    {"bsd-3-clause-clear", "c-uda", "cc", "cdla-permissive-1.0", "cdla-permissive-2.0", "etalab-2.0", "gfdl"}
    | {"lppl-1.3c", "postgresql", "ofl-1.1", "lgpl-lr", "deepfloyd-if-license"}
)


def card_of(front_matter: Mapping[str, Any], body: str) -> ModelCard:
    """A card of what the Hub reads, without what is None, and of what people read."""
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(**front_matter)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}")


def front_matter_of(
    merge: MergedFolder, title: str, results: Results | None, license: str | None = None
) -> dict[str, Any]:
    """What the Hub reads of a merge; `results` are written as its `model-index`, `license` instead of what follows."""
    sources = merge.sources
    data = license_entries(merge, license)
    data["library_name"] = "peft" if merge.adapter_base else "transformers"
    tasks = [task.name for task in merge.tasks]
    if len(tasks) == 1:
        data["pipeline_tag"] = tasks[0]
    if merge.adapter_base:
        # The Hub knows one relation for all: this one leads to the base that the adapter is of no use without.
        data |= {"base_model": [merge.adapter_base[0]], "base_model_relation": "adapter"}
    elif experts := [source["repo_id"] for source in sources if source["repo_id"]]:
        data |= {"base_model": list(dict.fromkeys(experts)), "base_model_relation": "merge"}
    # YAML reads a bare `no`, which is Norwegian, as false.
    if languages := _union("no" if source["languages"] is False else source["languages"] for source in sources):
        data["language"] = languages
    sets = list(dict.fromkeys(name for source in sources for name in trained_on(source)))
    # What experts were trained on, as the Hub understands the field: data of the results are in the index.
    if sets:
        data["datasets"] = sets
    data["tags"] = ["merge", "fusehub", merge.report["method"], *(["lora"] if merge.adapter_base else [])]
    data["tags"] += tasks if len(tasks) > 1 else []
    if results and (entries := results.entries()):
        data |= {"model_name": title, "eval_results": entries}
    return data


def license_entries(merge: MergedFolder, chosen: str | None = None) -> dict[str, Any]:
    """`license`, and its name and address where the Hub does not know it: the `chosen` one, or what follows from the
    experts'; nothing where none covers all of them."""
    license = merge.license.license if chosen is None else chosen
    if not license or (chosen is None and any(origin["license"] in (None, "unknown") for origin in merge.origins)):
        return {}
    # Those that `fusehub.hub.licenses` orders are all on the Hub's list.
    if license in _HUB_LICENSES or is_ordered(license):
        return {"license": license}
    origin = next((one for one in merge.origins if license in (one["license"] or "").split(", ")), None)
    name = f"{origin['name'].rpartition('/')[2]}-license" if origin and license == "other" else license
    entries = {"license": "other", "license_name": re.sub(r"[^a-z0-9.-]+", "-", name.lower()).strip("-")}
    return entries | ({"license_link": page_of(origin)} if origin and origin.get("repo_id") else {})


def page_of(source: Mapping[str, Any]) -> str | None:
    """Address of an expert, or of a base, at the commit that went in."""
    return f"{endpoint()}/{source['repo_id']}/tree/{source['commit']}" if source.get("repo_id") else None


def _union(many: Iterable[Any]) -> list[str]:
    items = [item for value in many for item in (value if isinstance(value, list) else [value])]
    return list(dict.fromkeys(item for item in items if isinstance(item, str) and item.strip()))
