"""Answers that are pieces of a text, each with a probability; one of them is that the text holds none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from fusehub.comparing.answers import LIKELIEST, Answer, Span
from fusehub.comparing.metrics.measured import Measured
from fusehub.comparing.metrics.texts import answer_metrics
from fusehub.comparing.said import Asked, Said, on_device, require_numbers
from fusehub.comparing.tasks.task import Shown, TaskAnswers
from fusehub.data.examples import Examples
from fusehub.data.inputs import Inputs
from fusehub.data.questions import best_spans, spans_of
from fusehub.data.tokenizing import Text, are_pairs, are_word_lists
from fusehub.errors import Action, BadData
from fusehub.models.loading import running


class QuestionAnsweringAnswers(TaskAnswers):
    """For each question a dict of the likeliest answers, "" for none."""

    shown = Shown("it finds the answer to a question in a text", "demo_questions.py.jinja", by_pipeline=False)
    one = "question"
    does = "answers every question from its text"
    typed = "Who wrote it? | The book was written by Anna Schmidt in 1987."
    asks = "Questions, one a line: the question | the text that holds its answer"
    scored_on = "questions, contexts and answers"
    metric_names: ClassVar[Mapping[str, str]] = {"f1": "F1 of words"}
    by_hand = (
        'inputs = tokenizer("Who lives in Paris?", "Anna Schmidt lives in Paris.", return_tensors="pt")',
        "output = model(**inputs)",
        "first, last = output.start_logits.argmax(), output.end_logits.argmax()",
        'print(tokenizer.decode(inputs["input_ids"][0, first : last + 1]))',
    )

    def read_typed(self, texts: Sequence[str]) -> tuple[list[Text], list[list[Span]]]:
        """A question and a text, with a bar between."""
        pairs = [(one.strip(), other.strip()) for one, _, other in (text.partition("|") for text in texts)]
        if not all(one and other for one, other in pairs):
            raise BadData(
                "A question needs the text that holds its answer.",
                'Write both, with a bar between: --text "Who? | Text."',
                actions=[Action("give-data")],
            )
        return list(pairs), [[] for _ in texts]

    def to_read(self, text: Text) -> tuple[str, list[Span]]:
        assert isinstance(text, tuple)
        return " | ".join(text), []

    def predict(self, asked: Asked, texts: Sequence[Text]) -> Said:
        """For each (question, text) its likeliest answers with their probabilities."""
        import torch

        assert are_pairs(texts)
        examples = Examples(asked.task, list(texts), None, "", None)
        inputs = Inputs.of(asked.ref, examples, max_length=asked.max_length, tokenizer=asked.tokenizer)
        windows: list[list[Any]] = [[] for _ in texts]
        done = 0
        for indices, batch in inputs.batches(batch_size=asked.batch_size):
            with torch.inference_mode(), running(asked.ref.name):
                output = asked.network(**on_device(asked.network, batch))
            start, end = (
                require_numbers(logits.float().cpu(), asked.ref.name)
                for logits in (output.start_logits, output.end_logits)
            )
            for row, index in enumerate(indices):
                encoding = inputs.encodings[index]
                windows[encoding["example"]].append(spans_of(start[row].numpy(), end[row].numpy(), encoding))
            done += len(indices)
            asked.progress(done * len(texts) // len(inputs), len(texts), asked.ref.name)
        answers = []
        for (_, text), own in zip(texts, windows, strict=True):
            found: dict[str, float] = {}
            for span, probability in best_spans(own, may_be_none=True):
                said = text[span.start : span.end]
                found[said] = found.get(said, 0.0) + probability
            answers.append(found)
        return asked.said(answers)

    def answers(self, said: Said) -> list[Any]:
        """(the likeliest answer, its probability)."""
        return [max(likeliest(said, index).items(), key=lambda item: item[1]) for index in range(len(said))]

    def _mean(self, said: Sequence[Said]) -> tuple[list[str], Any]:
        """Each answer's mean probability; one that a model does not have among its likeliest counts as nothing."""
        means = []
        for own in zip(*(one.probabilities for one in said), strict=True):
            total: dict[str, float] = {}
            for answers in own:
                for text, probability in answers.items():
                    total[text] = total.get(text, 0.0) + probability / len(own)
            means.append(total)
        return [], means

    def answer(self, said: Said, index: int, given: Any, text: str, spans: Sequence[Span]) -> Answer:
        """The answer, with the next likeliest."""
        label, probability = given
        return Answer(said.model, label, probability, dict(list(likeliest(said, index).items())[:LIKELIEST]), [], text)

    def score(self, said: Said, examples: Examples) -> Measured:
        """F1 over words, and exact match."""
        labels = examples.labels
        assert labels is not None and are_word_lists(labels)  # What is scored was read for its labels.
        # Data of which every question has an answer asks for one.
        said = replace(said, may_be_none=not all(labels))
        return answer_metrics(labels, [answer for answer, _ in self.answers(said)])


def likeliest(said: Said, index: int) -> dict[str, float]:
    """The likeliest answers for one question, whose probabilities are among those that count here."""
    found = said.probabilities[index]
    kept = {text: p for text, p in found.items() if text or said.may_be_none} or {"": 1.0}
    total = sum(kept.values()) or 1.0
    return {text: p / total for text, p in sorted(kept.items(), key=lambda item: -item[1])}
