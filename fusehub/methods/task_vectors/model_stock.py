"""Model Stock: how far to go from the base towards the mean, told by the angle between the experts."""

from __future__ import annotations

from pydantic import Field

from fusehub.methods.base import Layer, Merged, NoShare, Options
from fusehub.methods.cost import of_election
from fusehub.methods.registry import merge_method
from fusehub.methods.task_vectors.base import differences


class ModelStockOptions(Options):
    """Options of `model_stock`."""

    filter_wise: bool = Field(
        False, title="Row by row", description="true tells the angle of each row for itself; false of the tensor."
    )


@merge_method(
    "model_stock",
    title="Model Stock",
    summary="Goes from the base towards the experts' mean, the further the more their task vectors agree.",
    when="Several fine-tunings of one base on one task, or nearly so, that differ by seed or settings: the mean with "
    "less of each run's noise. Experts of different tasks are almost orthogonal and end near the base.",
    paper="https://arxiv.org/abs/2403.19522",
    options=ModelStockOptions,
    own_options=NoShare,
    base="needed",
    whole_tensor=True,
    cost=of_election,
)
def model_stock(layer: Layer, options: ModelStockOptions) -> Merged:
    """Jang et al. 2024, "Model Stock": `W_0 + t (mean − W_0)`, `t = k cos θ / (1 + (k − 1) cos θ)`.

    The cosine is the mean over all pairs of experts.
    """
    import torch

    base, deltas = layer.needed_base, differences(layer)
    count = len(deltas)
    rows = base.shape[0] if options.filter_wise and base.ndim > 1 else 1
    flat = [delta.reshape(rows, -1) for delta in deltas]
    cosines = [
        torch.nn.functional.cosine_similarity(a, b, dim=1, eps=1e-12)
        for index, a in enumerate(flat)
        for b in flat[index + 1 :]
    ]
    cosine = torch.stack(cosines).mean(0)
    below = 1 + (count - 1) * cosine
    # Task vectors that cancel each other have no mean to go to.
    t = torch.where(below.abs() < 1e-6, 0.0, count * cosine / torch.where(below.abs() < 1e-6, 1.0, below))
    mean = sum(flat) / count
    return Merged((t[:, None] * mean).reshape(base.shape).add_(base))
