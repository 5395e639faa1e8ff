"""RegMean: for each linear layer, the weight whose outputs differ least from every expert's on its own inputs.

Jin, Ren, Preotiuc-Pietro, Cheng, "Dataless Knowledge Fusion by Merging Weights of Language Models", ICLR 2023.
With grams `G_i = c_i · reduce(S_i / n_i, α)`, `reduce(G, α) = α·G + (1−α)·diag(G)`, and an anchor `A`:

    W = A + ( (Σ G_i + ρ·I)⁻¹ Σ G_i (W_i − A)ᵀ )ᵀ

in float64, by Cholesky of the system scaled to a unit diagonal. Written about the anchor, rounding is relative
to what the experts differ by: identical experts give themselves, at any condition number.

In the matrices of a mixture of experts, `c_i` is multiplied by the share of the model's tokens that were routed there,
so that `S_i` is divided by all the tokens of the mixture: few rows say little (`fusehub.collecting.routing`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fusehub.errors import BadStatistics
from fusehub.methods.base import Layer, LayerStatistics, Merged, Note, Options
from fusehub.methods.mean import weighted_mean
from fusehub.methods.registry import merge_method

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

# Grams are summed and stored in float32: below this, relative to the unit diagonal and for one feature,
# a pivot says nothing but rounding.
_GRAM_EPS = 2.0**-23
# An eigenvalue this far below zero is more than any way of storing grams makes of their rounding.
_NOT_SQUARES = 1e-3
# Decoding grams takes longer than a small layer's solve: up to this many bytes in all are decoded once.
_KEPT_BYTES = 64 * 2**20
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
    weights = list(layer.tensors)
    coefficients = layer.coefficients
    if layer.shares and options.weighting == "mean":
        coefficients = [own * share for own, share in zip(coefficients, layer.shares, strict=True)]
    base = layer.base
    if biases is not None:
        weights = [torch.cat([w, b[:, None]], dim=1) for w, b in zip(weights, biases, strict=True)]
        if base is not None and layer.base_bias is not None:
            base = torch.cat([base, layer.base_bias[:, None]], dim=1)
    system = layer.cache.get(affine)
    if system is None:
        system = layer.cache[affine] = System.of(
            layer.statistics, coefficients, options, affine=affine, name=layer.name
        )
    anchor = weighted_mean(weights, coefficients)
    if options.anchor == "base" and base is not None:
        anchor = base
    solved = anchor + system.solve([weight - anchor for weight in weights]).T
    if affine:
        return Merged(solved[:, :-1].contiguous(), bias=solved[:, -1].contiguous(), notes=system.notes)
    return Merged(solved, notes=system.notes)


@dataclass(frozen=True)
class System:
    """`Σ G_i + ρ·I` of one set of grams, factorised; layers with the same inputs share it.

    `grams` are the `G_i` themselves where they are small, else they are read and decoded again when they are needed.
    """

    statistics: Sequence[LayerStatistics]
    weights: Sequence[float]
    grams: Sequence[Tensor] | None
    alpha: float
    affine: bool
    scale: torch.Tensor
    factor: torch.Tensor | None
    eigen: tuple[torch.Tensor, torch.Tensor] | None
    notes: tuple[Note, ...]

    @classmethod
    def of(
        cls,
        statistics: Sequence[LayerStatistics],
        coefficients: Sequence[float],
        options: RegMeanOptions,
        *,
        affine: bool = False,
        name: str,
    ) -> System:
        """Sums and factorises the grams of all experts, for the layer called `name`."""
        import torch

        weights = _expert_weights(statistics, coefficients, options.weighting)
        total = None
        grams: list[Tensor] | None = []
        for statistic, weight in zip(statistics, weights, strict=True):
            gram = _reduced(statistic, options.alpha, affine).mul_(weight)
            if grams is not None and gram.nbytes * len(statistics) <= _KEPT_BYTES:
                grams.append(gram)
            else:
                grams = None
            if total is not None:
                total.add_(gram)
            else:
                total = gram.clone() if grams is not None else gram
        assert total is not None  # There are experts.
        total.diagonal().add_(options.ridge)
        diagonal = total.diagonal().clone()
        dead = diagonal <= 0
        notes = []
        if dead.any():
            count = int(dead.sum())
            told = f"{count} of {len(diagonal)} input features never used: kept at the anchor"
            notes.append(Note("inputs-unused", told))
        scale = torch.where(dead, 0.0, diagonal.clamp_min(torch.finfo(torch.float64).tiny).rsqrt())
        factor = eigen = None
        if options.alpha > 0:
            total.mul_(scale[:, None]).mul_(scale)
            total.diagonal()[dead] = 1.0
            factor = _cholesky(total, len(diagonal))
            if factor is None:
                # Rounding of the means can do this to [x, 1]; to x only a broken file can.
                eigen = _eigen(total, len(diagonal), None if affine else name)
                rank = int((eigen[0] > 0).sum() - dead.sum())
                told = f"inputs span {rank} of {len(diagonal)} directions: the rest kept at the anchor"
                notes.append(Note("inputs-dependent", told))
        return cls(statistics, weights, grams, options.alpha, affine, scale, factor, eigen, tuple(notes))

    def solve(self, deltas: Sequence[Tensor]) -> Tensor:
        """`(Σ G_i + ρ·I)⁻¹ Σ G_i D_iᵀ` for the experts' differences `D_i` ([out, in]): [in, out], float64."""
        import torch

        right = None
        for index, (statistic, weight, delta) in enumerate(zip(self.statistics, self.weights, deltas, strict=True)):
            if not weight or not delta.any():
                continue
            if self.grams is not None:
                term = self.grams[index] @ delta.T
            else:
                term = (_reduced(statistic, self.alpha, self.affine) @ delta.T).mul_(weight)
            right = term if right is None else right.add_(term)
        if right is None:
            return torch.zeros_like(deltas[0].T)
        right.mul_(self.scale[:, None])
        if self.factor is not None:
            right = torch.cholesky_solve(right, self.factor)
        elif self.eigen is not None:
            inverse, vectors = self.eigen
            right = vectors @ (inverse[:, None] * (vectors.T @ right))
        return right.mul_(self.scale[:, None])


def _expert_weights(
    statistics: Sequence[LayerStatistics], coefficients: Sequence[float], weighting: str
) -> list[float]:
    """What each expert's `S` is multiplied by: c_i / n_i, or for `sum` c_i / Σ n (the same solution as c_i)."""
    total = sum(statistic.rows for statistic in statistics)
    return [
        coefficient / ((statistic.rows if weighting == "mean" else total) or 1)
        for statistic, coefficient in zip(statistics, coefficients, strict=True)
    ]


def _reduced(statistic: LayerStatistics, alpha: float, affine: bool) -> Tensor:
    """`α·S + (1−α)·diag(S)`, of `[x, 1]` instead of `x` for affine: [in (+1), in (+1)], float64, a copy."""
    import torch

    gram = statistic.gram()
    if affine:
        total = statistic.total
        gram = torch.cat([gram, total[None]])
        gram = torch.cat([gram, torch.cat([total, total.new_tensor([statistic.rows])])[:, None]], dim=1)
    # Where the rest was rounded, the diagonal grows, unless alpha has left it so much larger already.
    diagonal = gram.diagonal() * max(1.0, alpha * (1 + statistic.shift))
    gram.mul_(alpha)
    gram.diagonal().copy_(diagonal)
    return gram


def _cholesky(correlations: Tensor, size: int) -> Tensor | None:
    """The Cholesky factor, or None where some pivot is within rounding of the stored grams of zero."""
    import torch

    factor, info = torch.linalg.cholesky_ex(correlations)
    if info.item() or not bool((factor.diagonal() ** 2).min() > size**0.5 * _GRAM_EPS):
        return None
    return factor


def _eigen(correlations: Tensor, size: int, name: str | None) -> tuple[Tensor, Tensor]:
    """The pseudo-inverse's eigenvalues (zero where the inputs say nothing) and eigenvectors.

    Raises `BadStatistics` naming `name`, where it is given, if these are the grams of no inputs.
    """
    import torch

    values, vectors = torch.linalg.eigh(correlations)
    if name is not None and float(values[0]) < -_NOT_SQUARES:
        raise BadStatistics(
            f"{name}: the grams are no sums of squares. They have the eigenvalue {float(values[0]):.2g}, relative to "
            "their diagonal.",
            "Find the statistics that are broken with `fusehub inspect`, and make them again.",
        )
    cut = size**0.5 * _GRAM_EPS * values.max()
    return torch.where(values > cut, 1 / values, 0.0), vectors
