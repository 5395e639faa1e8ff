"""Answers that are labels of words, which make up entities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from fusehub.comparing.answers import Answer, Entity, Span, find_entities, mark
from fusehub.comparing.averages import mean_of_labels
from fusehub.comparing.metrics.labels import require_known, word_metrics
from fusehub.comparing.metrics.measured import Measured
from fusehub.comparing.said import SINGLE, Said
from fusehub.comparing.tasks.labelled import LabelledAnswers, top
from fusehub.comparing.tasks.task import Shown
from fusehub.data.examples import Examples
from fusehub.data.tokenizing import Text, first_tokens, split_words
from fusehub.errors import BadData
from fusehub.models.resolve import ModelRef

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class TokenClassificationAnswers(LabelledAnswers):
    """A label a word."""

    shown = Shown("it finds what is named in a text", "demo_words.py.jinja")
    does = "marks the entities in every text"
    typed = "Anna Schmidt works for Siemens in Munich.\nThe Rolling Stones played in Buenos Aires."
    scored_on = "words and the label of each"
    metric_names: ClassVar[Mapping[str, str]] = {"f1": "F1 of entities"}
    question = '"Anna Schmidt lives in Paris."'

    def pipeline_options(self, config: Mapping[str, Any]) -> str:
        return ', aggregation_strategy="simple"'

    def read_typed(self, texts: Sequence[str]) -> tuple[list[Text], list[list[Span]]]:
        """The words of each text, which remember where they stand."""
        spans = [split_words(text) for text in texts]
        words: list[Text] = [[text[start:end] for start, end in own] for text, own in zip(texts, spans, strict=True)]
        if not all(words):
            raise BadData("A text holds no word.", "Give texts with at least one word.")
        return words, spans

    def to_read(self, text: Text) -> tuple[str, list[Span]]:
        """The words, with spaces between them."""
        assert isinstance(text, list)
        own: list[Span] = []
        end = -1
        for word in text:
            own.append((end + 1, end + 1 + len(word)))
            end = own[-1][1]
        return " ".join(text), own

    def problem(self, ref: ModelRef) -> str:
        """One label a word, whatever the config says."""
        return SINGLE

    def _real(self, result: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        # Of tokens that are padding, a model may say anything.
        return result[batch["attention_mask"].bool()]

    def _of_example(self, rows: np.ndarray, encoding: Mapping[str, Any], text: Text) -> np.ndarray:
        """[tokens, labels] -> [words, labels]: each word's first token; NaN where it has none."""
        import numpy as np

        assert isinstance(text, list)
        result = np.full((len(text), rows.shape[-1]), np.nan, dtype=rows.dtype)
        for word, token in first_tokens(dict(encoding)).items():
            result[word] = rows[token]
        return result

    def _together(self, found: list[Any]) -> Any:
        return found

    def answers(self, said: Said) -> list[Any]:
        """A list with one (label, probability) a word; (None, None) for words that the model did not see."""
        return [[top(said.labels, row) for row in rows] for rows in said.probabilities]

    def _mean(self, said: Sequence[Said]) -> tuple[list[str], Any]:
        return mean_of_labels(said, text_by_text=True)

    def answer(self, said: Said, index: int, given: Any, text: str, spans: Sequence[Span]) -> Answer:
        """The entities that the words' labels make up."""
        entities = find_entities(text, spans, [label for label, _ in given], [score for _, score in given])
        return Answer(said.model, None, None, {}, entities, mark(text, entities))

    def right(
        self, label: Any, problem: str, text: str, spans: Sequence[Span]
    ) -> tuple[str | list[str] | float | None, list[Entity] | None]:
        if not isinstance(label, list):
            return super().right(label, problem, text, spans)
        return None, find_entities(text, spans, label, [1.0] * len(label))

    def require_labels(self, examples: Examples, labels: Sequence[str], problem: str) -> None:
        """No label of the data is one of the model's."""
        require_known(examples, labels, is_number=False)

    def score(self, said: Said, examples: Examples) -> Measured:
        """Whole entities, and words."""
        return word_metrics(said, self.answers(said), examples)
