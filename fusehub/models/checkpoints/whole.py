"""Weights of models that are whole by themselves."""

from __future__ import annotations

from fusehub.models.checkpoints.files import FilesOfTensors
from fusehub.models.checkpoints.safetensors_files import SafetensorsFiles
from fusehub.models.checkpoints.torch_files import TorchFiles
from fusehub.models.ref import ModelRef

WHOLE: tuple[type[FilesOfTensors], ...] = (SafetensorsFiles, TorchFiles)


def whole_of(ref: ModelRef) -> type[FilesOfTensors]:
    """The kind of the files in which the model's own weights are, or those of its base."""
    return next(kind for kind in WHOLE if kind.is_kind_of(ref))
