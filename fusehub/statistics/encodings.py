"""How a layer's gram is stored: by the size that is asked for, or by what is known of it.

    triangle      S  float32 [in * (in + 1) / 2]  the upper triangle of S, row after row
    correlations  C  float16 or int8, as many     the upper triangle of C_ij = S_ij / √(S_ii S_jj);
                                                  in int8, C_ij = sign(q) · (q / 127)²
                  d  float32 [in]                 the diagonal of S
                  e  float32 []                   the shift: with 1 + e on the diagonal, C is positive semidefinite
    factor        U  int8 [in, rank]              C ≈ L Lᵀ with L_ik = u_k U_ik; on the diagonal max(1, Σ_k L_ik²)
                  u  float32 [rank]
                  d  float32 [in]                 the diagonal of S
    diagonal      d  float32 [in]                 the diagonal of S, of which no more is known

A factor is positive semidefinite whatever its rounding, since only its diagonal is added to. Layers outside the
repeated blocks (poolers, heads) are few and lose most: they are stored more finely than the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fusehub.errors import unknown
from fusehub.models.tensor_files import TensorInfo
from fusehub.statistics.grams import pack, packed_diagonal, unpack

if TYPE_CHECKING:
    from torch import Tensor

SIZES = ("full", "half", "compact", "tiny")
DEFAULT_SIZE = "compact"
# Below this many inputs a float32 triangle is a few kilobytes, and nothing is worth losing for less.
SMALL = 128
# A factor of int8 has this part of the inputs as its rank: a sixth of the bytes of an int8 triangle.
RANK = 12
_BLOCK_NUMBER = re.compile(r"\.\d+\.")
# Shifts that are tried: each 2^¼ times the one before, from 2⁻¹⁴, far below what float16 loses, to 2⁴.
_SHIFTS = [2.0 ** (step / 4) for step in range(-56, 17)]
_OVERSAMPLING, _ITERATIONS = 16, 3


class LayerSums(Protocol):
    """The statistics of one layer's inputs, whether they are still being summed or were read from a file."""

    @property
    def size(self) -> int:
        """How many inputs the layer has."""

    @property
    def rows(self) -> int:
        """How many input rows were counted."""

    @property
    def total(self) -> Tensor:
        """`s`, the sum of x over the rows: [in]."""

    def packed(self) -> Tensor:
        """The upper triangle of `S`, row after row: [in * (in + 1) / 2], float32, on the CPU."""


@dataclass(frozen=True)
class Encoding:
    """How the gram of one layer is stored: the encoding, the bits of a correlation, the rank of a factor."""

    name: str
    bits: int | None = None
    rank: int | None = None

    def tensors(self, size: int) -> dict[str, TensorInfo]:
        """Dtype and shape of what is stored for a layer of `size` inputs, by the last part of the tensor's name."""
        triangle, diagonal = (size * (size + 1) // 2,), {"d": TensorInfo("F32", (size,))}
        if self.name == "triangle":
            return {"S": TensorInfo("F32", triangle)}
        if self.name == "correlations":
            dtype = "F16" if self.bits == 16 else "I8"
            return {"C": TensorInfo(dtype, triangle), "e": TensorInfo("F32", ())} | diagonal
        if self.name == "diagonal":
            return diagonal
        assert self.rank is not None  # A factor has one.
        return {"U": TensorInfo("I8", (size, self.rank)), "u": TensorInfo("F32", (self.rank,))} | diagonal

    def told(self) -> dict[str, str | int]:
        """What the metadata says of it."""
        told = {"encoding": self.name, "bits": self.bits, "rank": self.rank}
        return {key: value for key, value in told.items() if value is not None}

    def __str__(self) -> str:
        more = f"{self.bits} bits" if self.bits else f"rank {self.rank}" if self.rank else ""
        return f"{self.name}, {more}" if more else self.name


def check_size(size: str) -> str:
    """`size` if there is one of that name; else raises `BadRecipe` naming those there are."""
    if size not in SIZES:
        raise unknown("size", size, SIZES)
    return size


def coarsest(*sizes: str) -> str:
    """The coarsest of some sizes: what is made of statistics is never finer than they are."""
    return max(sizes, key=SIZES.index)


def encoding_of(name: str, sums: LayerSums, size: str) -> Encoding:
    """How the sums of the layer whose weight is called `name` are stored in statistics of `size`."""
    if getattr(sums, "is_diagonal", False):
        return Encoding("diagonal")
    inputs = sums.size
    outside = not _BLOCK_NUMBER.search(name)
    if size == "full" or inputs <= SMALL or (size == "half" and outside):
        return Encoding("triangle")
    if size == "half" or outside:
        return Encoding("correlations", bits=16)
    if size == "compact":
        return Encoding("correlations", bits=8)
    return Encoding("factor", rank=max(1, min(inputs // RANK, sums.rows)))


def encode(sums: LayerSums, encoding: Encoding) -> dict[str, Tensor]:
    """The tensors that store the gram of `sums`, by the last part of their name."""
    packed = sums.packed()
    if encoding.name == "triangle":
        return {"S": packed}
    if encoding.name == "diagonal":
        return {"d": packed[packed_diagonal(sums.size)]}
    correlations, diagonal = _correlations(packed, sums.size)
    if encoding.name == "correlations":
        assert encoding.bits is not None
        stored = _rounded(pack(correlations), encoding.bits)
        return {"C": stored, "d": diagonal, "e": _shift(_correlation_matrix(stored, sums.size))}
    assert encoding.rank is not None
    return {**_factor(correlations, encoding.rank), "d": diagonal}


def decode(encoding: Encoding, read: Callable[[str], Tensor], size: int) -> Tensor:
    """The gram `S` of a layer of `size` inputs: [in, in], float64; `read` gives its tensors."""
    if encoding.name == "triangle":
        return unpack(read("S"), size)
    if encoding.name == "diagonal":
        return read("d").double().diag()
    if encoding.name == "correlations":
        gram = _correlation_matrix(read("C"), size)
    else:
        # In float32, which is finer than what is stored and takes half of the time.
        factor = read("U").float().mul_(read("u"))
        gram = (factor @ factor.T).double()
        gram.diagonal().clamp_(min=1.0)
    scale = read("d").double().sqrt()
    return gram.mul_(scale[:, None]).mul_(scale)


def _correlations(packed: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """`C` ([in, in], float64; zero where a feature was never used) and the diagonal of `S` ([in], float32)."""
    import torch

    diagonal = packed[packed_diagonal(size)]
    gram = unpack(packed, size)
    scale = torch.where(diagonal > 0, diagonal.double().rsqrt(), 0.0)
    return gram.mul_(scale[:, None]).mul_(scale).clamp_(-1, 1), diagonal


def _rounded(correlations: Tensor, bits: int) -> Tensor:
    """Correlations as they are stored. Most are small, so int8 has finer steps there: it holds their square roots."""
    import torch

    if bits == 16:
        return correlations.half()
    return correlations.abs().sqrt().mul_(127).round_().mul_(correlations.sign()).to(torch.int8)


def _correlation_matrix(stored: Tensor, size: int) -> Tensor:
    """The correlations of a packed triangle as it is stored: [in, in], float64, with ones on the diagonal."""
    import torch

    if stored.dtype == torch.int8:
        roots = stored.float().div_(127)
        stored = roots.abs().mul_(roots)
    matrix = unpack(stored, size)
    matrix.diagonal().fill_(1.0)
    return matrix


def _shift(matrix: Tensor) -> Tensor:
    """The least of `_SHIFTS`, or 0, that makes a symmetric matrix positive definite when added to its diagonal."""
    import torch

    diagonal = matrix.diagonal().clone()
    step = torch.empty_like(matrix)

    def suffices(shift: float) -> bool:
        step.copy_(matrix)
        step.diagonal().copy_(diagonal + shift)
        return not torch.linalg.cholesky_ex(step)[1].item()

    if suffices(0.0):
        return torch.tensor(0.0)
    low, high = 0, len(_SHIFTS) - 1
    while low < high:
        middle = (low + high) // 2
        if suffices(_SHIFTS[middle]):
            high = middle
        else:
            low = middle + 1
    return torch.tensor(_SHIFTS[high])


def _factor(correlations: Tensor, rank: int) -> dict[str, Tensor]:
    """The leading eigenvectors of the correlations times the roots of their eigenvalues, in int8 by column.

    By subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4) from a seeded start: the same sums give
    the same bytes.
    """
    import torch

    size = len(correlations)
    work = correlations.float()
    random = torch.Generator().manual_seed(0)
    basis = torch.randn(size, min(size, rank + _OVERSAMPLING), generator=random)
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(work @ basis)[0]
    values, vectors = torch.linalg.eigh((basis.T @ (work @ basis)).double())
    factor = (basis.double() @ vectors[:, -rank:]) * values[-rank:].clamp_min(0).sqrt()
    scale = factor.abs().amax(0).float() / 127
    stored = torch.where(scale > 0, factor / scale, 0.0).round_().clamp_(-127, 127)
    return {"U": stored.to(torch.int8), "u": scale}
