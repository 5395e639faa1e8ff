"""Where models run, and what that device can hold, found out by trying: Apple's GPUs, and others, have no float64.

device = find_device("auto")        # what FUSEHUB_DEVICE says, or where accelerate would run a model
total = wide(tensor).sum()          # in float64, on the device or, where that has none, on the CPU
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

from fusehub.errors import FuseHubError, first_line

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
        told = f", which {VARIABLE} names" if said is None or str(said) == "auto" else ""
        raise FuseHubError(
            f"There is no device {name} here{told}{_why(name, error)}.", f"Say {' or '.join(_there())}, or auto."
        ) from error
    return name


def _there() -> list[str]:
    """The devices that torch finds here."""
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    count = torch.accelerator.device_count() if accelerator else 0
    return ["cpu", *(f"{accelerator.type}:{index}" for index in range(count) if accelerator)]


def _why(name: str, error: Exception) -> str:
    """What torch says against a device of a kind that it knows: of a driver that is missing, or of its own build."""
    import torch

    try:
        torch.device(name)
    except RuntimeError:
        return ""  # It lists all kinds that it knows, most of which nobody has.
    # Of a kind that this build has no code for, torch lists all that it has.
    return "" if isinstance(error, NotImplementedError) else f": {first_line(error)}"


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
