"""A table that looks tokens up at a model's beginning and tells them at its end: both gradients are of one parameter.

What an example gives it is `G = P + R`: P of the product at the end, for all words, and R of the look-ups, for those
that the example has. Squared is their sum, in two steps that may lie far apart:

    product, rows = taken_out(product, ids)      # at the end: P without the rows of the example's words; these rows
    add_looked_up(sums, pieces, ids, rows)       # at the beginning: the squares of these rows, with R added
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusehub.collecting.fisher.gradient_rules import Product, Rows

if TYPE_CHECKING:
    from torch import Tensor


def taken_out(product: Product, ids: Tensor) -> tuple[Product, Tensor]:
    """The product with zeros in the rows `ids` [batch, t] of each example; and what was there: [batch, t, width]."""
    places = ids[:, None].expand(-1, product.left.shape[1], -1)
    rows = product.left.gather(2, places).transpose(1, 2) @ product.right
    return Product(product.left.scatter(2, places, 0), product.right), rows


def add_looked_up(sums: Tensor, pieces: Sequence[Rows], ids: Tensor, rows: Tensor) -> None:
    """Adds the squares of the rows `ids` of each example: those that were taken out, with `pieces` added."""
    import torch

    count, length = ids.shape
    first = len(sums) * torch.arange(count, device=ids.device)[:, None]
    unique, inverse = (ids + first).reshape(-1).unique(return_inverse=True)
    gradients = rows.new_zeros(len(unique), rows.shape[-1])
    # Where an example has a word twice, so are its rows: the same numbers.
    gradients[inverse] = rows.reshape(count * length, -1)
    for piece in pieces:
        _, places = (piece.ids + first).reshape(-1).unique(return_inverse=True)
        gradients.index_add_(0, places, piece.values.reshape(count * length, -1).to(rows.dtype))
    sums.index_add_(0, unique % len(sums), gradients.square_())


def rows_of(gradient: Tensor, ids: Tensor) -> Rows:
    """The rows `ids` [1, t] of a gradient of one example, each once."""
    own = ids[0]
    earlier = (own[:, None] == own).tril(-1).any(1)
    return Rows(ids, (gradient[own] * ~earlier[:, None])[None])
