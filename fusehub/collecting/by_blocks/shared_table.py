"""A table that looks tokens up at a model's beginning and tells them at its end: both gradients are of one parameter.

What an example gives it is `G = P + R`: P of the product at the end, for all words, and R of the look-ups, for those
that the example has. Squared is their sum, in two steps that may lie far apart:

    words = Words.of(batch)
    product, rows = taken_out(product, words)      # at the end: P without the rows of the example's words; these rows
    add_looked_up(sums, pieces, words, rows)       # at the beginning: the squares of these rows, with R added
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusehub.collecting.fisher.gradient_rules import Product, Rows

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Words:
    """The tokens of a batch [batch, t], and which of them are real: padding is no word that an example has."""

    ids: Tensor
    real: Tensor

    @classmethod
    def of(cls, batch: Mapping[str, Tensor]) -> Words:
        """Those that a model is given."""
        ids = batch["input_ids"]
        mask = batch.get("attention_mask")
        return cls(ids, ids.new_ones(ids.shape).bool() if mask is None else mask.bool())

    @property
    def places(self) -> Tensor:
        """The tokens, with one that is real in the place of padding: [batch, t]."""
        first = self.ids.gather(1, self.real.int().argmax(1, keepdim=True))
        return self.ids.where(self.real, first)


def taken_out(product: Product, words: Words) -> tuple[Product, Tensor]:
    """The product with zeros in the rows of each example's words; and what was there: [batch, t, width]."""
    places = words.places[:, None].expand(-1, product.left.shape[1], -1)
    rows = product.left.gather(2, places).transpose(1, 2) @ product.right
    return Product(product.left.scatter(2, places, 0), product.right), rows


def add_looked_up(sums: Tensor, pieces: Sequence[Rows], words: Words, rows: Tensor) -> None:
    """Adds the squares of the rows of each example's words: those that were taken out, with `pieces` added.

    The pieces are of all tokens, in their order.
    """
    import torch

    count = len(words.ids)
    keys = words.ids + len(sums) * torch.arange(count, device=rows.device)[:, None]
    unique, inverse = keys[words.real].unique(return_inverse=True)
    gradients = rows.new_zeros(len(unique), rows.shape[-1])
    # Where an example has a word twice, so are its rows: the same numbers.
    gradients[inverse] = rows[words.real]
    for piece in pieces:
        gradients.index_add_(0, inverse, piece.values[words.real].to(rows.dtype))
    sums.index_add_(0, unique % len(sums), gradients.square_())


def rows_of(gradient: Tensor, words: Words) -> Rows:
    """The rows of the words of one example in its gradient, each once."""
    own, real = words.ids[0], words.real[0]
    earlier = ((own[:, None] == own) & real).tril(-1).any(1)
    return Rows(words.ids, (gradient[own] * ~earlier[:, None])[None])
