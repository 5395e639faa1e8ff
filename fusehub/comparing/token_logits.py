"""What a language model says of some tokens of a batch: a few at a time, however many words it knows.

    logits = TokenLogits(network)
    for piece in logits.of(batch, places):          # [some of the places, vocabulary], in float32
        ...

A model of 128,000 words has half a megabyte of logits a token. So its body is run once, and what it gives for the
places that are asked for goes through the rest of the model's own forward in pieces: its head, and what it does with
what that tells (caps, scales). That is right where each token's logits depend on its own state alone, which is found
out at the first batch. Where they do not, a text at a time is run whole.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

# Bytes of logits of a piece in float32; what is made of them on their way is as many once or twice more. Below 32 MB
# glibc would take them from a heap, and might not find the place of the last piece again.
_PIECE = 2**26
# Tokens of a text by which it is found out whether the rest of the model can be run in pieces, and how far apart the
# two may be, relative to the largest: products of other shapes are added up in another order.
_PROBE = 16
_CLOSE = 1e-3


class TokenLogits:
    """Those of one network, which is in eval mode and on one device or several."""

    def __init__(self, network: PreTrainedModel) -> None:
        self._network = network
        self._in_pieces: bool | None = None

    def of(self, batch: Mapping[str, Tensor], places: Tensor) -> Iterator[Tensor]:
        """The logits [places, vocabulary] in float32, piece by piece, of the tokens where `places` [rows, tokens] is
        true, row by row; `batch` is on the network's device."""
        if self._in_pieces is None:
            self._in_pieces = self._can_be_in_pieces(batch)
        if self._in_pieces:
            yield from self._pieces(batch, places)
            return
        for row, own in enumerate(places):
            logits = self._network(**{name: value[row : row + 1] for name, value in batch.items()}).logits
            yield logits[0][own.to(logits.device)].float()

    def _pieces(self, batch: Mapping[str, Tensor], places: Tensor) -> Iterator[Tensor]:
        count = int(places.sum())
        step = max(1, _PIECE // (4 * self._network.get_output_embeddings().weight.shape[0]))
        with _body_once(self._network, places) as narrowed:
            for start in range(0, count, step):
                narrowed.update(start=start, stop=start + step)
                yield self._network(**batch).logits[0].float()

    def _can_be_in_pieces(self, batch: Mapping[str, Tensor]) -> bool:
        """Whether the network has a body that its head comes after, and gives the same by pieces, tried on the
        beginning of a text."""
        import torch

        network = self._network
        if network.base_model is network or network.get_output_embeddings() is None:
            return False
        tokens = batch["input_ids"].shape[1]
        some = {
            name: value[:1, :_PROBE] if value.ndim == 2 and value.shape[1] == tokens else value[:1]
            for name, value in batch.items()
        }
        whole = network(**some).logits[0].float()
        places = torch.ones(1, len(whole), dtype=torch.bool)
        places[0, 1::3] = False
        pieces = []
        with _body_once(network, places) as narrowed:
            for start in range(0, int(places.sum()), 3):
                narrowed.update(start=start, stop=start + 3)
                found = network(**some).logits
                if found.ndim != 3 or found.shape[:2] != (1, min(3, int(places.sum()) - start)):
                    return False
                pieces.append(found[0].float())
        wanted = whole[places[0].to(whole.device)]
        close = max(_CLOSE, 8 * torch.finfo(found.dtype).eps) * float(wanted.abs().max())
        return torch.allclose(torch.cat(pieces), wanted, rtol=0, atol=close)


@contextmanager
def _body_once(network: PreTrainedModel, places: Tensor) -> Iterator[dict[str, int]]:
    """Has the body of `network` give what it gave at its first call, but of its last states only those of `places`,
    of which those from `start` to `stop` in what is handed out, as one text."""
    body = network.base_model
    before = body.__dict__.get("forward")
    forward = body.forward
    narrowed: dict[str, int] = {}
    kept: list[tuple[Any, torch.Tensor]] = []

    def stand_in(*args: Any, **kwargs: Any) -> Any:
        if not kept:
            output = forward(*args, **kwargs)
            kept.append((output, output[0][places.to(output[0].device)]))
        output, states = kept[0]
        return _with_states(output, states[None, narrowed["start"] : narrowed["stop"]])

    body.forward = stand_in
    try:
        yield narrowed
    finally:
        if before is None:
            del body.forward  # That of the class shows again.
        else:
            body.forward = before


def _with_states(output: Any, states: Tensor) -> Any:
    """What a body gives, with other last states."""
    if isinstance(output, tuple):
        return (states, *output[1:])
    changed = copy.copy(output)
    changed[next(iter(changed))] = states
    return changed
