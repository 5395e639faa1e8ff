"""The part of a model card that tells how validation data chose the options of a merge, trial by trial."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fusehub.publishing.cards.statistics_card import data_words
from fusehub.utils.markdown import listed, md


def tuning_facts(tuning: Mapping[str, Any]) -> dict[str, Any]:
    """What the template says of a search: of the record of `fusehub.comparing.tuning`, or of that without trials."""
    searched = [f"`{name}` ({', '.join(map(shown, values))})" for name, values in tuning["over"].items()]
    if tuning["weights"]:
        searched.append(f"each model's weight ({', '.join(f'{share:g}' for share in tuning['weights'])})")
    data = [f"{data_words(own)} ({own['examples']:,} examples)" for own in tuning["data"]]
    names = [own["name"] for own in tuning["data"]]
    rows = []
    for place, trial in enumerate(tuning.get("trials", ())):
        cells = [shown(trial["values"][name]) for name in tuning["over"]]
        cells += [" : ".join(f"{weight:g}" for weight in trial["weights"])] if tuning["weights"] else []
        cells += [_score(trial["scores"][name]) for name in names]
        cells += [_score(trial["mean"])] if len(names) > 1 else []
        rows.append([f"**{md(cell)}**" if place == tuning["chosen"] else md(cell) for cell in cells])
    heads = [
        *tuning["over"],
        *(["weights"] if tuning["weights"] else []),
        *names,
        *(["on average"] if names[1:] else []),
    ]
    return {
        "searched": listed(searched),
        "data": listed(data),
        "metric": md(tuning["metric"]),
        "heads": [md(head) for head in heads],
        "rows": rows,
        "complete": tuning["complete"],
        "most_trials": tuning["most_trials"],
    }


def shown(value: Any) -> str:
    """An option's value as recipes write it."""
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
