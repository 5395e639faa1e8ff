"""Weights of a base, with an adapter's updates added as they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusehub.errors import FuseHubError
from fusehub.models.adapters.lora import Updates
from fusehub.models.adapters.ref import adapter_header, open_adapter
from fusehub.models.checkpoints.kind import StoredWeights, Tensors
from fusehub.models.checkpoints.whole import whole_of
from fusehub.models.ref import ModelRef

if TYPE_CHECKING:
    import torch


class AdapterOverBase(StoredWeights):
    """The base's files, whatever kind they are, and the adapter's."""

    read_by_transformers = False

    @classmethod
    def is_kind_of(cls, ref: ModelRef) -> bool:
        return ref.parts is not None

    @classmethod
    def headers(cls, ref: ModelRef) -> Tensors | None:
        """Those of the base, and what the adapter brings along as a whole."""
        assert ref.parts is not None
        base, adapter = ref.parts
        known = whole_of(base).headers(base)
        if known is None:
            return None
        return Tensors({**known, **Updates(ref, known, adapter_header(adapter)).added}, known.wrapping, known.scaled)

    def __init__(self, ref: ModelRef) -> None:
        assert ref.parts is not None
        self._base = whole_of(ref)(ref)
        try:
            self._adapter = open_adapter(ref.parts.adapter)
        except FuseHubError:
            self._base.close()
            raise
        try:
            self._updates = Updates(ref, self._base.tensors, self._adapter)
            self._updates.require_apart(self._base.read)
        except FuseHubError:
            self.close()
            raise
        own = self._base.tensors
        self.tensors = Tensors({**own, **self._updates.added}, own.wrapping, own.scaled)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """With its update, in float32 or wider, where the adapter changes it."""
        if name in self._updates:
            return self._updates.read(name, self._base.read, start, stop)
        return self._base.read(name, start, stop)

    def read_ahead(self, name: str) -> None:
        self._base.read_ahead(name)

    def close(self) -> None:
        """Closes the files of both."""
        self._base.close()
        self._adapter.close()
