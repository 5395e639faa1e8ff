"""RegMean++: RegMean whose inputs are those that the model merged so far gives, block by block.

Nguyen, Dang, Suzuki, Nguyen, "RegMean++: Enhancing Effectiveness and Generalization of Regression Mean for Model
Merging", TMLR 2026. With `X_i` what expert i's texts have become after all merged blocks before this one, its own
weights of this block are run on `X_i`, the grams of its linear layers are those of what they are given, and

    W = A + ( (Σ G_i + ρ·I)⁻¹ Σ G_i (W_i − A)ᵀ )ᵀ

is RegMean's. Then the merged block is run on every `X_i`, which gives those of the next. The solve is one layer's; who
runs what is in `fusehub.merging.engine.blockwise`.
"""

from __future__ import annotations

from fusehub.methods.base import Layer, Merged
from fusehub.methods.registry import merge_method
from fusehub.methods.regmean import ALPHAS, RegMeanOptions, regmean


class RegMeanPlusPlusOptions(RegMeanOptions):
    """Options of `regmean_plus_plus`: those of `regmean`."""


@merge_method(
    "regmean_plus_plus",
    title="RegMean++",
    summary="Solves each linear layer as RegMean does, block by block, on the inputs that it will have behind the "
    "blocks that are merged already. Needs texts of each expert, and runs the model over them.",
    when="The texts are at hand when the merge is made, and the model can be run here: it knows what the merge has "
    "changed in the blocks before. Its authors gain on image encoders; in our own runs it was a little ahead of "
    "regmean on named entities, and behind on sentiment. regmean needs no more than published statistics.",
    paper="https://arxiv.org/abs/2508.03121",
    options=RegMeanPlusPlusOptions,
    statistics="texts",
    base_with={"anchor": "base"},
    biases_with={"affine": True},
    tune_over={"alpha": ALPHAS},
)
def regmean_plus_plus(layer: Layer, options: RegMeanPlusPlusOptions) -> Merged:
    """RegMean's solve, with the statistics of inputs behind merged layers."""
    return regmean(layer, options)
