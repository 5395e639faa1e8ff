"""How a layer's gram is stored: by the size that is asked for, or by what is known of it.

    triangle      S       float32 [in * (in + 1) / 2]   the upper triangle of S, row after row
    correlations  C       float16 [in * (in + 1) / 2]   the upper triangle of C_ij = S_ij / √(S_ii S_jj)
                  d       float32 [in]                  the diagonal of S
                  e       float32 []                    the shift: C + e·I is positive semidefinite
    diagonal      d       float32 [in]                  the diagonal of S, of which no more is known
    factor        U       float16 [in, rank]            C ≈ U Uᵀ off the diagonal, and max(1, Σ_k U_ik²) on it
                  d       float32 [in]                  the diagonal of S

A factor is positive semidefinite whatever its rounding, since only the diagonal is added to. Layers outside the
repeated blocks (poolers, heads) are few, and the ones that lose most: they are stored more finely than the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fusehub.checkpoint import TensorInfo
from fusehub.errors import unknown
from fusehub.statistics.grams import pack, packed_diagonal, unpack

if TYPE_CHECKING:
    from torch import Tensor

SIZES = ("full", "half", "compact", "tiny")
DEFAULT_SIZE = "compact"
# Below this many inputs a float32 triangle is a few kilobytes, and nothing is worth losing for less.
SMALL = 128
_RANK = {"compact": 1 / 8, "tiny": 1 / 24}
_BLOCK_NUMBER = re.compile(r"\.\d+\.")


class LayerSums(Protocol):
    """The statistics of one layer's inputs, whether they are still being summed or were read from a file."""

    size: int
    """How many inputs the layer has."""
    rows: int
    """How many input rows were counted."""
    total: Tensor
    """`s`, the sum of x over the rows: [in]."""

    def packed(self) -> Tensor:
        """The upper triangle of `S`, row after row: [in * (in + 1) / 2], float32, on the CPU."""


@dataclass(frozen=True)
class Encoding:
    """How the gram of one layer is stored: the encoding's name, and the rank of a factor."""

    name: str
    rank: int | None = None

    def tensors(self, size: int) -> dict[str, TensorInfo]:
        """Dtype and shape of what is stored for a layer of `size` inputs, by the last part of the tensor's name."""
        triangle = size * (size + 1) // 2
        if self.name == "triangle":
            return {"S": TensorInfo("F32", (triangle,))}
        if self.name == "correlations":
            return {
                "C": TensorInfo("F16", (triangle,)),
                "d": TensorInfo("F32", (size,)),
                "e": TensorInfo("F32", ()),
            }
        if self.name == "diagonal":
            return {"d": TensorInfo("F32", (size,))}
        return {"U": TensorInfo("F16", (size, self.rank)), "d": TensorInfo("F32", (size,))}


def check_size(size: str) -> str:
    """`size` if there is one of that name; else raises `BadRecipe` naming those there are."""
    if size not in SIZES:
        raise unknown("size", size, SIZES)
    return size


def encoding_of(name: str, inputs: int, size: str) -> Encoding:
    """How the layer whose weight is called `name`, with so many inputs, is stored in statistics of `size`."""
    outside = not _BLOCK_NUMBER.search(name)
    if size == "full" or inputs <= SMALL or (size == "compact" and outside):
        return Encoding("triangle")
    if size == "half" or outside:
        return Encoding("correlations")
    return Encoding("factor", round(inputs * _RANK[size]))


def encoding_for(name: str, sums: LayerSums, size: str) -> Encoding:
    """How the sums of the layer whose weight is called `name` are stored in statistics of `size`."""
    if getattr(sums, "is_diagonal", False):
        return Encoding("diagonal")
    return encoding_of(name, sums.size, size)


def encode(sums: LayerSums, encoding: Encoding) -> dict[str, Tensor]:
    """The tensors that store the gram of `sums`, by the last part of their name."""
    packed = sums.packed()
    if encoding.name == "diagonal":
        return {"d": packed[packed_diagonal(sums.size)]}
    if encoding.name == "triangle":
        return {"S": packed}
    correlations, diagonal = _correlations(packed, sums.size)
    if encoding.name == "correlations":
        rounded = pack(correlations).half()
        error = unpack(rounded, sums.size).sub_(correlations)
        return {"C": rounded, "d": diagonal, "e": _norm(error)}
    return {"U": _factor(correlations, encoding.rank), "d": diagonal}


def decode(encoding: Encoding, read: Callable[[str], Tensor], size: int) -> Tensor:
    """The gram `S` of a layer of `size` inputs: [in, in], float64; `read` gives its tensors."""
    if encoding.name == "triangle":
        return unpack(read("S"), size)
    if encoding.name == "diagonal":
        return read("d").double().diag()
    if encoding.name == "correlations":
        gram = unpack(read("C"), size)
        ones = 1.0
    else:
        factor = read("U").double()
        gram = factor @ factor.T
        ones = gram.diagonal().clamp_min(1.0)
    gram.diagonal().copy_(gram.new_ones(size) * ones)
    scale = read("d").double().sqrt()
    return gram.mul_(scale[:, None]).mul_(scale)


def _correlations(packed: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """`C` ([in, in], float64; zero where a feature was never used) and the diagonal of `S` ([in], float32)."""
    import torch

    diagonal = packed[packed_diagonal(size)]
    gram = unpack(packed, size)
    scale = torch.where(diagonal > 0, diagonal.double().rsqrt(), 0.0)
    return gram.mul_(scale[:, None]).mul_(scale), diagonal


def _norm(error: Tensor) -> Tensor:
    """The spectral norm of a symmetric matrix."""
    import torch

    return torch.linalg.eigvalsh(error).abs().max().float()


def _factor(correlations: Tensor, rank: int) -> Tensor:
    import torch

    values, vectors = torch.linalg.eigh(correlations)
    factor = vectors[:, -rank:] * values[-rank:].clamp_min(0).sqrt()
    return factor.div_(factor.norm(dim=1, keepdim=True).clamp_min(1.0)).half().contiguous()
