"""What a model is tried with: one example of what its task gives it, or random tokens of the same shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fusehub.data.examples import Examples
from fusehub.data.images import Picture
from fusehub.models.tasks import IMAGES, QUESTIONS, SEQ2SEQ, WORDS
from fusehub.utils.extras import needs

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

SENTENCE = "This is one sentence, to see that the model answers."


def one_example(task: str) -> Examples:
    """One example of what a model of `task` is given."""
    texts: dict[str, Any] = {WORDS: SENTENCE.split(), QUESTIONS: ("What is this?", SENTENCE)}
    if task == IMAGES:
        from io import BytesIO

        with needs("images", "Images"):
            from PIL import Image

        file = BytesIO()
        Image.new("RGB", (64, 64), (200, 120, 40)).save(file, "PNG")
        texts[IMAGES] = Picture("a plain image", data=file.getvalue())
    labels = [SENTENCE] if task == SEQ2SEQ else None
    return Examples(task, [texts.get(task, SENTENCE)], labels, "one example", None)


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
