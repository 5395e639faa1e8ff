"""What came of a merge, as `fusehub.merge` gives it back."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

from fusehub.hub.upload import ModelPushOptions, Published
from fusehub.merging.plan import Plan
from fusehub.merging.planner import TensorPlan
from fusehub.methods import Note
from fusehub.utils.frozen import freeze


@dataclass(frozen=True)
class MergeResult:
    """A merge that was carried out: where it is, the plan that it was made by, and what came of it.

    Attributes:
        folder: The folder with the model.
        plan: What was planned.
        tensors: What became of each tensor: as planned, but for copies that only the weights tell, and for what was
            given no input where the model was run.
        kept: For each expert the names in its file of what it kept.
        remarks: What is worth knowing of the merge: the notes of the plan, and what was seen on the way.
        notes: What methods had to say of layers, by the names of their weights.
        precision: The arithmetic that solved layers took, by the names of their weights, where the method chose it:
            `float32`, `refined` (with the residual in float64) or `float64`.
        hashes: Files of weights -> their sha256.

    Examples:
        >>> result = fusehub.merge(["user/expert-1", "user/expert-2"], "merged", method="mean")
        >>> result.plan.method.name, list(result.hashes)
        ('mean', ['model.safetensors'])
    """

    folder: Path
    plan: Plan
    tensors: Mapping[str, TensorPlan]
    kept: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...]
    notes: Mapping[str, tuple[Note, ...]] = field(default_factory=dict)
    precision: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        freeze(self, "tensors", "notes", "precision", "hashes")

    @property
    def told(self) -> list[str]:
        """What is worth saying of tensors: each kind of note once, as it was first said."""
        told: dict[str, str] = {}
        for note in itertools.chain(*self.notes.values()):
            told.setdefault(note.kind, note.text)
        return list(told.values())

    def push_to_hub(self, repo_id: str, **options: Unpack[ModelPushOptions]) -> Published:
        """Pushes the merge to the Hub, as `fusehub.publish` does.

        Args:
            repo_id: `user/name`, or `name` for your own.
            **options: The other arguments of `fusehub.publish`.

        Returns:
            Where it is.

        Raises:
            FuseHubError: What `fusehub.publish` raises.
        """
        import fusehub  # As a user would: publishing is floors above.

        return fusehub.publish(self.folder, repo_id, **options)
