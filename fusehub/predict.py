"""What models say about texts: probabilities by label name, of one model at a time, and of an ensemble of them.

    one = predict("user/expert-1", ["A fine film.", "Too long."])
    both = ensemble([one, predict("user/expert-2", texts)])
    both.answers()     # [("positive", 0.93), ("negative", 0.71)]

Texts side by side through several models: `fusehub.comparison`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fusehub.answering import fill_masks, find_spans, write_texts
from fusehub.data import Examples, Text, first_tokens
from fusehub.errors import BadData, Incompatible, NonFinite, NotFound
from fusehub.inputs import Inputs, require_kind
from fusehub.progress import Progress, silent
from fusehub.refs import ModelRef, in_subfolder, resolve, short_names
from fusehub.tasks import (
    CAUSAL,
    IMAGES,
    MASKED,
    QUESTIONS,
    SEQ2SEQ,
    WORDS,
    labels_of,
    load_model,
    load_tokenizer,
    problem_type_of,
    task_of,
)

if TYPE_CHECKING:
    import numpy as np

    from fusehub.keeping import KeptModels

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
TOKENS = WORDS
# Models whose answers are texts, each by itself: they have no mean.
WRITERS = (CAUSAL, SEQ2SEQ)


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


class Predictor:
    """A model in memory, for as long as its `with` block lasts."""

    def __init__(self, ref: ModelRef, *, name: str | None = None, device: str | None = None) -> None:
        self.ref = ref
        self.name = name or ref.name
        self.device = device or default_device()

    def __enter__(self) -> Predictor:
        import torch

        self.task = task_of(self.ref.config, self.ref.name).name
        self.problem = SINGLE if self.task == TOKENS else problem_type_of(self.ref.config)
        self.labels = labels_of(self.ref.config)
        self.tokenizer = None if self.task == IMAGES else load_tokenizer(self.ref)
        if self.task == MASKED:
            self.labels = self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer))))
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
        """The prediction for `texts`: what the task takes (see `fusehub.data.Examples`)."""
        if not texts:
            raise BadData("There is no text to predict.", "Give at least one text.")
        require_kind(self.task, texts)
        start = time.perf_counter()
        progress(0, len(texts), self.name)
        how = {"max_length": max_length, "batch_size": batch_size, "progress": progress}
        written, found = None, []
        if self.task in WRITERS:
            written = write_texts(self.network, self.tokenizer, self.task, texts, name=self.name, **how)
        elif self.task == MASKED:
            found = fill_masks(self.network, self.tokenizer, texts, name=self.name, **how)
        elif self.task == QUESTIONS:
            found = find_spans(self.ref, self.network, texts, **how)
        else:
            found = self._classify(texts, **how)
        seconds = time.perf_counter() - start
        return Prediction(self.name, self.task, self.problem, self.labels, found, seconds, written)

    def _classify(self, texts: Sequence[Text], *, max_length: int | None, batch_size: int, progress: Progress) -> Any:
        """[texts, labels]; for token classification [words, labels] for each text."""
        import numpy as np

        inputs = Inputs.of(self.ref, Examples(self.task, list(texts), None, "", None), max_length=max_length)
        if self.task != IMAGES:
            self._check_ids(inputs.encodings)
        found: list[Any] = [None] * len(texts)
        done = 0
        for indices, batch in inputs.batches(batch_size=batch_size):
            for index, rows in zip(indices, self._run(batch), strict=True):
                words = self.task == TOKENS
                found[index] = _of_words(rows, inputs.encodings[index], texts[index]) if words else rows
            done += len(indices)
            progress(done, len(texts), self.name)
        return found if self.task == TOKENS else np.stack(found)

    def _run(self, batch: dict[str, Any]) -> np.ndarray:
        """[texts, labels] or [texts, tokens, labels] of a batch, in float32."""
        import torch

        with torch.inference_mode():
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

    def _check_ids(self, encodings: Sequence[dict[str, Any]]) -> None:
        rows = self.network.get_input_embeddings().num_embeddings
        highest = max(max(encoding["input_ids"], default=0) for encoding in encodings)
        if highest >= rows:
            raise Incompatible(
                f"{self.name}: its tokenizer knows token {highest}, but the model has only {rows} embeddings.",
                "Model and tokenizer do not belong together: check the files of the model.",
            )


def predict(
    model: str | ModelRef,
    texts: Sequence[Text],
    *,
    batch_size: int = 32,
    max_length: int | None = None,
    device: str | None = None,
    subfolder: str | None = None,
    token: str | None = None,
    progress: Progress = silent,
) -> Prediction:
    """What `model` says about `texts`; it is loaded for this and freed afterwards.

    `subfolder` picks one of the heads of a merge that keeps each expert's.
    """
    ref = resolve(model, token=token) if isinstance(model, str) else model
    name = short_names([ref])[0]
    if subfolder:
        ref, name = in_subfolder(ref, subfolder), f"{name}/{subfolder}"
    with Predictor(ref, name=name, device=device) as predictor:
        return predictor(texts, batch_size=batch_size, max_length=max_length, progress=progress)


def ensemble(predictions: Sequence[Prediction], *, name: str = "ensemble") -> Prediction:
    """The mean of the predictions, label by label by name, whatever the order in which each model has them.

    A label that only some models know is averaged over those that do; each row is then scaled to sum to 1 again
    (multi-label and regression are not). Raises `Incompatible` where a model shares no label with the others.
    """
    import numpy as np

    first = predictions[0]
    for other in predictions[1:]:
        if (other.task, other.problem) != (first.task, first.problem):
            raise Incompatible(
                f"{first.model} ({first.task}, {first.problem}) and {other.model} ({other.task}, {other.problem}) "
                "answer different questions, which have no mean.",
                "Ensemble models of one task.",
            )
        if len(other) != len(first):
            raise ValueError(f"{other.model} has {len(other)} texts, {first.model} has {len(first)}.")
    if first.task in WRITERS:
        raise Incompatible(
            f"{first.model} and the others write texts, which have no mean.", "Compare them without an ensemble."
        )
    if first.task == QUESTIONS:
        return _mean_of_answers(predictions, name)
    labels, columns = _union(predictions)

    def mean(rows: Sequence[np.ndarray]) -> np.ndarray:
        spread = np.full((len(rows), len(rows[0]), len(labels)), np.nan)
        for number, (own, at) in enumerate(zip(rows, columns, strict=True)):
            spread[number][:, at] = own
        known = ~np.isnan(spread)
        count = known.sum(0)
        total = np.where(known, spread, 0).sum(0)
        average = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
        if first.problem != SINGLE:
            return average
        # In texts that were cut differently, a word may have been seen only by models that lack some label.
        seen = (count > 0).any(-1, keepdims=True)
        average = np.where(seen & np.isnan(average), 0, average)
        return average / average.sum(-1, keepdims=True)

    rows = [prediction.probabilities for prediction in predictions]
    averaged = [mean(own) for own in zip(*rows, strict=True)] if first.task in (TOKENS, MASKED) else mean(rows)
    seconds = sum(prediction.seconds for prediction in predictions)
    return Prediction(name, first.task, first.problem, labels, averaged, seconds)


def _mean_of_answers(predictions: Sequence[Prediction], name: str) -> Prediction:
    """Each answer's mean probability; one that a model does not have among its likeliest counts as nothing there."""
    first = predictions[0]
    means = []
    for own in zip(*(prediction.probabilities for prediction in predictions), strict=True):
        total: dict[str, float] = {}
        for answers in own:
            for text, probability in answers.items():
                total[text] = total.get(text, 0.0) + probability / len(own)
        means.append(total)
    seconds = sum(prediction.seconds for prediction in predictions)
    return Prediction(name, first.task, first.problem, [], means, seconds)


def _union(predictions: Sequence[Prediction]) -> tuple[list[str], list[list[int]]]:
    """All labels in the order in which they first occur, and for each prediction where its labels are in them."""
    if predictions[0].problem == REGRESSION:
        return predictions[0].labels, [list(range(len(prediction.labels))) for prediction in predictions]
    own = [
        [label if prediction.task == MASKED else label.strip().casefold() for label in prediction.labels]
        for prediction in predictions
    ]
    for number, keys in enumerate(own):
        others = {key for at, other in enumerate(own) if at != number for key in other} - {"o"}
        if len(own) > 1 and not others & set(keys):
            raise Incompatible(
                f"{predictions[number].model} ({', '.join(predictions[number].labels[:6])}) has no label in common "
                "with the other models.",
                "Ensemble models with the same labels; if only the names differ, rename them in config.json.",
            )
    labels: dict[str, str] = {}
    for prediction, keys in zip(predictions, own, strict=True):
        for key, label in zip(keys, prediction.labels, strict=True):
            labels.setdefault(key, label)
    at = {key: index for index, key in enumerate(labels)}
    return list(labels.values()), [[at[key] for key in keys] for keys in own]


def predict_all(
    refs: Sequence[ModelRef],
    names: Sequence[str],
    inputs: Sequence[Sequence[Text]],
    *,
    batch_size: int,
    max_length: int | None,
    device: str | None,
    progress: Progress,
    kept: KeptModels | None = None,
) -> list[list[Prediction]]:
    """For each model, its predictions for each of the `inputs`; one model at a time in memory, each loaded once.

    Models that are `kept` are not loaded anew, and the others are kept from then on.
    """
    load = kept.predictor if kept is not None else Predictor
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
    """The task that all the models are for. Raises `Incompatible` where they are not for one."""
    if not refs:
        raise BadData("There is no model.", "Name at least one model.")
    tasks = [task_of(ref.config, ref.name).name for ref in refs]
    if len(set(tasks)) > 1:
        listed = ", ".join(f"{ref.name} ({task})" for ref, task in zip(refs, tasks, strict=True))
        raise Incompatible(f"The models are for different tasks: {listed}.", "Give models of one task at a time.")
    return tasks[0]


def is_merge(ref: ModelRef) -> bool:
    """Whether the model says, by its files or its card, that it is a merge and so no expert of its own."""
    from fusehub.provenance import REPORT_FILENAME

    if REPORT_FILENAME in ref.files or (ref.folder is not None and (ref.folder.parent / REPORT_FILENAME).is_file()):
        return True
    tags = ref.card.get("tags") or []
    return ref.card.get("base_model_relation") == "merge" or "merge" in tags or "mergekit" in tags


def experts_among(refs: Sequence[ModelRef], names: Sequence[str], wanted: bool | Sequence[str]) -> list[int]:
    """Which models make up the ensemble: those `wanted` by name; with True, all that are no merges themselves."""
    if isinstance(wanted, bool):
        experts = [index for index, ref in enumerate(refs) if not is_merge(ref)] if wanted else []
        return experts if len(experts) > 1 else []
    indices = []
    for name in wanted:
        found = [i for i, ref in enumerate(refs) if name in (names[i], ref.name, ref.repo_id, ref.id)]
        if not found:
            raise NotFound(f"{name} is not among the models.", f"The models are {', '.join(names)}.")
        indices.append(found[0])
    return indices


def default_device() -> str:
    """Where accelerate would run a model: a GPU where there is one, else the CPU."""
    from accelerate import PartialState

    return str(PartialState().device)


def _of_words(rows: np.ndarray, encoding: dict[str, Any], words: Sequence[str]) -> np.ndarray:
    """[tokens, labels] -> [words, labels]: each word's first token; NaN where it has none."""
    import numpy as np

    result = np.full((len(words), rows.shape[-1]), np.nan, dtype=rows.dtype)
    for word, token in first_tokens(encoding).items():
        result[word] = rows[token]
    return result


def _shifted(progress: Progress, before: int, total: int) -> Callable[[int, int, str], None]:
    return lambda done, _, what: progress(before + done, total, what)
