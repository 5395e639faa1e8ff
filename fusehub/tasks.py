"""What a model is for, told from its config: the task, its transformers class, and its labels by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.errors import Incompatible, UnsafeFile

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from fusehub.refs import ModelRef


@dataclass(frozen=True)
class Task:
    """One kind of model: the Hub's `pipeline_tag`, the suffix of its architectures, transformers' auto class."""

    name: str
    suffix: str
    auto_class: str


TASKS = {
    task.name: task
    for task in (
        Task("text-classification", "ForSequenceClassification", "AutoModelForSequenceClassification"),
        Task("token-classification", "ForTokenClassification", "AutoModelForTokenClassification"),
    )
}


def task_of(config: dict[str, Any], name: str) -> Task:
    """The task of the model called `name`, by the architecture that its config names.

    Raises `Incompatible` where the config names no architecture or one of a task that is not supported.
    """
    architecture = architecture_of(config, name)
    for task in TASKS.values():
        if architecture.endswith(task.suffix):
            return task
    known = ", ".join(f"*{task.suffix}" for task in TASKS.values())
    raise Incompatible(
        f"{name} is a {architecture}, which FuseHub cannot use yet.", f"Supported architectures: {known}."
    )


def architecture_of(config: dict[str, Any], name: str) -> str:
    """The transformers class that the config names. Raises `UnsafeFile` if it needs code of the repo's own."""
    if config.get("auto_map"):
        raise UnsafeFile(
            f"{name} needs code of its own (auto_map in config.json); FuseHub never runs code of a repo.",
            "Use a model whose architecture transformers itself knows.",
        )
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "unknown method")
        raise Incompatible(
            f"{name} is quantised ({method}); the sum of quantised weights is not a weight.",
            "Use the repo with the original float weights.",
        )
    architectures = config.get("architectures") or []
    if len(architectures) != 1:
        raise Incompatible(
            f"{name}: config.json names no single architecture (it says {architectures}).",
            "Save the model once with transformers' save_pretrained, which writes it.",
        )
    return architectures[0]


def labels_of(config: dict[str, Any]) -> list[str]:
    """Label names in the order of the head's rows; `LABEL_i` where the config has none."""
    id2label = {int(key): str(value) for key, value in (config.get("id2label") or {}).items()}
    count = len(id2label) or int(config.get("num_labels") or config.get("_num_labels") or 2)
    return [id2label.get(index, f"LABEL_{index}") for index in range(count)]


def are_generic(labels: list[str]) -> bool:
    """Whether the names say nothing: LABEL_0, LABEL_1, ... or plain numbers."""
    return all(re.fullmatch(r"(label[_ -]?)?\d+", label, re.IGNORECASE) for label in labels)


def problem_type_of(config: dict[str, Any]) -> str:
    """`single_label_classification`, `multi_label_classification` or `regression`, as transformers reads it."""
    said = config.get("problem_type")
    if said:
        return said
    return "regression" if len(labels_of(config)) == 1 else "single_label_classification"


def load_config(ref: ModelRef) -> PretrainedConfig:
    """transformers' config object of the model."""
    from transformers import AutoConfig

    ref.path("config.json")
    try:
        return AutoConfig.from_pretrained(_folder(ref), trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        raise Incompatible(
            f"{ref.name}: transformers cannot read its config ({str(error).splitlines()[0]}).",
            "Is its architecture known to the installed transformers? Try a newer version.",
        ) from error


def load_model(ref: ModelRef, *, dtype: torch.dtype | None = None, device: str = "cpu") -> PreTrainedModel:
    """The model with its task's head, in eval mode; `dtype` None keeps the one it is stored in."""
    import transformers

    task = task_of(ref.config, ref.name)
    folder = ref.download()
    with quiet_transformers():
        model, loading = getattr(transformers, task.auto_class).from_pretrained(
            folder,
            trust_remote_code=False,
            local_files_only=True,
            dtype=dtype or "auto",
            weights_only=True,
            output_loading_info=True,
        )
    if loading["missing_keys"]:
        raise Incompatible(
            f"{ref.name} lacks {', '.join(sorted(loading['missing_keys'])[:4])}: transformers filled them with "
            "random numbers.",
            "Use a checkpoint that was fine-tuned for the task, head included.",
        )
    if model.config.pad_token_id is None:
        # GPT-2 and Llama classify the last token that is not padding, and refuse batches if they do not know it.
        model.config.pad_token_id = load_tokenizer(ref).pad_token_id
    return model.to(device).eval()


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
    """The model's tokenizer; with a padding token even where the model has none (GPT-2, Llama)."""
    from transformers import AutoTokenizer

    ref.download(weights=False)
    tokenizer = AutoTokenizer.from_pretrained(_folder(ref), trust_remote_code=False, local_files_only=True)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _folder(ref: ModelRef) -> Path:
    return ref.folder if ref.folder is not None else ref.path("config.json").parent
