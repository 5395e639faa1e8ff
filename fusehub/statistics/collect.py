"""Runs an expert over examples of its own domain, and writes the statistics of what its layers see.

Works in one process, or in several that `accelerate launch` or `torchrun` started: each takes every n-th batch,
and the sums are added at the end, so that no row is counted twice whatever the number of examples.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.checkpoint import sha256_of, weight_hashes
from fusehub.data import load_examples
from fusehub.errors import FuseHubError
from fusehub.hub import fusehub_version
from fusehub.inputs import Inputs
from fusehub.layers import layout_of, linears_of
from fusehub.progress import Progress, silent
from fusehub.refs import ModelRef, resolve
from fusehub.statistics.collector import GramCollector, Misjudged
from fusehub.statistics.encodings import DEFAULT_SIZE, check_size
from fusehub.statistics.format import Statistics, write_statistics
from fusehub.statistics.processes import Processes
from fusehub.tasks import load_config, load_model, task_of

if TYPE_CHECKING:
    from torch import Tensor

# Rows of one update. Fewer make each update wait for memory, more only take memory.
BATCH_TOKENS = 4096
# Batches that each process does before it hears of the others.
_STRIDE = 8


def collect(
    model: str | ModelRef,
    data: str,
    out: str | Path,
    *,
    limit: int | None = None,
    max_length: int | None = None,
    seed: int = 0,
    text_column: str | None = None,
    description: str | None = None,
    size: str = DEFAULT_SIZE,
    batch_tokens: int = BATCH_TOKENS,
    token: str | None = None,
    progress: Progress = silent,
) -> Statistics | None:
    """Statistics of `model` on the examples of `data`, written into the folder `out` and opened for reading.

    Of several processes that were started together, the main one writes and returns them; the others return None.

    `data` is a file, a folder or `user/dataset[:config][/split]`; labels are not used. `limit` takes that many
    examples, chosen by `seed`; `max_length` cuts texts, in tokens. `description` replaces the name of the data in
    the file, for owners who do not want to tell it. `size` is one of `encodings.SIZES`: how finely grams are stored.
    """
    check_size(size)
    processes = Processes.find()
    with processes.together():
        ref = resolve(model, token=token) if isinstance(model, str) else model
        task = task_of(ref.config, ref.name)
        examples = load_examples(
            data, task.name, limit=limit, seed=seed, text_column=text_column, token=token, default_split="train"
        )
        inputs = Inputs.of(ref, examples, max_length=max_length, seed=seed)
        network = load_model(ref, device=str(processes.device))
        collector = _run(network, inputs, batch_tokens, processes, progress)
        path = None
        if processes.is_main:
            path = _write(Path(out), ref, network, inputs, collector, description, examples, seed, size)
        processes.agree()
    return Statistics(path) if path else None


def _write(
    out: Path,
    ref: ModelRef,
    network: Any,
    inputs: Inputs,
    collector: GramCollector,
    description: str | None,
    examples: Any,
    seed: int,
    size: str,
) -> Path:
    stored = layout_of(load_config(ref)).names(_names(ref))
    # The model's parameter -> the name in the file, which is what the statistics are called by.
    file_names = {parameter: name for name, parameter in stored.items()}
    sums, aliases = collector.sums, collector.aliases
    metadata = {
        "model": {
            "id": ref.repo_id or ref.folder.resolve().name,
            "commit": ref.commit,
            "architecture": type(network).__name__,
            "weights": weight_hashes(ref),
            "base_model": ref.card.get("base_model"),
        },
        "task": inputs.task,
        "tokenizer": {
            name: sha256_of(ref.path(name)) for name in ref.side_files() if "token" in name or "vocab" in name
        },
        "data": {
            "source": description or examples.source,
            "revision": None if description else examples.revision,
        },
        "examples": len(inputs),
        "tokens": inputs.tokens,
        "max_length": inputs.max_length,
        "seed": seed,
        "uncounted": sorted(
            file_names.get(name, name) for name in collector.weights if name not in sums and name not in aliases
        ),
        "software": _versions(),
    }
    return write_statistics(
        out,
        {file_names.get(name, name): value for name, value in sums.items()},
        {file_names.get(name, name): file_names.get(target, target) for name, target in aliases.items()},
        metadata,
        size=size,
    )


def _run(network: Any, inputs: Inputs, batch_tokens: int, processes: Processes, progress: Progress) -> GramCollector:
    """Runs all batches under a collector; starts over with what was learned where the probe misjudged a layer."""
    verdicts: dict[str, str] = {}
    while True:
        collector = GramCollector(network, linears_of(network), verdicts=verdicts)
        with collector:
            collector.probe(inputs.probe())
            learned = _count(network, collector, inputs, batch_tokens, processes, progress)
        if not learned:
            _add_up(collector, processes)
            return collector
        verdicts |= learned


def _count(
    network: Any,
    collector: GramCollector,
    inputs: Inputs,
    batch_tokens: int,
    processes: Processes,
    progress: Progress,
) -> dict[str, str]:
    """Counts this process's batches, in step with the others; verdicts of any of them that spoil the work."""
    own = itertools.islice(inputs.batches(batch_tokens=batch_tokens), processes.index, None, processes.count)
    done, finished, learned = 0, False, {}
    while True:
        for _ in range(_STRIDE):
            batch = next(own, None)
            finished = batch is None
            if finished:
                break
            try:
                _count_batch(network, collector, batch[1], processes)
            except Misjudged as error:
                learned, finished = {error.weight: error.verdict}, True
                break
            done += len(batch[0])
            if processes.count == 1:
                progress(done, len(inputs), "examples")
        said = processes.agree((done, finished, learned))
        progress(sum(own_done for own_done, _, _ in said), len(inputs), "examples")
        verdicts = {weight: verdict for _, _, others in said for weight, verdict in others.items()}
        if verdicts or all(own_finished for _, own_finished, _ in said):
            return verdicts


def _count_batch(network: Any, collector: GramCollector, batch: dict[str, Tensor], processes: Processes) -> None:
    import torch

    for part in collector.parts(batch):
        part = {name: value.to(processes.device) for name, value in part.items()}
        with torch.inference_mode(), collector.counting(part):
            network(**part)


def _add_up(collector: GramCollector, processes: Processes) -> None:
    """Adds the sums of all processes, layer by layer, in every one of them; who saw nothing takes part with zeros."""
    import torch

    said = processes.agree((collector.aliases, list(collector.sums)))
    if any(aliases != said[0][0] for aliases, _ in said):
        raise FuseHubError(
            "The processes do not agree on which layers share their inputs.", "Collect in one process instead."
        )
    if processes.count == 1:
        return
    for name in sorted({name for _, names in said for name in names}):
        sums = collector.sums_of(name)
        rows = torch.tensor([sums.rows], dtype=torch.int64)
        processes.add_up([*sums.tensors(), rows])
        sums.rows = int(rows)


def _names(ref: ModelRef) -> list[str]:
    from fusehub.checkpoint import Checkpoint

    with Checkpoint(ref) as checkpoint:
        return list(checkpoint)


def _versions() -> dict[str, str]:
    import torch
    import transformers

    return {
        "fusehub": fusehub_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
