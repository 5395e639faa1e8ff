"""A recipe in the words of the app: what a merge here takes of it, and what it says beyond that.

    read = read_recipe(text, setting, token)      # YAML, or a repo of the Hub that holds one
    read.models, read.method, read.options, read.left_out

Recipes are strangers' words: on a shared machine they name what is on the Hub and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from fusehub.checking.heads import Heads
from fusehub.errors import BadRecipe, shortly
from fusehub.hub.access import Access
from fusehub.merging.hub_recipe import places_in, recipe_at_hub
from fusehub.merging.recipe import ModelEntry, Recipe
from fusehub.merging.sources import AUTO
from fusehub.methods import find_method
from fusehub.methods.by_layer import Settings
from fusehub.utils.frozen import thawed
from fusehub.utils.untrusted.yaml_text import load_yaml

from ..setting import Setting
from ..steps.merge import require_offered

# What a recipe can say of a merge that is taken as it is, or that says how one came to be.
_TAKEN = ("merge_method", "models", "base_model", "parameters", "heads", "layers", "provenance")
_TAKEN_OF_MODELS = ("model", "parameters", "statistics", "labels")


@dataclass(frozen=True)
class ReadRecipe:
    """What a merge here takes, by model where it is of one; `left_out` is what the recipe says beyond it."""

    text: str
    models: tuple[str, ...]
    method: str
    options: Mapping[str, Any]
    base: str | None
    weights: Mapping[str, float]
    labels: Mapping[str, list[str]]
    heads: Heads
    statistics: Mapping[str, str]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def is_text(said: str) -> bool:
    """Whether `said` is a recipe's text, and not the name of a repo that holds one."""
    return "\n" in said.strip() or ": " in said or said.lstrip().startswith("{")


def read_recipe(said: str, setting: Setting, token: str | None) -> ReadRecipe:
    """The recipe that is `said`, or that is in the repo which is. Raises `BadRecipe` with all that is wrong in it, and
    for a method that is not offered here."""
    if is_text(said):
        recipe = Recipe.parse(load_yaml(said, "The recipe"))
    else:
        recipe = recipe_at_hub(setting.require_name(said, "recipe"), Access(token))
    for place in places_in(recipe):
        setting.require_name(place, "model or data set")
    return _in_words_of_the_app(recipe)


def _in_words_of_the_app(recipe: Recipe) -> ReadRecipe:
    method = find_method(recipe.merge_method)
    require_offered([method.name])
    if len({entry.model for entry in recipe.models}) < len(recipe.models):
        raise BadRecipe("The recipe names a model twice.", "Name each once, with the share that it is to have.")
    settings = Settings.of(method, recipe.parameters, [entry.parameters for entry in recipe.models])
    options = {**thawed(settings.shared), **thawed(settings.common)}
    of_all = options.pop("weight", 1.0)
    left_out = _beyond(recipe, _TAKEN, "")
    weights: dict[str, float] = {}
    own: dict[str, dict[str, Any]] = {}
    for entry, said in zip(recipe.models, settings.models, strict=True):
        left_out += _beyond(entry, _TAKEN_OF_MODELS, f" of {entry.model}")
        own[entry.model] = thawed(said)
        weight = own[entry.model].pop("weight", of_all)
        plain = isinstance(weight, int | float)
        weights[entry.model] = float(weight) if plain else 1.0
        left_out += [] if plain else [_told("weight", weight, f" of {entry.model}")]
    for name in dict.fromkeys(name for said in own.values() for name in said):
        values = [said.get(name, options.get(name)) for said in own.values()]
        # An option of each model holds for all of them here.
        if all(value == values[0] for value in values):
            options[name] = values[0]
        else:
            left_out += [_told(name, said[name], f" of {model}") for model, said in own.items() if name in said]
    return ReadRecipe(
        text=recipe.to_yaml(),
        models=tuple(weights),
        method=method.name,
        options=options,
        base=recipe.base_model,
        weights=weights if set(weights.values()) != {1.0} else {},
        labels={entry.model: list(entry.labels) for entry in recipe.models if entry.labels is not None},
        heads=recipe.heads,
        statistics={entry.model: entry.statistics for entry in recipe.models if entry.statistics != AUTO},
        left_out=tuple(left_out),
        notes=(*recipe.notes, *settings.notes),
    )


def _beyond(said: Recipe | ModelEntry, taken: Collection[str], whose: str) -> list[str]:
    """What is said that a merge here does not take."""
    known = {name: field.default for name, field in type(said).model_fields.items() if name not in taken}
    return [_told(name, value, whose) for name, default in known.items() if (value := getattr(said, name)) != default]


def _told(name: str, value: Any, whose: str) -> str:
    return f"{name}{whose}: {shortly(thawed(value))}"
