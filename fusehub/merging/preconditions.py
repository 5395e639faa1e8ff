"""What a plan is held to before weights are read: what is asked for must make sense with what there is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fusehub.errors import Action, BadRecipe
from fusehub.merging.planner import TensorPlan
from fusehub.merging.recipe import Recipe
from fusehub.merging.sources.source import StatisticsSource
from fusehub.methods import Method
from fusehub.methods.base import option_words
from fusehub.models.resolve import ModelRef


def require_shares(method: Method, weights: Sequence[float], tensor: str = "") -> None:
    """Raises `BadRecipe` where a method cannot use these weights of the models, which are those in `tensor`."""
    if any(weight < 0 for weight in weights) and not method.negative_weights:
        said = ", ".join(f"{weight:g}" for weight in weights) + (f" (of {tensor})" if tensor else "")
        raise BadRecipe(
            f"The weights {said} cannot be used: {method.title} has no sense for negative ones.",
            "Give weights that are not negative, or take what was learned away by task_arithmetic.",
        )
    if method.base != "needed" and not any(weights):
        where = f" in {tensor}" if tensor else ""
        raise BadRecipe(f"All models have the weight 0{where}.", "Give at least one of them a weight above zero.")


def require_usable(
    recipe: Recipe,
    method: Method,
    tensors: Iterable[TensorPlan],
    statistics: Sequence[StatisticsSource],
    experts: Sequence[ModelRef],
    base: ModelRef | None,
) -> None:
    """Raises `BadRecipe` where what is asked for needs more than there is."""
    by_update = [ref.name for ref, found in zip(experts, statistics, strict=False) if found.stands_by_update]
    if by_update and base is None:
        raise BadRecipe(
            f"Without data, what {', '.join(by_update)} learned is its difference to the base, and no base is said.",
            "Say --base MODEL: the pretrained model that the experts share.",
            actions=[Action("name-base")],
        )
    blind = [ref.name for ref, found in zip(experts, statistics, strict=False) if not found.knows_means]
    if base is None and recipe.scale != 1:
        raise BadRecipe(
            "scale needs the base model that the experts share.", "Say --base MODEL.", actions=[Action("name-base")]
        )
    for tensor in tensors:
        require_shares(method, tensor.coefficients, tensor.name)
        if base is None and method.needs_base(tensor.options):
            asked = option_words(method.base_with or {}) or method.title
            raise BadRecipe(
                f"{asked} needs the base model that the experts share.",
                "Say --base MODEL.",
                actions=[Action("name-base")],
            )
        if blind and method.solves_biases(tensor.options):
            asked = option_words(method.biases_with or {})
            raise BadRecipe(
                f"{asked or method.title} solves biases from the mean inputs, which are not known of "
                f"{', '.join(blind)}.",
                f"Leave {asked} out, or give statistics that were collected with FuseHub."
                if asked
                else "Give statistics that were collected with FuseHub.",
            )
