"""What a plan is held to before anything is read: what is asked for must make sense, and be there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fusehub.errors import BadRecipe, Incompatible, NotFound
from fusehub.merging.planner import TensorPlan
from fusehub.merging.recipe import Recipe
from fusehub.merging.sources.source import StatisticsSource
from fusehub.methods import METHODS, Method
from fusehub.methods.base import option_words
from fusehub.models.resolve import ModelRef


def require_adding(recipe: Recipe, method: Method) -> None:
    """Raises `BadRecipe` where the merge is to be an adapter and the method's result is none."""
    if recipe.as_adapter and method.factors is None:
        adding = [f"--method {name}" for name, other in METHODS.items() if other.factors is not None]
        raise BadRecipe(
            f"{method.title} does not only add updates up, and its result is no product of small matrices.",
            f"Say {' or '.join(adding)}, or leave out --as-adapter.",
        )


def require_layers(recipe: Recipe, experts: Sequence[ModelRef]) -> None:
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


def require_shares(method: Method, tensor: TensorPlan) -> None:
    """Raises `BadRecipe` where weights cannot be used, naming the tensor where they are not the same for all."""
    weights = tensor.coefficients
    if any(weight < 0 for weight in weights) and not method.negative_weights:
        raise BadRecipe(
            f"The weights {', '.join(f'{weight:g}' for weight in weights)} (of {tensor.name}) cannot be used: "
            f"{method.title} has no sense for negative ones.",
            "Give weights that are not negative, or take what was learned away by task_arithmetic.",
        )
    if method.base != "needed" and not any(weights):
        raise BadRecipe(
            f"All models have the weight 0 in {tensor.name}.", "Give at least one of them a weight above zero."
        )


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
        )
    blind = [ref.name for ref, found in zip(experts, statistics, strict=False) if not found.knows_means]
    if base is None and recipe.scale != 1:
        raise BadRecipe("scale needs the base model that the experts share.", "Say --base MODEL.")
    for tensor in tensors:
        require_shares(method, tensor)
        if base is None and method.needs_base(tensor.options):
            asked = option_words(method.base_with or {}) or method.title
            raise BadRecipe(f"{asked} needs the base model that the experts share.", "Say --base MODEL.")
        if blind and method.solves_biases(tensor.options):
            asked = option_words(method.biases_with or {})
            raise BadRecipe(
                f"{asked or method.title} solves biases from the mean inputs, which are not known of "
                f"{', '.join(blind)}.",
                f"Leave {asked} out, or give statistics that were collected with FuseHub."
                if asked
                else "Give statistics that were collected with FuseHub.",
            )


def idle_base(named: Recipe, cast: Recipe, base: ModelRef | None) -> list[str]:
    """What has to be said of a base that is listed among the models and is none of those that are merged."""
    said = [name for entry in named.models if entry not in cast.models for name in entry.parameters]
    if base is None or not said:
        return []
    return [
        f"{', '.join(dict.fromkeys(said))} of {base.name} does nothing: it is the base, and what is merged are the "
        "others' differences to it."
    ]


def run_over(experts: Sequence[ModelRef], statistics: Sequence[StatisticsSource], method: Method) -> list[str]:
    """What has to be said of a method that is not content with files."""
    if not method.needs_data:
        return []
    texts = ", ".join(
        f"{found.metadata['examples']:,} examples of {ref.name}"
        for ref, found in zip(experts, statistics, strict=True)
    )
    return [f"{method.title} loads the model and runs it, block by block, over {texts}."]


def require_provenance(recipe: Recipe, experts: Sequence[ModelRef], hashes: Sequence[dict[str, str]]) -> None:
    """A recipe that FuseHub wrote says which weights it was made from: they must be those that are here now."""
    recorded = (recipe.provenance or {}).get("weights")
    if recorded is None:
        return
    for ref, own, said in zip(experts, hashes, recorded, strict=True):
        if sorted(own.values()) != sorted(said.values()):
            raise Incompatible(
                f"{ref.name} has other weights now than when this recipe was written.",
                "Name the commit that was used, or delete `provenance` from the recipe to merge what is there now.",
            )


def require_fisher(experts: Sequence[ModelRef], statistics: Sequence[StatisticsSource]) -> None:
    """Raises `NotFound` naming every expert whose statistics have no Fisher diagonals."""
    lacking = [
        (ref, found) for ref, found in zip(experts, statistics, strict=True) if not found.metadata.get("fisher")
    ]
    if lacking:
        raise NotFound(
            "\n".join(f"{ref.name}: no Fisher diagonals in the statistics {found.origin}." for ref, found in lacking),
            "\n     ".join(
                f"Make them where the data is: `fusehub collect {ref.name} --data DATA --fisher --out DIR`, then "
                f"`--statistics {ref.name}=DIR`."
                for ref, _ in lacking
            ),
        )
