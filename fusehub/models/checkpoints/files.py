"""Weights in files of tensors: in one, or in several that are its shards, each tensor in one of them."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from fusehub.errors import FuseHubError, NotFound
from fusehub.models.checkpoints.kind import StoredWeights, Tensors
from fusehub.models.ref import ModelRef
from fusehub.models.tensor_files import TensorFile, open_tensors, require_few
from fusehub.models.wrappers import wrapping_of

if TYPE_CHECKING:
    import torch


class FilesOfTensors(StoredWeights):
    """Files that each hold some of the tensors, by names without what wrappers put around them."""

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
            stored = {name: file for file in self._open for name in file.tensors}
            wrapping = wrapping_of(ref, stored)
        except FuseHubError:
            self.close()
            raise
        # Each name -> its file, and its name there.
        self._places = {wrapping.of(name): (file, name) for name, file in stored.items()}
        infos = {name: file.tensors[own] for name, (file, own) in self._places.items()}
        self.tensors = Tensors(infos, wrapping)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """As the file has it."""
        if name not in self._places:
            raise NotFound(f"{self._name} has no tensor {name}.", "Are the models of one architecture?")
        file, stored = self._places[name]
        return file.read(stored, start, stop)

    def close(self) -> None:
        """Closes all of them."""
        for file in self._open:
            file.close()
