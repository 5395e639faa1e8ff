"""Does a folder hold a model that others can use? Loaded as a stranger would, and asked about one example."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.data.inputs import Inputs
from fusehub.data.trial import one_example
from fusehub.errors import BadFile, Incompatible, NonFinite, first_line
from fusehub.models.checkpoints.checkpoint import Checkpoint
from fusehub.models.loading import is_of_files, load_model, load_tokenizer, quiet_transformers, running
from fusehub.models.quantised.configs import KEY
from fusehub.models.resolve import ModelRef, resolve
from fusehub.models.tasks import TEXTS, architecture_of, find_task, load_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def require_loadable(folder: Path) -> None:
    """Raises a `FuseHubError` unless transformers loads the model in `folder` whole, with nothing left over, and it
    gives finite numbers for a sentence."""
    import torch

    ref = resolve(str(folder))
    task = find_task(architecture_of(ref.config, ref.name), str(ref.config.get("model_type")))
    if task is None or not task.of_images:
        load_tokenizer(ref)  # Raises where there is none, before the weights are read.
    network = _load(ref, folder)
    inputs = Inputs.of(ref, one_example(TEXTS if task is None else task.name))
    _, batch = next(inputs.batches(batch_size=1))
    with torch.inference_mode(), running(ref.name):
        answer = network(**batch)[0]
    if not bool(torch.isfinite(answer).all()):
        raise NonFinite(f"The model in {folder} predicts NaN or infinity.", "Its weights are broken: make it again.")


def _load(ref: ModelRef, folder: Path) -> Any:
    import torch
    import transformers

    architecture = architecture_of(ref.config, ref.name)
    kind = getattr(transformers, architecture, None)
    if kind is None:
        raise Incompatible(
            f"transformers {transformers.__version__} has no class {architecture}, which config.json in {folder} says "
            "that the model is.",
            "Install a newer one.",
        )
    # Half precision lacks operations on a CPU.
    dtype = torch.float32 if ref.config.get("dtype") == "float16" else None
    with Checkpoint(ref) as checkpoint:
        if cause := checkpoint.tensors.wrapping.cause:
            raise BadFile(
                f"{folder}: {cause}. transformers would find none of its weights in them.",
                "Save the model that is inside the wrapper: model.save_pretrained.",
            )
    try:
        if ref.parts:  # Asks for the same, and puts the adapter on its base.
            return load_model(ref, dtype=dtype)
        with quiet_transformers():
            network, loading = kind.from_pretrained(
                folder,
                config=_config_as_stored(ref),
                local_files_only=True,
                weights_only=True,
                dtype=dtype or "auto",
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except BaseException as error:
        if not is_of_files(error):
            raise
        raise BadFile(
            f"transformers cannot make a model of {folder}, its config.json and weights: {first_line(error)}.",
            "Make it again.",
        ) from error
    for key, words in (
        ("missing_keys", "lacks"),
        ("mismatched_keys", "has in other shapes"),
        ("unexpected_keys", "has left over"),
    ):
        if names := sorted((name if isinstance(name, str) else name[0]) or '""' for name in loading[key]):
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise BadFile(
                f"The model in {folder} {words} {', '.join(names[:3])}{more}.",
                f"config.json and {' and '.join(ref.weight_files()[:3])} do not belong together: make it again.",
            )
    return network.eval()


def _config_as_stored(ref: ModelRef) -> PretrainedConfig:
    """With what it says of the bits of the weights, which a stranger's transformers reads them by."""
    config = load_config(ref)
    if said := ref.config.get(KEY):
        config.quantization_config = said
    return config
