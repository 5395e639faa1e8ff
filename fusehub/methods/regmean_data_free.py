"""Data-free RegMean: each expert's own update in the place of its statistics."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fusehub.methods.base import Layer, Merged, Options
from fusehub.methods.registry import merge_method
from fusehub.methods.regmean import ALPHAS, RegMeanOptions, regmean


class DataFreeOptions(Options):
    """Options of `data_free`."""

    alpha: float = Field(
        0.9,
        ge=0,
        le=1,
        title="Correlations between inputs",
        description="how much of ΔᵀΔ's off-diagonal counts, 0 to 1 (1: plain least squares; 0: the diagonal).",
    )
    anchor: Literal["mean", "base"] = Field(
        "mean",
        title="Where the solve starts",
        description="what the solve starts from and falls back to where no update says anything: mean or base.",
    )
    ridge: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        title="Pull towards the start",
        description="added to the diagonal of the summed matrices (ρ, 0 or more): pulls towards the anchor.",
    )


@merge_method(
    "data_free",
    title="Data-free RegMean",
    summary="Solves each linear layer as RegMean does, with each expert's update in the place of its inputs' gram. "
    "Needs the base, and neither data nor statistics.",
    when="Nobody has published statistics of the experts, or their data. It costs what regmean costs; where there are "
    "statistics, compare the two: in our own runs it was level with regmean on sentiment, and behind on named "
    "entities.",
    paper="https://arxiv.org/abs/2503.08099",
    options=DataFreeOptions,
    statistics="updates",
    base_with={},
    tune_over={"alpha": ALPHAS},
)
def data_free(layer: Layer, options: DataFreeOptions) -> Merged:
    """RegMean with `G_i = Δ_iᵀ Δ_i` (the closed form of Cheng et al. 2025, "Whoever started the interference")."""
    return regmean(
        layer, RegMeanOptions(alpha=options.alpha, anchor=options.anchor, ridge=options.ridge, weighting="mean")
    )
