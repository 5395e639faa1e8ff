"""The Python that a model card shows: how a model, an adapter or the heads of a merge are loaded and asked.

    example_code({"": config}, "user/merged")
    example_code({"sentiment": one, "entities": other}, "user/merged")      # heads in subfolders
    heads_code({"sentiment": one, "entities": other}, "user/merged")        # all of them on one body
    example_code({"": config}, "user/adapter", base=("user/base", commit))  # an adapter, by peft

Where transformers has a pipeline for the task, that is shown; it has none for answers and for rewritten texts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fusehub.comparing.tasks import answers_of
from fusehub.models.tasks import TASKS, task_of

_NAMES = "Anna Schmidt lives in Paris."


@dataclass(frozen=True)
class _Asking:
    """How one model is asked: transformers' class, what prepares its inputs, and a pipeline's options and question."""

    task: str
    auto_class: str
    options: str
    asked: str

    @property
    def processor(self) -> tuple[str, str]:
        """(transformers' class, what a pipeline calls it)."""
        if TASKS[self.task].of_images:
            return "AutoImageProcessor", "image_processor"
        return "AutoTokenizer", "tokenizer"

    @property
    def has_pipeline(self) -> bool:
        return not answers_of(self.task).by_hand

    def imported(self) -> list[str]:
        return [self.auto_class, self.processor[0], *(["pipeline"] if self.has_pipeline else [])]

    def lines(self, processor: str, model: str) -> list[str]:
        """Loads by the arguments `processor` and `model` of `from_pretrained`, and asks."""
        kind, name = self.processor
        loaded = [f"{name} = {kind}.from_pretrained({processor})", *model.splitlines()]
        if not self.has_pipeline:
            return [*loaded, *answers_of(self.task).by_hand]
        arguments = f'"{self.task}", model=model, {name}={name}{self.options}'
        return [*loaded, f"model = pipeline({arguments})", f"print(model({self.asked}))"]


def example_code(
    configs: Mapping[str, Mapping[str, Any]], repo: str, *, base: tuple[str, str | None] | None = None
) -> str:
    """Python that loads each model of `repo` (a repo or a folder) and prints what it says about an example.

    `configs` are by subfolder, "" for the root. `base` is the model, with its commit, that an adapter is put on.
    """
    found = {part: _asking(config) for part, config in configs.items()}
    if base is not None:
        return _on_base(found[""], repo, *base)
    if "" in found and found[""].has_pipeline:
        one = found[""]
        model = f"model = pipeline({json.dumps(one.task)}, model={json.dumps(repo)}{one.options})"
        return "\n".join(["from transformers import pipeline", "", model, f"print(model({one.asked}))"])
    lines = [_imports(*found.values()), "", f"repo = {json.dumps(repo)}"]
    for part, one in found.items():
        place = f"repo, subfolder={json.dumps(part)}" if part else "repo"
        lines += ["", *one.lines(place, f"model = {one.auto_class}.from_pretrained({place})")]
    return "\n".join(lines)


def heads_code(configs: Mapping[str, Mapping[str, Any]], repo: str) -> str:
    """Python that asks all heads of a merge about one text; "" for images and sequence to sequence."""
    tasks = [TASKS[_asking(config).task] for config in configs.values()]
    if any(task.of_images or task.decodes for task in tasks):
        return ""
    first = next(iter(configs))
    return "\n".join(
        [
            "import fusehub",
            "from transformers import AutoTokenizer",
            "",
            f"repo = {json.dumps(repo)}",
            f"tokenizer = AutoTokenizer.from_pretrained(repo, subfolder={json.dumps(first)})",
            "model = fusehub.load_heads(repo)",
            f'outputs = model(**tokenizer("{_NAMES}", return_tensors="pt"))',
            f"print(outputs[{json.dumps(first)}].logits)",
        ]
    )


def _on_base(one: _Asking, repo: str, base: str, revision: str | None) -> str:
    """An adapter: its own config says what labels there are, and its head takes the place of the base's."""
    place = json.dumps(base) + (f", revision={json.dumps(revision)}" if revision else "")
    sizes = ", ignore_mismatched_sizes=True" if TASKS[one.task].labels else ""
    model = (
        "config = AutoConfig.from_pretrained(repo)\n"
        f"model = {one.auto_class}.from_pretrained({place}, config=config{sizes})\n"
        "model = PeftModel.from_pretrained(model, repo).merge_and_unload()"
    )
    return "\n".join(
        [
            "from peft import PeftModel",
            _imports(one, more=["AutoConfig"]),
            "",
            f"repo = {json.dumps(repo)}",
            *one.lines("repo", model),
        ]
    )


def _imports(*found: _Asking, more: list[str] | None = None) -> str:
    names = {name for one in found for name in one.imported()} | set(more or ())
    # Classes before functions, as formatters sort them.
    return f"from transformers import {', '.join(sorted(names, key=lambda name: (name.islower(), name)))}"


def _asking(config: Mapping[str, Any]) -> _Asking:
    task = task_of(dict(config), "the model")
    answers = answers_of(task.name)
    return _Asking(task.name, task.auto_class, answers.pipeline_options(config), answers.question)
