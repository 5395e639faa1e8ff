"""A device without float64, as Apple's GPUs are one: everything else works on it, and it computes as the CPU does.

    start()
    torch.ones(2, device="plain").double()     # TypeError

For a process of its own, since torch takes one such device a process. It is the accelerator that torch and accelerate
find there. A tensor on it holds one of the CPU; each operation is done on these, and its result is put back.
"""

import os
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "plain"
# Operations that take tensors of the CPU beside those of the device.
_MIXED = {"copy_", "_to_copy", "index", "index_put_", "_index_put_impl_"}


class OnDevice(torch.Tensor):
    """A tensor on the device; `held` has its numbers."""

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "OnDevice":
        if held.dtype == torch.float64:
            raise TypeError("The device does not have float64.")
        # What makes views of a tensor expects one that is like it.
        with torch.inference_mode(False):
            return torch.Tensor._make_wrapper_subclass(
                cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
                device=torch.device(NAME, 0),
            )  # fmt: skip

    def __init__(self, held: torch.Tensor) -> None:
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _run(operation, args, kwargs or {})


def _run(operation: Any, args: tuple, kwargs: dict) -> Any:
    given: list[OnDevice] = []

    def lower(value: Any) -> Any:
        if isinstance(value, OnDevice):
            given.append(value)
            return value.held
        if isinstance(value, torch.Tensor) and value.ndim and operation.overloadpacket.__name__ not in _MIXED:
            raise RuntimeError(f"{operation}: a tensor of the CPU among those of the device.")
        if isinstance(value, torch.device):
            return torch.device("cpu")
        return value

    device = kwargs.get("device")
    stays = device is None or torch.device(device).type == NAME
    result = operation(*tree_map(lower, args), **tree_map(lower, kwargs))

    def lift(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        same = [one for one in given if one.held is value]
        return same[0] if same else OnDevice(value)

    if operation is torch.ops.aten.copy_.default and not isinstance(args[0], OnDevice):
        return args[0]
    return tree_map(lift, result) if stays else result


def _run_as(operation: Any, *args: Any, **kwargs: Any) -> Any:
    return _run(operation, args, kwargs)


def start() -> None:
    """Makes the device known, and the one that is used by default."""
    _setup_privateuseone_for_python_backend(NAME)
    library = torch.library.Library("aten", "IMPL")
    # What torch calls where no tensor of the device is among the arguments yet, or none that Python is asked about.
    for name, operation in {
        "empty.memory_format": torch.ops.aten.empty.memory_format,
        "empty_strided": torch.ops.aten.empty_strided.default,
        "copy_": torch.ops.aten.copy_.default,
    }.items():
        library.impl(name, partial(_run_as, operation), "PrivateUse1")
    start.library = library
    os.environ["ACCELERATE_TORCH_DEVICE"] = f"{NAME}:0"
