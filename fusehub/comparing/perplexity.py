"""How sure a language model is of texts: the perplexity of their tokens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fusehub.comparing.said import on_device, require_numbers
from fusehub.comparing.tasks import answers_of
from fusehub.data.examples import Examples
from fusehub.data.inputs import Inputs
from fusehub.data.language_models import IGNORED
from fusehub.errors import BadData
from fusehub.models.loading import running
from fusehub.utils.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from fusehub.models.resolve import ModelRef


def perplexity(
    ref: ModelRef,
    network: PreTrainedModel,
    examples: Examples,
    *,
    max_length: int | None,
    seed: int,
    batch_size: int,
    progress: Progress,
) -> float:
    """exp of the mean negative log-likelihood of a token: of the next one, or of those that are masked by `seed`."""
    import torch

    inputs = Inputs.of(ref, examples, max_length=max_length, seed=seed)
    losses: list[float] = []
    count = done = 0
    # All tokens of the vocabulary for all places are kept at once, so batches are small.
    for indices, batch in inputs.batches(batch_size=min(batch_size, 8)):
        with torch.inference_mode(), running(ref.name):
            logits = network(**on_device(network, batch)).logits.float()
        logits, targets = answers_of(examples.task).targets(inputs, indices, batch, logits)
        targets = targets.to(logits.device)
        loss = torch.nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=IGNORED, reduction="sum"
        )
        losses.append(float(require_numbers(loss, ref.name)))
        count += int((targets != IGNORED).sum())
        done += len(indices)
        progress(done, len(inputs), ref.name)
    if not count:
        raise BadData(f"{examples.source} holds no text of more than one token.", "Give longer texts.")
    return math.exp(min(math.fsum(losses) / count, 700.0))
