"""What a model is given: examples made into batches of tensors, for any task.

    inputs = Inputs.of(resolve("user/expert"), load_examples("reviews.csv", "text-classification"))
    for indices, batch in inputs.batches(batch_tokens=4096):
        logits = model(**batch).logits          # row i belongs to inputs.encodings[indices[i]]

A batch is the dict of the model's own inputs, on the CPU: `input_ids` and `attention_mask`, for models with a decoder
`decoder_input_ids` and `decoder_attention_mask` too, for images `pixel_values`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusehub.encoding import batches, encode, max_length_of
from fusehub.tasks import load_config, load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from fusehub.data import Examples
    from fusehub.refs import ModelRef

PROBE_BATCH, PROBE_LENGTH, PROBE_DECODER_LENGTH = 3, 11, 7


@dataclass(frozen=True)
class Inputs:
    """Examples as one model takes them. `encodings` has one dict a row; `len` is the number of rows."""

    task: str
    max_length: int
    encodings: list[dict[str, Any]]
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def of(cls, ref: ModelRef, examples: Examples, *, max_length: int | None = None, seed: int = 0) -> Inputs:
        """The inputs of the model `ref` for `examples`, cut to `max_length` tokens (its own limit unless said).

        `seed` decides what is masked for a masked language model, for each text by itself.
        """
        tokenizer = load_tokenizer(ref)
        length = max_length_of(tokenizer, load_config(ref), max_length)
        return cls(examples.task, length, encode(examples.texts, tokenizer, max_length=length), tokenizer)

    def __len__(self) -> int:
        return len(self.encodings)

    @property
    def tokens(self) -> int:
        """Real tokens in all rows, padding not among them."""
        return sum(len(encoding["input_ids"]) for encoding in self.encodings)

    def batches(
        self, *, batch_tokens: int | None = None, batch_size: int | None = None
    ) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """(indices of rows, their tensors) until every row was in one batch: always the same, longest first.

        A batch has at most `batch_size` rows and `batch_tokens` tokens, padding included; 32 rows unless said.
        """
        return batches(self.encodings, self.tokenizer, batch_size=batch_size, batch_tokens=batch_tokens)

    def probe(self) -> dict[str, Tensor]:
        """A batch of 3 rows of length 11 without padding: numbers by which the axes of any tensor can be told."""
        import torch

        row = torch.tensor(_of_length(self.encodings[0]["input_ids"], PROBE_LENGTH)).repeat(PROBE_BATCH, 1)
        return {"input_ids": row, "attention_mask": torch.ones_like(row)}


def _of_length(ids: list[int], length: int) -> list[int]:
    """`ids` repeated or cut to `length`. The last stays the last: some models look for the one end of a text."""
    *body, last = ids
    return [*itertools.islice(itertools.cycle(body or ids), length - 1), last]
