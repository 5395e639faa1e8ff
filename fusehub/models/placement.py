"""Where a model that is to be counted runs, and in which precision.

On an accelerator in bfloat16 if it has that, since sums are kept in float32 whatever the model has; on a CPU as it is
stored, but float16 as float32, for which CPUs have all operations. A model larger than its device is spread by
accelerate.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fusehub.errors import FuseHubError
from fusehub.models.loading import Spread, load_model
from fusehub.utils.devices import Device, asked_for, find_device, has_dtype

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from fusehub.models.resolve import ModelRef
    from fusehub.utils.processes import Processes

# What a forward needs beside the weights, as a part of them.
_ROOM = 1.2


def load_for_counting(
    ref: ModelRef,
    processes: Processes,
    folder: Path,
    *,
    device: Device | None = None,
    dtype: torch.dtype | None = None,
    device_map: Literal["auto"] | None = None,
    max_memory: Mapping[str, int] | None = None,
) -> PreTrainedModel:
    """The model, ready to be run; what is offloaded to the disk lies in `folder` for as long as it is used.

    `device` is another than that of the process, `dtype` for what needs one of its own.
    """
    place = own_device(processes, device)
    dtype = dtype or precision(ref, place)
    if device_map is None and not (processes.count == 1 and _too_large(ref, place, dtype)):
        return load_model(ref, dtype=dtype, device=place)
    if processes.count > 1:
        raise FuseHubError(
            f"{processes.count} processes cannot spread one model over the same devices.",
            "Start one process with --device-map auto, or several without it.",
        )
    return load_model(ref, dtype=dtype, spread=Spread(folder, max_memory))


def load_to_run(ref: ModelRef, place: str) -> PreTrainedModel:
    """The model whole on one device, where its weights can be changed: the accelerator `place` if it fits there."""
    dtype = precision(ref, place)
    if _too_large(ref, place, dtype):
        return load_model(ref, dtype=precision(ref, "cpu"), device="cpu")
    return load_model(ref, dtype=dtype, device=place)


def own_device(processes: Processes, name: Device | None) -> str:
    """The device of this process: the one of that name, each process with its own where there are several of it.

    Raises `FuseHubError` for one that is not there.
    """
    own, said = processes.device, asked_for(name)
    return str(own) if said in ("auto", own.type) else find_device(name)


def precision(ref: ModelRef, device: str) -> torch.dtype | None:
    """What a model is counted in on the device; None for what it is stored in."""
    import torch

    if torch.device(device).type != "cpu":
        return torch.bfloat16 if has_dtype(device, torch.bfloat16) else torch.float32
    stored = ref.config.get("dtype") or ref.config.get("torch_dtype")
    return torch.float32 if stored == "float16" else None


def _too_large(ref: ModelRef, device: str, dtype: torch.dtype | None) -> bool:
    """Whether the weights do not fit on this accelerator."""
    import torch

    from fusehub.models.checkpoints.checkpoint import Checkpoint

    if not device.startswith("cuda"):
        return False
    with Checkpoint(ref) as checkpoint:
        numbers = sum(info.numel for info in checkpoint.tensors.values())
    free, _ = torch.cuda.mem_get_info(device)
    return numbers * (dtype or torch.float32).itemsize * _ROOM > free
