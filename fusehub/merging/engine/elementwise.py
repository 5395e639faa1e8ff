"""Tensors combined element by element: the pieces in which they pass, and who takes part in which rows.

Most rows are combined over all experts. A label's row is over those that know the label. Where models have different
numbers of tokens, the rows that all have are one tensor for the method; see `_tokens` for the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusehub.merging.cost import is_surveyed
from fusehub.merging.plan import Plan
from fusehub.merging.planner import TensorPlan
from fusehub.methods.base import Layer
from fusehub.methods.mean import weighted_mean
from fusehub.models.quantised.float8 import BLOCK, FLOAT8

if TYPE_CHECKING:
    from torch import Tensor

# Small enough that a piece of every expert stays in the processor's cache, large enough that calls cost nothing; and
# how many it may be of all models together, so that more of them take no more memory.
_PIECE_ELEMENTS = 2**18
_TOGETHER = 2**19


@dataclass(frozen=True)
class Work:
    """One step of the stream: a tensor, or some of its rows."""

    tensor: TensorPlan
    start: int = 0
    stop: int | None = None

    def has(self, index: int) -> bool:
        """Whether the model `index` has these rows: those of the last tokens may be known to some models only."""
        return self._within(self.tensor.token_rows[index] if self.tensor.token_rows else None)

    @property
    def has_base(self) -> bool:
        """Whether the base has these rows."""
        return self.tensor.base is not None and self._within(self.tensor.base_rows)

    @property
    def is_shared(self) -> bool:
        """Whether all models have these rows, and the base where it has the tensor."""
        known = all(self._within(count) for count in self.tensor.token_rows)
        return known and self._within(self.tensor.base_rows)

    def _within(self, count: int | None) -> bool:
        return count is None or self.tensor.token_axis != 0 or self.start < count

    @property
    def numel(self) -> int:
        """Elements of it in one model."""
        info = self.tensor.info
        return info.numel if self.stop is None else (self.stop - self.start) * info.numel // info.shape[0]


@dataclass(frozen=True)
class Survey:
    """Another one: what the method must know of one model's whole tensor before its pieces are merged."""

    tensor: TensorPlan
    index: int


def cut(plan: Plan, tensor: TensorPlan) -> Iterator[Work]:
    """The pieces in which a tensor can be worked on: rows of it, or the whole."""
    rows = tensor.info.shape[0] if tensor.info.shape else 1
    most = min(_PIECE_ELEMENTS, _TOGETHER // (len(tensor.sources) + (tensor.base is not None)))
    matched = tensor.label_axis is not None and not plan.labels.is_identity
    whole = tensor.action == "solve" or matched or (tensor.action == "combine" and plan.method.whole_tensor)
    whole = whole and not is_surveyed(tensor, plan.method, same_labels=plan.labels.is_identity)
    # No piece has rows of tokens that only some of its models know.
    by_tokens = bool(tensor.token_rows) and tensor.token_axis == 0
    edges = _token_edges(tensor) if by_tokens else [0, rows]
    if not by_tokens and (whole or tensor.info.numel <= most):
        yield Work(tensor)
        return
    step = max(1, most * rows // tensor.info.numel)
    if tensor.info.dtype == FLOAT8:
        step = -(-step // BLOCK) * BLOCK  # A block has one scale.
    for first, last in itertools.pairwise(edges):
        size = last - first if whole else step
        for start in range(first, last, size):
            yield Work(tensor, start, min(last, start + size))


def _token_edges(tensor: TensorPlan) -> list[int]:
    """Where along the axis of tokens the models that have them change, from 0 to the end of the merged tensor."""
    size = tensor.info.shape[tensor.token_axis] if tensor.info.shape else 1
    return sorted({0, size, *(count for count in (*tensor.token_rows, tensor.base_rows or size) if count < size)})


def combine(
    plan: Plan,
    work: Work,
    values: list[Tensor],
    base: Tensor | None,
    fishers: list[Tensor],
    surveyed: Sequence[Any] = (),
) -> Tensor:
    """The merged piece, by the plan's method or by the mean, as the tensor's action is.

    `values` are those of the models that have these rows, in order, in float32 or float64 and of one shape but for
    labels; `fishers` each one's Fisher values, where the method takes them, and `surveyed` what its survey found of
    each whole tensor, where that `is_surveyed`. The result has the dtype of `values`.
    """
    tensor = work.tensor
    if tensor.token_rows:
        return _by_token(plan, work, values, base, fishers)
    if tensor.label_axis is not None and not plan.labels.is_identity:
        return _by_label(plan, tensor, tensor.label_axis, values, base, fishers)
    if surveyed:
        start = work.start * (tensor.info.numel // tensor.info.shape[0])
        return _combined(plan, tensor, values, range(len(plan.experts)), base, start=start, surveyed=surveyed)
    return _rows(plan, tensor, values, range(len(plan.experts)), base, fishers)


def _by_token(plan: Plan, work: Work, values: list[Tensor], base: Tensor | None, fishers: list[Tensor]) -> Tensor:
    """Tokens of which models have different numbers; where they run along rows, all of a piece are known to the same
    models."""
    import torch

    tensor, axis = work.tensor, work.tensor.token_axis
    everyone = range(len(tensor.token_rows))
    if axis == 0:
        return _tokens(plan, tensor, values, [index for index in everyone if work.has(index)], base, fishers)
    parts = []
    for first, last in itertools.pairwise(_token_edges(tensor)):
        known = [index for index in everyone if tensor.token_rows[index] >= last]
        own = [values[index].narrow(axis, first, last - first) for index in known]
        theirs = [fishers[index].narrow(axis, first, last - first) for index in known] if fishers else []
        start = (
            base.narrow(axis, first, last - first) if base is not None and (tensor.base_rows or 0) >= last else None
        )
        parts.append(_tokens(plan, tensor, own, known, start, theirs))
    return torch.cat(parts, axis)


def _tokens(
    plan: Plan,
    tensor: TensorPlan,
    values: list[Tensor],
    experts: Sequence[int],
    base: Tensor | None,
    fishers: list[Tensor],
) -> Tensor:
    """Tokens that all of `experts` have, and the base if it is given.

    What all have goes through the method. A model that lacks a token has learned nothing of it, so for a method that
    works on differences it stands at the base's row. Where the base lacks the token, or none is needed, the mean of
    those that have it, by their weights, stands in for the others: one model's row alone is kept as it is.
    """
    everyone = range(len(tensor.token_rows))
    differences = tensor.action == "combine" and plan.method.base == "needed"
    if len(experts) == len(everyone) and (base is not None or not differences):
        return _rows(plan, tensor, values, experts, base, fishers)
    if base is None or not differences:
        base, stand_in = None, _mean(values, [tensor.coefficients[index] for index in experts])
        if differences or plan.method.needs_fisher or tensor.action != "combine":
            return stand_in
    else:
        stand_in = base
    known = dict(zip(experts, values, strict=True))
    filled = [known[index] if index in known else stand_in.clone() for index in everyone]
    return _rows(plan, tensor, filled, everyone, base, [])


def _by_label(
    plan: Plan, tensor: TensorPlan, axis: int, values: list[Tensor], base: Tensor | None, fishers: list[Tensor]
) -> Tensor:
    """The rows of each group of labels that the same experts know, over those; labels run along `axis`."""
    import torch

    labels = plan.labels
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
    if tensor.action == "combine":
        sizes = [plan.statistics[index].metadata["fisher"]["rms"] for index in experts] if fishers else ()
        return _combined(plan, tensor, values, experts, base, fishers=fishers or None, fisher_sizes=sizes)
    return _mean(values, [tensor.own[index].weight for index in experts])


def _combined(
    plan: Plan,
    tensor: TensorPlan,
    values: list[Tensor],
    experts: Sequence[int],
    base: Tensor | None,
    **more: Any,
) -> Tensor:
    """What the method makes of them; `more` is what else the layer has."""
    own = [tensor.own[index] for index in experts]
    coefficients = [said.weight for said in own]
    if not any(coefficients) and len(own) < len(tensor.own):
        coefficients = [1.0] * len(own)  # A label that only models of weight zero know.
    layer = Layer(tensor.name, values, coefficients, base, own=own, seed=plan.recipe.seed, **more)
    return plan.method.merge(layer, tensor.options).tensor


def _mean(values: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """The mean by weight; what is taken away from the others' task vectors has no share in it."""
    shares = [max(0.0, coefficient) for coefficient in coefficients]
    return weighted_mean(values, shares if any(shares) else [1.0] * len(shares))
