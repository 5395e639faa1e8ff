"""Products of float32 matrices on the CPU, by whatever instructions make them in the least time and lose nothing.

add_product(out, left, right)         # out += left rightᵀ
made = product(left, right)           # left rightᵀ
columns = transposed(rows)            # for products over the rows: columns of zeros may be added
with exact_products(rows):            # of numbers that are bfloat16: by the instructions for these
    ...
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# Below so many rows, columns or summands a product takes no longer than putting its factors in order for oneDNN.
_WORTHWHILE = 64
# Numbers of a product that are made at a time, so that they are added up before they have left the processor's cache.
_CACHED = 2**20
# Numbers of a factor that oneDNN puts in order at a time, where its rows do not lie one after the other: they stay in
# memory that is used again, where a copy of all is new memory of the system, which takes as long as the product.
_COPIED = 2**20
# Rows that are turned round at a time.
_TURNED = 512


def add_product(out: Tensor, left: Tensor, right: Tensor, *, factor: float = 1.0) -> None:
    """Adds `factor · left rightᵀ` to `out`: [m, k] and [n, k] to [m, n], in the dtype that all of them have."""
    if not _by_onednn(out, left, right):
        out.addmm_(left, right.T, alpha=factor)
        return
    multiply, right = _onednn(), right.contiguous()
    if left.stride(1) != 1:
        left = left.contiguous()
    step = max(1, _CACHED // len(right))
    if not left.is_contiguous():
        # A power of two: oneDNN compiles for each number of rows.
        step = min(step, 1 << max(6, (_COPIED // left.shape[1]).bit_length() - 1))
    for start in range(0, len(left), step):
        out[start : start + step].add_(multiply(left[start : start + step], right), alpha=factor)


def transposed(rows: Tensor) -> Tensor:
    """`rows`, [n, size], as [size, n or a little more], contiguous: for products over n, to which the zeros that are
    added give nothing.

    Where oneDNN makes them, n is brought up to one of a few lengths, at most an eighth more: it keeps what it compiles
    for each length, which is some megabytes for the strips of a gram.
    """
    step = 1 << max(0, len(rows).bit_length() - 4)
    missing = -len(rows) % step
    if not missing or len(rows) < _WORTHWHILE or rows.device.type != "cpu" or not _has_vectors_that_mkl_leaves():
        return rows.T.contiguous()
    # Some rows at a time: torch turns what stays near the processor in an eighth of the time.
    columns = rows.new_empty(rows.shape[1], len(rows) + missing)
    for start in range(0, len(rows), _TURNED):
        stop = min(len(rows), start + _TURNED)
        columns[:, start:stop] = rows[start:stop].T.contiguous()
    columns[:, len(rows) :] = 0
    return columns


def product(left: Tensor, right: Tensor) -> Tensor:
    """`left rightᵀ`, as of `add_product`, by itself; also where `right` has few rows."""
    if not _by_onednn(left, left, right) or not len(right):
        return left @ right.T
    return _onednn()(left if left.stride(1) == 1 else left.contiguous(), right.contiguous())


@contextmanager
def exact_products(narrow: Tensor) -> Iterator[None]:
    """Within, float32 products of the numbers in `narrow` by each other may be made with the processor's instructions
    for bfloat16, where it has some and that is the dtype of `narrow`.

    A product of two such numbers has 16 bits, so in float32 it is exact, and so they are added up. The switch is one
    of the whole process, and would round what others multiply: while other threads are alive it is not touched.
    """
    import torch

    is_narrow = narrow.dtype == torch.bfloat16 and narrow.device.type == "cpu"
    setting = _precision_setting() if is_narrow and threading.active_count() == 1 else None
    if setting is None:
        yield
        return
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before


def _by_onednn(out: Tensor, left: Tensor, right: Tensor) -> bool:
    """Whether oneDNN, which comes with torch, multiplies these in less time than torch's own choice, which is MKL."""
    import torch

    if out.dtype != torch.float32 or out.device.type != "cpu" or min(*out.shape, left.shape[1]) < _WORTHWHILE:
        return False
    return _has_vectors_that_mkl_leaves()


@cache
def _has_vectors_that_mkl_leaves() -> bool:
    """Whether the processor has AVX-512 and is not Intel's: MKL multiplies with half as wide vectors on others."""
    import torch

    wide_vectors = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return wide_vectors and torch.backends.mkldnn.is_available() and "Intel" not in _maker()


@cache
def _onednn() -> Callable[[Tensor, Tensor], Tensor]:
    """`left rightᵀ` by oneDNN, for a `right` that is contiguous and a `left` whose rows are."""
    import torch
    from torch.nn.functional import linear

    # What torch's compiler calls: it takes tensors as they lie, where the public way puts them in order and back.
    compiled = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if compiled is None:
        return lambda left, right: linear(left.to_mkldnn(), right).to_dense()
    return lambda left, right: compiled(left, right, None, "none", [], "")


def _maker() -> str:
    """Who made the processor, as it says itself; nothing where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


@cache
def _precision_setting() -> Any:
    """torch's switch for products of float32, where the processor multiplies bfloat16 (tiles of it, or vectors, which
    takes half of the time of float32) and torch has the switch, which came with 2.9; else None."""
    import torch

    capabilities: Any = getattr(torch.cpu, "get_capabilities", dict)
    found = capabilities()
    has_one = found.get("amx_bf16") or found.get("avx512_bf16")
    return getattr(torch.backends.mkldnn, "matmul", None) if has_one else None
