"""The model card of a merge: what went in, how it was made, how good it is, and how to make it again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

    from fusehub.evaluate import Evaluation


def model_card(
    folder: str | Path,
    *,
    repo_id: str | None = None,
    evaluation: Evaluation | Mapping[str, Any] | None = None,
) -> ModelCard:
    """The card of the merge in `folder`; `evaluation` adds its results."""
    raise NotImplementedError


def statistics_card(metadata: Mapping[str, Any], *, repo_id: str | None = None) -> ModelCard:
    """The card of a companion repo that holds the statistics described by `metadata`."""
    raise NotImplementedError
