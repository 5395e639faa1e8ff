"""The experts of a mixture whose matrices transformers keeps in one tensor, which no hook on a linear layer sees.

    hidden [tokens, in] --gate_up_proj[e]--> act(gate) * up --down_proj[e]--> ...      for the tokens routed to e

The module that holds them is given all tokens and says which expert each goes to. The input of an expert's first
matrices is what is routed to it; the input of its last is computed once more from these.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fusehub.models.layout import Part

_FIRST, _LAST = ("gate_up_proj", "up_proj"), "down_proj"


@dataclass
class FusedExperts:
    """The names of the matrices of one module of experts: by expert, those of each input; the first owns the sums."""

    module: str
    first: dict[int, list[str]] = field(default_factory=dict)
    last: dict[int, list[str]] = field(default_factory=dict)

    @property
    def aliases(self) -> dict[str, str]:
        """Weight -> the weight that has the same input."""
        groups = [*self.first.values(), *self.last.values()]
        return {name: names[0] for names in groups for name in names[1:]}

    @property
    def weights(self) -> list[str]:
        """All their names."""
        return [name for own in (self.first, self.last) for names in own.values() for name in names]

    def inputs(
        self, module: nn.Module, hidden: Tensor, chosen: Tensor, counted: Tensor | None
    ) -> Iterator[tuple[str, Tensor]]:
        """(weight, the rows that it is given: [n, in]) for each weight that owns sums and is given any.

        `hidden` is [tokens, in], `chosen` [tokens, k] the experts of each token, `counted` [tokens] where tokens are
        real; None where all are.
        """
        with _weights_at_hand(module):
            for expert, names in self.first.items():
                routed = (chosen == expert).any(dim=-1)
                rows = hidden[routed if counted is None else routed & counted]
                if not len(rows):
                    continue
                yield names[0], rows
                if expert in self.last:
                    yield self.last[expert][0], _between(module, rows, expert)


def find_experts(model: nn.Module, parts: Mapping[str, Part]) -> dict[str, FusedExperts]:
    """The modules of experts among `parts` whose way of computing is known, by their names."""
    found: dict[str, FusedExperts] = {}
    for name, part in sorted(parts.items(), key=lambda item: (item[1].parameter, item[1].expert, item[1].start)):
        module, _, parameter = part.parameter.rpartition(".")
        if not _is_known(model.get_submodule(module)):
            continue
        experts = found.setdefault(module, FusedExperts(module))
        if parameter in _FIRST:
            experts.first.setdefault(part.expert, []).append(name)
        elif parameter == _LAST:
            experts.last.setdefault(part.expert, []).append(name)
    return {name: experts for name, experts in found.items() if experts.first}


def hidden_weights(model: nn.Module, known: Mapping[str, FusedExperts], parts: Mapping[str, Part]) -> list[str]:
    """Names, as in a checkpoint, of matrices that no hook sees: stacked ones of unknown experts, and those of
    `MultiheadAttention`.

    The output projection of the latter is a module, but is never called as one.
    """
    from torch import nn

    found = []
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if isinstance(module, nn.MultiheadAttention):
            found += [f"{name}.{key}" for key, value in own.items() if value.ndim == 2]
        elif name not in known and not isinstance(module, nn.modules.conv._ConvNd):
            found += [f"{name}.{key}" for key, value in own.items() if value.ndim == 3 and len(value) > 1]
    return [name for weight in found for name in _parts_of(weight, parts)]


def _parts_of(weight: str, parts: Mapping[str, Part]) -> list[str]:
    """The names in a checkpoint of what the parameter `weight` is made of; itself where it is stored as it is."""
    return [name for name, part in parts.items() if part.parameter == weight] or [weight]


def _is_known(module: nn.Module) -> bool:
    plain = not getattr(module, "is_transposed", False) and not getattr(module, "has_bias", False)
    gated = getattr(module, "has_gate", True) and hasattr(module, "_apply_gate")
    return plain and (gated or hasattr(module, "act_fn"))


def _between(module: Any, rows: Tensor, expert: int) -> Tensor:
    """What the last matrix of an expert is given, for the `rows` that its first are given; of a module that
    `_is_known`."""
    from torch.nn.functional import linear

    if getattr(module, "has_gate", True):
        return module._apply_gate(linear(rows, module.gate_up_proj[expert]))
    return module.act_fn(linear(rows, module.up_proj[expert]))


def _weights_at_hand(module: nn.Module) -> contextlib.AbstractContextManager:
    """The module with its weights, where accelerate keeps them elsewhere until its forward."""
    from accelerate.utils import align_module_device

    away = any(parameter.is_meta for parameter in module.parameters(recurse=False))
    return align_module_device(module) if away else contextlib.nullcontext()
