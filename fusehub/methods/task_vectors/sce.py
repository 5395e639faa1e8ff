"""SCE: select the elements that vary most, calculate each expert's share, erase minority signs."""

from __future__ import annotations

from pydantic import Field

from fusehub.methods.base import Layer, Merged, NoShare, Options
from fusehub.methods.cost import of_election
from fusehub.methods.registry import merge_method
from fusehub.methods.task_vectors.base import differences
from fusehub.methods.task_vectors.largest import largest


class SceOptions(Options):
    """Options of `sce`."""

    select_topk: float = Field(
        1.0,
        ge=0,
        le=1,
        title="Part that is merged",
        description="the part of the elements that is merged: those that differ most between experts.",
    )
    int8_mask: bool = Field(
        False,
        title="mergekit's small masks",
        description="accepted as mergekit writes it; masks are a byte an element here, whatever it says.",
    )


@merge_method(
    "sce",
    title="SCE",
    summary="Merges the elements in which the experts differ most, each expert weighted by the size of its task "
    "vector, minority signs left out.",
    when="Experts of different tasks over one base that were trained for very different lengths, with no wish to "
    "choose weights by hand; select_topk around 0.1.",
    paper="https://arxiv.org/abs/2408.07990",
    options=SceOptions,
    own_options=NoShare,
    base="needed",
    whole_tensor=True,
    cost=of_election,
)
def sce(layer: Layer, options: SceOptions) -> Merged:
    """Wan et al. 2024, "FuseChat": SCE merging of each tensor."""
    import torch

    deltas = differences(layer)
    if options.select_topk < 1:
        variance = torch.stack(deltas).var(dim=0, unbiased=False)
        chosen = largest(variance, int(options.select_topk * int(variance.count_nonzero())))
        for delta in deltas:
            delta.mul_(chosen)
    sizes = [float(delta.square().sum(dtype=torch.float64)) for delta in deltas]
    shares = [size / sum(sizes) for size in sizes] if sum(sizes) else [1 / len(sizes)] * len(sizes)
    positive = sum(deltas, torch.zeros(())) >= 0
    total, share = torch.zeros_like(deltas[0]), torch.zeros_like(deltas[0])
    for delta, own in zip(deltas, shares, strict=True):
        agrees = torch.where(positive, delta > 0, delta < 0)
        total.add_(delta.mul_(agrees), alpha=own)
        share.add_(agrees, alpha=own)
    return Merged(total.div_(share.masked_fill_(share == 0, 1)).add_(layer.needed_base))
