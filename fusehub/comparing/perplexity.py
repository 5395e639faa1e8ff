"""How sure a language model is of texts: the perplexity of their tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fusehub.comparing.metrics.measured import Measured, Tally
from fusehub.comparing.said import on_device, require_numbers
from fusehub.comparing.tasks import answers_of
from fusehub.comparing.token_logits import TokenLogits
from fusehub.data.examples import Examples
from fusehub.data.inputs import Inputs
from fusehub.data.language_models import IGNORED
from fusehub.errors import BadData
from fusehub.models.loading import running
from fusehub.utils.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from transformers import PreTrainedModel

    from fusehub.models.resolve import ModelRef

# exp of more is no number any more.
_MOST = 700.0


def perplexity(
    ref: ModelRef,
    network: PreTrainedModel,
    examples: Examples,
    *,
    max_length: int | None,
    seed: int,
    batch_size: int,
    progress: Progress,
) -> Measured:
    """exp of the mean negative log-likelihood of a token: of the next one, or of those that are masked by `seed`.

    Each row that the model was given counts for itself: a text, or what fitted of it.
    """
    import numpy as np
    import torch
    from torch.nn.functional import cross_entropy

    inputs = Inputs.of(ref, examples, max_length=max_length, seed=seed)
    counts = np.zeros((len(inputs), 2))  # Of each row its negative log-likelihood, and the tokens that it is of.
    done = 0
    logits = TokenLogits(network)
    for indices, batch in inputs.batches(batch_size=batch_size):
        targets = answers_of(examples.task).targets(inputs, indices, batch)
        places = targets != IGNORED
        losses = torch.zeros(targets.shape)  # [rows, tokens]
        with torch.inference_mode(), running(ref.name):
            found = [
                cross_entropy(piece, told.to(piece.device), reduction="none").cpu()
                for piece, told in _beside(logits.of(on_device(network, batch), places), targets[places])
            ]
        if found:
            losses[places] = torch.cat(found)
        counts[indices, 0] = require_numbers(losses.sum(-1), ref.name)
        counts[indices, 1] = places.sum(-1)
        done += len(indices)
        progress(done, len(inputs), ref.name)
    tokens = counts[:, 1].sum()
    if not tokens:
        raise BadData(f"{examples.source} holds no text of more than one token.", "Give longer texts.")
    value = math.exp(min(math.fsum(counts[:, 0]) / tokens, _MOST))
    return Measured({"perplexity": value}, {"perplexity": Tally(counts, _of_sums)})


def _beside(pieces: Iterator[Tensor], targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Each piece of logits with the tokens that are to be told by it."""
    start = 0
    for piece in pieces:
        yield piece, targets[start : start + len(piece)]
        start += len(piece)


def _of_sums(sums: np.ndarray) -> np.ndarray:
    import numpy as np

    mean = np.divide(sums[..., 0], sums[..., 1], out=np.full(sums.shape[:-1], np.nan), where=sums[..., 1] > 0)
    return np.exp(np.minimum(mean, _MOST))
