"""The recipe in a repo of the Hub: of a merge that was published, or one that was published alone.

    recipe = recipe_at_hub("user/merged", access)         # also user/merged@revision, and a link

What was downloaded is a stranger's word: it may name repos of the Hub, and nothing of this machine.
"""

from __future__ import annotations

from fusehub.errors import BadRecipe
from fusehub.hub.access import Access
from fusehub.hub.names import may_be_repo
from fusehub.merging.recipe import FILENAME, Recipe
from fusehub.merging.sources import is_place
from fusehub.models.resolve import repo_of
from fusehub.utils.reach import is_path, local_path


def may_have_recipe(name: str) -> bool:
    """Whether `name` can be a repo of the Hub, and is nothing on this machine."""
    return may_be_repo(name) and not _is_here(name)


def recipe_at_hub(name: str, access: Access) -> Recipe:
    """The recipe in the repo that `name` means.

    Raises `NotFound` where there is no such repo, `BadRecipe` where it has no recipe, or one that cannot be made.
    """
    ref = repo_of(name, access)
    if FILENAME not in ref.files:
        raise BadRecipe(
            f"{ref.name} has no recipe ({FILENAME}), and one model is no merge.",
            "Name two or more models, a repo with a recipe, or a recipe's file.",
        )
    recipe = Recipe.read(ref.path(FILENAME))
    # Statistics at the Hub are in a repo of somebody: a name alone is what a folder of its author was called.
    named = {entry.statistics for entry in recipe.models if is_place(entry.statistics) and "/" not in entry.statistics}
    if here := [place for place in places_in(recipe) if is_path(place) or _is_here(place) or place in named]:
        raise BadRecipe(
            f"The recipe in {ref.name} names what lies on a machine, and not on the Hub: {', '.join(here)}.",
            f"Download it (`hf download {ref.repo_id} {FILENAME}`), put in what you mean, and merge by the file. Its "
            "first lines say what statistics were made of, where FuseHub wrote it.",
        )
    return recipe


def places_in(recipe: Recipe) -> list[str]:
    """All that a recipe reads: models, each part of an adapter on its base, statistics, data and the base."""
    models = [entry.model for entry in recipe.models] + ([recipe.base_model] if recipe.base_model else [])
    found = [part for model in models for part in model.split("+")]
    found += [entry.statistics for entry in recipe.models if is_place(entry.statistics)]
    return list(dict.fromkeys([*found, *(entry.data for entry in recipe.models if entry.data)]))


def _is_here(place: str) -> bool:
    path = local_path(place)
    return path is not None and path.exists()
