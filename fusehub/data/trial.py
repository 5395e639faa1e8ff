"""What a model is tried with: one example of what its task gives it, or random tokens of the same shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fusehub.data.examples import Examples
from fusehub.data.tasks import data_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def one_example(task: str) -> Examples:
    """One example of what a model of `task` is given."""
    text, label = data_of(task).example()
    return Examples(task, [text], None if label is None else [label], "one example", None)


def random_batch(batch: Mapping[str, Tensor], vocabulary: int, seed: int) -> dict[str, Tensor]:
    """A batch of the shapes of `batch`, with random tokens and colours, that tells nothing of what was in it."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, value in batch.items():
        if name.endswith("input_ids"):
            made[name] = torch.randint(vocabulary, value.shape, generator=generator)
        elif value.is_floating_point():
            made[name] = torch.randn(value.shape, generator=generator).to(value.dtype)
        else:
            made[name] = torch.ones_like(value) if name.endswith("mask") else torch.zeros_like(value)
    return made


def vocabulary_of(model: PreTrainedModel) -> int:
    """How many tokens the model knows; 1 where it knows none."""
    return getattr(model.config.get_text_config(), "vocab_size", 1)
