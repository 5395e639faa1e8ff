"""What is asked of the weights of a model, however they are stored: their headers, and the tensors one by one.

Nothing asks which kind it is. A new one is a file beside this one and a line in `fusehub.models.checkpoints`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from fusehub.models.checkpoints.wrappers import Wrapping
from fusehub.models.quantised.float8 import Scaled
from fusehub.models.ref import ModelRef
from fusehub.models.tensor_files import TensorInfo

if TYPE_CHECKING:
    import torch


class Tensors(dict[str, TensorInfo]):
    """The tensors of a checkpoint by their names, in the order of these: `wrapping` is what was taken off the names,
    `scaled` has those that are stored in float8."""

    def __init__(
        self,
        tensors: Mapping[str, TensorInfo],
        wrapping: Wrapping,
        scaled: Mapping[str, Scaled] = MappingProxyType({}),
    ) -> None:
        super().__init__(sorted(tensors.items()))
        self.wrapping, self.scaled = wrapping, scaled


class StoredWeights(ABC):
    """The weights of one model, open for reading. Whoever makes it closes it."""

    tensors: Tensors
    """All that can be read."""
    read_by_transformers: ClassVar[bool] = True
    """The files are what transformers itself loads."""

    @classmethod
    @abstractmethod
    def is_kind_of(cls, ref: ModelRef) -> bool:
        """Whether the weights of `ref` are stored so."""

    @classmethod
    @abstractmethod
    def headers(cls, ref: ModelRef) -> Tensors | None:
        """What the model has, without downloading its weights; None where that needs them."""

    @abstractmethod
    def __init__(self, ref: ModelRef) -> None:
        """Opens the weights of `ref`, on this machine; nothing stays open where that raises."""

    @abstractmethod
    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """The tensor called `name`, or its rows `start:stop` along the first axis. Raises `NotFound`."""

    def read_ahead(self, name: str) -> None:  # noqa: B027  # For whoever can.
        """Has the system read the tensor, where it can: `read` comes soon."""

    @abstractmethod
    def close(self) -> None:
        """Closes the files."""
