"""What a plan cannot know before the weights are read: which tensors are second copies of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fusehub.merging.plan import Plan
from fusehub.merging.planner import TensorPlan
from fusehub.models.checkpoints.checkpoint import Checkpoint, Shard, plan_shards
from fusehub.models.known.layouts import layout_like
from fusehub.models.ties import StoredNames, is_copy_in, require_one, stored_names


@dataclass(frozen=True)
class Settled:
    """What of a plan is written: its tensors, the names of what each expert keeps, and the files."""

    tensors: Mapping[str, TensorPlan]
    kept: tuple[tuple[str, ...], ...]
    shards: tuple[Shard, ...]


def settled(plan: Plan, experts: Sequence[Checkpoint], base: Checkpoint | None) -> Settled:
    """`plan` without the tensors that are copies in every model: loading ties them again.

    Raises `Incompatible` where a model stores a parameter under two names, with different numbers.
    """
    names = [
        stored_names(ref, layout_like(ref, plan.layout), file.tensors)
        for ref, file in zip(plan.experts, experts, strict=True)
    ]
    for file, own in zip(experts, names, strict=True):
        require_one(file, own)
    if base is not None and plan.base is not None:
        require_one(base, stored_names(plan.base, plan.layout, base.tensors))
    copies = set(_copies(plan, experts, names))
    kept = tuple(
        tuple(name for name in stored if not _is_kept_copy(name, file, own))
        for stored, file, own in zip(plan.kept, experts, names, strict=True)
    )
    if not copies and kept == plan.kept:
        return Settled(plan.tensors, plan.kept, plan.shards)
    tensors = {name: tensor for name, tensor in plan.tensors.items() if name not in copies}
    infos = {name: tensor.info for name, tensor in tensors.items()}
    shards = plan_shards(infos, plan.max_shard_size, scaled=True)
    return Settled(tensors, kept, tuple(shards))


def _copies(plan: Plan, experts: Sequence[Checkpoint], names: Sequence[StoredNames]) -> list[str]:
    """The tensors of the plan that are another one in every model."""
    tensors = {tensor.parameter: tensor for tensor in plan.tensors.values()}
    tied = {parameter: source for own in names for parameter, source in own.tied.items()}
    found = []
    for parameter, source in tied.items():
        # Where a config says that they are two, they stay two.
        if parameter not in tensors or not all(parameter in own.tied for own in names):
            continue
        pairs = zip(experts, tensors[parameter].sources, tensors[source].sources, strict=True)
        if all(is_copy_in(file, name, other) for file, name, other in pairs):
            found.append(tensors[parameter].name)
    return found


def _is_kept_copy(name: str, file: Checkpoint, own: StoredNames) -> bool:
    other = next((source for parameter, source in own.unsure.items() if own.own[parameter] == name), None)
    return other is not None and is_copy_in(file, name, own.own[other])
