"""Weights in safetensors: their headers can be read from afar."""

from __future__ import annotations

from fusehub.models.checkpoints.files import FilesOfTensors, readable
from fusehub.models.checkpoints.kind import Tensors
from fusehub.models.ref import ModelRef
from fusehub.models.remote_headers import remote_headers


class SafetensorsFiles(FilesOfTensors):
    """`model.safetensors`, or the shards that its index names."""

    suffix = ".safetensors"

    @classmethod
    def headers_from_afar(cls, ref: ModelRef) -> Tensors | None:
        return readable(ref, remote_headers(ref, ref.weight_files()))
