"""Who plays which part in a merge: what a recipe asks for, with its models resolved and its options checked.

Nothing is downloaded but listings and configs. As in mergekit, the base may be listed among the models. A method that
works on differences to it does not count it then; one that begins at it (SLERP) has it as its first model, listed or
not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fusehub.errors import Action, BadRecipe
from fusehub.hub.access import Access
from fusehub.merging.recipe import ModelEntry, Recipe
from fusehub.merging.sources.data_at_hand import require_data
from fusehub.methods import METHODS, Method, find_method
from fusehub.methods.by_layer import Settings
from fusehub.models.chat_templates import require_template
from fusehub.models.quantised.float8 import FLOAT8
from fusehub.models.resolve import ModelRef, refs_of

# How methods count the base.
_BESIDE = {
    "needed": " beside the base",
    "origin": " beside the base",
    "end": " (the base is one of them, listed or not)",
}


@dataclass(frozen=True)
class Cast:
    """The models of a merge and what is asked for; `recipe` lists those that are merged, as `experts` do."""

    recipe: Recipe
    method: Method
    settings: Settings
    experts: tuple[ModelRef, ...]
    base: ModelRef | None
    notes: tuple[str, ...]
    """What is said in the recipe and does nothing."""

    @property
    def everyone(self) -> tuple[ModelRef, ...]:
        """The experts, and the base last where there is one."""
        return (*self.experts, *([self.base] if self.base else []))


def cast_of(recipe: Recipe, resolved: Mapping[str, ModelRef], access: Access) -> Cast:
    """The cast of `recipe`; `resolved` has models that are known already, by their names in it.

    Raises `BadRecipe` where an option is wrong or the method cannot take these models, and what resolving raises.
    """
    method = find_method(recipe.merge_method)
    _require_adding(recipe, method)
    if recipe.as_adapter and recipe.stored_dtype == FLOAT8:
        raise BadRecipe("An adapter is not stored in float8.", "Name another dtype, or write a whole model.")
    # Before the Hub is asked of anything.
    settings = Settings.of(method, recipe.parameters, [entry.parameters for entry in recipe.models])
    require_template(recipe.chat_template)

    named = [*([recipe.base_model] if recipe.base_model else []), *(entry.model for entry in recipe.models)]
    refs = refs_of([resolved.get(name, name) for name in named], access)
    base = refs.pop(0) if recipe.base_model else None
    listed = list(zip(recipe.models, refs, settings.models, strict=True))
    if base is None and method.base == "needed":
        raise BadRecipe(
            f"{method.title} adds differences to a base, and the recipe names none.",
            "Say --base MODEL: the pretrained model that the experts share.",
            actions=[Action("name-base")],
        )
    merged = listed
    if base is not None and method.base != "optional":
        merged = [own for own in listed if own[1].id != base.id]
        if method.base == "end":
            bases = [own for own in listed if own[1].id == base.id]
            merged = [*(bases[:1] or [(ModelEntry(model=recipe.base_model), base, {})]), *merged]
    _require_count(method, len(merged), base)
    entries, experts, options = zip(*merged, strict=True)
    _require_layers(recipe, experts)
    cast = recipe.model_copy(update={"models": entries})
    require_data(cast, method, experts)
    notes = (*recipe.notes, *settings.notes, *_idle_base(recipe, cast, base))
    return Cast(cast, method, replace(settings, models=options), experts, base, notes)


def _require_count(method: Method, count: int, base: ModelRef | None) -> None:
    fewest, most = method.models
    if not fewest <= count <= (most or count):
        wanted = f"exactly {fewest}" if fewest == most else f"at least {fewest}"
        raise BadRecipe(
            f"{method.title} merges {wanted} model{'s' if fewest > 1 else ''}"
            f"{_BESIDE.get(method.base, '') if base else ''}, and the recipe has {count}.",
            "Name more or fewer models, or choose another method: `fusehub methods`.",
        )


def _require_adding(recipe: Recipe, method: Method) -> None:
    """Raises `BadRecipe` where the merge is to be an adapter and the method's result is none."""
    if recipe.as_adapter and method.factors is None:
        adding = [f"--method {name}" for name, other in METHODS.items() if other.factors is not None]
        raise BadRecipe(
            f"{method.title} does not only add updates up, and its result is no product of small matrices.",
            f"Say {' or '.join(adding)}, or leave out --as-adapter.",
            actions=[Action("merge-whole")],
        )


def _require_layers(recipe: Recipe, experts: Sequence[ModelRef]) -> None:
    """Raises `BadRecipe` where mergekit's slices take fewer or more layers than a model has."""
    for ref in experts if recipe.layers is not None else ():
        config = ref.config
        found = next(
            (config[key] for key in ("num_hidden_layers", "n_layer", "num_layers", "n_layers") if key in config), None
        )
        if found != recipe.layers:
            raise BadRecipe(
                f"The recipe's slices take layers 0 to {recipe.layers}, and {ref.name} has {found}.",
                "Layers cannot be left out. To merge all of them, which is another model, list the models under "
                "`models` instead of `slices`.",
            )


def _idle_base(named: Recipe, cast: Recipe, base: ModelRef | None) -> list[str]:
    """What has to be said of a base that is listed among the models and is none of those that are merged."""
    said = [name for entry in named.models if entry not in cast.models for name in entry.parameters]
    if base is None or not said:
        return []
    return [
        f"{', '.join(dict.fromkeys(said))} of {base.name} does nothing: it is the base, and what is merged are the "
        "others' differences to it."
    ]
