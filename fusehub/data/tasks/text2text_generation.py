"""Sequence to sequence: source texts, and the target texts that a model is to write for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fusehub.data.columns import Columns, Guesses
from fusehub.data.language_models import encode_targets
from fusehub.data.tables.table import Row
from fusehub.data.tasks.task import SENTENCE, Given, TaskData, real_tokens
from fusehub.data.tokenizing import Text, are_texts
from fusehub.data.values import Label
from fusehub.errors import Action, BadData

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

_SOURCE_COLUMNS = (
    *("source", "input", "inputs", "document", "article", "dialogue", "text", "src", "prompt", "question"),
    *("source_text", "input_text", "sentence", "content"),
)
_TARGET_COLUMNS = (
    *("target", "summary", "highlights", "output", "outputs", "targets", "tgt", "translation", "response", "answer"),
    *("target_text", "output_text", "label", "labels", "title"),
)


class Text2TextGenerationData(TaskData):
    """Source texts, each with its target text."""

    columns = Guesses("source texts", "target texts", texts=_SOURCE_COLUMNS, targets=_TARGET_COLUMNS, names_both=True)
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
        """The source for the encoder, and for the decoder the target, shifted by one."""
        if examples.labels is None:
            raise BadData(
                f"{examples.source} has no target texts, or not for every source.",
                "Name both columns: --text-column SOURCE,TARGET",
                actions=[Action("name-columns")],
            )
        assert are_texts(examples.texts) and are_texts(examples.labels)
        return encode_targets(examples.texts, examples.labels, tokenizer, config, max_length=max_length)

    def example(self) -> tuple[Text, Label | None]:
        """A sentence, to be written again."""
        return SENTENCE, SENTENCE

    def predicted(self, logits: Tensor, batch: Mapping[str, Tensor], mask_token_id: int | None) -> Tensor:
        """The tokens of the decoder."""
        return real_tokens(logits, batch, "decoder_attention_mask")

    def _read_label(
        self,
        value: Any,
        names: Sequence[str] | None,
        columns: Columns,
        row: Row,
        text: Text,
        place: str,
        *,
        needed: bool,
    ) -> str | None:
        if value is not None and not isinstance(value, str):
            raise BadData(
                f"{place}: the column {columns.label} holds {type(value).__name__}, not text.",
                f"The columns are {', '.join(map(str, row))}. Name the one with the target texts: --label-column NAME",
                actions=[Action("name-columns")],
            )
        return value.strip() or None if value else None
