"""RegMean: for each linear layer, the weight whose outputs differ least from every expert's on its own inputs.

Jin, Ren, Preotiuc-Pietro, Cheng, "Dataless Knowledge Fusion by Merging Weights of Language Models", ICLR 2023.
With grams `G_i = c_i · reduce(S_i / n_i, α)`, `reduce(G, α) = α·G + (1−α)·diag(G)`, and an anchor `A`:

    W = A + ( (Σ G_i + ρ·I)⁻¹ Σ G_i (W_i − A)ᵀ )ᵀ

by Cholesky of the system scaled to a unit diagonal (`fusehub.methods.linear_system`). Written about one of the
experts, or about the anchor where that counts, rounding is relative to what the experts differ by: identical experts
give themselves, at any condition number.

In the matrices of a mixture of experts, `c_i` is multiplied by the share of the model's tokens that were routed there,
so that `S_i` is divided by all the tokens of the mixture: few rows say little (`fusehub.collecting.routing`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fusehub.methods.base import Layer, LayerStatistics, Merged, Options
from fusehub.methods.linear_system import System
from fusehub.methods.mean import weighted_mean
from fusehub.methods.registry import merge_method
from fusehub.utils.on_demand import each, rows_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# What tuning tries.
ALPHAS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


class RegMeanOptions(Options):
    """Options of `regmean`."""

    alpha: float = Field(
        0.9,
        ge=0,
        le=1,
        title="Correlations between inputs",
        description="how much of the grams' off-diagonal counts, 0 to 1 (1: plain least squares; 0: the diagonal).",
    )
    weighting: Literal["mean", "sum"] = Field(
        "mean",
        title="How experts are weighed",
        description="mean gives every expert the same say whatever its data size; sum pools all rows.",
    )
    anchor: Literal["mean", "base"] = Field(
        "mean",
        title="Where the solve starts",
        description="what the solve starts from and falls back to where no input says anything: mean or base.",
    )
    affine: bool = Field(
        False, title="Solve biases too", description="true solves weight and bias together where a layer has a bias."
    )
    ridge: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        title="Pull towards the start",
        description="added to the diagonal of the summed grams (ρ, 0 or more): pulls towards the anchor.",
    )


@merge_method(
    "regmean",
    title="RegMean",
    summary="Solves each linear layer so that its outputs stay closest to every expert's on that expert's own "
    "inputs. Needs statistics of each expert; keeps far more of what the experts learned than the mean.",
    when="Experts of one architecture whose owners published statistics (or whose data is at hand for a moment): the "
    "first choice for classifiers, of one task or of several domains. alpha 0.9; lower it where statistics are few.",
    paper="https://arxiv.org/abs/2212.09849",
    options=RegMeanOptions,
    statistics="grams",
    base_with={"anchor": "base"},
    biases_with={"affine": True},
    tune_over={"alpha": ALPHAS},
)
def regmean(layer: Layer, options: RegMeanOptions) -> Merged:
    """Equation 2 of the paper in the form above; the bias is a mean unless `affine`."""
    import torch

    assert layer.statistics is not None
    biases = layer.biases if options.affine else None
    affine = biases is not None
    weights = layer.tensors
    coefficients = layer.coefficients
    if layer.shares and options.weighting == "mean":
        coefficients = [own * share for own, share in zip(coefficients, layer.shares, strict=True)]
    base = layer.base
    if biases is not None:
        weights = each(lambda index, weight: torch.cat([weight, biases[index][:, None]], dim=1), layer.tensors)
        if base is not None and layer.base_bias is not None:
            base = torch.cat([base, layer.base_bias[:, None]], dim=1)
    system = layer.cache.get(affine)
    if system is None:
        system = layer.cache[affine] = System(
            layer.statistics,
            _expert_weights(layer.statistics, coefficients, options.weighting),
            alpha=options.alpha,
            ridge=options.ridge,
            affine=affine,
            # Rounding of the means can make [x, 1] look like no inputs; x only a broken file can.
            name=None if affine else layer.name,
            device=layer.device,
        )

    def anchor(rows: slice) -> Tensor:
        if options.anchor == "base" and base is not None:
            return base[rows]
        return weighted_mean(rows_of(weights, rows), coefficients)

    solved = system.solve(weights, anchor)
    if affine:
        weight, bias = solved.weight[:, :-1].contiguous(), solved.weight[:, -1].contiguous()
        return Merged(weight, bias, system.notes, solved.precision)
    return Merged(solved.weight, notes=system.notes, precision=solved.precision)


def _expert_weights(
    statistics: Sequence[LayerStatistics], coefficients: Sequence[float], weighting: str
) -> list[float]:
    """What each expert's `S` is multiplied by: c_i / n_i, or for `sum` c_i / Σ n (the same solution as c_i)."""
    total = sum(statistic.rows for statistic in statistics)
    return [
        coefficient / ((statistic.rows if weighting == "mean" else total) or 1)
        for statistic, coefficient in zip(statistics, coefficients, strict=True)
    ]
