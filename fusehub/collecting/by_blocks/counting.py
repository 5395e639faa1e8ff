"""All batches of an expert's inputs, counted block by block: no more of the model is in memory than one of them.

    for each block, in the order in which the model calls them, and at last what comes after all of them:
        its weights are read; what its linear layers are given is learned from the probe (see `gram_collector.py`)
        each batch goes on from what the block before gave for it; grams are summed, and what this block gives is kept
        the sums are written, and the weights dropped

A layer that the probe misjudged costs one block, and not all. Where a block shows that batches may have no padding, on
the way forth or back, all begins anew with such batches: what is kept is kept by batch.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusehub.collecting.by_blocks.forward import BlockForward
from fusehub.collecting.by_blocks.gradients import GradientsByBlocks, Padded
from fusehub.collecting.by_blocks.stage import TWICE
from fusehub.collecting.finite import require_finite_pass, require_finite_sums
from fusehub.collecting.gram_collector import GramCollector, Misjudged
from fusehub.collecting.passes import add_up_sums
from fusehub.collecting.probes import changed, unpadded
from fusehub.models.layout import linears_of
from fusehub.models.piecewise.blocks import block_of
from fusehub.models.piecewise.skeleton import Skeleton, indivisible
from fusehub.statistics.halves import halves_of
from fusehub.utils.progress import Progress, silent

if TYPE_CHECKING:
    from torch import Tensor

    from fusehub.collecting.by_blocks.squares import StoredSquares
    from fusehub.collecting.by_blocks.work import BlockWork, StoredSums
    from fusehub.collecting.fisher.scores import Asked
    from fusehub.data.inputs import Inputs
    from fusehub.models.layout import Layout, Linear
    from fusehub.utils.processes import Processes

logger = logging.getLogger(__name__)

# Rows of one update: fewer than of a whole model's, as what is computed on the way is all the memory that is needed
# beside one block.
BLOCK_BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Counted:
    """What was counted, as `GramCollector` tells it."""

    sums: Mapping[str, StoredSums]
    aliases: Mapping[str, str]
    weights: list[str]
    gradients: StoredSquares | None = None


class ByBlocks:
    """One run; what is done of it is in `work`. Errors call the model `skeleton.name`."""

    def __init__(
        self,
        skeleton: Skeleton,
        layout: Layout,
        inputs: Inputs,
        processes: Processes,
        work: BlockWork,
        *,
        batch_tokens: int = BLOCK_BATCH_TOKENS,
        fisher: Asked | None = None,
        progress: Progress = silent,
    ) -> None:
        self._skeleton, self._layout, self._inputs = skeleton, layout, inputs
        self._processes, self._work = processes, work
        self._batch_tokens, self._fisher, self._progress = batch_tokens, fisher, progress
        self._linears = linears_of(skeleton.network, tied=False)
        self._blocks = layout.blocks

    def run(self) -> Counted:
        """Counts all that is not done yet. Raises `Indivisible` where the model cannot be run so."""
        if not self._blocks:
            raise indivisible("no list of blocks was found in it")
        while True:
            try:
                if not self._work.state.ended:
                    self._count_blocks()
                gradients = self._gradients()
                break
            except Padded:
                self._work.begin_anew(split=True, verdicts=self._work.state.verdicts)
        everything = GramCollector(self._skeleton.network, self._linears, parts=self._layout.parts)
        return Counted(self._work.sums(), self._work.state.aliases, everything.weights, gradients)

    def _gradients(self) -> StoredSquares | None:
        if self._fisher is None:
            return None
        self._skeleton.drop(list(self._skeleton.loaded))
        back = GradientsByBlocks(
            self._skeleton,
            self._layout,
            self._inputs,
            self._processes,
            self._work,
            self._fisher,
            batch_tokens=self._batch_tokens,
            progress=self._progress,
        )
        return back.run()

    def _count_blocks(self) -> None:
        state = self._work.state
        way = BlockForward(self._skeleton, self._work.kept, self._blocks, state.done, state.spared)
        try:
            for weight in state.counted:
                self._refuse(way, weight)
            while not state.ended:
                self._count_block(way)
        finally:
            way.close()

    def _count_block(self, way: BlockForward) -> None:
        """Counts the next block. Its sums are on the disk then, and their memory is the one's that follows."""
        block = way.begin(self._inputs.probe())
        if self._fisher is not None and (outside := way.outside_of(self._inputs.probe())):
            raise indivisible(TWICE.format(outside[0]))
        collector = self._counted(way, block)
        add_up_sums(collector, self._processes)
        require_finite_sums(collector.sums, self._skeleton.name)
        way.end()
        self._work.finish(block, collector.sums, collector.aliases, way.spared)
        for weight in [*collector.sums, *collector.aliases]:
            self._refuse(way, weight)

    def _counted(self, way: BlockForward, block: str | None) -> GramCollector:
        """All batches, through the current block."""
        verdicts = self._work.state.verdicts
        while True:
            collector = self._collector(way, block)
            with collector:
                probe = self._inputs.probe()
                collector.probe(probe)
                # The blocks that follow may ask for more of the probe than this one.
                for by in (1, 2):
                    way.run({name: value.to(way.device) for name, value in changed(probe, by).items()})
                learned = self._count(way, collector)
            said = self._processes.agree(learned)
            if any(padded for padded, _ in said):
                raise Padded
            found = {weight: verdict for _, verdicts in said for weight, verdict in verdicts.items()}
            if not found:
                return collector
            verdicts |= found

    def _collector(self, way: BlockForward, block: str | None) -> GramCollector:
        """Watches the block, and what lies outside of all blocks and was not called up to now."""
        counted = self._work.state.counted
        return GramCollector(
            self._skeleton.network,
            {
                name: own
                for name, own in self._linears.items()
                if self._is_watched(own.module, block) and name not in counted
            },
            parts={
                name: part
                for name, part in self._layout.parts.items()
                if self._is_watched(part.parameter, block) and name not in counted
            },
            verdicts=self._work.state.verdicts,
            way=way,
            name=self._skeleton.name,
        )

    def _is_watched(self, name: str, block: str | None) -> bool:
        return block_of(name, self._blocks) in (None, block)

    def _count(self, way: BlockForward, collector: GramCollector) -> tuple[bool, dict[str, str]]:
        """Whether batches have padding that they may not have, and verdicts that spoil the work."""
        state = self._work.state
        if collector.needs_unpadded and not state.split:
            return True, {}
        done = 0
        for halves, batch in self._batches():
            batch = {name: value.to(way.device) for name, value in batch.items()}
            try:
                with collector.counting(batch, halves):
                    output = way.run(batch)
            except Misjudged as error:
                # A layer that must be counted without padding asks for it at the next attempt.
                return False, {error.weight: error.verdict}
            require_finite_pass(collector.sums, batch, output, self._skeleton.name)
            done += len(next(iter(batch.values())))
            self._report(len(state.done) * len(self._inputs) + done * self._processes.count)
        return False, {}

    def _report(self, done: int) -> None:
        total = (len(self._blocks) + 1) * len(self._inputs) * (2 if self._fisher else 1)
        self._progress(min(done, total), total, "texts in each block")

    def _batches(self) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
        """This process's, the same at every call, each with the halves that its examples are in."""
        halves = halves_of(len(self._inputs))
        every = self._inputs.batches(batch_tokens=self._batch_tokens)
        for indices, batch in itertools.islice(every, self._processes.index, None, self._processes.count):
            if self._work.state.split:
                yield from ((halves[indices][rows], part) for rows, part in unpadded(batch))
            else:
                yield halves[indices], batch

    def _refuse(self, way: BlockForward, weight: str) -> None:
        """A layer outside of the blocks whose sums are written must not be called again."""
        linear: Linear | None = self._linears.get(weight)
        if linear is not None and block_of(linear.module, self._blocks) is None:
            way.refuse(linear.module)
