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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fusehub.errors import unknown
from fusehub.models.tensor_files import TensorInfo
from fusehub.statistics.grams import packed_diagonal
from fusehub.utils.devices import wide
from fusehub.utils.symmetric import Factorized, bounds, mirror, pack_into, unpacked, whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fusehub.utils.symmetric import Strip

SIZES = ("full", "half", "compact", "tiny")
DEFAULT_SIZE = "compact"
# Below this many inputs a float32 triangle is a few kilobytes, and nothing is worth losing for less.
SMALL = 128
# A factor of int8 has this part of the inputs as its rank: a sixth of the bytes of an int8 triangle.
RANK = 12
_BLOCK_NUMBER = re.compile(r"\.\d+\.")
# A shift that is tried at least, far below what float16 loses.
_LEAST_SHIFT = 2.0**-14
# Steps of Lanczos's method, and by which part of itself its eigenvalue may be wrong.
_STEPS, _LANCZOS_ERROR = 40, 0.05
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
    diagonal = packed[packed_diagonal(sums.size)]
    if encoding.name == "diagonal":
        return {"d": diagonal}
    if encoding.name == "correlations":
        assert encoding.bits is not None
        return {**_rounded_correlations(packed, diagonal, encoding.bits), "d": diagonal}
    assert encoding.rank is not None
    return {**_factor(_correlations(packed, diagonal), sums.size, encoding.rank), "d": diagonal}


def decode(encoding: Encoding, read: Callable[[str], Tensor], size: int, dtype: torch.dtype) -> Iterator[Strip]:
    """The strips of the gram `S` of a layer of `size` inputs (see `fusehub.utils.symmetric`), in float32 or float64.

    `read` gives its tensors.
    """
    if encoding.name == "triangle":
        for start, rows in unpacked(read("S"), size):
            yield start, rows.to(dtype)
        return
    diagonal = read("d")
    if encoding.name == "diagonal":
        for start, stop in bounds(size):
            rows = diagonal.new_zeros(stop - start, size - start, dtype=dtype)
            rows.diagonal().copy_(diagonal[start:stop])
            yield start, rows
        return
    scale = wide(diagonal).sqrt().to(dtype).to(diagonal.device)
    for start, rows in _stored_correlations(encoding, read, size):
        stop = start + len(rows)
        yield start, rows.to(dtype).mul_(scale[start:stop, None]).mul_(scale[start:])


def _stored_correlations(encoding: Encoding, read: Callable[[str], Tensor], size: int) -> Iterator[Strip]:
    """The strips of the correlations that are stored, in float32, which is finer than any way of storing them."""
    if encoding.name == "correlations":
        for start, stored in unpacked(read("C"), size):
            rows = _restored(stored)
            rows.diagonal().fill_(1.0)
            yield start, rows
        return
    factor = read("U").float().mul_(read("u"))
    for start, stop in bounds(size):
        rows = factor[start:stop] @ factor[start:].T
        square = rows[:, : stop - start]
        square.triu_().add_(square.triu(1).T)
        rows.diagonal().clamp_(min=1.0)
        yield start, rows


def _correlations(packed: Tensor, diagonal: Tensor) -> Iterator[Strip]:
    """The strips of `C` in float64, zero where a feature was never used, from the packed triangle of `S` and its
    diagonal."""
    import torch

    scale = torch.where(diagonal > 0, diagonal.double().rsqrt(), 0.0)
    for start, rows in unpacked(packed, len(diagonal)):
        stop = start + len(rows)
        yield start, rows.double().mul_(scale[start:stop, None]).mul_(scale[start:]).clamp_(-1, 1)


def _rounded(correlations: Tensor, bits: int) -> Tensor:
    """Correlations as they are stored. Most are small, so int8 has finer steps there: it holds their square roots."""
    import torch

    if bits == 16:
        return correlations.half()
    return correlations.abs().sqrt().mul_(127).round_().mul_(correlations.sign()).to(torch.int8)


def _restored(stored: Tensor) -> Tensor:
    """Correlations in float32 as what is stored says them."""
    import torch

    if stored.dtype != torch.int8:
        return stored.float()
    roots = stored.float().div_(127)
    return roots.abs().mul_(roots)


def _rounded_correlations(packed: Tensor, diagonal: Tensor, bits: int) -> dict[str, Tensor]:
    """`C` as it is stored, and the shift `e` that makes up for its rounding."""
    import torch

    size = len(diagonal)
    stored = torch.empty(len(packed), dtype=torch.float16 if bits == 16 else torch.int8)
    # What 16 bits lose is less than a factor of float32 would.
    matrix = torch.empty(size, size, dtype=torch.float64 if bits == 16 else torch.float32)
    lost = torch.zeros(size, dtype=torch.float64)
    for start, rows in _correlations(packed, diagonal):
        stop = start + len(rows)
        rounded = _rounded(rows, bits)
        pack_into(stored, start, rounded)
        matrix[start:stop, start:] = _restored(rounded)
        squares = rows.sub_(matrix[start:stop, start:]).square_()
        lost[start:stop] += squares.sum(1)
        lost[stop:] += squares[:, stop - start :].sum(0)
    matrix.diagonal().fill_(1.0)
    mirror(matrix)
    return {"C": stored, "e": _shift(matrix, lost)}


def _shift(matrix: Tensor, lost: Tensor) -> Tensor:
    """What makes a rounded symmetric matrix of unit diagonal, [n, n], positive definite when added to its diagonal; 0
    where nothing must be. `matrix` is overwritten; `lost` has the sum of squares of what rounding took of each row.

    Independent errors move eigenvalues by at most twice the root of the largest sum (Bandeira and van Handel 2016).
    With so much more on the diagonal there is a factor, where errors are independent, and Lanczos's method on the
    inverse finds how much of it was too much. From a random start its eigenvalue is the least one but for the part
    `_LANCZOS_ERROR` with a probability of 1 − 10⁻⁵ (Kuczyński and Woźniakowski 1992, theorem 4.2).
    """
    import torch

    rounding = torch.finfo(matrix.dtype).eps * len(matrix)
    shift = max(_LEAST_SHIFT, 2.1 * float(lost.max()) ** 0.5, rounding)
    matrix.diagonal().add_(shift)
    factorized = Factorized(matrix)
    while not factorized.ok:
        matrix = factorized.restored()
        matrix.diagonal().add_(shift)
        shift *= 2
        factorized = Factorized(matrix)
    least = (1 - _LANCZOS_ERROR) / _largest_of_inverse(factorized, len(matrix), matrix.dtype)
    return torch.tensor(max(0.0, shift - least + rounding))


def _largest_of_inverse(factorized: Factorized, size: int, dtype: torch.dtype) -> float:
    """The largest eigenvalue of the inverse, a little too small: by Lanczos's method from a seeded random start, with
    full orthogonalization."""
    import torch

    vector = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = [vector / vector.norm()]
    projected = torch.zeros(_STEPS, _STEPS, dtype=torch.float64)
    for step in range(_STEPS):
        image = factorized.solve(basis[-1][None].to(dtype, copy=True))[0].double()
        known = torch.stack(basis)
        projected[: step + 1, step] = known @ image
        for _ in range(2):
            image -= known.T @ (known @ image)
        length = float(image.norm())
        if step + 1 == _STEPS or length <= 1e-6 * float(projected[: step + 1, step].norm()):
            break
        basis.append(image / length)
    size = len(basis)
    return float(torch.linalg.eigvalsh(projected[:size, :size], UPLO="U")[-1])


def _factor(correlations: Iterator[Strip], size: int, rank: int) -> dict[str, Tensor]:
    """The leading eigenvectors of the correlations times the roots of their eigenvalues, in int8 by column.

    By subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4) from a seeded start: the same sums give
    the same bytes.
    """
    import torch

    work = whole(correlations, size, torch.float32)
    random = torch.Generator().manual_seed(0)
    basis = torch.randn(size, min(size, rank + _OVERSAMPLING), generator=random)
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(work @ basis)[0]
    values, vectors = torch.linalg.eigh((basis.T @ (work @ basis)).double())
    factor = (basis.double() @ vectors[:, -rank:]) * values[-rank:].clamp_min(0).sqrt()
    scale = factor.abs().amax(0).float() / 127
    stored = torch.where(scale > 0, factor / scale, 0.0).round_().clamp_(-127, 127)
    return {"U": stored.to(torch.int8), "u": scale}
