"""Text classification: a text or a pair of texts, and one label, several, or a number."""

from __future__ import annotations

from fusehub.data.columns import LABEL_COLUMNS, TEXT_COLUMNS, Guesses
from fusehub.data.tasks.labelled import LabelledData

_PAIRS = (
    *(("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text1", "text2")),
    *(("question", "sentence"), ("question", "passage"), ("question", "context"), ("text", "text_pair")),
)


class TextClassificationData(LabelledData):
    """Texts or pairs of texts, each with its labels."""

    kinds = (str, tuple)
    columns = Guesses(
        "text", pairs=_PAIRS, texts=TEXT_COLUMNS, targets=LABEL_COLUMNS, most=2, labels_named=True, bits=True
    )
