"""What an importer gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from fusehub.statistics.encodings import LayerSums


@dataclass(frozen=True)
class Imported:
    """Sums by the weight's name in the checkpoint, and what the file says of how they were made.

    `means` is whether the sums of x are known beside those of x xᵀ; without, they are zeros. `ignored` are entries
    of the file that are of no linear layer of the model.
    """

    kind: str
    sums: Mapping[str, LayerSums]
    aliases: Mapping[str, str]
    means: bool
    ignored: Sequence[str] = ()
    data: str | None = None
    examples: int | None = None
    tokens: int | None = None
    max_length: int | None = None


@dataclass(frozen=True)
class DiagonalSums:
    """Sums of squares, one an input: the diagonal of a gram whose rest is not known and taken to be zero."""

    squares: Tensor
    rows: int
    is_diagonal = True

    @property
    def size(self) -> int:
        """Inputs of the layer."""
        return len(self.squares)

    @property
    def total(self) -> Tensor:
        """Zeros: the mean of the inputs is not known."""
        return self.squares.new_zeros(self.size)

    def packed(self) -> Tensor:
        """The upper triangle of `S`, zero off the diagonal: [in * (in + 1) / 2], float32."""
        from fusehub.statistics.grams import packed_diagonal

        packed = self.squares.new_zeros(self.size * (self.size + 1) // 2)
        packed[packed_diagonal(self.size)] = self.squares
        return packed
