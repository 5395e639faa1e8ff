"""One model counted over its inputs: as a whole, or block by block where that is asked for or the whole would not fit.

counting = Counting(ref, inputs, processes, work, seen)
counted = counting.by_blocks() if counting.is_by_blocks("auto") else counting.whole(folder)[0]
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fusehub.collecting.by_blocks.counting import BLOCK_BATCH_TOKENS, ByBlocks, Counted
from fusehub.collecting.by_blocks.gradients import why_no_way_back
from fusehub.collecting.by_blocks.work import FOLDER, BlockWork
from fusehub.collecting.finite import require_finite_weights
from fusehub.collecting.fisher.collector import FisherCollector
from fusehub.collecting.fisher.scores import Asked, Scores
from fusehub.collecting.noise import Noise
from fusehub.collecting.passes import BATCH_TOKENS, CPU_BATCH_TOKENS, FISHER_BATCH_TOKENS, count_inputs
from fusehub.collecting.resume import EVERY, Saves
from fusehub.collecting.room import (
    Needs,
    Stream,
    is_better_by_blocks,
    require_memory,
    require_memory_for_all,
    room_of_result,
    room_of_work,
)
from fusehub.collecting.ways import device_of
from fusehub.errors import FuseHubError, Indivisible
from fusehub.hub.client import software
from fusehub.models.checkpoints.checkpoint import Checkpoint, weight_hashes
from fusehub.models.checkpoints.downloads import room_of_downloads
from fusehub.models.layout import Layout, layout_of
from fusehub.models.piecewise.skeleton import Skeleton
from fusehub.models.placement import load_for_counting, own_device, precision
from fusehub.models.tasks import load_config
from fusehub.utils.devices import Device, find_dtype
from fusehub.utils.folders.places import require_room
from fusehub.utils.memory import give_back_at_once
from fusehub.utils.progress import Progress, silent

if TYPE_CHECKING:
    import torch

    from fusehub.collecting.gram_collector import GramCollector
    from fusehub.data.inputs import Inputs
    from fusehub.models.resolve import ModelRef
    from fusehub.utils.processes import Processes

logger = logging.getLogger(__name__)


@dataclass
class Counting:
    """What both ways are given; `seen` is the digest of the inputs, `work` the folder of what has been done."""

    ref: ModelRef
    inputs: Inputs
    processes: Processes
    work: Path
    seen: str
    batch_tokens: int | None = None
    device: Device | None = None
    progress: Progress = silent
    fisher: Asked | None = None
    """Fisher diagonals are counted, too."""
    _indivisible: str = field(default="", init=False)
    """Why it cannot be read block by block, where that was found."""

    def is_by_blocks(self, stream: Stream) -> bool:
        """Whether the model is read block by block; where `auto` chooses, the same in all processes.

        A run that was begun so goes on so.
        """
        if stream != "auto":
            return stream == "on"
        begun = (self.work / FOLDER).is_dir()
        batch = self.batch_tokens or self._whole_batch_tokens
        chosen = begun or (bool(self._layout.blocks) and self._is_better_by_blocks(batch))
        return any(self.processes.agree(chosen))

    def require_disk(self, out: Path, size: str, *, by_blocks: bool) -> None:
        """Raises `NoSpace` where the disks do not take what is to be downloaded, kept on the way (of a run that
        begins), and written into the folder `out`."""
        fisher = self.fisher is not None
        rooms = [*room_of_downloads([self.ref]), room_of_result(out, self._needs, size, fisher=fisher)]
        if by_blocks and not (self.work / FOLDER).is_dir():
            rooms.append(room_of_work(self.work, self._needs, self.inputs, self._passes))
        if self.processes.is_main:  # Once others have begun, a part of it is there.
            require_room(rooms)

    @property
    def needs_whole(self) -> str | None:
        """Why Fisher diagonals cannot be counted block by block, told from the config; None where they can, as far as
        that tells, and where none are asked for."""
        return why_no_way_back(self._layout) if self.fisher is not None else None

    def by_blocks(self, *, required: bool = True) -> Counted | None:
        """The sums of all inputs, block by block.

        Where the model cannot be run so, raises `Indivisible` if it is `required` or there are several processes, else
        says so and gives None. Raises `NoMemory`.
        """
        require_memory(self.ref.name, self._needs, fisher=self.fisher is not None)
        self._forget("process-*.safetensors", "as a whole")
        fisher = self.fisher is not None
        batch_tokens = self.batch_tokens or (FISHER_BATCH_TOKENS if fisher else BLOCK_BATCH_TOKENS)
        if self._place == "cpu" and self._is_better_by_blocks(batch_tokens):
            give_back_at_once()  # Takes time, for which memory is short.
        with Checkpoint(self.ref) as checkpoint:
            try:
                skeleton = Skeleton(self.ref, checkpoint, dtype=self._dtype, device=self._place)
                facts = self._agreed(
                    str(skeleton.network.dtype), skeleton.device, batch_tokens, **self._told_of_fisher
                )
                work = BlockWork(self.work, facts, self.processes, gradients=fisher)
                run = ByBlocks(
                    skeleton,
                    self._layout,
                    self.inputs,
                    self.processes,
                    work,
                    batch_tokens=batch_tokens,
                    fisher=self._asked,
                    progress=self.progress,
                )
                return run.run()
            except Indivisible as error:
                self.remove_work()
                # The others may have found nothing, and wait for this process somewhere else.
                if required or self.processes.count > 1:
                    raise
                logger.warning("%s", error.what)
                self._indivisible = error.what
                return None

    def whole(
        self,
        offloaded: Path,
        *,
        device_map: Literal["auto"] | None = None,
        max_memory: Mapping[str, int] | None = None,
        noise: Noise | None = None,
        save_every: float = EVERY,
        why_whole: str | None = None,
    ) -> tuple[GramCollector, FisherCollector | None]:
        """The sums of all inputs, with the model in memory; what accelerate offloads lies in the folder `offloaded`.

        `why_whole` says why it cannot be read block by block, where that is so. Raises `NoMemory`.
        """
        if self._place == "cpu" and device_map is None:
            fix = "Have it read block by block: --stream on."
            if why_whole or self._indivisible:
                out = "Leave that out, or do it" if why_whole else "Do it"
                fix = f"{why_whole or self._indivisible} {out} on a larger machine."
            require_memory_for_all(self.ref.name, self._needs, fix, fisher=self.fisher is not None)
        self._forget(FOLDER, "block by block")
        network = load_for_counting(
            self.ref,
            self.processes,
            offloaded,
            device=self.device,
            dtype=find_dtype("float32") if self.fisher else None,
            device_map=device_map,
            max_memory=max_memory,
        )
        require_finite_weights(network, self.ref.name)
        gradients = None
        if self._asked is not None:
            gradients = FisherCollector(network, self.inputs.task, **asdict(self._asked))
        batch_tokens = self.batch_tokens or self._whole_batch_tokens
        facts = self._agreed(
            str(network.dtype),
            device_of(network).type,
            batch_tokens,
            noise=noise.describe() if noise else None,
            **self._told_of_fisher,
        )
        saves = Saves(self.work, facts, self.processes, every=save_every)
        collector = count_inputs(
            network,
            self._layout,
            self.inputs,
            self.processes,
            saves,
            name=self.ref.name,
            batch_tokens=batch_tokens,
            noise=noise,
            fisher=gradients,
            progress=self.progress,
        )
        return collector, gradients

    def remove_work(self) -> None:
        """Removes what was kept of a run, the main process all of it."""
        if not self.processes.is_main:
            return
        for path in [self.work / FOLDER, *self.work.glob("process-*")]:
            _remove(path)
        try:
            self.work.rmdir()
        except OSError:
            pass  # Nothing was ever kept.

    @cached_property
    def _layout(self) -> Layout:
        return layout_of(load_config(self.ref))

    @cached_property
    def _place(self) -> str:
        return own_device(self.processes, self.device)

    @property
    def _whole_batch_tokens(self) -> int:
        if self.fisher is not None:
            return FISHER_BATCH_TOKENS
        return CPU_BATCH_TOKENS if self._place == "cpu" else BATCH_TOKENS

    @cached_property
    def _needs(self) -> Needs:
        stored = self.ref.config.get("dtype") or self.ref.config.get("torch_dtype")
        return Needs.of(self._layout, self._dtype or find_dtype(stored) or _float32())

    def _is_better_by_blocks(self, batch_tokens: int) -> bool:
        return is_better_by_blocks(self._needs, batch_tokens, self._place, fisher=self.fisher is not None)

    @property
    def _dtype(self) -> torch.dtype | None:
        """None is the one that it is stored in."""
        # Squares of gradients do not fit into half precision.
        return _float32() if self.fisher is not None else precision(self.ref, self._place)

    @property
    def _asked(self) -> Asked | None:
        mask = getattr(self.inputs.processor, "mask_token_id", None)
        return self.fisher and replace(self.fisher, mask_token_id=mask, name=self.ref.name)

    @property
    def _scores(self) -> Scores | None:
        return Scores.of(load_config(self.ref), self.inputs.task, self._asked) if self._asked else None

    @property
    def _passes(self) -> int:
        """Backward passes of a batch."""
        return self._scores.passes(load_config(self.ref).num_labels or 0) if self._scores else 0

    @property
    def _told_of_fisher(self) -> dict[str, Any]:
        """What sums of Fisher diagonals depend on, where there are some."""
        return {"fisher": self._scores.description} if self._scores else {}

    def _agreed(self, dtype: str, device: str, batch_tokens: int, **more: Any) -> dict[str, Any]:
        """All that the sums depend on. Raises `FuseHubError` where it is not the same in all processes."""
        facts = {
            "model": weight_hashes(self.ref),
            "data": self.seen,
            "precision": dtype,
            "device": device,
            "batches": batch_tokens,
            "processes": self.processes.count,
            "software": software("torch", "transformers"),
            **more,
        }
        if any(other != facts for other in self.processes.agree(facts)):
            raise FuseHubError(
                "The processes do not read the same model and data.", "Give all of them the same files and versions."
            )
        return facts

    def _forget(self, pattern: str, how: str) -> None:
        """Removes what a run of the other way left, which is no use to this one."""
        for path in list(self.work.glob(pattern)) if self.processes.is_main else ():
            logger.warning("An earlier run was stopped, but counted the model %s: starting anew.", how)
            _remove(path)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _float32() -> torch.dtype:
    import torch

    return torch.float32
