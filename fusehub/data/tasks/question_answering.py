"""Question answering: a question and a text, and all pieces of the text that are right answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fusehub.data.columns import Columns, Guesses
from fusehub.data.literals import read_literal
from fusehub.data.questions import encode_questions
from fusehub.data.tables.table import Row
from fusehub.data.tasks.task import SENTENCE, Given, TaskData
from fusehub.data.tokenizing import Text, are_pairs
from fusehub.data.values import Label
from fusehub.errors import Action, BadData

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

_PAIRS = (("question", "context"), ("question", "passage"), ("query", "context"), ("question", "text"))


class QuestionAnsweringData(TaskData):
    """Pairs of a question and a text, each with a list of right answers."""

    kinds = (tuple,)
    columns = Guesses(
        "a question and a text",
        "answers",
        pairs=_PAIRS,
        targets=("answers", "answer", "answer_text", "label"),
        most=2,
        least=2,
        named="QUESTION,TEXT",
        name_them="Name that of the question and that of the text: --text-column QUESTION,TEXT",
    )

    def encode(
        self,
        examples: Given,
        tokenizer: PreTrainedTokenizerBase,
        config: PretrainedConfig,
        *,
        max_length: int,
        seed: int,
    ) -> list[dict[str, Any]]:
        """One dict a window of a text."""
        assert are_pairs(examples.texts)
        return encode_questions(examples.texts, tokenizer, max_length=max_length)

    def example(self) -> tuple[Text, Label | None]:
        """A question and a text."""
        return ("What is this?", SENTENCE), None

    def logits(self, outputs: Any) -> list[Tensor]:
        """Where the answer starts, and where it ends: [batch, tokens] each."""
        return [outputs.start_logits, outputs.end_logits]

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
    ) -> list[str] | None:
        """All texts that are right, none where the text holds no answer: `{"text": [...]}` as SQuAD has them."""
        if isinstance(value, str) and value[:1] in "{[":
            value = read_literal(value)
        if isinstance(value, Mapping):
            value = value.get("text")
        if isinstance(value, list):
            value = [item.get("text") if isinstance(item, Mapping) else item for item in value]
        if value is None or isinstance(value, str):
            return None if value is None else [value] if value.strip() else []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise BadData(
                f"{place}: the column {columns.label} holds no answers.",
                'Write answers as text, as a list of texts, or as {"text": [...]}; name their column: '
                "--label-column NAME",
                actions=[Action("name-columns")],
            )
        return value
