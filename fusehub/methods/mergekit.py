"""What mergekit's recipes may name that is not here: methods that FuseHub lacks, and options without a meaning.

mergekit takes any option of any method and asks for those that it knows, so recipes carry some that do nothing.
"""

from __future__ import annotations

from fusehub.errors import BadRecipe

MERGEKIT_METHODS = frozenset(
    {
        *("mean", "slerp", "nuslerp", "task_arithmetic", "ties", "dare_linear", "dare_ties", "della", "della_linear"),
        *("breadcrumbs", "breadcrumbs_ties", "sce", "model_stock"),
    }
)
"""Those that both have, by our names."""

MERGEKIT_OPTIONS = frozenset(
    {
        *("weight", "density", "gamma", "epsilon", "normalize", "rescale", "lambda", "int8_mask", "t", "select_topk"),
        *("filter_wise", "nuslerp_flatten", "nuslerp_row_wise", "smooth", "allow_negative_weights", "embed_slerp"),
        *("normalize_weights", "max_iter", "tol", "residual_weight"),
    }
)
"""Options that some method of mergekit has or had."""

REQUIRED = frozenset({"t"})
"""Those that mergekit demands: said where nothing reads them, they were not meant to do nothing."""

_NEAREST = {
    "karcher": "slerp for two models, linear for more",
    "multislerp": "nuslerp for two models, linear or task_arithmetic for more",
    "nearswap": "slerp",
    "arcee_fusion": "ties with one model beside the base and a density below 1, which keeps its largest differences",
    "ram": "ties",
    "ramplus_tl": "ties",
}


def require_here(name: str, *, stacked: bool = False) -> None:
    """Raises `BadRecipe` for a method of mergekit's that FuseHub does not have. `stacked`: it is to stack layers."""
    if name == "passthrough" and stacked:
        raise BadRecipe(
            "FuseHub does not stack layers (passthrough): it merges models of one depth, layer by layer.",
            "Stack the layers with mergekit; its result can be merged with others of its shape.",
        )
    if name == "passthrough":
        raise BadRecipe(
            "FuseHub has no passthrough: it merges models layer by layer, and neither stacks nor copies layers.",
            "To write a base with its adapter as one model, say merge_method: task_arithmetic, base_model: BASE, and "
            "BASE+ADAPTER as the only model.",
        )
    if name in _NEAREST:
        raise BadRecipe(
            f"mergekit has the method '{name}', FuseHub does not have it yet.", f"Nearest here: {_NEAREST[name]}."
        )
