"""Fisher diagonals block by block: gradients come back through one block at a time, from the last to the first.

    what each block gave was kept on the way forth (`counting.py`)
    for what comes after the last block, and then for each block, from the last to the first (with all before it):
        its weights are read; it is run once more from what the block before gave, now with gradients
        each backward pass begins with the gradient of what it gave, which was kept; squares of its parameters are
        summed, and the gradient of what it was given is kept for the block before
        the sums are written, and the weights dropped

By the chain rule that is the backward pass of the whole model, if gradients go from block to block by nothing but what
blocks give, and no parameter is used in two of these parts: what it gets in both would have to be added before it is
squared. Both are looked for, and such a model is `Indivisible`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fusehub.collecting.by_blocks.forward import key_of
from fusehub.collecting.by_blocks.kept_outputs import form_of
from fusehub.collecting.by_blocks.squares import StoredSquares
from fusehub.collecting.by_blocks.stage import TWICE, Stage, StageCollector, StageForward, given_to
from fusehub.collecting.fisher.collector import warn_of_one_by_one
from fusehub.collecting.fisher.scores import Asked, Scores
from fusehub.collecting.probes import unpadded
from fusehub.collecting.ways import tokens_layer
from fusehub.models.piecewise.blocks import list_of
from fusehub.models.piecewise.skeleton import Skeleton, indivisible
from fusehub.utils.progress import Progress, silent

if TYPE_CHECKING:
    from torch import Tensor

    from fusehub.collecting.by_blocks.work import BlockWork
    from fusehub.data.inputs import Inputs
    from fusehub.models.layout import Layout
    from fusehub.utils.processes import Processes


class Padded(Exception):
    """All can be counted only where batches have no padding."""


def why_no_way_back(layout: Layout) -> str | None:
    """Why gradients do not come back block by block, as far as the config tells: a sentence; None where they do."""
    if len(lists := dict.fromkeys(map(list_of, layout.blocks))) > 1:
        return (
            "Fisher diagonals are counted block by block where gradients come back through one list of blocks, and "
            f"this model has {len(lists)} ({', '.join(lists)})."
        )
    return None


class GradientsByBlocks:
    """The second half of a run that has counted all grams, and kept what each block gave; `work` has what is done."""

    def __init__(
        self,
        skeleton: Skeleton,
        layout: Layout,
        inputs: Inputs,
        processes: Processes,
        work: BlockWork,
        asked: Asked,
        *,
        batch_tokens: int,
        progress: Progress = silent,
    ) -> None:
        self._skeleton, self._layout, self._inputs = skeleton, layout, inputs
        self._processes, self._work = processes, work
        self._asked, self._batch_tokens, self._progress = asked, batch_tokens, progress
        self._table = _table_of(skeleton.network)
        self._warned = False

    def run(self) -> StoredSquares:
        """Goes back through all parts that gradients have not come back through. Raises `Indivisible`."""
        state = self._work.state
        while state.returned <= len(state.done):
            self._return(Stage(len(state.done) - state.returned, state.done))
        scores = Scores.of(self._skeleton.network.config, self._inputs.task, self._asked)
        return StoredSquares(
            {name: [self._work.squares_path(stage) for stage in stages] for name, stages in state.squares.items()},
            {
                name: tuple(own.shape)
                for name, own in self._skeleton.network.named_parameters()
                if own.is_floating_point()
            },
            self._skeleton.owners,
            scores.description | {"examples": len(self._inputs)},
        )

    def _return(self, stage: Stage) -> None:
        """Brings the gradients of all texts back through a stage. Its memory is the next one's then."""
        forward = StageForward(
            self._skeleton, self._work.kept, self._layout.blocks, stage, list(self._work.state.spared)
        )
        try:
            collector = StageCollector(
                forward, self._skeleton.network, self._inputs.task, self._asked, table=self._table
            )
            with collector:
                self._collect(collector, forward)
            said = self._processes.agree((collector.used, collector.differs_alone))
            if any(differs for _, differs in said):
                if self._work.state.split:
                    raise indivisible("what it gives for a text depends on the other texts that it is given with")
                raise Padded
            used = sorted({name for names, _ in said for name in names})
            self._require_once(used)
            sums = {name: collector.sums[name] for name in used}
            self._processes.add_up(list(sums.values()))
            self._work.return_from(stage.number, sums)
        finally:
            forward.close()

    def _collect(self, collector: StageCollector, forward: StageForward) -> None:
        stage = forward.stage
        probed, done = False, 0
        for indices, batch in self._batches():
            batch = {name: value.to(forward.device) for name, value in batch.items()}
            key = key_of(batch)
            value = self._work.kept.read(stage.number - 1, key, forward.device) if stage.number else None
            came = self._work.gradients.read(stage.number + 1, key, forward.device) if stage.block else []
            forward.form = form_of(value)
            is_looked_up = self._table is not None and not stage.number
            rows = self._work.rows.read(0, key, forward.device) if is_looked_up else []
            batch = given_to(batch, value, came, rows)
            if not probed:
                collector.probe(batch)
                probed = True
                self._warn_of_slow(collector)
            collector.run(batch, indices)
            if stage.number:
                self._work.gradients.write(stage.number, key, collector.handed_on())
            if self._table is not None and stage.block is None:
                self._work.rows.write(0, key, collector.rows())
            done += len(indices)
            self._report(done * self._processes.count)

    def _batches(self) -> Iterator[tuple[list[int], Mapping[str, Tensor]]]:
        """Those that this process counted on the way forth, with the numbers of their texts."""
        every = self._inputs.batches(batch_tokens=self._batch_tokens)
        for indices, batch in itertools.islice(every, self._processes.index, None, self._processes.count):
            if self._work.state.split:
                yield from (([indices[row] for row in rows], part) for rows, part in unpadded(batch))
            else:
                yield indices, batch

    def _warn_of_slow(self, collector: StageCollector) -> None:
        """Once a run, of the first part that is."""
        if collector.one_by_one and not self._warned and self._processes.is_main:
            warn_of_one_by_one(collector)
            self._warned = True

    def _require_once(self, used: Iterable[str]) -> None:
        """Raises `Indivisible` naming a parameter whose squares another stage has summed."""
        twice = sorted(self._work.state.squares.keys() & set(used) - {self._table})
        if twice:
            raise indivisible(TWICE.format(twice[0]))

    def _report(self, done: int) -> None:
        stages = len(self._layout.blocks) + 1
        texts = len(self._inputs)
        done += (stages + self._work.state.returned) * texts
        self._progress(min(done, 2 * stages * texts), 2 * stages * texts, "texts in each block")


def _table_of(network: Any) -> str | None:
    """The parameter that looks tokens up and tells them; None where these are two, or one is not there."""
    head, words = tokens_layer(network), network.get_input_embeddings()
    shared = getattr(head, "weight", None)
    if shared is None or shared is not getattr(words, "weight", None):
        return None
    return next(name for name, own in network.named_parameters() if own is shared)
