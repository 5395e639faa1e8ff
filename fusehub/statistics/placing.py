"""Where a model that is to be counted runs, and in which precision.

On an accelerator in bfloat16, since sums are kept in float32 whatever the model has; on a CPU as it is stored, but
float16 as float32, for which CPUs have all operations. A model larger than its device is spread by accelerate.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fusehub.errors import FuseHubError
from fusehub.pretrained import Spread, load_model

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from fusehub.refs import ModelRef
    from fusehub.statistics.processes import Processes

# What a forward needs beside the weights, as a part of them.
_ROOM = 1.2


def load_for_counting(
    ref: ModelRef,
    processes: Processes,
    folder: Path,
    dtype: torch.dtype | None = None,
    device_map: Literal["auto"] | None = None,
    max_memory: Mapping[str, int] | None = None,
) -> PreTrainedModel:
    """The model, ready to be run; what is offloaded to the disk lies in `folder` for as long as it is used.

    `dtype` is for what needs one of its own.
    """
    dtype = dtype or _precision(ref, processes.device.type)
    if device_map is None and not (processes.count == 1 and _too_large(ref, processes, dtype)):
        return load_model(ref, dtype=dtype, device=str(processes.device))
    if processes.count > 1:
        raise FuseHubError(
            f"{processes.count} processes cannot spread one model over the same devices.",
            "Start one process with --device-map auto, or several without it.",
        )
    return load_model(ref, dtype=dtype, spread=Spread(folder, max_memory))


def load_to_run(ref: ModelRef) -> PreTrainedModel:
    """The model whole on one device, where its weights can be changed: the accelerator if it fits there."""
    from fusehub.statistics.processes import Processes

    processes = Processes.find()
    if processes.count > 1:
        raise FuseHubError(f"{processes.count} processes cannot merge together.", "Start one, without torchrun.")
    dtype = _precision(ref, processes.device.type)
    if _too_large(ref, processes, dtype):
        return load_model(ref, dtype=_precision(ref, "cpu"), device="cpu")
    return load_model(ref, dtype=dtype, device=str(processes.device))


def _precision(ref: ModelRef, device: str) -> torch.dtype | None:
    import torch

    if device != "cpu":
        return torch.bfloat16
    stored = ref.config.get("dtype") or ref.config.get("torch_dtype")
    return torch.float32 if stored == "float16" else None


def _too_large(ref: ModelRef, processes: Processes, dtype: torch.dtype | None) -> bool:
    """Whether the weights do not fit on this process's accelerator."""
    import torch

    from fusehub.checkpoint import Checkpoint

    if processes.device.type != "cuda":
        return False
    with Checkpoint(ref) as checkpoint:
        numbers = sum(info.numel for info in checkpoint.tensors.values())
    free, _ = torch.cuda.mem_get_info(processes.device)
    return numbers * (dtype or torch.float32).itemsize * _ROOM > free
