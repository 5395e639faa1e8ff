"""All batches of an expert's inputs, counted by one process or several, saved on the way, added up at the end.

    collector = count_inputs(network, layout, inputs, processes, saves)

Each process takes every n-th batch. All of them agree after a few batches, so that a failure or a misjudged layer of
one is known to all; then they stop, or start over with what was learned.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fusehub.collecting.finite import require_finite_pass, require_finite_sums
from fusehub.collecting.fisher.collector import FisherCollector, warn_of_one_by_one
from fusehub.collecting.gram_collector import GramCollector, Misjudged
from fusehub.collecting.noise import Noise, row_bounds
from fusehub.collecting.resume import Saved
from fusehub.collecting.ways import UpToTokens, device_of, without_cache
from fusehub.data.trial import random_batch, vocabulary_of
from fusehub.errors import FuseHubError
from fusehub.models.layout import Layout, linears_of
from fusehub.statistics.halves import halves_of
from fusehub.utils.progress import Progress, silent

if TYPE_CHECKING:
    from torch import Tensor

    from fusehub.collecting.resume import Saves
    from fusehub.data.inputs import Inputs
    from fusehub.utils.processes import Processes

# Rows of one update. Fewer make each update wait for memory, more only take memory: on a CPU those of half as many
# stay in its cache, and take no longer.
BATCH_TOKENS = 4096
CPU_BATCH_TOKENS = 2048
# With Fisher diagonals, what a forward computes must be kept for the backward passes.
FISHER_BATCH_TOKENS = 1024
# Batches that each process does before it hears of the others.
_STRIDE = 8


def count_inputs(
    network: Any,
    layout: Layout,
    inputs: Inputs,
    processes: Processes,
    saves: Saves,
    *,
    name: str = "The model",
    batch_tokens: int = BATCH_TOKENS,
    noise: Noise | None = None,
    fisher: FisherCollector | None = None,
    progress: Progress = silent,
) -> GramCollector:
    """A collector with the sums of all rows of `inputs`, in every process the same; `fisher` has them too then.

    Goes on where `saves` says that an earlier run was. Starts over where the probe misjudged a layer.
    For `noise`, the sums are bounded, and nothing but them depends on the examples. Raises `NonFinite` where the
    numbers of the model, which errors call `name`, are not finite.
    """
    import torch

    saved = saves.read()
    verdicts: dict[str, str] = {}
    for others in processes.agree(saved.state["verdicts"] if saved else {}):
        verdicts |= others
    if saved and saved.state["verdicts"] != verdicts:
        saved = None
    linears, probe, bounds = linears_of(network, tied=False), inputs.probe(), None
    if noise is not None:
        probe = random_batch(probe, vocabulary_of(network), 0)
        bounds = row_bounds(network, linears, probe, noise.clip, device_of(network))
    watched = [own.module for own in linears.values()]
    watched += [part.parameter.rpartition(".")[0] for part in layout.parts.values()]
    while True:
        way = UpToTokens(network, watched)
        collector = GramCollector(
            network, linears, parts=layout.parts, verdicts=verdicts, bounds=bounds, name=name, way=way
        )
        with without_cache(network), collector, fisher or nullcontext():
            collector.probe(probe, reserve=True)
            if fisher is not None:
                _, first = next(inputs.batches(batch_tokens=batch_tokens))
                fisher.probe({name: value.to(collector.device) for name, value in first.items()})
                if fisher.one_by_one and processes.is_main:
                    warn_of_one_by_one(fisher)
            one = _Pass(way, collector, inputs, processes, saves, verdicts, progress, name, fisher)
            learned = one.run(batch_tokens, saved)
        if not learned:
            add_up_sums(collector, processes)
            require_finite_sums(collector.sums, name)
            if fisher is not None:
                examples = torch.tensor([fisher.examples])
                processes.add_up([*fisher.sums.values(), examples])
                fisher.examples = int(examples)
            return collector
        if noise is not None:
            raise FuseHubError(
                f"{', '.join(learned)}: used in another way for some texts than for others.", "Leave out --noise."
            )
        verdicts |= learned
        saved = None


@dataclass
class _Pass:
    """One way through this process's batches, in step with the others."""

    way: UpToTokens
    collector: GramCollector
    inputs: Inputs
    processes: Processes
    saves: Saves
    verdicts: dict[str, str]
    progress: Progress
    name: str
    fisher: FisherCollector | None = None
    batches: int = 0
    tokens: int = 0
    learned: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.halves = halves_of(len(self.inputs))

    def run(self, batch_tokens: int, saved: Saved | None) -> dict[str, str]:
        """Counts all batches; returns verdicts, of any of the processes, that spoil the work."""
        if saved:
            self.batches, self.tokens = saved.state["batches"], saved.state["tokens"]
            self.collector.restore(saved.tensors, saved.state["layers"])
            if self.fisher is not None:
                self.fisher.restore(saved.tensors, saved.state["fisher"])
        first, step = self.processes.index + self.batches * self.processes.count, self.processes.count
        own = itertools.islice(self.inputs.batches(batch_tokens=batch_tokens), first, None, step)
        finished = False
        while True:
            for _ in range(_STRIDE):
                batch = next(own, None)
                finished = batch is None or not self._count(*batch)
                if finished:
                    break
            said = self.processes.agree((self.tokens, finished, self.learned))
            self._report(sum(tokens for tokens, _, _ in said))
            verdicts = {weight: verdict for _, _, others in said for weight, verdict in others.items()}
            if verdicts or all(done for _, done, _ in said):
                return verdicts

    def _count(self, indices: list[int], batch: Mapping[str, Tensor]) -> bool:
        """Counts one batch; False where it showed that a layer was misjudged."""
        import torch

        halves = self.halves[indices]
        try:
            for rows, part in self.collector.parts(batch):
                part = {name: value.to(self.collector.device) for name, value in part.items()}
                if self.fisher is not None:
                    with self.collector.counting(part, halves[rows]):
                        self.fisher.forward(part)
                    require_finite_pass(self.collector.sums, part, None, self.name)
                    self.fisher.add([indices[row] for row in rows])
                    continue
                with torch.inference_mode(), self.collector.counting(part, halves[rows]):
                    output = self.way.count(part)
                require_finite_pass(self.collector.sums, part, output, self.name)
        except Misjudged as error:
            self.learned = {error.weight: error.verdict}
            return False
        self.batches += 1
        self.tokens += int(batch["attention_mask"].sum()) if "attention_mask" in batch else len(indices)
        if self.saves.due:
            self._save()
        if self.processes.count == 1:
            self._report(self.tokens)
        return True

    def _report(self, done: int) -> None:
        # Images are counted themselves, not their patches.
        texts = any("input_ids" in encoding for encoding in self.inputs.encodings[:1])
        total, what = (self.inputs.tokens, "tokens") if texts else (len(self.inputs), "images")
        self.progress(min(done, total), total, what)

    def _save(self) -> None:
        tensors, layers = self.collector.state()
        fisher, examples = self.fisher.state() if self.fisher is not None else ({}, 0)
        state = {"verdicts": self.verdicts, "batches": self.batches, "tokens": self.tokens, "layers": layers}
        self.saves.write(Saved(tensors | fisher, state | {"fisher": examples}))


def add_up_sums(collector: GramCollector, processes: Processes) -> None:
    """Adds the sums of all processes, layer by layer, in every one of them; who saw nothing takes part with zeros."""
    import torch

    if processes.count == 1:
        return
    said = processes.agree((collector.aliases, {name: own.size for name, own in collector.sums.items()}))
    if any(aliases != said[0][0] for aliases, _ in said):
        raise FuseHubError(
            "The processes do not agree on which layers share their inputs.", "Collect in one process instead."
        )
    for name, size in sorted({item for _, sizes in said for item in sizes.items()}):
        sums = collector.sums_of(name, size)
        rows = torch.tensor([sums.rows], dtype=torch.int64)
        processes.add_up([*sums.tensors(), rows])
        sums.rows = int(rows)
