"""What a model says about texts: probabilities by label name.

    predict("user/expert-1", ["A fine film.", "Too long."]).answers()     # [("positive", 0.93), ("negative", 0.71)]

The mean of several models' predictions is `fusehub.comparing.ensemble`, texts side by side are
`fusehub.comparing.compare`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypedDict

from fusehub.comparing.answers import fill_masks, find_spans, write_texts
from fusehub.data.examples import Examples
from fusehub.data.inputs import Inputs
from fusehub.data.tasks import data_of
from fusehub.data.tokenizing import Text, are_pairs, are_texts, first_tokens
from fusehub.errors import BadData, Incompatible, NonFinite
from fusehub.hub.access import Access
from fusehub.models.checkpoint import headers
from fusehub.models.completeness import require_complete
from fusehub.models.loading import load_model, load_tokenizer, running
from fusehub.models.resolve import ModelRef, ref_of, short_names
from fusehub.models.tasks import MASKED, QUESTIONS, TASKS, WORDS, labels_of, problem_type_of, task_of
from fusehub.utils.devices import Device, find_device
from fusehub.utils.progress import Progress, silent

if TYPE_CHECKING:
    import numpy as np

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
TOKENS = WORDS


@dataclass(frozen=True)
class Prediction:
    """What one model says about some texts.

    `probabilities` is `[texts, labels]`; for token classification a list with `[words, labels]` for each text, taken
    from each word's first token, where a row of NaN is a word that the model did not see (its text was too long). Of a
    multi-label model every label has a probability of its own; of a regression model they are the predicted numbers.

    For question answering a dict for each text, of the likeliest answers; "" is that there is none, which is an answer
    where it `may_be_none`. For a masked language model [masks, tokens] for each text, whose `labels` are all tokens.
    Models that write texts have none, and what they wrote is in `written`.
    """

    model: str
    task: str
    problem: str
    labels: list[str]
    probabilities: Any
    seconds: float = 0.0
    written: list[str] | None = None
    may_be_none: bool = False

    def __len__(self) -> int:
        return len(self.probabilities if self.written is None else self.written)

    def answers(self) -> list[Any]:
        """For each text its (label, probability).

        Multi-label: (the labels of at least one half, the highest probability). Regression: (the number, None).
        Token classification: a list with one (label, probability) a word, (None, None) for words not seen; masked
        language model: one (token, probability) a mask. Models that write: (the text, None).
        """
        if self.written is not None:
            return [(text, None) for text in self.written]
        if self.task == QUESTIONS:
            return [max(self.spans(index).items(), key=lambda item: item[1]) for index in range(len(self))]
        if self.task in (TOKENS, MASKED):
            return [[self._top(row) for row in rows] for rows in self.probabilities]
        if self.problem == REGRESSION:
            return [(float(row[0]), None) for row in self.probabilities]
        if self.problem == MULTI:
            return [
                ([label for label, p in zip(self.labels, row, strict=True) if p >= 0.5], float(max(row)))
                for row in self.probabilities
            ]
        return [self._top(row) for row in self.probabilities]

    def spans(self, index: int) -> dict[str, float]:
        """The likeliest answers for one question, whose probabilities are among those that count here."""
        found = self.probabilities[index]
        kept = {text: p for text, p in found.items() if text or self.may_be_none} or {"": 1.0}
        total = sum(kept.values()) or 1.0
        return {text: p / total for text, p in sorted(kept.items(), key=lambda item: -item[1])}

    def _top(self, row: np.ndarray) -> tuple[str | None, float | None]:
        best = int(row.argmax())
        return (None, None) if row[best] != row[best] else (self.labels[best], float(row[best]))


class _How(TypedDict):
    """How any model is run over texts."""

    max_length: int | None
    batch_size: int
    progress: Progress


class Predictor:
    """A model in memory, for as long as its `with` block lasts."""

    def __init__(self, ref: ModelRef, *, name: str | None = None, device: Device | None = None) -> None:
        self.ref = ref
        self.name = name or ref.name
        self.device = find_device(device)

    def __enter__(self) -> Predictor:
        import torch

        self.task = task_of(self.ref.config, self.ref.name).name
        self.problem = SINGLE if self.task == TOKENS else problem_type_of(self.ref.config, self.ref.name)
        self.labels = labels_of(self.ref.config, self.ref.name)
        tokenizer = None if TASKS[self.task].of_images else load_tokenizer(self.ref)
        self.tokenizer = tokenizer
        if self.task == MASKED and tokenizer is not None:
            self.labels = list(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
        # Half precision is slow on a CPU, and not every operation has it there.
        dtype = torch.float32 if self.device.startswith(("cpu", "mps")) else None
        self.network = load_model(self.ref, dtype=dtype, device=self.device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import gc

        import torch

        del self.network
        gc.collect()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def __call__(
        self,
        texts: Sequence[Text],
        *,
        batch_size: int = 32,
        max_length: int | None = None,
        progress: Progress = silent,
    ) -> Prediction:
        """The prediction for `texts`: what the task takes (see `fusehub.data.examples.Examples`)."""
        if not texts:
            raise BadData("There is no text to predict.", "Give at least one text.")
        data_of(self.task).require_kind(self.task, texts)
        start = time.perf_counter()
        progress(0, len(texts), self.name)
        how: _How = {"max_length": max_length, "batch_size": batch_size, "progress": progress}
        written: list[str] | None = None
        found: Any = []
        if self.tokenizer is None or not (TASKS[self.task].writes or self.task in (MASKED, QUESTIONS)):
            found = self._classify(texts, **how)
        elif TASKS[self.task].writes:
            written = write_texts(self.network, self.tokenizer, self.task, texts, name=self.name, **how)
        elif self.task == MASKED:
            assert are_texts(texts)
            found = fill_masks(self.network, self.tokenizer, texts, name=self.name, **how)
        else:
            assert are_pairs(texts)
            found = find_spans(self.ref, self.network, self.tokenizer, texts, **how)
        seconds = time.perf_counter() - start
        return Prediction(self.name, self.task, self.problem, self.labels, found, seconds, written)

    def _classify(self, texts: Sequence[Text], *, max_length: int | None, batch_size: int, progress: Progress) -> Any:
        """[texts, labels]; for token classification [words, labels] for each text."""
        import numpy as np

        examples = Examples(self.task, list(texts), None, "", None)
        inputs = Inputs.of(self.ref, examples, max_length=max_length, tokenizer=self.tokenizer)
        found: list[Any] = [None] * len(texts)
        done = 0
        for indices, batch in inputs.batches(batch_size=batch_size):
            for index, rows in zip(indices, self._run(batch), strict=True):
                text = texts[index]
                # Only of token classification are they words.
                found[index] = _of_words(rows, inputs.encodings[index], text) if isinstance(text, list) else rows
            done += len(indices)
            progress(done, len(texts), self.name)
        return found if self.task == TOKENS else np.stack(found)

    def _run(self, batch: dict[str, Any]) -> np.ndarray:
        """[texts, labels] or [texts, tokens, labels] of a batch, in float32."""
        import torch

        with torch.inference_mode(), running(self.name):
            logits = self.network(**{name: value.to(self.device) for name, value in batch.items()}).logits.float()
            if self.problem == MULTI:
                logits = logits.sigmoid()
            elif self.problem == SINGLE:
                logits = logits.softmax(-1)
        result = logits.cpu()
        # Of tokens that are padding, a model may say anything.
        real = result[batch["attention_mask"].bool()] if self.task == TOKENS else result
        if not torch.isfinite(real).all():
            raise NonFinite(f"{self.name} predicts NaN or infinity.", "Its weights are broken: check how it was made.")
        return result.numpy()


def predict(
    model: str | ModelRef,
    texts: Sequence[Text],
    *,
    batch_size: int = 32,
    max_length: int | None = None,
    device: Device | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    token: bool | str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    progress: Progress = silent,
) -> Prediction:
    """What `model` says about `texts`; it is loaded for this and freed afterwards.

    `subfolder` picks one of the heads of a merge that keeps each expert's.
    """
    ref = ref_of(model, Access(token, cache_dir, local_files_only), revision=revision, subfolder=subfolder)
    name = short_names([ref])[0]
    with Predictor(ref, name=name, device=device) as predictor:
        return predictor(texts, batch_size=batch_size, max_length=max_length, progress=progress)


def predict_all(
    refs: Sequence[ModelRef],
    names: Sequence[str],
    inputs: Sequence[Sequence[Text]],
    *,
    batch_size: int,
    max_length: int | None,
    device: Device | None,
    progress: Progress,
    load: Callable[..., AbstractContextManager[Predictor]] = Predictor,
) -> list[list[Prediction]]:
    """For each model, its predictions for each of the `inputs`; one model at a time in memory, each loaded once.

    `load` makes a predictor of `(ref, name=..., device=...)`: that of `KeptModels` finds it in memory.
    """
    total = len(refs) * sum(map(len, inputs))
    everything, before = [], 0
    for ref, name in zip(refs, names, strict=True):
        with load(ref, name=name, device=device) as predictor:
            own = []
            for texts in inputs:
                step = _shifted(progress, before, total)
                own.append(predictor(texts, batch_size=batch_size, max_length=max_length, progress=step))
                before += len(texts)
            everything.append(own)
    return everything


def check_one_task(refs: Sequence[ModelRef]) -> str:
    """The task that all the models are for. Raises `Incompatible` where they are not for one, and where a model could
    not be loaded whole: data is read for nothing then, and what else were wrong would be told first."""
    if not refs:
        raise BadData("There is no model.", "Name at least one model.")
    tasks = [task_of(ref.config, ref.name).name for ref in refs]
    if len(set(tasks)) > 1:
        listed = ", ".join(f"{ref.name} ({task})" for ref, task in zip(refs, tasks, strict=True))
        raise Incompatible(f"The models are for different tasks: {listed}.", "Give models of one task at a time.")
    for ref in refs:
        if (tensors := headers(ref)) is not None:
            require_complete(ref, tensors)
    return tasks[0]


def known_labels(refs: Sequence[ModelRef]) -> list[str]:
    """The labels of the first model, by which columns of data may be called; none of a model without."""
    return labels_of(refs[0].config, refs[0].name)


def _of_words(rows: np.ndarray, encoding: dict[str, Any], words: Sequence[str]) -> np.ndarray:
    """[tokens, labels] -> [words, labels]: each word's first token; NaN where it has none."""
    import numpy as np

    result = np.full((len(words), rows.shape[-1]), np.nan, dtype=rows.dtype)
    for word, token in first_tokens(encoding).items():
        result[word] = rows[token]
    return result


def _shifted(progress: Progress, before: int, total: int) -> Callable[[int, int, str], None]:
    return lambda done, _, what: progress(before + done, total, what)
