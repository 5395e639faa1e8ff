"""One example of what a model of each task is given, to try a model with."""

from __future__ import annotations

from typing import Any

from fusehub.data.examples import Examples
from fusehub.data.images import Picture, require_pillow
from fusehub.models.tasks import IMAGES, QUESTIONS, SEQ2SEQ, WORDS

SENTENCE = "This is one sentence, to see that the model answers."


def one_example(task: str) -> Examples:
    """One example of what a model of `task` is given."""
    texts: dict[str, Any] = {WORDS: SENTENCE.split(), QUESTIONS: ("What is this?", SENTENCE)}
    if task == IMAGES:
        from io import BytesIO

        require_pillow()
        from PIL import Image

        file = BytesIO()
        Image.new("RGB", (64, 64), (200, 120, 40)).save(file, "PNG")
        texts[IMAGES] = Picture("a plain image", data=file.getvalue())
    labels = [SENTENCE] if task == SEQ2SEQ else None
    return Examples(task, [texts.get(task, SENTENCE)], labels, "one example", None)
