"""Tensors combined element by element: the pieces in which they pass, and who takes part in which rows.

Most rows are combined over all experts. A label's row is over those that know the label, a token's over those whose
vocabulary has it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusehub.methods.mean import weighted_mean
from fusehub.methods.registry import Layer
from fusehub.plan import Plan
from fusehub.planner import TensorPlan

if TYPE_CHECKING:
    from torch import Tensor

# Small enough that a piece of every expert stays in the processor's cache, large enough that calls cost nothing.
_PIECE_ELEMENTS = 2**18


@dataclass(frozen=True)
class Work:
    """One step of the stream: a tensor, or some of its rows."""

    tensor: TensorPlan
    start: int = 0
    stop: int | None = None

    def has(self, index: int) -> bool:
        """Whether the model `index` has these rows: those of the last tokens may be known to some models only."""
        counts = self.tensor.token_rows
        return not counts or self.tensor.token_axis != 0 or self.start < counts[index]

    @property
    def numel(self) -> int:
        """Elements of it in one model."""
        info = self.tensor.info
        return info.numel if self.stop is None else (self.stop - self.start) * info.numel // info.shape[0]


def cut(plan: Plan, tensor: TensorPlan) -> Iterator[Work]:
    """The pieces in which a tensor can be worked on: rows of it, or the whole."""
    rows = tensor.info.shape[0] if tensor.info.shape else 1
    matched = tensor.label_axis is not None and not plan.labels.is_identity
    whole = tensor.action == "combine" and plan.method.whole_tensor
    by_tokens = bool(tensor.token_rows) and tensor.token_axis == 0
    if not by_tokens and (tensor.action == "solve" or matched or whole or tensor.info.numel <= _PIECE_ELEMENTS):
        yield Work(tensor)
        return
    step = max(1, _PIECE_ELEMENTS * rows // tensor.info.numel)
    # No piece has rows of tokens that only some of its models know.
    edges = sorted({0, rows, *(tensor.token_rows if by_tokens else ())})
    for first, last in itertools.pairwise(edges):
        for start in range(first, last, step):
            yield Work(tensor, start, min(last, start + step))


def combine(plan: Plan, work: Work, values: list[Tensor], base: Tensor | None, fishers: list[Tensor]) -> Tensor:
    """The merged piece, by the plan's method or by the mean, as the tensor's action is.

    `values` are those of the models that have these rows, in order, in float32 or float64 and of one shape but for
    labels; `fishers` each one's Fisher values, where the method takes them. The result has the dtype of `values`.
    """
    tensor = work.tensor
    if tensor.token_rows:
        return _by_token(plan, work, values)
    if tensor.label_axis is not None and not plan.labels.is_identity:
        return _by_label(plan, tensor, values, base, fishers)
    return _rows(plan, tensor, values, range(len(plan.experts)), base, fishers)


def _by_token(plan: Plan, work: Work, values: list[Tensor]) -> Tensor:
    """Rows of tokens, each combined over the models that know it; where tokens run along rows, a piece has one
    such set of models."""
    import torch

    tensor, axis = work.tensor, work.tensor.token_axis
    experts = [index for index in range(len(tensor.token_rows)) if work.has(index)]
    if axis == 0:
        return _rows(plan, tensor, values, experts, None, [])
    parts = []
    for first, last in itertools.pairwise(sorted({0, *tensor.token_rows})):
        known = [index for index in experts if tensor.token_rows[index] >= last]
        own = [values[index].narrow(axis, first, last - first) for index in known]
        parts.append(_rows(plan, tensor, own, known, None, []))
    return torch.cat(parts, axis)


def _by_label(
    plan: Plan, tensor: TensorPlan, values: list[Tensor], base: Tensor | None, fishers: list[Tensor]
) -> Tensor:
    """The rows of each group of labels that the same experts know, over those."""
    import torch

    axis, labels = tensor.label_axis, plan.labels
    merged = torch.empty(tensor.info.shape, dtype=values[0].dtype)
    for experts, rows in labels.groups():
        at = {i: torch.tensor([labels.rows[i][row] for row in rows]) for i in experts}
        own = [values[i].index_select(axis, at[i]) for i in experts]
        theirs = [fishers[i].index_select(axis, at[i]) for i in experts] if fishers else []
        merged.index_copy_(axis, torch.tensor(rows), _rows(plan, tensor, own, experts, base, theirs))
    return merged


def _rows(
    plan: Plan,
    tensor: TensorPlan,
    values: list[Tensor],
    experts: Sequence[int],
    base: Tensor | None,
    fishers: list[Tensor],
) -> Tensor:
    """Rows that all of `experts` have; `values` and `fishers` are theirs."""
    own = [tensor.own[index] for index in experts]
    coefficients = [said.weight for said in own]
    if tensor.action == "combine":
        if not any(coefficients) and len(own) < len(tensor.own):
            coefficients = [1.0] * len(own)  # A label that only models of weight zero know.
        layer = Layer(
            tensor.name,
            values,
            coefficients,
            base,
            fishers=fishers or None,
            fisher_sizes=[plan.statistics[index].metadata["fisher"]["rms"] for index in experts] if fishers else (),
            own=own,
            seed=plan.recipe.seed,
        )
        return plan.method.merge(layer, tensor.options).tensor
    # What is taken away from the others' task vectors has no share in a mean.
    coefficients = [max(0.0, coefficient) for coefficient in coefficients]
    return weighted_mean(values, coefficients if any(coefficients) else [1.0] * len(own))
