"""Are the models of one base? Told by their weights, before any is merged."""

from __future__ import annotations

from collections.abc import Sequence

from fusehub.errors import Action, Incompatible
from fusehub.merging.plan import Plan
from fusehub.merging.planner import TensorPlan
from fusehub.models.checkpoints.checkpoint import Checkpoint

# Cosine of two models' weights below which they are strangers: experts of one base lie above 0.9, others near 0.
_RELATED = 0.3


def require_relatives(
    plan: Plan, tensors: Sequence[TensorPlan], experts: Sequence[Checkpoint], base: Checkpoint | None
) -> None:
    """Models of different bases give garbage even where all shapes agree; their weights tell them apart."""
    body = [tensor for tensor in tensors if tensor.is_body_matrix]
    chosen = body[:: max(1, len(body) // 3)][:3]
    models: list[tuple[str, Checkpoint, list[str | None]]] = [
        (ref.name, file, [tensor.sources[index] for tensor in chosen])
        for index, (ref, file) in enumerate(zip(plan.experts, experts, strict=True))
    ]
    if base is not None and plan.base is not None:
        models.append((plan.base.name, base, [tensor.base for tensor in chosen]))
    first, *others = models
    for name, file, sources in others:
        cosines = {
            tensor.name: _cosine(tensor, first[1], own, file, other)
            for tensor, own, other in zip(chosen, first[2], sources, strict=True)
            if own is not None and other is not None
        }
        # A layer can have been started anew in one of them; that all were means another base.
        if cosines and max(cosines.values()) < _RELATED:
            closest, cosine = max(cosines.items(), key=lambda item: item[1])
            raise Incompatible(
                f"{first[0]} and {name} have unrelated weights: the cosine of their {closest} is "
                f"{cosine:.2f}, where models of one base have more than 0.9.",
                "They were trained from different bases, and a merge of them is garbage. "
                "Choose models of one base, or say --allow-unrelated.",
                actions=[Action("choose-models")],
            )


def _cosine(tensor: TensorPlan, one: Checkpoint, own: str, other: Checkpoint, theirs: str) -> float:
    """Cosine of a tensor in two models, by at most a million of its elements."""
    rows = max(1, 2**20 * tensor.info.shape[0] // max(1, tensor.info.numel))
    counts = (*tensor.token_rows, tensor.base_rows or tensor.info.shape[0]) if tensor.token_axis == 0 else ()
    rows = min(rows, *counts, tensor.info.shape[0])
    a, b = (file.read(name, 0, rows).double().flatten() for file, name in ((one, own), (other, theirs)))
    norms = float(a.norm() * b.norm())
    return float(a @ b) / norms if norms else 1.0
