"""Weights in files of `torch.save`, which hold plain tensors alone."""

from __future__ import annotations

from fusehub.models.checkpoints.files import FilesOfTensors
from fusehub.models.checkpoints.kind import Tensors
from fusehub.models.ref import ModelRef


class TorchFiles(FilesOfTensors):
    """`pytorch_model.bin`, or the shards that its index names."""

    # An index may name them anything.
    suffix = ""

    @classmethod
    def headers_from_afar(cls, ref: ModelRef) -> Tensors | None:
        """None: such a file has no header to read."""
        return None
