"""Where models run, and what that device can hold, found out by trying: Apple's GPUs, and others, have no float64.

device = find_device("auto")        # what FUSEHUB_DEVICE says, or where accelerate would run a model
total = wide(tensor).sum()          # in float64, on the device or, where that has none, on the CPU
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from fusehub.errors import FuseHubError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

VARIABLE = "FUSEHUB_DEVICE"
Device: TypeAlias = "str | torch.device"
"""A device by its name, `auto` among them, or as torch has it."""


def find_device(name: Device | None = None) -> str:
    """The device of that name as torch has it; for None and `auto` the one that FUSEHUB_DEVICE in the environment
    names, else an accelerator where there is one, else the CPU.

    Raises `FuseHubError` for one that is not there.
    """
    import torch

    said, name = name, asked_for(name)
    if name == "auto":
        return _own_device()
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError, ModuleNotFoundError) as error:  # Depends on the device.
        raise FuseHubError(
            f"There is no device {name} here ({str(error).splitlines()[0][:120]})"
            + (f", which {VARIABLE} names." if said is None or str(said) == "auto" else "."),
            "Say cpu, cuda or mps, or auto for the one that is there.",
        ) from error
    return name


def asked_for(name: Device | None) -> str:
    """The name of a device, or what the environment says where it is left open, or else `auto`."""
    said = "auto" if name is None else str(name)
    return (os.environ.get(VARIABLE, "").strip() or "auto") if said == "auto" else said


def _own_device() -> str:
    """Where accelerate runs this process, which may be one of several; without it, torch's first accelerator."""
    import torch

    if not torch.accelerator.is_available():
        return "cpu"
    try:
        from accelerate import PartialState
    except ImportError:
        return str(torch.accelerator.current_accelerator())
    return str(PartialState().device)


def find_dtype(name: str | torch.dtype | None) -> torch.dtype | None:
    """The dtype of that name (`bfloat16`) as torch has it. Raises `FuseHubError` for one that is not there."""
    import torch

    if name is None or isinstance(name, torch.dtype):
        return name
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise FuseHubError(f"There is no dtype {name}.", "Say float32, float16 or bfloat16.")
    return found


@cache
def has_dtype(device: str, dtype: torch.dtype) -> bool:
    """Whether tensors on the device can have that dtype, and be computed with."""
    import torch

    try:
        torch.zeros(1, dtype=dtype, device=device).add_(1)
    except (TypeError, RuntimeError, NotImplementedError):  # It lacks it: MPS, most others, one without the kernel.
        return False
    return True


def has_float64(device: torch.device | str) -> bool:
    """Whether the device has float64."""
    import torch

    return has_dtype(str(device), torch.float64)


def wide(tensor: Tensor) -> Tensor:
    """`tensor` in float64: where it is, or on the CPU where its device has no float64."""
    return tensor.double() if has_float64(tensor.device) else tensor.cpu().double()


def fitted(tensor: Tensor, like: Tensor) -> Tensor:
    """`tensor` in the dtype and on the device of `like`, never in float64 on a device that has none."""
    return tensor.to(like.dtype).to(like.device)


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


@cache
def _precision_setting() -> Any:
    """torch's switch for products of float32, where the processor multiplies bfloat16 (tiles of it, or vectors, which
    takes half of the time of float32) and torch has the switch, which came with 2.9; else None."""
    import torch

    capabilities: Any = getattr(torch.cpu, "get_capabilities", dict)
    found = capabilities()
    has_one = found.get("amx_bf16") or found.get("avx512_bf16")
    return getattr(torch.backends.mkldnn, "matmul", None) if has_one else None
