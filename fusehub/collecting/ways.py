"""How a batch goes through a model that is watched: through all of it, or (`by_blocks/forward.py`) through a part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fusehub.collecting.probes import Batch


class Way(Protocol):
    """What `GramCollector` has run; its hooks see the calls of modules while that lasts."""

    @property
    def device(self) -> torch.device:
        """Where a batch must be."""

    @property
    def live(self) -> bool:
        """Whether what modules are given at this moment is what the whole model would give them."""

    def run(self, batch: Batch) -> Any:
        """Runs `batch`, which is on `device`; the model's output, or None where it is not run to its end."""


class Whole:
    """The whole model, at every run."""

    live = True

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    @property
    def device(self) -> torch.device:
        return device_of(self._model)

    def run(self, batch: Batch) -> Any:
        return self._model(**batch)


def device_of(model: nn.Module) -> torch.device:
    """Where a model takes its inputs: where its first weight is, or is brought to by accelerate when it is needed."""
    import torch

    places = getattr(model, "hf_device_map", None)
    if places:
        # What is kept on the disk or in memory is run on the accelerator, if there is one in the map.
        running = next((place for place in places.values() if place not in ("cpu", "disk")), "cpu")
        return torch.device(running)
    return next(model.parameters()).device
