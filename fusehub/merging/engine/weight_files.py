"""The files of weights that a merge writes, and what makes them a model that can be loaded: indexes, and second names.

Where every expert keeps its head, each has a folder of its own with its head and the merged body, which is on the disk
once.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fusehub.merging.engine.settling import Settled
from fusehub.merging.plan import Plan
from fusehub.models.checkpoints.checkpoint import Checkpoint, Shard, index_of, plan_shards
from fusehub.models.quantised.float8 import FLOAT8, REST

_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class WeightFile:
    """One file, by its `path` in the folder of the merge; `expert` is whose own head it has, as it is."""

    path: str
    shard: Shard
    expert: int | None = None


def weight_files(plan: Plan, settlement: Settled, experts: Sequence[Checkpoint]) -> list[WeightFile]:
    """The files of a merge, in the order in which they are written."""
    if plan.labels.policy != "keep":
        return [WeightFile(shard.filename, shard) for shard in settlement.shards]
    body = {name: tensor.info for name, tensor in settlement.tensors.items() if not tensor.is_head}
    files = [
        WeightFile(f"{plan.names[0]}/body-{shard.filename}", Shard(f"body-{shard.filename}", shard.tensors))
        for shard in plan_shards(body, plan.max_shard_size, scaled=True)
    ]
    for index, name in enumerate(plan.names):
        head = {own: experts[index].tensors[own] for own in settlement.kept[index]}
        if plan.recipe.stored_dtype == FLOAT8:
            # What is read by a config that says so is of one dtype beside float8, or transformers cannot run it.
            head = {own: replace(info, dtype=REST) if info.is_float else info for own, info in head.items()}
        files.append(WeightFile(f"{name}/head.safetensors", Shard("head.safetensors", head), index))
    return files


def make_folders(files: Sequence[WeightFile], folder: Path) -> None:
    """Makes the folders that `files` go into."""
    for file in files:
        (folder / file.path).parent.mkdir(exist_ok=True)


def complete(plan: Plan, files: Sequence[WeightFile], folder: Path, hashes: Mapping[str, str]) -> dict[str, str]:
    """Writes indexes, and gives the body that experts share its other names. `hashes` with those of all names."""
    if plan.labels.policy != "keep":
        if len(files) > 1:
            _write_index(folder, [file.shard for file in files])
        return dict(hashes)
    bodies = [file for file in files if file.expert is None]
    found = dict(hashes)
    for head in files:
        if head.expert is None:
            continue
        own = (folder / head.path).parent
        for body, path in _elsewhere(bodies, own):
            _link(folder / body.path, path)
            found[path.relative_to(folder).as_posix()] = hashes[body.path]
        _write_index(own, [*(body.shard for body in bodies), head.shard])
    return found


def _elsewhere(bodies: Sequence[WeightFile], folder: Path) -> Iterator[tuple[WeightFile, Path]]:
    """The files of the body that are in another folder, and where they are to be in this one."""
    for body in bodies:
        if Path(body.path).parent.name != folder.name:
            yield body, folder / body.shard.filename


def _write_index(folder: Path, shards: list[Shard]) -> None:
    (folder / _INDEX).write_text(json.dumps(index_of(shards), indent=2) + "\n", encoding="utf-8")


def _link(source: Path, target: Path) -> None:
    """The same file under a second name; a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
