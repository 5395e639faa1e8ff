"""Has the system read what the next layers need while one is solved.

    with ReadAhead(tensors, solver, experts) as ahead:
        ahead.begins(tensor)      # what is solved after it is read meanwhile

Nothing of it is memory of this process: the bytes lie where the system keeps what it has read of files, and it takes
that back where somebody needs the room. A device that solves a layer in a second would wait as long for a disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from fusehub.merging.engine.layer_solver import LayerSolver
from fusehub.merging.planner import TensorPlan
from fusehub.models.checkpoints.checkpoint import Checkpoint


class ReadAhead:
    """Weights and statistics of `tensors`, the layers that are solved in that order: of as many of them before their
    turn as are solved beside each other."""

    def __init__(
        self, tensors: Sequence[TensorPlan], solver: LayerSolver, experts: Sequence[Checkpoint], beside: int = 1
    ) -> None:
        self._tensors, self._solver, self._experts, self._beside = tensors, solver, experts, beside
        self._places = {tensor.name: place for place, tensor in enumerate(tensors)}
        self._asked = 0
        self._thread = ThreadPoolExecutor(1)

    def begins(self, tensor: TensorPlan) -> None:
        """Says that this one is being solved. Called in the order in which they are begun, which is about theirs."""
        place = self._places.get(tensor.name, -1)
        first = max(self._asked, place + 1)
        for later in self._tensors[first : place + 1 + self._beside]:
            self._asked = self._places[later.name] + 1
            self._thread.submit(self._read_ahead, later)

    def _read_ahead(self, tensor: TensorPlan) -> None:
        self._solver.read_ahead(tensor)
        for expert, own in zip(self._experts, tensor.sources, strict=True):
            expert.read_ahead(own)

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
