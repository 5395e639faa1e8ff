"""What a model says about texts: probabilities by label name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fusehub.comparing.said import Said
from fusehub.comparing.tasks import answers_of


@dataclass(frozen=True)
class Prediction(Said):
    """What one model says about some texts, and its answers by label name."""

    def answers(self) -> list[Any]:
        """For each text its (label, probability).

        Multi-label: (the labels of at least one half, the highest probability). Regression: (the number, None).
        Token classification: a list with one (label, probability) a word, (None, None) for words not seen; masked
        language model: one (token, probability) a mask. Models that write: (the text, None).
        """
        return answers_of(self.task).answers(self)
