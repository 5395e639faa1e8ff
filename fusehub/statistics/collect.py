"""Runs an expert over texts of its own domain, and writes the statistics of what its layers see.

Works in one process, or in several that `accelerate launch` or `torchrun` started: each takes every n-th batch,
and the sums are added at the end, so that no row is counted twice whatever the number of texts.
"""

from __future__ import annotations

import atexit
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.checkpoint import sha256_of, weight_hashes
from fusehub.data import load_examples
from fusehub.encoding import batches, encode, max_length_of
from fusehub.errors import BadData, FuseHubError
from fusehub.hub import fusehub_version
from fusehub.layers import layout_of
from fusehub.progress import Progress, silent
from fusehub.refs import ModelRef, resolve
from fusehub.statistics.collector import GramCollector, SharingChanged
from fusehub.statistics.format import Statistics, write_statistics
from fusehub.tasks import load_config, load_model, load_tokenizer, task_of

if TYPE_CHECKING:
    from accelerate import PartialState

# Rows of one update. Fewer make each update wait for memory, more only take memory.
BATCH_TOKENS = 4096


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
    batch_tokens: int = BATCH_TOKENS,
    token: str | None = None,
    progress: Progress = silent,
) -> Statistics | None:
    """Statistics of `model` on the texts of `data`, written into the folder `out` and opened for reading.

    Of several processes that were started together, the main one writes and returns them; the others return None.

    `data` is a file, a folder or `user/dataset[:config][/split]`; labels are not used. `limit` takes that many
    examples, chosen by `seed`; `max_length` cuts texts, in tokens. `description` replaces the name of the data in
    the file, for owners who do not want to tell it.
    """
    state = _processes()
    ref = resolve(model, token=token) if isinstance(model, str) else model
    task = task_of(ref.config, ref.name)
    examples = load_examples(
        data, task.name, limit=limit, seed=seed, text_column=text_column, token=token, default_split="train"
    )
    tokenizer = load_tokenizer(ref)
    length = max_length_of(tokenizer, load_config(ref), max_length)
    encodings = encode(examples.texts, tokenizer, max_length=length)
    if not encodings:
        raise BadData(f"{data} holds no text.", "Give data with at least one text.")
    network = load_model(ref, device=str(state.device))
    stored = layout_of(load_config(ref)).names(_names(ref))
    # The model's parameter -> the name in the file, which is what the statistics are called by.
    file_names = {parameter: name for name, parameter in stored.items()}
    collector = _run(network, encodings, tokenizer, batch_tokens, state, progress)
    sums, aliases = collector.sums, collector.aliases
    metadata = {
        "model": {
            "id": ref.repo_id or ref.folder.resolve().name,
            "commit": ref.commit,
            "architecture": type(network).__name__,
            "weights": weight_hashes(ref),
            "base_model": ref.card.get("base_model"),
        },
        "task": task.name,
        "tokenizer": {
            name: sha256_of(ref.path(name)) for name in ref.side_files() if "token" in name or "vocab" in name
        },
        "data": {
            "source": description or examples.source,
            "revision": None if description else examples.revision,
        },
        "examples": len(encodings),
        "tokens": sum(len(encoding["input_ids"]) for encoding in encodings),
        "max_length": length,
        "seed": seed,
        "uncounted": sorted(
            file_names.get(name, name) for name in collector.weights if name not in sums and name not in aliases
        ),
        "software": _versions(),
    }
    path = None
    if state.is_main_process:
        path = write_statistics(
            Path(out),
            {file_names.get(name, name): value for name, value in sums.items()},
            {file_names.get(name, name): file_names.get(target, target) for name, target in aliases.items()},
            metadata,
        )
    state.wait_for_everyone()
    return Statistics(path) if path else None


def _run(network, encodings, tokenizer, batch_tokens: int, state: PartialState, progress: Progress) -> GramCollector:
    """Runs all batches under a collector; starts over, with less sharing, where the probe misjudged a layer."""
    unshared: set[str] = set()
    while True:
        try:
            return _collect_once(network, encodings, tokenizer, batch_tokens, state, progress, unshared)
        except SharingChanged as change:
            unshared.add(change.weight)


def _collect_once(
    network: Any,
    encodings: list,
    tokenizer: Any,
    batch_tokens: int,
    state: Any,
    progress: Progress,
    unshared: set[str],
) -> GramCollector:
    import torch

    from fusehub.layers import linears_of

    examples, done = len(encodings), 0
    with GramCollector(network, linears_of(network), unshared=unshared) as collector:
        collector.probe(encodings[0]["input_ids"])
        for number, (indices, batch) in enumerate(batches(encodings, tokenizer, batch_tokens=batch_tokens)):
            done += len(indices)
            if number % state.num_processes == state.process_index:
                inputs = {name: value.to(state.device) for name, value in batch.items()}
                with torch.inference_mode(), collector.counting(inputs["attention_mask"]):
                    network(**inputs)
            progress(done, examples, "texts")
        if state.num_processes > 1:
            _add_up(collector)
    return collector


def _add_up(collector: GramCollector) -> None:
    """Adds the sums of all processes, in every one of them; one that had no batch at all takes part with zeros."""
    import torch.distributed as dist
    from accelerate.utils import gather_object

    shared = gather_object([collector.aliases])
    if any(own != shared[0] for own in shared):
        raise FuseHubError(
            "The processes do not agree on which layers share their inputs.", "Collect in one process instead."
        )
    for name in sorted(set(gather_object(list(collector.sums)))):
        sums = collector.sums_of(name)
        for tensor in sums.tensors():
            dist.all_reduce(tensor)
        count = sums.total.new_tensor([sums.rows])
        dist.all_reduce(count)
        sums.rows = int(count.item())


def _processes() -> PartialState:
    """This process among those that were started together. Raises `FuseHubError` where they do not find each other."""
    import torch
    import torch.distributed as dist
    from accelerate import PartialState

    joined_before = dist.is_available() and dist.is_initialized()
    started = int(os.environ.get("WORLD_SIZE", "1"))
    fix = "Start them with `torchrun --nproc_per_node N -m fusehub collect ...`."
    try:
        # Without cpu=True, processes on a machine without accelerators each believe that they are alone.
        state = PartialState(cpu=not torch.accelerator.is_available())
    except ValueError as error:
        raise FuseHubError(f"WORLD_SIZE says {started} processes, but they cannot be joined: {error}.", fix) from error
    if state.num_processes != started:
        raise FuseHubError(f"{started} processes were started, but this one sees {state.num_processes}.", fix)
    if state.num_processes > 1 and not joined_before:
        # A process that leaves while threads of gloo still talk to the others is aborted by the C++ runtime.
        atexit.register(state.destroy_process_group)
    return state


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
