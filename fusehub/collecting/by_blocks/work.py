"""What a run block by block has done so far, in files, so that the same command goes on where a killed one was.

    work = BlockWork(folder, facts, processes)
    work.state.done                                    # blocks that are done, in the order of the model
    work.finish(block, sums, aliases, spared)          # one more is, for all processes together

The sums of each block are a file, written once, by the main process; what blocks gave is a file for each batch, of the
process that ran it, removed when the next block is done. Sums that are the same in every number as those of an
earlier block are of one input (what an encoder gives, to all blocks of a decoder), and are kept once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.collecting.by_blocks.kept_outputs import KeptOutputs
from fusehub.models.checkpoints.checkpoint import write_tensors
from fusehub.models.piecewise.blocks import list_of
from fusehub.models.tensor_files import SafetensorsFile
from fusehub.statistics.grams import GramSum
from fusehub.utils.folders.places import place_errors

if TYPE_CHECKING:
    from torch import Tensor

    from fusehub.utils.processes import Processes

logger = logging.getLogger(__name__)

FOLDER = "blocks"


@dataclass
class BlockState:
    """Where a run is; as JSON has it."""

    done: list[str] = field(default_factory=list)
    """Blocks."""
    ended: bool = False
    """Whether what comes after the last block is done too."""
    verdicts: dict[str, str] = field(default_factory=dict)
    split: bool = False
    """Whether batches have no padding."""
    spared: list[str] = field(default_factory=list)
    """Embeddings that need not be in memory any more."""
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of each weight that has sums: `size`, `rows`, `stage`, and the hash of its `s`."""
    aliases: dict[str, str] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)
    """Of each weight whose inputs were counted, by itself or with another, the stage."""
    returned: int = 0
    """How many stages gradients have come back through, from the last on."""
    squares: dict[str, list[int]] = field(default_factory=dict)
    """Of each parameter that some gradient reached, the stages whose squares are to be added."""


class BlockWork:
    """The work of one process of several; a run of the same `facts` goes on with it, another begins anew."""

    def __init__(
        self, folder: Path, facts: Mapping[str, Any], processes: Processes, *, gradients: bool = False
    ) -> None:
        self._folder, self._keeps_all = folder / FOLDER, gradients
        self._facts = json.loads(json.dumps(facts))
        self._processes = processes
        self._path = self._folder / f"process-{processes.index}.json"
        self.kept = KeptOutputs(self._folder / f"process-{processes.index}")
        self.gradients = KeptOutputs(self._folder / f"process-{processes.index}-gradients")
        self.rows = KeptOutputs(self._folder / f"process-{processes.index}-rows")
        self.state = self._read()

    def begin_anew(self, **known: Any) -> None:
        """As if nothing was done, but for what is `known` of the state."""
        if self._processes.is_main:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._processes.agree()
        self.state = BlockState(**known)

    def finish(
        self, block: str | None, sums: Mapping[str, GramSum], aliases: Mapping[str, str], spared: list[str]
    ) -> None:
        """The next block is done, or all that comes after the last; `sums` are those of all processes together."""
        state, stage = self.state, len(self.state.done)
        state.counted |= dict.fromkeys([*sums, *aliases], stage)
        twins = self._add(sums, stage) if self._processes.is_main else {}
        state.aliases |= {name: twins.get(to, to) for name, to in aliases.items()} | twins
        state.spared = spared
        before = None
        if block is None:
            state.ended = True
        else:
            same_list = [place for place, own in enumerate(state.done) if list_of(own) == list_of(block)]
            before = same_list[-1] if same_list else None
            state.done.append(block)
        # None forgets what another may still need: all have written, and said so, before anything is removed.
        self._processes.agree()
        self._write()
        self._processes.agree()
        if before is not None and not self._keeps_all:
            self.kept.remove(before)

    def return_from(self, stage: int, sums: Mapping[str, Tensor]) -> None:
        """Gradients have come back through that stage; `sums` are the squares of its parameters, of all processes."""
        if self._processes.is_main:
            _write_whole(self.squares_path(stage), sums)
        for name in sums:
            self.state.squares.setdefault(name, []).append(stage)
        self.state.returned += 1
        # As in `finish`: none forgets what another may still need.
        self._processes.agree()
        self._write()
        self._processes.agree()
        self.gradients.remove(stage + 1)
        self.kept.remove(stage - 1)

    def squares_path(self, stage: int) -> Path:
        """The file of what `return_from` was given."""
        return self._folder / f"squares-{stage}.safetensors"

    def sums(self) -> dict[str, StoredSums]:
        """All sums, by weight, each read when it is asked for."""
        return {
            name: StoredSums(own["size"], own["rows"], own["stage"], self._sums_path(own["stage"]), name)
            for name, own in self.state.layers.items()
        }

    def remove(self) -> None:
        """Removes all of it."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _add(self, sums: Mapping[str, GramSum], stage: int) -> dict[str, str]:
        """Writes `sums`; those that an earlier stage has too are not, but given by its name for them."""
        tensors: dict[str, Tensor] = {}
        twins: dict[str, str] = {}
        earlier = self.sums()
        for name, own in sums.items():
            told = {"size": own.size, "rows": own.rows, "digest": _digest(own.total)}
            like = (other for other in earlier if self.state.layers[other] == told | {"stage": earlier[other].stage})
            twin = next((other for other in like if _equal(own, earlier[other].load())), None)
            if twin is not None:
                twins[name] = twin
                continue
            self.state.layers[name] = told | {"stage": stage}
            tensors |= {f"{name}:{at}": value for at, value in enumerate(own.tensors())}
        _write_whole(self._sums_path(stage), tensors)
        return twins

    def _sums_path(self, stage: int) -> Path:
        return self._folder / f"sums-{stage}.safetensors"

    def _read(self) -> BlockState:
        """What all processes have done of the same; an empty one, said to be so, where an earlier run was another."""
        found = None
        if self._path.exists():
            try:
                content = json.loads(self._path.read_text(encoding="utf-8"))
                found = BlockState(**content["state"])
                differing = sorted(
                    key
                    for key in {*self._facts, *content["facts"]}
                    if self._facts.get(key) != content["facts"].get(key)
                )
            except (ValueError, LookupError, TypeError):
                logger.warning("%s cannot be read; starting anew.", self._path)
                found = None
            else:
                if differing:
                    logger.warning(
                        "An earlier run was stopped, but not of the same (%s): starting anew.", ", ".join(differing)
                    )
                    found = None
        states = self._processes.agree(dataclasses.asdict(found) if found else None)
        if any(state is None for state in states):
            if self._processes.is_main:
                self.remove()
            self._processes.agree()
            return BlockState()
        if self._processes.is_main:
            logger.warning("Going on where an earlier run of the same was stopped.")
        # A process that was killed a moment earlier than the others has one block less; only the main one has sums.
        least = min(states, key=lambda state: (len(state["done"]), state["ended"], state["returned"]))
        return _cut(BlockState(**{**states[0], **{own: least[own] for own in ("done", "ended", "returned")}}))

    def _write(self) -> None:
        text = json.dumps({"facts": self._facts, "state": dataclasses.asdict(self.state)})
        partial = self._path.with_suffix(".partial")
        with place_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            with partial.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self._path)


@dataclass(frozen=True)
class StoredSums:
    """The sums of one layer, which lie in a file."""

    size: int
    rows: int
    stage: int
    _path: Path
    _name: str

    def load(self) -> GramSum:
        """The sums in memory."""
        sums = GramSum(self.size)
        sums.rows = self.rows
        file = SafetensorsFile(self._path, "sums")
        try:
            for at, value in enumerate(sums.tensors()):
                value.copy_(file.read(f"{self._name}:{at}", 0, None))
        finally:
            file.close()
        return sums

    @property
    def total(self) -> Tensor:
        """The sum of the rows: [in], float64."""
        return self.load().total

    @property
    def standard_error(self) -> float | None:
        """The relative standard error of `S`; None where it is not known."""
        return self.load().standard_error

    def packed(self) -> Tensor:
        """The upper triangle of `S`, row after row: [in * (in + 1) / 2], float32."""
        return self.load().packed()


def _write_whole(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a file, finished or not at all."""
    partial = path.with_suffix(".partial")
    with place_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_tensors(partial, tensors, {})
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def _cut(state: BlockState) -> BlockState:
    """Without the layers of blocks that are not done."""
    last = len(state.done) + state.ended
    state.layers = {name: own for name, own in state.layers.items() if own["stage"] < last}
    state.counted = {name: stage for name, stage in state.counted.items() if stage < last}
    state.aliases = {name: to for name, to in state.aliases.items() if name in state.counted}
    # Gradients come from the last stage, what comes after all blocks.
    first = len(state.done) + 1 - state.returned
    squares = {name: [stage for stage in stages if stage >= first] for name, stages in state.squares.items()}
    state.squares = {name: stages for name, stages in squares.items() if stages}
    return state


def _digest(total: Tensor) -> str:
    return hashlib.sha256(total.cpu().numpy().tobytes()).hexdigest()


def _equal(a: GramSum, b: GramSum) -> bool:
    import torch

    return all(torch.equal(one.cpu(), other.cpu()) for one, other in zip(a.tensors(), b.tensors(), strict=True))
