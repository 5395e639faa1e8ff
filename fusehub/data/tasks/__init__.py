"""What the data of each task looks like: one file a task, one list of them all."""

from __future__ import annotations

from fusehub.data.tasks.fill_mask import FillMaskData
from fusehub.data.tasks.image_classification import ImageClassificationData
from fusehub.data.tasks.question_answering import QuestionAnsweringData
from fusehub.data.tasks.task import TaskData
from fusehub.data.tasks.text2text_generation import Text2TextGenerationData
from fusehub.data.tasks.text_classification import TextClassificationData
from fusehub.data.tasks.text_generation import TextGenerationData
from fusehub.data.tasks.token_classification import TokenClassificationData
from fusehub.models.tasks import CAUSAL, IMAGES, MASKED, QUESTIONS, SEQ2SEQ, TEXTS, WORDS

DATA: dict[str, TaskData] = {
    TEXTS: TextClassificationData(),
    WORDS: TokenClassificationData(),
    QUESTIONS: QuestionAnsweringData(),
    MASKED: FillMaskData(),
    CAUSAL: TextGenerationData(),
    SEQ2SEQ: Text2TextGenerationData(),
    IMAGES: ImageClassificationData(),
}
"""All tasks, by the Hub's name; a new one is a line here."""


def data_of(task: str) -> TaskData:
    """What is known of the data of a task."""
    return DATA[task]
