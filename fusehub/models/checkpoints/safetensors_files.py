"""Weights in safetensors: their headers can be read from afar."""

from __future__ import annotations

from fusehub.models.checkpoints.files import FilesOfTensors
from fusehub.models.checkpoints.kind import Tensors
from fusehub.models.ref import ModelRef
from fusehub.models.remote_headers import remote_headers
from fusehub.models.wrappers import wrapping_of


class SafetensorsFiles(FilesOfTensors):
    """`model.safetensors`, or the shards that its index names."""

    suffix = ".safetensors"

    @classmethod
    def headers_from_afar(cls, ref: ModelRef) -> Tensors | None:
        stored = remote_headers(ref, ref.weight_files())
        wrapping = wrapping_of(ref, stored)
        return Tensors({wrapping.of(name): info for name, info in stored.items()}, wrapping)
