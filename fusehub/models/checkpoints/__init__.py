"""The weights of a model, read and written: one file a kind of checkpoint, one list of them all."""

from __future__ import annotations

from fusehub.models.checkpoints.adapter_over_base import AdapterOverBase
from fusehub.models.checkpoints.kind import StoredWeights
from fusehub.models.checkpoints.whole import WHOLE
from fusehub.models.ref import ModelRef

KINDS: tuple[type[StoredWeights], ...] = (AdapterOverBase, *WHOLE)
"""All kinds, the first that it is counts; a new one is a line here, or in `WHOLE` where adapters may be put on it."""


def kind_of(ref: ModelRef) -> type[StoredWeights]:
    """How the weights of `ref` are stored. Raises `NotFound` where there are none."""
    return next(kind for kind in KINDS if kind.is_kind_of(ref))
