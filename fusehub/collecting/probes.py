"""Batches of model inputs, cut and changed: the probe's, and parts of a batch that need no padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from fusehub.collecting.call_kinds import PROBE_BATCH

if TYPE_CHECKING:
    from torch import Tensor

Batch = Mapping[str, "Tensor"]
_MASKS = {"encoder": ("attention_mask", "input_ids"), "decoder": ("decoder_attention_mask", "decoder_input_ids")}


def masks_of(batch: Batch) -> dict[str, Tensor]:
    """Where the tokens are, for `encoder` (or the only side) and `decoder` where they are there: [batch, length]."""
    import torch

    found = {}
    for side, (mask, ids) in _MASKS.items():
        if mask in batch:
            found[side] = batch[mask].bool()
        elif ids in batch:
            found[side] = torch.ones_like(batch[ids], dtype=torch.bool)
    return found


def repeated(batch: Batch) -> dict[str, Tensor]:
    """3 copies of the first example."""
    return {name: value[:1].expand(PROBE_BATCH, *value.shape[1:]).contiguous() for name, value in batch.items()}


def changed(batch: Batch, by: int) -> dict[str, Tensor]:
    """2 examples, two tokens shorter than those of `batch` and with others of their tokens; images in other colours.

    First and last tokens stay, since models look for them.
    """
    import torch

    made = {}
    for name, value in batch.items():
        value = value[:1].expand(2, *value.shape[1:])
        if value.ndim == 2:
            body = value[:, 2:-1] if value.shape[1] > 4 else value[:, 1:-1]
            body = torch.stack([row.roll(by + number) for number, row in enumerate(body)])
            value = torch.cat([value[:, :1], body[:, : value.shape[1] - 4], value[:, -1:]], dim=1)
        elif value.is_floating_point():
            value = torch.stack([row * (1 - 0.2 * (by + number)) for number, row in enumerate(value)])
        made[name] = value
    return made


def unpadded(batch: Batch) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """The same examples in batches of equal lengths, without padding, with their rows in `batch`; `batch` itself where
    it has none."""
    masks = masks_of(batch)
    if all(bool(mask.all()) for mask in masks.values()):
        yield list(range(_examples(batch))), dict(batch)
        return
    groups: dict[tuple[int, ...], list[int]] = {}
    lengths = [mask.sum(1).tolist() for mask in masks.values()]
    for row, key in enumerate(zip(*lengths, strict=True)):
        groups.setdefault(key, []).append(row)
    for rows in groups.values():
        kept = {side: mask[rows].any(0) for side, mask in masks.items()}
        yield rows, {name: _cut(name, value[rows], kept) for name, value in batch.items()}


def _examples(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _cut(name: str, value: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
    """`value` without the columns that are padding in all of its rows."""
    decoding = name.startswith("decoder_") or name == "labels"
    columns = kept.get("decoder" if decoding and "decoder" in kept else "encoder")
    if columns is None or value.ndim < 2 or value.shape[1] != len(columns):
        return value
    return value[:, columns]
