"""What is asked before a merge: models, methods, what is recommended, and whether models fit."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fusehub.checking.heads import Heads
from fusehub.errors import unknown
from fusehub.finding import ANY_TASK, Sort
from fusehub.finding import find as find_models
from fusehub.models.tasks import TASKS

from ..frame import Frame
from ..links.recipes import read_recipe
from ..steps.advice import advise, offered
from ..steps.check import check as check_visit
from . import answers, forms, named
from .told import Caller

_MOST_FOUND = 100
Count = Annotated[int, Field(ge=1, le=_MOST_FOUND)]


def find(
    frame: Frame,
    caller: Caller,
    query: str | None = None,
    task: str | None = None,
    base: str | None = None,
    author: str | None = None,
    with_statistics: bool = False,
    sort: Sort = "downloads",
    limit: Count = 20,
) -> answers.Found:
    """Finds models on the Hub that can go into a merge.

    Args:
        query: words of the name.
        task: the Hub's name of a task, or "any"; left out: all tasks whose models can be merged.
        base: the model that they were fine-tuned from, as user/name.
        author: whose models.
        with_statistics: true for those alone whose owners have published statistics, which RegMean needs.
        sort: "downloads" or "last_modified", largest or latest first.
        limit: how many at most, up to 100.

    Returns:
        {"models": [...]}: id, task, base, parameters, license, downloads, and where statistics of it are.
    """
    if task is not None and task not in (*TASKS, ANY_TASK):
        raise unknown("task", task, (*TASKS, ANY_TASK))
    found = find_models(
        frame.setting.require_words(query) or None if query else None,
        task=task,
        base=frame.setting.require_name(base) if base else None,
        author=frame.setting.require_words(author) or None if author else None,
        with_statistics=with_statistics,
        sort=sort,
        limit=limit,
        token=caller.token,
    )
    return {"models": [forms.model(model) for model in found]}


def methods(frame: Frame, caller: Caller) -> answers.Methods:
    """Lists the ways to merge: what each does in one sentence, what it needs, and the schema of its options.

    Returns:
        {"methods": [...]}: name, title, sentence, when to use it, what it needs, and options (JSON schema).
    """
    return {"methods": [forms.way(method) for method in offered().values()]}


def recommend(
    frame: Frame,
    caller: Caller,
    models: list[str],
    base_model: str | None = None,
    statistics: dict[str, str] | None = None,
) -> answers.Recommended:
    """Recommends a way to merge these models, with the reason, and says what each other way would need.

    Args:
        models: names of two or more models on the Hub, as user/name or user/name@revision.
        base_model: the pretrained model that they share; left out: the one that all of them name.
        statistics: where statistics of models are, by model, as `merge` takes them.

    Returns:
        The recommended way with its options, the reason, the mean to compare it with, and all others.
    """
    with named.visit_of(frame, models, caller.token) as visit:
        named.require_two(visit)
        named.take_base(frame, visit, base_model)
        with named.statistics_named(frame, visit, statistics or {}):
            return forms.recommended(advise(frame, visit, caller.token))


def check(
    frame: Frame,
    caller: Caller,
    models: list[str],
    base_model: str | None = None,
    labels: dict[str, list[str]] | None = None,
    heads: Heads = "auto",
) -> answers.Checked:
    """Tells whether models can be merged, everything that speaks against it, and what a merge would cost.

    Nothing is downloaded but configurations and headers.

    Args:
        models: names of two or more models on the Hub, as user/name or user/name@revision.
        base_model: the pretrained model that they share, if it is to be checked too.
        labels: what the rows of a model's head mean, by model, where it only numbers them.
        heads: "keep" each model's own, "merge" them, or "auto": merged where their labels agree.

    Returns:
        ok, all findings, facts of each model, the labels of a merge, published statistics, and the cost.
    """
    with named.visit_of(frame, models, caller.token) as visit:
        named.require_two(visit)
        named.take_base(frame, visit, base_model)
        named.take_labels(visit, labels)
        visit.heads = heads
        return forms.checked(check_visit(frame, visit, caller.token), visit.names())


def recipe(frame: Frame, caller: Caller, recipe: str) -> answers.Recipe:
    """Reads the recipe of a merge, and says how to make that merge here: the arguments to give to `merge`.

    Args:
        recipe: a recipe's text (YAML, FuseHub's or mergekit's), a repo on the Hub that holds one, as user/name or
            user/name@revision, or the name of a merge that was made here.

    Returns:
        The recipe's text, the arguments that `merge` takes, and what the recipe says that `merge` cannot do.
    """
    said = recipe
    if named.may_be_merge(recipe):
        with named.merge_named(frame, recipe) as (visit, made):
            said = named.public(made.recipe, visit)
    return forms.recipe(read_recipe(said, frame.setting, caller.token))
