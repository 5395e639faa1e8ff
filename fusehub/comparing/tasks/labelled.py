"""Answers that are labels of an example as a whole: one, several at once, or a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fusehub.comparing.answers import Answer, Span
from fusehub.comparing.averages import mean_of_labels
from fusehub.comparing.metrics.labels import label_metrics, require_known
from fusehub.comparing.metrics.measured import Measured
from fusehub.comparing.said import MULTI, REGRESSION, SINGLE, Asked, Said, on_device, require_numbers
from fusehub.comparing.tasks.task import Shown, TaskAnswers
from fusehub.data.examples import Examples
from fusehub.data.images import picture_of
from fusehub.data.inputs import Inputs
from fusehub.data.tokenizing import Text
from fusehub.models.loading import running
from fusehub.models.tasks import problem_type_of

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class LabelledAnswers(TaskAnswers):
    """Labels of texts, or of whatever else a model is given."""

    shown = Shown("it says which label fits a text", "demo_labelled.py.jinja")

    def pipeline_options(self, config: Mapping[str, Any]) -> str:
        # A pipeline shows one label unless told, and squeezes a number as if it were a probability.
        told = {MULTI: ", top_k=None", REGRESSION: ', function_to_apply="none"'}
        return told.get(problem_type_of(config, "the model"), "")

    def to_read(self, text: Text) -> tuple[str, list[Span]]:
        return " | ".join(text) if isinstance(text, tuple) else str(text), []

    def predict(self, asked: Asked, texts: Sequence[Text]) -> Said:
        """Probabilities `[texts, labels]`."""
        examples = Examples(asked.task, list(texts), None, "", None)
        inputs = Inputs.of(asked.ref, examples, max_length=asked.max_length, tokenizer=asked.tokenizer)
        found: list[Any] = [None] * len(texts)
        done = 0
        for indices, batch in inputs.batches(batch_size=asked.batch_size):
            for index, rows in zip(indices, self._run(asked, batch), strict=True):
                found[index] = self._of_example(rows, inputs.encodings[index], texts[index])
            done += len(indices)
            asked.progress(done, len(texts), asked.name)
        return asked.said(self._together(found))

    def _run(self, asked: Asked, batch: dict[str, Tensor]) -> np.ndarray:
        """[texts, labels] or [texts, tokens, labels] of a batch, in float32."""
        import torch

        with torch.inference_mode(), running(asked.name):
            logits = asked.network(**on_device(asked.network, batch)).logits.float()
            # Before they become probabilities: infinity is a plain 1 then.
            require_numbers(self._real(logits.cpu(), batch), asked.name)
            if asked.problem == MULTI:
                logits = logits.sigmoid()
            elif asked.problem == SINGLE:
                logits = logits.softmax(-1)
        return logits.cpu().numpy()

    def _real(self, result: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """What the model says of what it was given, and not of padding."""
        return result

    def _of_example(self, rows: np.ndarray, encoding: Mapping[str, Any], text: Text) -> np.ndarray:
        """What is kept of what the model says about one example."""
        return rows

    def _together(self, found: list[Any]) -> Any:
        import numpy as np

        return np.stack(found)

    def answers(self, said: Said) -> list[Any]:
        """(the label, its probability); of a multi-label model (all that are likely, the highest); (the number, None)
        of regression."""
        if said.problem == REGRESSION:
            return [(float(row[0]), None) for row in said.probabilities]
        if said.problem == MULTI:
            return [
                ([label for label, p in zip(said.labels, row, strict=True) if p >= 0.5], float(max(row)))
                for row in said.probabilities
            ]
        return [top(said.labels, row) for row in said.probabilities]

    def _mean(self, said: Sequence[Said]) -> tuple[list[str], Any]:
        return mean_of_labels(said)

    def answer(self, said: Said, index: int, given: Any, text: str, spans: Sequence[Span]) -> Answer:
        """The label, with the probabilities of all."""
        label, probability = given
        named = zip(said.labels, said.probabilities[index], strict=True)
        probabilities = {} if said.problem == REGRESSION else {name: float(value) for name, value in named}
        return Answer(said.model, label, probability, probabilities, [], text)

    def require_labels(self, examples: Examples, labels: Sequence[str], problem: str) -> None:
        """No label of the data is one of the model's, or one is no number."""
        require_known(examples, labels, is_number=problem == REGRESSION)

    def score(self, said: Said, examples: Examples) -> Measured:
        """Accuracy and F1, or correlations of numbers."""
        return label_metrics(said, self.answers(said), examples)


class ImageClassificationAnswers(LabelledAnswers):
    """Labels of images, which are typed as names of files."""

    shown = Shown("it says what is in an image", "demo_images.py.jinja")
    one = "image"
    does = "labels every image"
    typed = ""
    asks = "Images"
    scored_on = "images and labels"
    question = '"photo.jpg"'

    def pipeline_options(self, config: Mapping[str, Any]) -> str:
        return ""

    def read_typed(self, texts: Sequence[str]) -> tuple[list[Text], list[list[Span]]]:
        pictures: list[Text] = []
        for text in texts:
            if (picture := picture_of(text, None, "--text")) is not None:
                pictures.append(picture)
        return pictures, [[] for _ in texts]

    def to_read(self, text: Text) -> tuple[str, list[Span]]:
        return getattr(text, "name", str(text)), []


def top(labels: Sequence[str], row: np.ndarray) -> tuple[str | None, float | None]:
    """The likeliest label and its probability; (None, None) where the model says nothing."""
    best = int(row.argmax())
    return (None, None) if row[best] != row[best] else (labels[best], float(row[best]))
