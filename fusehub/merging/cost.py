"""What a merge will cost, told from its plan: bytes to download, to write and at the peak in memory, and work."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mode

from fusehub.checking.report import Report
from fusehub.collecting.passes import BATCH_TOKENS
from fusehub.merging.planner import TensorPlan
from fusehub.merging.recipe import Recipe
from fusehub.merging.sources.source import StatisticsSource
from fusehub.methods import Method
from fusehub.models.adapters.ref import weights_file
from fusehub.models.checkpoints.checkpoint import Shard
from fusehub.models.resolve import ModelRef

# What a process takes that has imported torch, with the pieces in which tensors are read; and what transformers adds
# where models are run, measured on Linux. The first run of models of a new kind imports it, too.
_PROCESS_BYTES, _TRANSFORMERS_BYTES = 320 * 2**20, 150 * 2**20
# Fewer elements are at hand as a whole sooner than they are read thrice.
_WORTH_A_SURVEY = 2**18
# Layers are solved beside each other, up to so many, where those beside the first take no more bytes than these.
_MOST_AT_ONCE, _BESIDE = 4, 2**27
# Tensors, of every token of a batch and as wide as the widest layer, that are there at once while a model is run.
_FORWARD = 16


def cost_of(
    recipe: Recipe,
    tensors: Iterable[TensorPlan],
    shards: Iterable[Shard],
    method: Method,
    experts: Sequence[ModelRef],
    statistics: Sequence[StatisticsSource],
    report: Report,
) -> dict[str, int]:
    """Bytes to download, to write, and at the peak in memory; multiplications in units of 10^9."""
    tensors = list(tensors)
    output = sum(shard.nbytes for shard in shards)
    if recipe.as_adapter:
        # The ranks of all together.
        adapters = [ref.parts.adapter for ref in experts if ref.parts]
        output = sum(adapter.files[weights_file(adapter)].size for adapter in adapters)
    peak = flops = 0
    for tensor in tensors:
        if tensor.action not in ("combine", "solve"):
            continue
        inputs = tensor.layer.in_features if tensor.action == "solve" else 0
        if not is_surveyed(tensor, method, same_labels=False):
            peak = max(peak, method.cost_of(len(experts), tensor.info.numel, inputs).memory)
        flops += multiplications(tensor, method, len(experts), statistics)
    peak += layers_beside(tensors, method, len(experts)).memory
    if method.needs_data:
        memory, work = _of_running(tensors, experts, statistics)
        peak, flops = peak + memory, flops + work
    return {
        "download_bytes": report.download,
        "output_bytes": output,
        "memory_bytes": _PROCESS_BYTES + (_TRANSFORMERS_BYTES if method.needs_data else 0) + peak,
        "gflop": flops // 10**9,
    }


@dataclass(frozen=True)
class Beside:
    """So many layers are solved beside one, and take so many bytes."""

    count: int = 0
    memory: int = 0


def layers_beside(tensors: Iterable[TensorPlan], method: Method, models: int, threads: int = _MOST_AT_ONCE) -> Beside:
    """What is solved beside a layer, where it is a CPU with so many threads that solves them.

    Each can be as large as the largest. Where that is too large for one more, all threads are best at the same.
    """
    if method.needs_data:
        return Beside()
    layers = (
        method.cost_of(models, tensor.info.numel, tensor.layer.in_features).beside or 0
        for tensor in tensors
        if tensor.action == "solve"
    )
    largest = max(layers, default=0)
    count = min(_MOST_AT_ONCE, threads) - 1
    if largest:
        count = min(count, _BESIDE // largest)
    return Beside(count, count * largest) if largest and count > 0 else Beside()


def is_surveyed(tensor: TensorPlan, method: Method, *, same_labels: bool) -> bool:
    """Whether what the method must see as a whole is told by its survey, so that the tensor passes in pieces.

    `same_labels` says whether row i of every head is of the same label.
    """
    return (
        method.survey is not None
        and tensor.action == "combine"
        and tensor.info.numel > _WORTH_A_SURVEY
        and not tensor.token_rows
        and (tensor.label_axis is None or same_labels)
    )


def beside_the_process(cost: Mapping[str, int]) -> int:
    """Bytes at the peak, of what `cost_of` told, beside what a process takes that does nothing yet."""
    return cost["memory_bytes"] - _PROCESS_BYTES


def multiplications(tensor: TensorPlan, method: Method, models: int, statistics: Sequence[StatisticsSource]) -> int:
    """The work of merging one tensor of so many models; 0 for what is taken as it is."""
    if tensor.action not in ("combine", "solve"):
        return 0
    inputs = tensor.layer.in_features if tensor.action == "solve" else 0
    updates = sum(found.update_products for found in statistics)
    return method.cost_of(models, tensor.info.numel, inputs).multiplications + updates * tensor.info.numel * inputs


def _of_running(
    tensors: Sequence[TensorPlan], experts: Sequence[ModelRef], statistics: Sequence[StatisticsSource]
) -> tuple[int, int]:
    """Bytes and multiplications of a method that runs what it has merged, each block twice."""
    solved = [tensor for tensor in tensors if tensor.action == "solve"]
    if not solved:
        return 0, 0
    tokens = sum(found.metadata["tokens"] for found in statistics)
    # The network, what was solved and is not written yet, and what the last block gave for every token, in float32.
    architectures = len({ref.config["architectures"][0] for ref in experts})
    memory = architectures * sum(tensor.info.numel * 4 for tensor in tensors if tensor.info.is_float)
    memory += sum(tensor.info.nbytes for tensor in solved)
    memory += tokens * mode(tensor.layer.in_features for tensor in solved) * 4
    # What one forward makes on its way, and the libraries that run it; measured.
    memory += _FORWARD * BATCH_TOKENS * max(tensor.layer.in_features for tensor in solved) * 4
    # Triangles of the grams of one block.
    grams: Counter[str] = Counter()
    for tensor in solved:
        within = re.match(r".*?\.\d+\.", tensor.parameter)
        block = within[0] if within else tensor.parameter
        grams[block] += len(experts) * tensor.layer.in_features**2 * 2
    memory += max(grams.values())
    return memory, sum(tokens * (2 * t.info.numel + t.layer.in_features**2 // 2) for t in solved)
