"""What merging one tensor costs, told from its size before anything is read: memory, and multiplications."""

from __future__ import annotations

from dataclasses import dataclass

_STATISTICS_BYTES = 100 * 2**20
# Numbers of a layer that are solved at a time (`linear_system`).
_AT_A_TIME = 2**24


@dataclass(frozen=True)
class Cost:
    """Bytes at the peak, beside those of pieces that are a few megabytes, and multiplications."""

    memory: int = 0
    multiplications: int = 0
    beside: int | None = None
    """For a layer that is solved: bytes of another one as large that is solved at the same time."""


def of_pieces(models: int, numel: int, inputs: int) -> Cost:
    """Of a method that takes tensors in pieces: next to nothing."""
    return Cost()


def of_whole(models: int, numel: int, inputs: int) -> Cost:
    """Of a method that sees a tensor as a whole.

    Everyone's in wide numbers, masks, sums, what was merged before and is not written: no built-in method takes more.
    """
    return Cost((models + 6) * numel * 8)


def of_election(models: int, numel: int, inputs: int) -> Cost:
    """Of a method that compares the elements of all task vectors: these in wide numbers, magnitudes, masks and sums.

    Measured on the embeddings of BERT-base, with one to three experts over a base: 4.2 to 4.8 arrays beside theirs.
    """
    return Cost(round((models + 4.5) * numel * 8))


def of_dropping(models: int, numel: int, inputs: int) -> Cost:
    """Of a method that drops elements of task vectors and adds up the rest; measured likewise, 1.2 to 1.5 arrays."""
    return Cost(round((models + 1.5) * numel * 8))


def of_masking(models: int, numel: int, inputs: int) -> Cost:
    """Of a method that masks whole task vectors and elects signs in pieces; of one expert, 2 to 2.1 arrays."""
    return Cost((models + 2) * numel * 8)


def of_arc(models: int, numel: int, inputs: int) -> Cost:
    """Of a method that goes along an arc between two tensors; measured likewise, 2.9 arrays."""
    return Cost((models + 3) * numel * 8)


def of_solving(models: int, numel: int, inputs: int) -> Cost:
    """Of a linear layer that is solved, with so many inputs.

    One gram as it is stored, and the sum and its factor in the memory of one matrix, in float32 as mostly suffices;
    the result, and the weights of one expert, of however many; of as many outputs as are solved at a time the weights
    that they are compared with, differences and right sides; and what opening statistics takes, measured.
    """
    layer = inputs * inputs * (4 + 2) + (2 * numel + 3 * min(numel, _AT_A_TIME)) * 4
    return Cost(layer + _STATISTICS_BYTES, 2 * models * numel * inputs + inputs**3 // 3, layer)
