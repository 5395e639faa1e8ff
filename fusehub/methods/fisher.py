"""Fisher-weighted averaging: each element by how much it matters to what an expert predicts.

Matena and Raffel, "Merging Models with Fisher-Weighted Averaging", NeurIPS 2022. With the diagonals `F_i` of the
experts' Fisher matrices, `r_i` the root of the mean square of all of an expert's values, and a floor φ:

    W = Σ w_i W_i / Σ w_i        w_i = c_i · max(F_i / r_i, φ)
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fusehub.methods.base import Layer, Merged, Options
from fusehub.methods.registry import merge_method


class FisherOptions(Options):
    """Options of `fisher`."""

    floor: float = Field(
        1e-6,
        gt=0,
        allow_inf_nan=False,
        title="Least value of an element",
        description="what a value counts for at least, relative to the root mean square of the expert's values: "
        "elements that matter to no expert are averaged.",
    )
    normalize: Literal["model", "none"] = Field(
        "model",
        title="Bring values to one size",
        description="model scales each expert's values to one size, as the paper's authors do, so that one that is "
        "less sure, with larger gradients, does not outweigh the others; none takes them as they are.",
    )


@merge_method(
    "fisher",
    title="Fisher-weighted averaging",
    summary="Averages every element weighted by how much it matters to what each expert predicts (the diagonal of "
    "its Fisher matrix). Needs statistics of each expert, collected for it.",
    when="Experts of one task where RegMean cannot see the layers that differ (embeddings, norms, fused weights): "
    "it covers every tensor and is elementwise. Where linear layers carry the difference, regmean keeps more.",
    paper="https://arxiv.org/abs/2111.09832",
    options=FisherOptions,
    statistics="fisher",
)
def fisher(layer: Layer, options: FisherOptions) -> Merged:
    """Equation 5 of the paper; as a running mean, so that identical experts give themselves to the last bit."""
    sizes = [size or 1.0 for size in layer.fisher_sizes]
    if options.normalize == "none":
        sizes = [sum(sizes) / len(sizes)] * len(sizes)
    assert layer.fishers is not None
    merged = total = None
    for tensor, values, size, coefficient in zip(layer.tensors, layer.fishers, sizes, layer.coefficients, strict=True):
        if not coefficient:
            continue
        weight = (values.to(tensor.dtype) / size).clamp_min_(options.floor).mul_(coefficient)
        if merged is None or total is None:
            merged, total = tensor.clone(), weight
        else:
            total += weight
            merged += (tensor - merged).mul_(weight.div_(total))
    assert merged is not None  # The coefficients have a sum above zero.
    return Merged(merged)
