"""What is asked of a task wherever models are compared: how one is asked, what it answers, and how good that is.

Nothing asks which task it is. A new one is a file beside this one, or one of these kinds of answers again, and a line
in `fusehub.comparing.tasks`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from fusehub.comparing.answers import Answer, Entity, Span
from fusehub.comparing.metrics.measured import Measured
from fusehub.comparing.said import REGRESSION, Asked, Said
from fusehub.data.examples import Examples
from fusehub.data.inputs import Inputs
from fusehub.data.tokenizing import Text
from fusehub.data.values import name_of
from fusehub.models.resolve import ModelRef
from fusehub.models.tasks import labels_of, problem_type_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

OneOrMore = TypeVar("OneOrMore", bound=Said)


@dataclass(frozen=True)
class Shown:
    """How a Space shows what models of a task answer, in words and by which libraries."""

    does: str
    """What the page does: "it says which label fits a text"."""
    template: str
    """The piece of its program that asks a model, in `fusehub/publishing/cards/templates`."""
    by_pipeline: bool = True
    """The model is asked by transformers' pipeline, and else by torch."""


class TaskAnswers(ABC):
    """How models of one task are asked and understood."""

    typed: ClassVar[str] = (
        "Not bad at all.\nI waited three weeks, and then it broke.\nThe plot is thin, but the actors are wonderful."
    )
    """Texts that a person may try, one a line."""
    one: ClassVar[str] = "text"
    """What one thing is called that a model is asked about; several have an s."""
    does: ClassVar[str] = "labels every text"
    """What a model does that is asked."""
    asks: ClassVar[str] = "Texts, one a line"
    """What a person types to ask a model."""
    scored_on: ClassVar[str] = "texts and labels"
    """What labelled data has in its columns."""
    has_mean: ClassVar[bool] = True
    """Several models' answers have a mean."""
    metric_names: ClassVar[Mapping[str, str]] = {}
    """What a person calls a metric, where that is not its name."""
    question: ClassVar[str] = '"This is better than I thought."'
    """What a model card asks a pipeline of transformers, in Python."""
    shown: ClassVar[Shown | None] = None
    """Its demonstration; None where there is none."""
    by_hand: ClassVar[Sequence[str]] = ()
    """What a card runs with `model` and `tokenizer` where transformers has no pipeline for the task."""

    def pipeline_options(self, config: Mapping[str, Any]) -> str:
        """What a card tells transformers' pipeline beside the model, as Python: ", top_k=None"."""
        return ""

    # What is asked

    def read_typed(self, texts: Sequence[str]) -> tuple[list[Text], list[list[Span]]]:
        """Texts that a person typed, as the task takes them, and where the words of each stand if it is of words."""
        return list(texts), [[] for _ in texts]

    def to_read(self, text: Text) -> tuple[str, list[Span]]:
        """An example as a text to read, and where its words stand in it."""
        return str(text), []

    def asked_of(self, examples: Examples, seed: int) -> Examples:
        """Examples as models are asked about them side by side."""
        return examples

    # What is answered

    def problem(self, ref: ModelRef) -> str:
        """`single_label_classification`, `multi_label_classification` or `regression`."""
        return problem_type_of(ref.config, ref.name)

    def labels(self, ref: ModelRef, tokenizer: PreTrainedTokenizerBase | None) -> list[str]:
        """The names of what it chooses among."""
        return labels_of(ref.config, ref.name)

    @abstractmethod
    def predict(self, asked: Asked, texts: Sequence[Text]) -> Said:
        """What the model says about `texts`."""

    @abstractmethod
    def answers(self, said: Said) -> list[Any]:
        """For each text its (label, probability): see `fusehub.comparing.prediction.Prediction.answers`."""

    def mean(self, said: Sequence[OneOrMore], name: str) -> OneOrMore:
        """The mean of what several models say. Raises `Incompatible` where there is none."""
        labels, probabilities = self._mean(said)
        seconds = sum(one.seconds for one in said)
        return replace(said[0], model=name, labels=labels, probabilities=probabilities, seconds=seconds)

    @abstractmethod
    def _mean(self, said: Sequence[Said]) -> tuple[list[str], Any]:
        """Labels and probabilities of the mean."""

    # What is shown of it

    @abstractmethod
    def answer(self, said: Said, index: int, given: Any, text: str, spans: Sequence[Span]) -> Answer:
        """What is said of the text of this `index`, whose item of `answers` is `given`, for a person."""

    def right(
        self, label: Any, problem: str, text: str, spans: Sequence[Span]
    ) -> tuple[str | list[str] | float | None, list[Entity] | None]:
        """The label of the data, and its entities where there are any."""
        # Of numbers that are no regression's, the name is meant.
        return name_of(label) if isinstance(label, float) and problem != REGRESSION else label, None

    # How good it is

    def require_library(self) -> None:  # noqa: B027  # Most have theirs.
        """Raises what `score` raises for want of a library, before any model is loaded."""

    def require_labels(  # noqa: B027  # Where labels are texts, any will do.
        self, examples: Examples, labels: Sequence[str], problem: str
    ) -> None:
        """Raises `BadData` where a model with these `labels` cannot be scored on the data."""

    @abstractmethod
    def score(self, said: Said, examples: Examples) -> Measured:
        """The metrics, and what each example has counted for them: without, there are no intervals."""

    def targets(self, inputs: Inputs, indices: Sequence[int], batch: Mapping[str, Tensor]) -> Tensor:
        """For tasks that need no labels: the tokens [rows, tokens] that are to be told by the logits at each place of
        a batch, `IGNORED` where none is."""
        raise TypeError("the task is scored by its answers")
