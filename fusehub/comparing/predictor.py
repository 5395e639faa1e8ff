"""What a model says about texts: probabilities by label name.

    predict("user/expert-1", ["A fine film.", "Too long."]).answers()     # [("positive", 0.93), ("negative", 0.71)]

The mean of several models' predictions is `fusehub.comparing.ensemble`, texts side by side are
`fusehub.comparing.compare`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from fusehub.comparing.prediction import Prediction
from fusehub.comparing.said import Asked
from fusehub.comparing.tasks import answers_of
from fusehub.data.tasks import data_of
from fusehub.data.tokenizing import Text
from fusehub.errors import BadData, Incompatible
from fusehub.hub.access import Access
from fusehub.models.checkpoints.checkpoint import headers
from fusehub.models.completeness import require_complete
from fusehub.models.loading import load_model, load_tokenizer
from fusehub.models.ref import ModelRef, short_names
from fusehub.models.resolve import ref_of
from fusehub.models.tasks import TASKS, labels_of, task_of
from fusehub.utils.devices import Device, find_device
from fusehub.utils.progress import Progress, silent


class Predictor:
    """A model in memory, for as long as its `with` block lasts."""

    def __init__(self, ref: ModelRef, *, name: str | None = None, device: Device | None = None) -> None:
        self.ref = ref
        self.name = name or ref.name
        self.device = find_device(device)

    def __enter__(self) -> Predictor:
        import torch

        self.task = task_of(self.ref.config, self.ref.name).name
        answers = answers_of(self.task)
        # First: what its config says wrong of them also keeps transformers from loading its tokenizer.
        labels_of(self.ref.config, self.ref.name)
        self.problem = answers.problem(self.ref)
        self.tokenizer = None if TASKS[self.task].of_images else load_tokenizer(self.ref)
        self.labels = answers.labels(self.ref, self.tokenizer)
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
        asked = Asked(
            ref=self.ref,
            name=self.name,
            task=self.task,
            problem=self.problem,
            labels=self.labels,
            network=self.network,
            tokenizer=self.tokenizer,
            max_length=max_length,
            batch_size=batch_size,
            progress=progress,
        )
        said = answers_of(self.task).predict(asked, texts)
        return Prediction(**{**vars(said), "seconds": time.perf_counter() - start})


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
                step = shifted(progress, before, total)
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


def shifted(progress: Progress, before: int, total: int) -> Callable[[int, int, str], None]:
    """The progress of one part of work, told as that of the whole: `before` of `total` came before it."""
    return lambda done, _, what: progress(before + done, total, what)
