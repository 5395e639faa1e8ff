"""What a model is given: examples made into batches of tensors, for any task.

    inputs = Inputs.of(resolve("user/expert"), load_examples("reviews.csv", "text-classification"))
    for indices, batch in inputs.batches(batch_tokens=4096):
        logits = model(**batch).logits          # row i belongs to inputs.encodings[indices[i]]

A batch is the dict of the model's own inputs, on the CPU: `input_ids` and `attention_mask`, for models with a decoder
`decoder_input_ids` and `decoder_attention_mask` too, for images `pixel_values`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusehub.data.tasks import data_of
from fusehub.data.tasks.task import Prepared
from fusehub.models.tasks import TASKS

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from fusehub.data.examples import Examples
    from fusehub.models.resolve import ModelRef


@dataclass(frozen=True)
class Inputs(Prepared):
    """Examples as one model takes them, in batches."""

    @classmethod
    def of(
        cls,
        ref: ModelRef,
        examples: Examples,
        *,
        max_length: int | None = None,
        seed: int = 0,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> Inputs:
        """The inputs of the model `ref` for `examples`, cut to `max_length` tokens (its own limit unless said).

        `seed` decides what is masked for a masked language model, for each text by itself. `tokenizer` is the model's
        own, where it is loaded already. Raises `BadData` where the examples are not what the task takes, and
        `Incompatible` where the model has no embedding of one of their tokens.
        """
        data = data_of(examples.task)
        data.require_kind(examples.task, examples.texts)
        prepared = data.prepare(ref, examples, max_length=max_length, seed=seed, tokenizer=tokenizer)
        return cls(**vars(prepared))

    @property
    def of_images(self) -> bool:
        """Whether the model is given images, and not texts."""
        return TASKS[self.task].of_images

    @property
    def tokens(self) -> int:
        """Real tokens in all rows, the decoder's too, padding not among them; for images what they become."""
        return data_of(self.task).tokens(self)

    def batches(
        self, *, batch_tokens: int | None = None, batch_size: int | None = None
    ) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """(indices of rows, their tensors) until every row was in one batch: always the same, longest first.

        A batch has at most `batch_size` rows and `batch_tokens` tokens, padding included; 32 rows unless said.
        """
        return data_of(self.task).batches(self, batch_tokens=batch_tokens, batch_size=batch_size)

    def probe(self) -> dict[str, Tensor]:
        """A batch of 3 rows, of length 11 and 7 in the decoder, without padding: numbers by which axes can be told.

        For images, 3 of them.
        """
        return data_of(self.task).probe(self)
