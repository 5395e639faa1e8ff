"""Weights in files of tensors: in one, or in several that are its shards, each tensor in one of them."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from fusehub.errors import FuseHubError, NotFound
from fusehub.models.checkpoints.kind import StoredWeights, Tensors
from fusehub.models.checkpoints.wrappers import wrapping_of
from fusehub.models.quantised.float8 import plain, scaled_in
from fusehub.models.ref import ModelRef
from fusehub.models.tensor_files import TensorFile, TensorInfo, open_tensors, require_few

if TYPE_CHECKING:
    import torch


def readable(ref: ModelRef, stored: Mapping[str, TensorInfo]) -> Tensors:
    """What can be read of files that hold the tensors `stored`: by names without what wrappers put around them, and
    weights in float8 without their scales."""
    scaled = scaled_in(lambda: ref.config, ref.name, stored)
    infos = plain(stored, scaled)
    wrapping = wrapping_of(ref, infos)
    return Tensors(
        {wrapping.of(name): info for name, info in infos.items()},
        wrapping,
        {wrapping.of(name): own for name, own in scaled.items()},
    )


class FilesOfTensors(StoredWeights):
    """Files that each hold some of the tensors."""

    suffix: ClassVar[str]
    """How their names end."""

    @classmethod
    def is_kind_of(cls, ref: ModelRef) -> bool:
        return ref.weight_files()[0].endswith(cls.suffix)

    @classmethod
    def headers(cls, ref: ModelRef) -> Tensors | None:
        """What lies here is opened; of what is at the Hub, what can be told from afar."""
        if ref.folder is None:
            return cls.headers_from_afar(ref)
        with contextlib.closing(cls(ref)) as files:
            return files.tensors

    @classmethod
    @abstractmethod
    def headers_from_afar(cls, ref: ModelRef) -> Tensors | None:
        """What the files at the Hub hold, by ranged reads; None where that needs the whole files."""

    def __init__(self, ref: ModelRef) -> None:
        self._name = ref.name
        self._open: list[TensorFile] = []
        try:
            for filename in ref.weight_files():
                self._open.append(open_tensors(ref.path(filename), ref.name))
                require_few(sum(len(own.tensors) for own in self._open), ref.name)
            self._files = {name: file for file in self._open for name in file.tensors}
            self.tensors = readable(ref, {name: file.tensors[name] for name, file in self._files.items()})
        except FuseHubError:
            self.close()
            raise
        wrapping = self.tensors.wrapping
        self._stored = {wrapping.of(name): name for name in self._files}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """As the file has it; in float32 what float8 with scales means."""
        if name not in self.tensors:
            raise NotFound(f"{self._name} has no tensor {name}.", "Are the models of one architecture?")
        stored, scaled = self._stored[name], self.tensors.scaled.get(name)
        return scaled.read(stored, start, stop, self._rows) if scaled else self._rows(stored, start, stop)

    def read_ahead(self, name: str) -> None:
        if name in self.tensors:
            self._files[self._stored[name]].read_ahead(self._stored[name])

    def _rows(self, stored: str, start: int, stop: int | None) -> torch.Tensor:
        return self._files[stored].read(stored, start, stop)

    def close(self) -> None:
        """Closes all of them."""
        for file in self._open:
            file.close()
