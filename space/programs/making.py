"""What takes a while, and is kept under a secret name: statistics and merges."""

from __future__ import annotations

from typing import Any

from fusehub.checking.heads import Heads
from fusehub.errors import BadData
from fusehub.methods import find_method

from ..frame import Frame
from ..steps.advice import advise
from ..steps.counting import Texts
from ..steps.merge import start_merges
from ..visit import Made, Visit
from . import answers, named, work
from .told import Caller, Examples


def statistics(
    frame: Frame,
    caller: Caller,
    model: str,
    data: str | None = None,
    texts: list[str] | None = None,
    limit: Examples = 1000,
    fisher: bool = False,
    text_column: str | None = None,
) -> answers.Collected:
    """Makes statistics of a model from texts of its kind: sums of what its layers see, which RegMean weighs by.

    Args:
        model: the name of a model on the Hub.
        data: a dataset on the Hub, as user/dataset or user/dataset/split.
        texts: texts in the place of a dataset; some hundreds make good statistics.
        limit: how many texts are taken at most, up to 5000.
        fisher: true makes the Fisher diagonals that Fisher merging needs, too; it takes about three times as long.
        text_column: the column of the dataset with the texts; left out: guessed by what it is called.

    Returns:
        The name that stands for them under `statistics` of `merge`, and how much was counted.
    """
    if bool(data) == bool(texts):
        raise BadData("There must be a dataset or texts, and not both.", "Give `data` or `texts`.")
    with named.visit_of(frame, [model], caller.token, keep=True) as visit:
        if texts:
            given = work.written(visit, texts, frame.setting)
        else:
            name = frame.setting.require_dataset(str(data))
            given = Texts(name, name, is_dataset=True, column=text_column)
        work.start_statistics(frame, visit, model, given, caller.token, limit=limit, fisher=fisher)
        work.finish(frame, visit)
        made = visit.statistics[model]
        return {
            "name": f"{named.STATISTICS}@{visit.key}", "model": model, "examples": made["examples"],
            "tokens": made["tokens"], "rows": made["rows"], "fisher": fisher,
            "warnings": [own["what"] for own in made["findings"]],
        }  # fmt: skip


def merge(
    frame: Frame,
    caller: Caller,
    models: list[str],
    method: str | None = None,
    options: dict[str, Any] | None = None,
    base_model: str | None = None,
    weights: dict[str, float] | None = None,
    labels: dict[str, list[str]] | None = None,
    heads: Heads = "auto",
    statistics: dict[str, str] | None = None,
) -> answers.Merged:
    """Merges models into one, without their training data.

    Args:
        models: names of two or more models on the Hub, as user/name or user/name@revision.
        method: one of those that `methods` lists; left out: the one that `recommend` recommends.
        options: options of the method, such as {"alpha": 0.9}; `methods` has their schema.
        base_model: the pretrained model that they share, for methods and statistics that need it.
        weights: how much each model counts, by model; 1 where nothing is said.
        labels: what the rows of a model's head mean, by model, where it only numbers them.
        heads: "keep" each model's own, "merge" them, or "auto": merged where their labels agree.
        statistics: by model: a name that `statistics` gave, a repo that holds some, or "data-free"; left out: what
            its owner has published.

    Returns:
        The merge's name, which compare, evaluate, card, push and download take, its recipe, and notes.
    """
    with named.visit_of(frame, models, caller.token, keep=True) as visit:
        named.require_two(visit)
        named.take_base(frame, visit, base_model)
        named.take_labels(visit, labels)
        visit.heads = heads
        named.require_known(visit, weights or {}, "weights")
        shares = {name: (weights or {}).get(name, 1.0) for name in visit.names()} if weights else {}
        with named.statistics_named(frame, visit, statistics or {}):
            if method is None:
                best = advise(frame, visit, caller.token)["recommended"]
                chosen, own = best["method"], best["options"] | (options or {})
                visit.base = visit.base or best["base_model"] or ""
            else:
                chosen, own = find_method(method).name, dict(options or {})
            start_merges(frame, visit, {chosen: own}, shares, caller.token)
            work.finish(frame, visit)
        return _merged(visit, next(iter(visit.merges.values())))


def _merged(visit: Visit, made: Made) -> answers.Merged:
    return {
        "name": f"{made.name}@{visit.key}", "models": [f"{name}@{visit.key}" for name in made.models],
        "method": made.method, "options": made.asked["parameters"], "base_model": made.asked["base_model"],
        "weights": made.asked["weights"], "recipe": named.public(made.recipe, visit), "seconds": made.seconds,
        "notes": [named.public(note, visit) for note in made.notes],
    }  # fmt: skip
