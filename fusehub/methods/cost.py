"""What merging one tensor costs, told from its size before anything is read: memory, and multiplications."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Bytes at the peak, beside those of pieces that are a few megabytes, and multiplications."""

    memory: int = 0
    multiplications: int = 0


def of_pieces(models: int, numel: int, inputs: int) -> Cost:
    """Of a method that takes tensors in pieces: next to nothing."""
    return Cost()


def of_whole(models: int, numel: int, inputs: int) -> Cost:
    """Of a method that sees a tensor as a whole.

    Everyone's in wide numbers, masks, sums, what was merged before and is not written: DELLA's, measured.
    """
    return Cost((models + 6) * numel * 8)


def of_solving(models: int, numel: int, inputs: int) -> Cost:
    """Of a linear layer that is solved, with so many inputs.

    One gram as it is stored, and the sum and its factor in the memory of one matrix, in float32 as mostly suffices;
    weights as they are read and in the arithmetic, and the right side, of which no more than a part is there.
    """
    memory = inputs * inputs * (4 + 2) + (2 * models + 1) * numel * 4
    return Cost(memory, 2 * models * numel * inputs + inputs**3 // 3)
