"""Where a merge comes from: its card names the models in it, and the cards of these say what they were trained from.

base_of_merge(["user/expert-1", "user/expert-2"], client())          # "user/base"
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fusehub.errors import FuseHubError
from fusehub.hub.client import hub_errors

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# Models whose cards are asked for, at most: merges are made of merges.
_MOST = 16


def named_origins(card: Mapping[str, Any]) -> list[str]:
    """The models that a card names as its `base_model`: the base of a fine-tune, the models in a merge."""
    said = card.get("base_model")
    names = [name for name in (said if isinstance(said, list) else [said]) if isinstance(name, str) and name]
    return list(dict.fromkeys(names))


def names_parents(card: Mapping[str, Any]) -> bool:
    """Whether what `named_origins` gives are the models in a merge, and none of them its base."""
    return card.get("base_model_relation") == "merge" or len(named_origins(card)) > 1


def called(name: str) -> str:
    """The name of a model without its owner: the same one is found at mirrors."""
    return name.rpartition("/")[2].casefold()


def base_of_merge(models: Iterable[str], api: HfApi) -> str | None:
    """The one model that all `models` of a merge were trained from, as their cards say.

    A model that names none stands for itself: the base may be in the merge too. None where they are of several bases,
    and where a card cannot be read.
    """
    bases: dict[str, str] = {}
    pending, asked = list(models), set[str]()
    while pending:
        name = pending.pop(0)
        if name in asked:
            continue
        if len(asked) == _MOST:
            return None
        asked.add(name)
        try:
            with hub_errors(name):
                info = api.model_info(name, expand=["cardData"])
        except FuseHubError:
            return None
        card = info.card_data.to_dict() if info.card_data else {}
        origins = named_origins(card)
        if names_parents(card):
            pending += origins
        else:
            base = origins[0] if origins else name
            bases.setdefault(called(base), base)
    return next(iter(bases.values())) if len(bases) == 1 else None
