"""Models, tokenizers and image processors, loaded by transformers: never with code of a repo's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.errors import BadFile, FuseHubError, Incompatible, NoMemory, NotFound, first_line, is_panic
from fusehub.models.adapters.ref import CONFIG as ADAPTER_CONFIG
from fusehub.models.checkpoints.checkpoint import Checkpoint
from fusehub.models.completeness import require_complete
from fusehub.models.ref import ModelRef
from fusehub.models.side_files import has_vocabulary, tokenizer_files
from fusehub.models.tasks import Task, class_name_of, load_config, task_of
from fusehub.models.tensor_files import torch_dtype
from fusehub.utils.devices import has_float64
from fusehub.utils.extras import needs
from fusehub.utils.formats import size
from fusehub.utils.memory import is_of_memory, memory_of
from fusehub.utils.untrusted.documents import whole_numbers
from fusehub.utils.untrusted.limits import ADDED_TOKENS, IMAGE_SIDE, TOKENIZER_BYTES, require_bytes

if TYPE_CHECKING:
    import torch
    from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Spread:
    """A model over several devices, memory and disk: at most so much on each, by name (`cpu`, or a GPU's number).

    What fits nowhere lies in files in `folder`, and is read for each forward.
    """

    folder: Path
    max_memory: Mapping[str, int] | None = None

    def options(self) -> dict[str, Any]:
        """What transformers' `from_pretrained` is told."""
        limits = {int(name) if name.isdecimal() else name: most for name, most in (self.max_memory or {}).items()}
        return {"device_map": "auto", "max_memory": limits or None, "offload_folder": self.folder}


def load_model(
    ref: ModelRef, *, dtype: torch.dtype | None = None, device: str = "cpu", spread: Spread | None = None
) -> PreTrainedModel:
    """The model with its task's head, in eval mode; `dtype` None keeps the one it is stored in.

    On one device, or with `spread` on several, as accelerate places its layers. float64 becomes float32 on a device
    that has none.
    """
    import torch

    task = task_of(ref.config, ref.name)
    with Checkpoint(ref) as checkpoint:
        require_complete(ref, checkpoint.tensors)
        if spread is None:
            _require_memory(ref, checkpoint, dtype)
        with quiet_transformers(), strange_files(ref.name, "config.json and the weights"):
            if _is_plain(ref, checkpoint):
                model, loading = _load_folder(ref, task, dtype, spread)
            else:
                model, loading = _load_tensors(ref, checkpoint, dtype, spread)
    if loading["missing_keys"]:
        raise Incompatible(
            f"{ref.name} lacks {', '.join(sorted(loading['missing_keys'])[:4])}: transformers filled them with "
            "random numbers.",
            "Does config.json name the architecture of these weights?",
        )
    tell_padding(model, ref)
    if spread:
        return model.eval()
    if not has_float64(device):
        for parameter in [*model.parameters(), *model.buffers()]:
            if parameter.dtype == torch.float64:
                parameter.data = parameter.data.float()
    return moved(model, device).eval()


def _require_memory(ref: ModelRef, checkpoint: Checkpoint, dtype: torch.dtype | None) -> None:
    """Raises `NoMemory` where the weights, in `dtype` or as they are stored, are more than what memory is left."""
    infos = checkpoint.tensors.values()
    needed = sum(info.numel * dtype.itemsize if dtype and info.is_float else info.nbytes for info in infos)
    if (there := memory_of("cpu")) is not None and needed > there:
        raise NoMemory(
            f"{ref.name} takes {size(needed)} of memory to be run, for its weights alone, and {size(there)} are left.",
            "Give it more memory, or end what else takes it.",
        )


def tell_padding(model: PreTrainedModel, ref: ModelRef) -> None:
    """Has the model know its padding: GPT-2 and Llama classify the last token that is none, and refuse batches if they
    do not know it."""
    if not task_of(ref.config, ref.name).of_images and model.config.pad_token_id is None:
        model.config.pad_token_id = load_tokenizer(ref).pad_token_id


def moved(model: PreTrainedModel, device: str | torch.device) -> PreTrainedModel:
    """The model, on the device."""
    model.to(device)  # type: ignore[arg-type]  # transformers wraps `to` as a function, not as a method.
    return model


def _is_plain(ref: ModelRef, checkpoint: Checkpoint) -> bool:
    """Whether transformers reads the files as they are: not an adapter's, not under the names of a wrapper, and not by
    an index that lacks what transformers wants to find in it."""
    if not checkpoint.read_by_transformers:
        return False
    if ADAPTER_CONFIG in ref.files:
        return False  # transformers would put the adapter that lies beside the model on it, once more.
    return all(isinstance(ref.json(name).get("metadata"), dict) for name in ref.files if name.endswith(".index.json"))


def _load_folder(
    ref: ModelRef, task: Task, dtype: torch.dtype | None, spread: Spread | None
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model, read from its files by transformers itself, and what it says of that."""
    import transformers

    return getattr(transformers, task.auto_class).from_pretrained(
        ref.download(),
        config=load_config(ref),
        trust_remote_code=False,
        local_files_only=True,
        dtype=dtype or "auto",
        weights_only=True,
        output_loading_info=True,
        **(spread.options() if spread else {}),
    )


def _load_tensors(
    ref: ModelRef, checkpoint: Checkpoint, dtype: torch.dtype | None, spread: Spread | None
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model made of the tensors as FuseHub reads them, as transformers loads one whose weights are these."""
    import transformers

    config = load_config(ref)
    weights = {name: checkpoint[name].to(torch_dtype(info.dtype)) for name, info in checkpoint.tensors.items()}
    stored = next(value.dtype for value in weights.values() if value.is_floating_point())
    return getattr(transformers, class_name_of(config)).from_pretrained(
        None,
        config=config,
        state_dict=weights,
        dtype=dtype or stored,
        output_loading_info=True,
        **(spread.options() if spread else {}),
    )


@contextmanager
def strange_files(name: str, files: str) -> Iterator[None]:
    """Work of transformers on `files` of the model called `name`, which others wrote: what it raises for wrong ones is
    whatever they lead to, and `Incompatible` here."""
    try:
        yield
    except BaseException as error:
        if not is_of_files(error):
            raise
        raise Incompatible(
            f"{name}: transformers cannot use {files} ({first_line(error)}).",
            "Does `from_pretrained` load it? Write its files again with `save_pretrained`, or use another repo.",
        ) from error


def running(name: str) -> AbstractContextManager[None]:
    """One forward of the model called `name`: what stands in the way of it is in its files."""
    return strange_files(name, "config.json, the weights and what prepares its inputs together")


def is_of_files(error: BaseException) -> bool:
    """Whether a library may raise this for files that are wrong; what Rust panics at is no `Exception`."""
    is_ours = isinstance(error, FuseHubError) or is_of_memory(error)
    return is_panic(error) or (isinstance(error, Exception) and not is_ours)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """transformers without its progress bars and warnings, and afterwards as it was."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def load_tokenizer(ref: ModelRef) -> PreTrainedTokenizerBase:
    """The model's tokenizer; with a padding token even where the model has none (GPT-2, Llama).

    Raises `NotFound` where the model has none, and `Incompatible` where transformers cannot load it.
    """
    found = tokenizer_or_reason(ref)
    if isinstance(found, str):
        raise no_tokenizer(ref, found)
    return found


def tokenizer_or_reason(ref: ModelRef) -> PreTrainedTokenizerBase | str:
    """The same, or why the model has none."""
    from transformers import AutoTokenizer

    owner = ref.tokenizer_ref
    _require_small_tokenizer(owner)
    folder = owner.download(weights=False)
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            # Some are broken in what only their use shows.
            tokenizer("a"), tokenizer.get_vocab(), tokenizer.all_special_ids
    except BaseException as error:  # The library of tokenizers raises nothing more special, or panics.
        if not is_of_files(error):
            raise
        if not has_vocabulary(owner.files):
            return "none of its files is a vocabulary"
        raise Incompatible(
            f"transformers cannot load the tokenizer of {ref.name}: {first_line(error)}.",
            "Are its files complete, of a tokenizer that transformers itself knows, and what it needs installed?",
        ) from error
    if (made_of := _made_up_for(ref, tokenizer)) is not None:
        return f"a {type(tokenizer).__name__} is made of {made_of}"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


_SETTINGS = "tokenizer_config.json"
# T5's, XGLM's and Pegasus' tokenizers make so many tokens before anything else.
_COUNTS = ("extra_ids", "num_madeup_words", "offset")


def _require_small_tokenizer(ref: ModelRef) -> None:
    """Raises `BadFile` for files of a tokenizer that are larger than any, or that add more tokens than any does."""
    for name in tokenizer_files(ref.files):
        require_bytes(ref.files[name].size, TOKENIZER_BYTES, f"{ref.name}: {name}")
        # Each added token is an object of its own, and takes a hundred times as long as one of the vocabulary.
        count = ref.path(name).read_bytes().count(b"{") if name.endswith(".json") else 0
        if count > ADDED_TOKENS:
            raise _too_many(ref, f"{name} has {count:,} added tokens or more")
    if _SETTINGS in ref.files:
        said = ref.json(_SETTINGS)
        for key in _COUNTS:
            if isinstance(stated := said.get(key), int) and stated > ADDED_TOKENS:
                raise _too_many(ref, f"{key} in {_SETTINGS} says that {stated:,} tokens are added")


def _too_many(ref: ModelRef, what: str) -> BadFile:
    return BadFile(
        f"{ref.name}: {what}, and no more than {ADDED_TOKENS:,} are read.",
        "Is it the tokenizer of this model? Take that of its base.",
    )


def _made_up_for(ref: ModelRef, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The files for want of which transformers has made a tokenizer up: without a word, and every word is then
    unknown. None for one that is sound.
    """
    needed = type(tokenizer).vocab_files_names
    if not needed or "tokenizer.json" in ref.tokenizer_ref.files:
        return None  # Of bytes or letters, so that nothing is needed; or all is in one file.
    words = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens) - set(tokenizer.added_tokens_encoder)
    if len(words) >= 2:  # Some make up a mark of a word's beginning too.
        return None
    names = [name for part, name in needed.items() if part not in ("tokenizer_file", "tokenizer_config_file")]
    return "tokenizer.json" + (f", or of {' and '.join(names)}" if names else "")


def no_tokenizer(ref: ModelRef, why: str) -> NotFound:
    """The error for a model that has none."""
    return NotFound(
        f"{ref.name} has no tokenizer: {why}.",
        "Copy the tokenizer's files of its base into it, if it was trained with that one.",
    )


def load_processor(ref: ModelRef) -> BaseImageProcessor:
    """What turns images into the model's numbers; the version that works on Pillow's images and needs no more."""
    with needs("images", "Images"):
        import PIL  # noqa: F401  # transformers wants it late, and says so in words of its own.
        from transformers import AutoImageProcessor

    if "preprocessor_config.json" not in ref.files:
        raise NotFound(
            f"{ref.name} has no preprocessor_config.json, which says how images are scaled.",
            "Copy it from the model's base into its repo.",
        )
    folder = ref.owner("preprocessor_config.json").download(weights=False)
    from PIL import Image

    try:
        with quiet_transformers():
            processor = AutoImageProcessor.from_pretrained(
                folder, backend="pil", trust_remote_code=False, local_files_only=True
            )
    except Exception as error:  # A value of a wrong kind raises whatever is done with it.
        raise Incompatible(
            f"{ref.name}: transformers cannot read its preprocessor_config.json ({first_line(error)}).",
            "Is it complete, and its kind of image processor one that works without torchvision?",
        ) from error
    said = processor.to_dict()
    sizes = {key: value for key, value in said.items() if key.endswith("size") and not key.startswith("do_")}
    if any(isinstance(number, bool) for _, number in whole_numbers(sizes)):
        raise Incompatible(
            f"{ref.name}: its preprocessor_config.json has a truth value for the side of an image.",
            "Copy it from the model's base into its repo.",
        )
    if (side := max((number for _, number in whole_numbers(sizes)), default=0)) > IMAGE_SIDE:
        raise Incompatible(
            f"{ref.name}: its preprocessor_config.json makes images of {side:,} pixels, and no model takes more than "
            f"{IMAGE_SIDE:,} a side.",
            "Copy it from the model's base into its repo.",
        )
    # Values of a wrong kind show only where they are used.
    with quiet_transformers(), strange_files(ref.name, "its preprocessor_config.json"):
        if "pixel_values" not in processor(images=[Image.new("RGB", (32, 32))], return_tensors="pt"):
            raise ValueError("it makes no pixel_values")
    return processor
