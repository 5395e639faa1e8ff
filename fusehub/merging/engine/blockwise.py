"""A merge that runs what it has merged so far: block by block, each one solved with what the ones before it give.

    for each stage: a repeated block of the model, or one linear layer outside of them, in the order of their calls
        for each expert: its own weights into the stage; its texts through the merged stages and this one;
                         the grams of what the stage's linear layers are given
        solve the stage's layers; the merged weights into the stage

What belongs to no stage (embeddings, norms) is merged first. One network is held for each architecture, not one an
expert. Every block is run twice over all texts, merged and with an expert's weights, if what blocks give can be kept
(see `fusehub.merging.engine.block_runner`); else all blocks before it are run again for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fusehub.collecting.gram_collector import GramCollector, Misjudged
from fusehub.collecting.passes import BATCH_TOKENS
from fusehub.collecting.probes import unpadded
from fusehub.collecting.routing import FEWEST_ROWS, mixture_of, mixture_rows, shares_of
from fusehub.collecting.ways import device_of
from fusehub.errors import Incompatible
from fusehub.merging.engine.block_runner import Runner
from fusehub.merging.plan import Plan
from fusehub.merging.planner import TensorPlan
from fusehub.merging.sources.data_at_hand import CountedLayer
from fusehub.models.checkpoints.checkpoint import Checkpoint
from fusehub.models.layout import linears_of
from fusehub.models.piecewise.blocks import blocks_of
from fusehub.models.placement import load_to_run
from fusehub.models.ties import untie
from fusehub.utils.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from fusehub.data.inputs import Inputs


class BlockByBlock:
    """One merge: `statistics` (one mapping an expert, by the weight's name in its file) are filled for each stage.

    `tensors` are those of the plan: of which nothing was counted, they are changed into means there. `expect` is told
    which are solved with the statistics that are there, and `make` gives one of them, or another tensor, merged, as it
    is stored.
    """

    def __init__(
        self,
        plan: Plan,
        tensors: dict[str, TensorPlan],
        experts: Sequence[Checkpoint],
        statistics: Sequence[dict[str, CountedLayer]],
        expect: Callable[[Iterable[TensorPlan]], None],
        make: Callable[[TensorPlan], Tensor],
        device: str,
        progress: Progress,
    ) -> None:
        self.plan, self.tensors, self.experts, self.statistics = plan, tensors, experts, statistics
        self.expect, self.make, self.progress = expect, make, progress
        self.inputs: list[Inputs] = [found.inputs for found in plan.statistics]
        parameters = [tensor.parameter for tensor in tensors.values()]
        loaded = {index: _load(plan, index, parameters, device) for index in dict.fromkeys(_templates(plan))}
        self.networks: list[PreTrainedModel] = [loaded[index] for index in _templates(plan)]
        self._slots = {index: _slots(network) for index, network in loaded.items()}
        self._verdicts: dict[str, str] = {}

    def run(self) -> None:
        """Has everything made, stage by stage; the statistics of the last stage stay."""
        while True:
            try:
                return self._run()
            except Misjudged as error:
                # What was counted is worth nothing, and is counted again (as in `fusehub.collecting.passes`).
                self._verdicts[error.weight] = error.verdict

    def _run(self) -> None:
        tensors = [tensor for tensor in self.tensors.values() if not tensor.is_head]
        solved = [tensor for tensor in tensors if tensor.action == "solve"]
        modules = list(dict.fromkeys(tensor.layer.module for tensor in solved))
        blocks = blocks_of(self.networks[0], modules)
        alone = [name for name in modules if not any(f"{name}.".startswith(f"{block}.") for block in blocks)]
        self._split = any(self._must_split(index) for index in range(len(self.experts)))
        self._runners = {id(network): Runner(network, [*blocks, *alone]) for network in self.networks}
        try:
            order = self._order()
            stages = {name: [t for t in tensors if t.parameter.startswith(f"{name}.")] for name in order}
            staged = {tensor.name for own in stages.values() for tensor in own}
            for tensor in tensors:
                if tensor.name not in staged:
                    self._average(tensor, "no text comes to it")
                    self._merge(tensor)
            for place, own in enumerate(stages.values()):
                self._count(own, place, len(order))
                for tensor in own:
                    self._average(tensor, self._lacking(tensor))
                self._weigh(own)
                self.expect([self.tensors[tensor.name] for tensor in own if self._is_solved(tensor)])
                for tensor in own:
                    self._merge(tensor)
        finally:
            for runner in self._runners.values():
                runner.close()

    def _order(self) -> list[str]:
        """The stages in the order in which the models call them."""
        orders = []
        for index, network in enumerate(self.networks):
            runner = self._runners[id(network)]
            if not runner.order:
                runner.learn(self._probe(index))
            orders.append(runner.order)
        if any(order != orders[0] for order in orders):
            raise Incompatible(
                "The models call their layers in different orders, so none is the one before another.",
                "Merge by regmean, from statistics that `fusehub collect` makes.",
            )
        return orders[0]

    def _count(self, tensors: Sequence[TensorPlan], place: int, stages: int) -> None:
        """Fills `statistics` with what each expert's own weights of a stage are given behind merged ones."""
        wanted = {tensor.parameter for tensor in tensors if self._is_solved(tensor)}
        examples = [len(inputs) for inputs in self.inputs]
        done, unit = place * sum(examples), "images" if self.inputs[0].of_images else "texts"
        for index, (inputs, network) in enumerate(zip(self.inputs, self.networks, strict=True)):
            for tensor in tensors:
                self._put(index, tensor, self.experts[index].read(tensor.sources[index]))
            runner, device = self._runners[id(network)], device_of(network)
            runner.holds(self._probe(index), key=(index, "probe"), upto=place)
            with self._collector(index, wanted) as collector:
                collector.probe(inputs.probe())
                for key, batch in enumerate(self._batches(inputs)):
                    with collector.counting(batch):
                        runner.run(_on(device, batch), key=(index, key), upto=place)
                    done += len(next(iter(batch.values())))
                    self.progress(done, stages * sum(examples), unit)
            sums, aliases = collector.sums, collector.aliases
            self.statistics[index].clear()
            for tensor in tensors:
                leader = aliases.get(tensor.parameter, tensor.parameter)
                if tensor.parameter in wanted and leader in sums and sums[leader].rows:
                    self.statistics[index][tensor.sources[index]] = CountedLayer(leader, sums[leader])

    def _merge(self, tensor: TensorPlan) -> None:
        """Makes a tensor, and puts it into every network."""
        tensor = self.tensors[tensor.name]
        value = self.make(tensor)
        for index in self._slots:
            self._put(index, tensor, value)

    def _lacking(self, tensor: TensorPlan) -> str:
        """Why a tensor cannot be solved; empty where it can."""
        experts = zip(self.plan.experts, tensor.sources, self.statistics, strict=True)
        lacking = [ref.name for ref, source, counted in experts if source not in counted]
        if mixture_of(tensor.name) is None:
            return f"no input rows of {', '.join(lacking)}" if lacking else ""
        counted = [own[name] for name, own in zip(tensor.sources, self.statistics, strict=True) if name in own]
        rows = sum(layer.rows for layer in counted)
        return f"fewer than {FEWEST_ROWS} rows of all models" if rows < FEWEST_ROWS else ""

    def _weigh(self, tensors: Sequence[TensorPlan]) -> None:
        """Tells of the matrices of a mixture which share of the tokens came to them."""
        rows = [{name: layer.rows for name, layer in own.items()} for own in self.statistics]
        totals = [mixture_rows(own) for own in rows]
        for tensor in tensors:
            if self._is_solved(tensor) and mixture_of(tensor.name):
                shares = shares_of(tensor.sources, rows, totals)
                self.tensors[tensor.name] = replace(self.tensors[tensor.name], shares=shares)

    def _average(self, tensor: TensorPlan, why: str) -> None:
        if why and self._is_solved(tensor):
            self.tensors[tensor.name] = replace(tensor, action="mean", why=why)

    def _is_solved(self, tensor: TensorPlan) -> bool:
        return self.tensors[tensor.name].action == "solve"

    def _put(self, index: int, tensor: TensorPlan, value: Tensor) -> None:
        """Puts a tensor, as files have it, into the network of an expert."""
        import torch

        # Nothing comes after a layer of labels, and each model may have others.
        if tensor.parameter in self.plan.layout.label_axes:
            return
        part = self.plan.layout.parts.get(tensor.parameter)
        slot = self._slots[_templates(self.plan)[index]].get(part.parameter if part else tensor.parameter)
        if slot is None:
            raise Incompatible(
                f"{tensor.name} is computed with others into one tensor when the model is loaded: the model cannot be "
                "run with a merged one.",
                "Merge by regmean, from statistics that `fusehub collect` makes.",
            )
        if part:
            slot = slot[part.expert, part.start : part.stop]
        if slot.shape != value.shape:
            # More tokens than the models of this architecture know, or fewer: texts have none of the others then.
            axis = tensor.token_axis
            size = min(slot.shape[axis], value.shape[axis])
            slot, value = slot.narrow(axis, 0, size), value.narrow(axis, 0, size)
        with torch.no_grad():
            slot.copy_(value)

    def _collector(self, index: int, wanted: set[str] | None = None) -> GramCollector:
        network, parts = self.networks[index], self.plan.layout.parts
        linears = linears_of(network, tied=False)
        return GramCollector(
            network,
            {name: own for name, own in linears.items() if wanted is None or name in wanted},
            parts={name: own for name, own in parts.items() if wanted is None or name in wanted},
            verdicts=self._verdicts,
            name=self.plan.experts[index].name,
        )

    def _must_split(self, index: int) -> bool:
        """Whether batches may have no padding, for some layer of the model."""
        with self._collector(index) as collector:
            collector.probe(self.inputs[index].probe())
            return collector.needs_unpadded

    def _batches(self, inputs: Inputs) -> Iterator[Mapping[str, Tensor]]:
        """The same batches at every call."""
        for _, batch in inputs.batches(batch_tokens=BATCH_TOKENS):
            yield from (part for _, part in unpadded(batch)) if self._split else (batch,)

    def _probe(self, index: int) -> dict[str, Tensor]:
        return _on(device_of(self.networks[index]), self.inputs[index].probe())


def _templates(plan: Plan) -> list[int]:
    """For each expert the one whose network it shares: of its architecture, the one that knows most tokens."""
    counts = next((tensor.token_rows for tensor in plan.tensors.values() if tensor.token_rows), None)
    chosen: dict[str, int] = {}
    for index, ref in enumerate(plan.experts):
        best = chosen.setdefault(ref.config["architectures"][0], index)
        if counts and counts[index] > counts[best]:
            chosen[ref.config["architectures"][0]] = index
    return [chosen[ref.config["architectures"][0]] for ref in plan.experts]


def _load(plan: Plan, index: int, parameters: Sequence[str], device: str) -> PreTrainedModel:
    network = load_to_run(plan.experts[index], device)
    untie(network, parameters)
    # A block that is not run again adds nothing to a cache.
    if getattr(network.config, "use_cache", False):
        network.config.use_cache = False
    return network


def _slots(network: PreTrainedModel) -> dict[str, Tensor]:
    return dict(network.named_buffers()) | dict(network.named_parameters(remove_duplicate=False))


def _on(device: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in batch.items()}
