"""Masked language models: texts, of which some tokens are masked and to be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fusehub.data.columns import TEXT_COLUMNS, Guesses
from fusehub.data.language_models import encode_masked
from fusehub.data.tasks.task import Given, TaskData
from fusehub.data.tokenizing import are_texts

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


class FillMaskData(TaskData):
    """Texts."""

    columns = Guesses("text", texts=TEXT_COLUMNS)
    one_choice = False

    def encode(
        self,
        examples: Given,
        tokenizer: PreTrainedTokenizerBase,
        config: PretrainedConfig,
        *,
        max_length: int,
        seed: int,
    ) -> list[dict[str, Any]]:
        """Some tokens are masked by `seed`; what stood there is under `labels`."""
        assert are_texts(examples.texts)
        return encode_masked(examples.texts, tokenizer, max_length=max_length, seed=seed)

    def predicted(self, logits: Tensor, batch: Mapping[str, Tensor], mask_token_id: int | None) -> Tensor:
        """The masked tokens, or all where nobody says how a mask is written."""
        real = super().predicted(logits, batch, mask_token_id)
        return real if mask_token_id is None else real & (batch["input_ids"] == mask_token_id)
