"""Which rows of a layer's input count, told from how the shapes and values of a few small forwards differ.

A layer may be given a grid of tokens, one state an example, a table of positions that no text changes, or the tokens
that a router chose. Shapes alone cannot tell these apart in a real batch, where lengths coincide by chance. So the
model runs first on a probe: 3 copies of one example, of a length (11, with 7 for a decoder) that no layer has by
itself; where that leaves questions, on two batches of 2 other examples, a little shorter.

| kind        | the rows of a call                          | what counts                                        |
| ----------- | ------------------------------------------- | -------------------------------------------------- |
| `encoder`   | [batch, length] or [batch * length]         | where the encoder's (or the only) mask says so     |
| `decoder`   | the same, of the decoder's length           | where the decoder's mask says so                   |
| `example`   | as many for each example, whatever its text | all                                                |
| `constant`  | the same values whatever the text           | all, once an example, as if each ran alone         |
| `by length` | the same values for all texts of a length   | likewise, and the batch must have no padding       |
| `rows`      | anything else, such as routed tokens        | all, and the batch must have no padding            |
| `uncounted` | more than there are tokens: made-up rows    | none                                               |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PROBE_BATCH = 3
# Rows that are equal need not be so to the last bit: matrix products differ in their order of summation.
_CLOSE = 1e-3


@dataclass(frozen=True)
class Axes:
    """How many examples a batch has, and of how many tokens, padding included; None where it has no such tokens."""

    batch: int
    encoder: int | None
    decoder: int | None

    @classmethod
    def of(cls, batch: Mapping[str, Tensor]) -> Axes:
        """The axes of a dict of model inputs."""
        first = next(iter(batch.values()))
        encoder, decoder = batch.get("input_ids"), batch.get("decoder_input_ids")
        return cls(
            len(first), None if encoder is None else encoder.shape[1], None if decoder is None else decoder.shape[1]
        )

    @property
    def longest(self) -> int | None:
        """Tokens of the longer side; None for images, whose patches are all real."""
        return max((length for length in (self.encoder, self.decoder) if length is not None), default=None)


@dataclass(frozen=True)
class Call:
    """The kind of one call; `rows` an example for `example`, in all for `constant`."""

    kind: str
    rows: int = 0


@dataclass(frozen=True)
class Recorded:
    """What a call was given in one forward of the probe."""

    x: Tensor
    axes: Axes

    @property
    def rows(self) -> int:
        return self.x.numel() // self.x.shape[-1] if self.x.numel() else 0


def is_grid(x: Tensor, batch: int, length: int | None) -> bool:
    """Whether `x` has one row for each place of [batch, length]."""
    shape = tuple(x.shape[:-1])
    return length is not None and shape in ((batch, length), (batch * length,))


def plain(call: Recorded) -> Call | None:
    """The kind of a call of the first forward that leaves no doubt: a grid of three axes."""
    if call.x.ndim != 3:
        return None
    for side in ("encoder", "decoder"):
        if is_grid(call.x, call.axes.batch, getattr(call.axes, side)):
            return Call(side)
    return None


def judge(first: Recorded, second: Recorded | None, third: Recorded | None) -> Call:
    """The kind of one call, from what it was given in three forwards; the last two are of one size.

    `second` and `third` are None where the layer was not called then.
    """
    sure = plain(first)
    if sure is not None:
        return sure
    if second is None or third is None or not first.rows:
        return _routed(first)
    for side in ("encoder", "decoder"):
        grids = [is_grid(call.x, call.axes.batch, getattr(call.axes, side)) for call in (first, second, third)]
        if all(grids) and _repeats(first.x, first.axes.batch):
            return Call(side)
    per_example = [call.rows / call.axes.batch for call in (first, second, third)]
    if per_example[0].is_integer() and len(set(per_example)) == 1:
        longest = second.axes.longest
        made_up = longest is not None and per_example[0] > longest
        return Call("uncounted") if made_up else Call("example", int(per_example[0]))
    if _equal(second.x, third.x):
        return Call("constant", first.rows) if _equal(first.x, second.x) else Call("by length")
    calls = [_routed(call) for call in (first, second, third)]
    return next((call for call in calls if call.kind == "uncounted"), calls[0])


def possible(rows: int, axes: Axes) -> bool:
    """Whether so many rows can be tokens of a batch: some of them, or all of them several times over."""
    if axes.longest is None:
        return True
    return rows <= axes.batch * axes.longest or any(
        length is not None and rows % (axes.batch * length) == 0 for length in (axes.encoder, axes.decoder)
    )


def _routed(call: Recorded) -> Call:
    return Call("rows" if possible(call.rows, call.axes) else "uncounted")


def _repeats(x: Tensor, batch: int) -> bool:
    """Whether the rows come example by example: the probe's examples are equal, and so must be their parts."""
    parts = x.reshape(batch, -1).float()
    return bool((parts - parts[:1]).norm() <= _CLOSE * parts.norm())


def _equal(a: Tensor, b: Tensor) -> bool:
    import torch

    return a.shape == b.shape and torch.equal(a, b.to(a.device))
