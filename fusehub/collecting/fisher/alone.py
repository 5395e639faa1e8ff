"""Whether an example is given alone what it is given in its batch: gradients of single examples are taken of it alone.

    seen = Seen.of(batch, outputs)
    seen.differs(seen.row, outputs_of_that_example)

A convolution over the places of a text mixes padding into it, a maximum over a batch other examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# Relative to the largest number. Products of other shapes are added up in another order: a thousandth of this.
_CLOSE = 1e-4


@dataclass(frozen=True)
class Seen:
    """What one example of a batch was given in it: of all, the one that has the most padding."""

    row: int
    values: list[Tensor]

    @classmethod
    def of(cls, batch: Mapping[str, Tensor], outputs: Sequence[Tensor]) -> Seen:
        """`outputs` are of the batch: [examples, ...] each."""
        mask = batch.get("attention_mask")
        row = 0 if mask is None else int(mask.sum(1).argmin())
        return cls(row, [own[row].detach().clone() for own in outputs])

    def differs(self, outputs: Sequence[Tensor]) -> bool:
        """Whether that example alone, perhaps without its padding, was given other `outputs` [1, ...]."""
        return not all(_same(one[0].detach(), own) for one, own in zip(outputs, self.values, strict=True))


def _same(alone: Tensor, together: Tensor) -> bool:
    import torch

    if not alone.is_floating_point() or not alone.numel():
        return True
    together = together[tuple(slice(length) for length in alone.shape)]
    close = _CLOSE * float(together.abs().nan_to_num(0, 0, 0).max())
    return torch.allclose(alone, together, rtol=0, atol=close, equal_nan=True)
