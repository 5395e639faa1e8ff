"""Linear layers, solved one at a time: what the merge engine asks of a method that uses statistics.

Turns stored weights the way that methods want them, splits heads into groups of labels that the same experts know,
and keeps what layers with the same inputs share.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fusehub.errors import FuseHubError, Incompatible
from fusehub.merging.plan import Plan
from fusehub.merging.planner import TensorPlan
from fusehub.merging.sources.data_free import UpdateGram
from fusehub.methods.base import Layer, Merged, Note
from fusehub.utils.on_demand import OnDemand, each

if TYPE_CHECKING:
    from torch import Tensor

    from fusehub.merging.sources.source import SourceLayer
    from fusehub.methods.base import LayerStatistics


class LayerSolver:
    """Solves the layers of a plan; `notes` says what was worth saying of each, by the weight's name, and `precision`
    which arithmetic it took where the method chose.

    `statistics` are those of each expert; where its source stands by the update, nothing of them is asked for. Methods
    may compute on `device`. Layers of different systems may be solved by several threads at a time.
    """

    def __init__(self, plan: Plan, statistics: Sequence[Mapping[str, SourceLayer]], device: str = "cpu") -> None:
        self.plan, self.statistics, self.device = plan, statistics, device
        self.notes: dict[str, tuple[Note, ...]] = {}
        self.precision: dict[str, str] = {}
        self._expected: Counter[Hashable] = Counter()
        self._caches: dict[Hashable, dict[Any, Any]] = {}
        self._lock = threading.Lock()

    def expect(self, tensors: Iterable[TensorPlan]) -> None:
        """Says which layers are going to be solved, in whatever order: what some share is kept until the last of them.

        q, k and v share their inputs, and so their grams, which are summed and factorised once; in a file that is in
        order of names, others come between them. Every layer that reads the encoder shares its output.
        """
        self._expected = Counter(key for tensor in tensors for key in self.systems(tensor))
        self._caches.clear()

    def solve(
        self,
        tensor: TensorPlan,
        weights: Sequence[Tensor],
        base: Tensor | None,
        biases: Sequence[Tensor] | None,
        base_bias: Tensor | None,
    ) -> Merged:
        """The layer of `tensor`: its weight as it is stored (and its bias, where `biases` are given).

        `weights` and `base` are as they are stored, in the dtype of the arithmetic; `biases` only for a method that
        solves them too.
        """
        turned = tensor.layer.transposed
        weights = each(lambda _, weight: weight.T, weights) if turned else weights
        base = base.T if base is not None and turned else base
        labels = self.plan.labels
        if tensor.label_axis is None or labels.is_identity:
            merged = self._rows(tensor, weights, range(len(weights)), base, biases, base_bias)
        else:
            merged = self._groups(tensor, weights, biases)
        if merged.notes:
            self.notes[tensor.name] = merged.notes
        if merged.precision:
            self.precision[tensor.name] = merged.precision
        return Merged(merged.tensor.T if turned else merged.tensor, merged.bias, merged.notes, merged.precision)

    def _groups(self, tensor: TensorPlan, weights: Sequence[Tensor], biases: Sequence[Tensor] | None) -> Merged:
        """A head whose labels are not the same everywhere: the rows of each group of labels by those who know them."""
        import torch

        labels = self.plan.labels
        weight = weights[0].new_empty(len(labels.labels), weights[0].shape[1])
        bias = torch.empty(len(labels.labels), dtype=torch.float64) if biases else None
        notes: list[Note] = []
        precision: str | None = None
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
            precision = part.precision
        return Merged(weight, bias, tuple(notes), precision)

    def _rows(
        self,
        tensor: TensorPlan,
        weights: Sequence[Tensor],
        experts: Sequence[int],
        base: Tensor | None,
        biases: Sequence[Tensor] | None,
        base_bias: Tensor | None,
    ) -> Merged:
        used = self._used(tensor, experts)
        if len(used) < len(experts):
            places = [place for place, index in enumerate(experts) if index in used]
            everyone, weights = weights, OnDemand(len(places), lambda place, rows: everyone[places[place]][rows])
            biases = [biases[place] for place in places] if biases else biases
        experts = used
        stored = self._stored(tensor, experts)
        coefficients = _coefficients(tensor, experts)
        for index, layer in stored.items():
            if layer.size != tensor.layer.in_features:
                raise Incompatible(
                    f"{tensor.name} has {tensor.layer.in_features} inputs, the statistics of "
                    f"{self.plan.experts[index].name} say {layer.size}.",
                    "Give the statistics of these weights.",
                )
        key = self._key(tensor, experts)
        with self._lock:
            cache = self._caches.setdefault(key, {})
            self._expected[key] -= 1
            if self._expected[key] <= 0:
                del self._caches[key]
        others = list(stored.values())
        statistics: list[LayerStatistics] = []
        for place, index in enumerate(experts):
            if index in stored:
                statistics.append(stored[index])
            else:
                assert base is not None  # What stands by updates was planned with a base.
                statistics.append(UpdateGram.of(weights[place] - base, others))
        whole = Layer(
            tensor.name,
            weights,
            coefficients,
            base,
            base_bias,
            biases,
            statistics=statistics,
            shares=[tensor.shares[index] for index in experts] if tensor.shares else None,
            cache=cache,
            device=self.device,
        )
        return self._merged(whole, tensor)

    def _merged(self, layer: Layer, tensor: TensorPlan) -> Merged:
        """What the method makes of the layer. Raises `FuseHubError` naming a device that is too small or lacks
        something."""
        import torch

        try:
            return self.plan.method.merge(layer, tensor.options)
        except torch.OutOfMemoryError as error:
            told = f"{self.device} has too little memory to solve {tensor.name}, {list(tensor.info.shape)}"
            raise FuseHubError(f"{told}.", "Say --device cpu, or one with more memory.") from error
        except NotImplementedError as error:  # What torch raises where a device lacks an operation.
            if self.device == "cpu":
                raise
            told = f"{self.device} cannot solve {tensor.name} ({str(error).splitlines()[0][:120]})"
            raise FuseHubError(f"{told}.", "Say --device cpu.") from error

    def read_ahead(self, tensor: TensorPlan) -> None:
        """Has the system read the statistics of the layer of `tensor`, where it can."""
        for layer in self._stored(tensor, self._used(tensor, range(len(self.plan.experts)))).values():
            layer.read_ahead()

    def systems(self, tensor: TensorPlan) -> Iterator[Hashable]:
        """What tells the systems that a layer is solved by: one, or one for each group of its labels."""
        labels = self.plan.labels
        if tensor.label_axis is None or labels.is_identity:
            yield self._key(tensor, self._used(tensor, range(len(self.plan.experts))))
            return
        for experts, _ in labels.groups():
            yield self._key(tensor, self._used(tensor, experts))

    def _key(self, tensor: TensorPlan, experts: Sequence[int]) -> Hashable:
        """What layers with the same system have in common. An update is one tensor's own."""
        stored = self._stored(tensor, experts)
        named = tuple((index, stored[index].stored_as if index in stored else tensor.name) for index in experts)
        return tensor.options, tuple(_coefficients(tensor, experts)), tensor.shares, named

    def _used(self, tensor: TensorPlan, experts: Sequence[int]) -> Sequence[int]:
        """Those of `experts` that have something to say: who gave a mixture's matrix no tokens has not."""
        return [index for index in experts if tensor.shares[index]] if tensor.shares else list(experts)

    def _stored(self, tensor: TensorPlan, experts: Sequence[int]) -> dict[int, SourceLayer]:
        """The statistics of the experts that do not stand by their update."""
        return {
            index: self.statistics[index][tensor.sources[index]]
            for index in experts
            if not self.plan.statistics[index].stands_by_update
        }


def _coefficients(tensor: TensorPlan, experts: Sequence[int]) -> list[float]:
    """The experts' coefficients, all alike where they are zero."""
    coefficients = [tensor.coefficients[index] for index in experts]
    return coefficients if any(coefficients) else [1.0] * len(coefficients)
