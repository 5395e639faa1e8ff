"""How models of each task are asked, understood and scored: one file a kind of answers, one list of all tasks."""

from __future__ import annotations

from fusehub.comparing.tasks.fill_mask import FillMaskAnswers
from fusehub.comparing.tasks.labelled import ImageClassificationAnswers, LabelledAnswers
from fusehub.comparing.tasks.question_answering import QuestionAnsweringAnswers
from fusehub.comparing.tasks.task import TaskAnswers
from fusehub.comparing.tasks.token_classification import TokenClassificationAnswers
from fusehub.comparing.tasks.written import Text2TextGenerationAnswers, TextGenerationAnswers
from fusehub.data.tasks import DATA
from fusehub.data.tasks.task import TaskData
from fusehub.models.tasks import CAUSAL, IMAGES, MASKED, QUESTIONS, SEQ2SEQ, TASKS, TEXTS, WORDS, Task

ANSWERS: dict[str, TaskAnswers] = {
    TEXTS: LabelledAnswers(),
    WORDS: TokenClassificationAnswers(),
    QUESTIONS: QuestionAnsweringAnswers(),
    MASKED: FillMaskAnswers(),
    CAUSAL: TextGenerationAnswers(),
    SEQ2SEQ: Text2TextGenerationAnswers(),
    IMAGES: ImageClassificationAnswers(),
}
"""All tasks, by the Hub's name; a new one is a line here, and often of a kind of answers that is there."""


def answers_of(task: str) -> TaskAnswers:
    """How models of a task are asked and understood."""
    return ANSWERS[task]


def add_task(task: Task, data: TaskData, answers: TaskAnswers) -> None:
    """Adds a task from outside: what its models are, what its data looks like, and how they are asked.

    Raises `ValueError` for a name that is taken. It is known to this process alone.
    """
    if task.name in TASKS:
        raise ValueError(f"there is a task {task.name} already")
    TASKS[task.name], DATA[task.name], ANSWERS[task.name] = task, data, answers
