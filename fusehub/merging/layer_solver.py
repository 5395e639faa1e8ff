"""Linear layers, solved one at a time: what the merge engine asks of a method that uses statistics.

Turns stored weights the way that methods want them, splits heads into groups of labels that the same experts know,
and keeps what layers with the same inputs share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fusehub.errors import Incompatible
from fusehub.merging.plan import Plan
from fusehub.merging.planner import TensorPlan
from fusehub.merging.sources.data_free import UpdateGram
from fusehub.methods.base import Layer, Merged, Note

if TYPE_CHECKING:
    from torch import Tensor

    from fusehub.merging.sources.source import SourceLayer
    from fusehub.methods.base import LayerStatistics


class LayerSolver:
    """Solves the layers of a plan; `notes` says what was worth saying of each, by the weight's name.

    `statistics` are those of each expert; where its source stands by the update, nothing of them is asked for.
    """

    def __init__(self, plan: Plan, statistics: Sequence[Mapping[str, SourceLayer]]) -> None:
        self.plan, self.statistics = plan, statistics
        self.notes: dict[str, tuple[Note, ...]] = {}
        self._cache_key: Any = None
        self._cache: dict[Any, Any] = {}

    def solve(
        self,
        tensor: TensorPlan,
        weights: list[Tensor],
        base: Tensor | None,
        biases: list[Tensor] | None,
        base_bias: Tensor | None,
    ) -> Merged:
        """The layer of `tensor`: its weight as it is stored (and its bias, where `biases` are given), float64.

        `weights` and `base` are as they are stored, in float64; `biases` only for a method that solves them too.
        """
        turned = tensor.layer.transposed
        weights = [weight.T if turned else weight for weight in weights]
        base = base.T if base is not None and turned else base
        labels = self.plan.labels
        if tensor.label_axis is None or labels.is_identity:
            merged = self._rows(tensor, weights, range(len(weights)), base, biases, base_bias)
        else:
            merged = self._groups(tensor, weights, biases)
        if merged.notes:
            self.notes[tensor.name] = merged.notes
        return Merged(merged.tensor.T if turned else merged.tensor, merged.bias, merged.notes)

    def _groups(self, tensor: TensorPlan, weights: list[Tensor], biases: list[Tensor] | None) -> Merged:
        """A head whose labels are not the same everywhere: the rows of each group of labels by those who know them."""
        import torch

        labels = self.plan.labels
        weight = torch.empty(len(labels.labels), weights[0].shape[1], dtype=torch.float64)
        bias = torch.empty(len(labels.labels), dtype=torch.float64) if biases else None
        notes: list[Note] = []
        for experts, rows in labels.groups():
            at = {index: [labels.rows[index][row] for row in rows] for index in experts}
            part = self._rows(
                tensor,
                [weights[index][at[index]] for index in experts],
                experts,
                None,
                [biases[index][at[index]] for index in experts] if biases else None,
                None,
            )
            weight[list(rows)] = part.tensor
            if bias is not None:
                assert part.bias is not None  # It was asked for.
                bias[list(rows)] = part.bias
            notes += part.notes
        return Merged(weight, bias, tuple(notes))

    def _rows(
        self,
        tensor: TensorPlan,
        weights: list[Tensor],
        experts: Sequence[int],
        base: Tensor | None,
        biases: list[Tensor] | None,
        base_bias: Tensor | None,
    ) -> Merged:
        if tensor.shares:
            # Who gave a mixture's matrix no tokens has nothing to say of it.
            used = [at for at, index in enumerate(experts) if tensor.shares[index]]
            experts, weights = [experts[at] for at in used], [weights[at] for at in used]
            biases = [biases[at] for at in used] if biases else biases
        stored = {
            index: self.statistics[index][tensor.sources[index]]
            for index in experts
            if not self.plan.statistics[index].stands_by_update
        }
        coefficients = [tensor.coefficients[index] for index in experts]
        if not any(coefficients):
            coefficients = [1.0] * len(coefficients)
        for index, layer in stored.items():
            if layer.size != tensor.layer.in_features:
                raise Incompatible(
                    f"{tensor.name} has {tensor.layer.in_features} inputs, the statistics of "
                    f"{self.plan.experts[index].name} say {layer.size}.",
                    "Give the statistics of these weights.",
                )
        # q, k and v follow each other in the file and share their inputs: the grams are summed and factorised once.
        # An update is one tensor's own.
        key = (
            tensor.options,
            tuple(coefficients),
            tensor.shares,
            tuple((index, stored[index].stored_as if index in stored else tensor.name) for index in experts),
        )
        if key != self._cache_key:
            self._cache_key, self._cache = key, {}
        others = list(stored.values())
        statistics: list[LayerStatistics] = []
        for index, weight in zip(experts, weights, strict=True):
            if index in stored:
                statistics.append(stored[index])
            else:
                assert base is not None  # What stands by updates was planned with a base.
                statistics.append(UpdateGram.of(weight - base, others))
        whole = Layer(
            tensor.name,
            weights,
            coefficients,
            base,
            base_bias,
            biases,
            statistics=statistics,
            shares=[tensor.shares[index] for index in experts] if tensor.shares else None,
            cache=self._cache,
        )
        return self.plan.method.merge(whole, tensor.options)
