"""The work of making statistics in a visit: of one model from texts, or of each from what its card names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..visit import Picked, Visit
from ..workers.jobs import Part

LIMIT = 1000
"""Texts at most, unless the visitor says another number."""
SECONDS = 60.0
"""About how long that takes, before anything is known of the texts."""


@dataclass(frozen=True)
class Texts:
    """What statistics are made of: how the page calls it, where it is, and whether that is a dataset on the Hub."""

    called: str
    place: str
    is_dataset: bool = False
    column: str | None = None
    """The column with the texts, where the visitor chose one."""


def counting(visit: Visit, model: str, texts: Texts, *, limit: int = LIMIT, fisher: bool = False) -> Part:
    """The work of making statistics of one model."""
    dataset = texts.called if texts.is_dataset else None
    of = {"data": texts.called, "dataset": dataset, "limit": limit, "fisher": fisher, "text_column": texts.column}
    out = visit.new_folder("statistics")
    out.parent.mkdir(parents=True)

    def keep(made: dict[str, Any]) -> None:
        visit.statistics[model] = {"source": str(out), **made, **of}

    arguments = {
        "model": model, "data": texts.place, "out": str(out), "limit": limit, "fisher": fisher,
        "text_column": texts.column,
    }  # fmt: skip
    return Part("statistics", arguments, keep, SECONDS)


def named_texts(pick: Picked) -> Texts | None:
    """The dataset that a model's card says it was trained on; None where it names none, or several."""
    if len(pick.datasets) != 1:
        return None
    # What a card names is on the Hub, whatever lies in a folder of that name here.
    return Texts(pick.datasets[0], f"hf://datasets/{pick.datasets[0]}", is_dataset=True)


def named_for(visit: Visit, models: Sequence[str]) -> dict[str, Texts]:
    """Model -> what its card names, of those `models` whose card names one dataset."""
    found = {pick.name: named_texts(pick) for pick in visit.picks if pick.name in models}
    return {name: texts for name, texts in found.items() if texts is not None}
