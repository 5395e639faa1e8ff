"""Runs an expert over examples of its own domain, and writes the statistics of what its layers see.

Works in one process, or in several that `accelerate launch` or `torchrun` started: each takes every n-th batch,
and the sums are added at the end, so that no row is counted twice whatever the number of examples.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fusehub.collecting.by_blocks.counting import Counted
from fusehub.collecting.counting import Counting
from fusehub.collecting.fisher.collector import FisherCollector
from fusehub.collecting.fisher.scores import Asked
from fusehub.collecting.gram_collector import GramCollector
from fusehub.collecting.noise import Noise, with_noise
from fusehub.collecting.resume import EVERY
from fusehub.collecting.room import Stream
from fusehub.collecting.same_data import digest_of
from fusehub.data.examples import Examples, load_examples
from fusehub.data.inputs import Inputs
from fusehub.errors import BadData, BadRecipe, Indivisible, OutputExists
from fusehub.hub.access import Access
from fusehub.hub.client import software
from fusehub.models.layout import layout_of
from fusehub.models.resolve import ModelRef, ref_of
from fusehub.models.tasks import TASKS, load_config, task_of
from fusehub.statistics.describing import describe_model, describe_tokenizer
from fusehub.statistics.encodings import DEFAULT_SIZE, LayerSums, check_size
from fusehub.statistics.file import Statistics, write_statistics
from fusehub.statistics.fisher_file import encode_fisher, write_fisher
from fusehub.statistics.privacy import count_labels
from fusehub.statistics.settled import FIRST, SETTLED, error_words, next_limit, typical_error
from fusehub.utils.devices import Device
from fusehub.utils.folders.holding import Held, held, scratch
from fusehub.utils.folders.places import made_folder, require_place
from fusehub.utils.memory import memory_errors
from fusehub.utils.processes import Processes
from fusehub.utils.progress import Progress, silent

if TYPE_CHECKING:
    from fusehub.collecting.by_blocks.squares import StoredSquares
    from fusehub.collecting.by_blocks.work import StoredSums
    from fusehub.statistics.grams import GramSum

logger = logging.getLogger(__name__)

_LESS = "Have it read block by block (--stream on), give it more memory, or take another --device."
# Share of words that the tokenizer does not know from which on that is said.
_UNKNOWN = 0.5


def collect(
    model: str | ModelRef,
    data: str,
    out: str | Path,
    *,
    limit: int | Literal["auto"] | None = None,
    max_length: int | None = None,
    seed: int = 0,
    text_column: str | None = None,
    description: str | None = None,
    size: str = DEFAULT_SIZE,
    noise: Noise | None = None,
    fisher: bool = False,
    fisher_samples: int | None = None,
    batch_tokens: int | None = None,
    device: Device | None = None,
    device_map: Literal["auto"] | None = None,
    max_memory: Mapping[str, int] | None = None,
    stream: Stream = "auto",
    work: str | Path | None = None,
    save_every: float = EVERY,
    revision: str | None = None,
    subfolder: str | None = None,
    token: bool | str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    progress: Progress = silent,
) -> Statistics | None:
    """Statistics of `model` on the examples of `data`, written into the folder `out` and opened for reading.

    What has been counted is saved as it goes: the same call goes on there after it was stopped, with the same result.

    Args:
        model: `user/name`, `user/name@revision`, a folder, or `BASE+ADAPTER`.
        data: A file, a folder or `user/dataset[:config][/split]`; labels are not used.
        out: A folder, new or empty.
        limit: How many examples are taken, chosen by `seed`; all where it is not said. `auto` takes a few, foresees by
            the standard error of their grams how many are enough (`fusehub.statistics.settled`), and begins anew with
            so many until they are: with the same result as of that number.
        max_length: Where texts are cut, in tokens.
        seed: For the choice of examples, and for labels that are drawn.
        text_column: The column that has the texts; guessed where it is not said.
        description: Replaces the name of the data in the file, for owners who do not want to tell it.
        size: How finely grams are stored: `full`, `half`, `compact` or `tiny`.
        noise: Makes them private for each example.
        fisher: Adds the Fisher diagonals of all tensors, from the same forwards, in a file beside: over all labels
            where these are few, else over labels that are drawn by `seed`.
        fisher_samples: How many labels are drawn for each example, instead of all.
        batch_tokens: Tokens of a batch, padding included.
        device: Where the model runs: `cpu`, `cuda`, `mps`; by itself an accelerator where there is one.
        device_map: `auto` is for a model larger than its device: accelerate places its layers on all devices, in
            memory and on the disk. It is chosen anyway where one process has an accelerator that the model does not
            fit on.
        max_memory: The most bytes on each device: `{"0": 20 * 10**9, "cpu": 10**9}`.
        stream: `on` reads the model block by block: each is read once, all texts pass through it, and what it gives is
            kept in `work` for the next, so that no more than one block is in memory. `off` has the whole model in
            memory, and `auto` takes the former where the latter would not fit. Noise needs the whole model, and so do
            Fisher diagonals of encoders with decoders.
        work: The folder of what has been counted; a hidden one beside `out` where it is not said.
        save_every: Seconds after which that is saved.
        revision: A branch, a tag or a commit of the model's repo.
        subfolder: The folder of the repo that the model is in.
        token: The Hub's token; None for the one of `hf auth login` if there is one, True where there must be, False
            for none.
        cache_dir: Where downloads lie; the Hub's cache of this machine where nothing is said.
        local_files_only: Read what is in the cache already, and ask the Hub for nothing.
        progress: Called with (done, total, what).

    Returns:
        The statistics, open. Of several processes that were started together, the main one writes and returns them;
        the others return None.

    Raises:
        NotFound: The model or the data is not there.
        BadData: The data lacks what the model takes.
        BadRecipe: Options do not go together.
        Indivisible: The model cannot be run block by block, and `stream` is `on`.
        NoMemory: Neither way fits into memory.
        NoSpace: A disk does not take what is downloaded, kept on the way, or written.
        NonFinite: The numbers or gradients of the model are not finite: then nothing is written.

    Examples:
        >>> statistics = fusehub.collect("user/expert-1", "user/texts", "statistics", limit=20)
        >>> layer = statistics.layers["bert.encoder.layer.0.output.dense.weight"]
        >>> layer.size, layer.gram().shape  # of 32 inputs
        (32, torch.Size([32, 32]))
    """
    check_size(size)
    require_place(Path(out))
    if noise is not None and fisher:
        raise BadRecipe("Noise makes grams private, not Fisher diagonals.", "Leave out one of --noise and --fisher.")
    if fisher_samples is not None and (not fisher or fisher_samples < 1):
        raise BadRecipe(
            f"{fisher_samples} labels cannot be drawn for Fisher diagonals.", "Give 1 or more, together with --fisher."
        )
    if device is not None and str(device) != "auto" and device_map:
        raise BadRecipe("A model runs on one device or is spread over all.", "Leave out --device or --device-map.")
    if limit == "auto" and noise is not None:
        raise BadRecipe(
            "How well private grams are known is not told: that would be told of the texts, too.", "Say a --limit."
        )
    reason = _needs_whole(noise=noise is not None, device_map=device_map is not None)
    if stream == "on" and reason:
        raise BadRecipe(reason, "Leave that out, or --stream on.")
    processes = Processes.find()
    out = Path(out)
    work = Path(work) if work else out.parent / f".{out.name}.collecting"
    with contextlib.ExitStack() as within, processes.together():
        if processes.is_main:
            within.enter_context(_alone(work))
        access = Access(token, cache_dir, local_files_only)
        ref = ref_of(model, access, revision=revision, subfolder=subfolder)
        task = task_of(ref.config, ref.name)

        def count(taken: int | None, kept: Path) -> _Run:
            """So many examples, with what was counted saved in the folder `kept`."""
            examples = load_examples(
                data, task.name, limit=taken, seed=seed, text_column=text_column, access=access, default_split="train"
            )
            inputs = Inputs.of(ref, examples, max_length=max_length, seed=seed)
            _require_known_words(ref.name, examples.source, inputs)
            digest = digest_of(inputs, examples, seed=seed)
            asked = Asked(fisher_samples, seed) if fisher else None
            counting = Counting(ref, inputs, processes, kept, digest, batch_tokens, device, progress, asked)
            needs_whole = reason or counting.needs_whole
            if stream == "on" and needs_whole:
                raise Indivisible(needs_whole, "Leave out --fisher, or have it read whole: --stream off.")
            by_blocks = needs_whole is None and counting.is_by_blocks(stream)
            counting.require_disk(out, size, by_blocks=by_blocks)
            counted = counting.by_blocks(required=stream == "on") if by_blocks else None
            if counted is not None:
                return _Run(examples, inputs, counting, counted, counted.gradients)
            collector, gradients = counting.whole(
                within.enter_context(scratch()),
                device_map=device_map,
                max_memory=max_memory,
                noise=noise,
                save_every=save_every,
                why_whole=needs_whole,
            )
            return _Run(examples, inputs, counting, collector, gradients)

        with memory_errors(f"Counting {ref.name}", _LESS):
            found = _settled(count, work, processes) if limit == "auto" else count(limit, work)
        path = None
        if processes.is_main:
            path = _write(out, ref, found, description, seed, size, noise)
        processes.agree()
        found.counting.remove_work()
    return Statistics(path) if path else None


@dataclass(frozen=True)
class _Run:
    """What was counted of which examples, and what counted it."""

    examples: Examples
    inputs: Inputs
    counting: Counting
    counted: GramCollector | Counted
    gradients: FisherCollector | StoredSquares | None


def _settled(count: Callable[[int, Path], _Run], work: Path, processes: Processes) -> _Run:
    """As many examples as leave grams that are known well enough, or all; what is saved of fewer is removed."""
    taken = FIRST
    while True:
        # An attempt that was stopped is not taken for what a smaller one left.
        found = count(taken, work / f"limit-{taken}")
        # Block by block, the main process alone has the sums.
        error = processes.agree(typical_error(_errors(found.counted.sums)))[0]
        if len(found.inputs) < taken or (error is not None and error <= SETTLED):
            _warn_of_unsettled(found.examples.source, len(found.inputs), error)
            return found
        found.counting.remove_work()
        taken = next_limit(taken, error)


def _errors(sums: Mapping[str, GramSum | StoredSums]) -> dict[str, float]:
    """The relative standard errors of layers, as far as they are known."""
    errors = ((name, own.standard_error) for name, own in sums.items())
    return {name: error for name, error in errors if error is not None}


def _warn_of_unsettled(source: str, examples: int, error: float | None) -> None:
    if error is not None and error > SETTLED:
        logger.warning(
            "%s: all %d examples are taken, and the grams are known to %s alone: %s is wanted.",
            source,
            examples,
            error_words(error),
            error_words(SETTLED),
        )


def _needs_whole(*, noise: bool, device_map: bool) -> str | None:
    """Why the model must be in memory as a whole, whichever it is; None where it need not be."""
    if noise:
        return "Noise needs bounds that are known for the whole model first: it cannot be read block by block."
    return "A model that is spread over devices is not read block by block." if device_map else None


@contextlib.contextmanager
def _alone(work: Path) -> Iterator[None]:
    """The folder `work` for this run alone; what is saved in it stays there if the run does not come to its end."""
    try:
        with made_folder(work.parent), held(work, keep=True):
            yield
    except Held:
        raise OutputExists(
            f"Another run collects the same at this moment; it keeps its work in {work}.",
            "Wait until it is done, or collect into another folder.",
        ) from None
    except KeyboardInterrupt as interrupt:
        if any(work.rglob("*.safetensors")):
            interrupt.add_note(f"What was counted is kept in {work}: the same command goes on there.")
        raise


def _require_known_words(name: str, source: str, inputs: Inputs) -> None:
    """Raises `BadData` where the tokenizer knows none of the texts' words, and warns where it knows few: statistics
    of [UNK] alone say nothing of the model."""
    if inputs.of_images:
        return
    tokenizer = inputs.tokenizer
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is None or unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
        return  # Nothing is unknown to it, and the name stands for something else.
    others = set(tokenizer.all_special_ids) - {unknown}
    words = [token for encoding in inputs.encodings for token in encoding["input_ids"] if token not in others]
    share = words.count(unknown) / max(1, len(words))
    if share == 1:
        raise BadData(
            f"The tokenizer of {name} knows no word of the texts of {source}: all become {tokenizer.unk_token}.",
            "Give texts of the kind that the model was trained on. Is the tokenizer that of the model?",
        )
    if share > _UNKNOWN:
        logger.warning(
            "%s: %.0f %% of the words are unknown to the tokenizer of %s: are these texts of its kind?",
            source,
            100 * share,
            name,
        )


def _write(
    out: Path,
    ref: ModelRef,
    found: _Run,
    description: str | None,
    seed: int,
    size: str,
    noise: Noise | None,
) -> Path:
    examples, inputs, collector, fisher = found.examples, found.inputs, found.counted, found.gradients
    layout = layout_of(load_config(ref))
    stored = layout.names(_names(ref))
    # The model's parameter -> the name in the file, which is what the statistics are called by.
    file_names = {parameter: name for name, parameter in stored.items()}
    aliases = collector.aliases
    sums: Mapping[str, LayerSums] = collector.sums
    # With noise, nothing is told of single texts.
    errors = {} if noise else {file_names.get(name, name): own for name, own in _errors(collector.sums).items()}
    if noise is not None:
        assert isinstance(collector, GramCollector)  # Noise is for what was counted as a whole.
        sums = with_noise(collector.sums, noise)
    metadata: dict[str, Any] = {
        "model": describe_model(ref),
        "task": inputs.task,
        "tokenizer": describe_tokenizer(ref),
        "data": {
            "source": description or examples.source,
            "revision": None if description else examples.revision,
        },
        "examples": len(inputs),
        # What is not noisy is not told of private examples, but for how many they are.
        "tokens": None if noise else inputs.tokens,
        "labels": count_labels(examples.labels) if TASKS[inputs.task].labels and not noise else None,
        "standard_errors": {name: float(f"{error:.3g}") for name, error in sorted(errors.items())} or None,
        "noise": noise.describe() if noise else None,
        "max_length": inputs.max_length,
        "seed": seed,
        "uncounted": sorted(
            file_names.get(name, name) for name in collector.weights if name not in sums and name not in aliases
        ),
        "software": software("torch", "transformers"),
    }
    beside = None
    if fisher is not None:
        tensors, metadata["fisher"] = encode_fisher(fisher.means(layout, stored), fisher.description, size)
        beside = functools.partial(write_fisher, stored=tensors, described=metadata["fisher"], model=metadata["model"])
    return write_statistics(
        out,
        {file_names.get(name, name): value for name, value in sums.items()},
        {file_names.get(name, name): file_names.get(target, target) for name, target in aliases.items()},
        metadata,
        size=size,
        beside=beside,
    )


def _names(ref: ModelRef) -> list[str]:
    from fusehub.models.checkpoints.checkpoint import Checkpoint

    with Checkpoint(ref) as checkpoint:
        return list(checkpoint)
