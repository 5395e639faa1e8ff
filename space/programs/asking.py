"""What models and merges say, side by side and scored."""

from __future__ import annotations

from fusehub.errors import BadData

from ..frame import Frame
from ..steps.compare import has_ensemble, require_few_datasets, require_texts
from . import answers, forms, named, work
from .told import Caller, Examples


def compare(frame: Frame, caller: Caller, models: list[str], texts: list[str]) -> answers.Compared:
    """Tells what each model, and the ensemble of those that are no merges, say about each text.

    Args:
        models: names of models on the Hub, and of merges that were made here.
        texts: the texts to ask about.

    Returns:
        For each text the answer of each model with its probability, and whether the answers differ.
    """
    texts = require_texts(texts, frame.setting.most_texts)
    with named.asked(frame, models, caller.token) as asked:
        found = frame.worker.ask("compare", {"models": asked.places, "texts": texts}, caller.token)
    return forms.compared(found, list(asked.places))


def evaluate(
    frame: Frame, caller: Caller, models: list[str], data: dict[str, str], limit: Examples = 200,
    text_column: dict[str, str] | None = None, label_column: dict[str, str] | None = None,
) -> answers.Scored:  # fmt: skip
    """Scores models, and the ensemble of those that are no merges, on labelled datasets of the Hub.

    The scores of a merge that was made here are in its card from then on.

    Args:
        models: names of models on the Hub, and of merges that were made here.
        data: a name for each dataset, such as {"films": "stanfordnlp/imdb/test"}.
        limit: how many examples of each dataset are taken at most, up to 5000.
        text_column: the column with the texts, by the names in `data`; left out: guessed by what it is called.
        label_column: the column with the labels, said in the same way.

    Returns:
        A table with the main metric of each model and its gain over the best expert, and all scores.
    """
    if not data:
        raise BadData("No dataset was named.", 'Give {"films": "stanfordnlp/imdb/test"}.')
    require_few_datasets(len(data), frame.setting)
    sources = {name: frame.setting.require_dataset(source) for name, source in data.items()}
    with (
        named.asked(frame, models, caller.token) as asked,
        named.visit_of(frame, [], caller.token) as visit,
    ):
        ensemble = has_ensemble(asked.task)
        arguments = {"models": asked.places, "data": sources, "ensemble": ensemble, "limit": limit}
        arguments |= {"text_column": text_column, "label_column": label_column}
        scored = work.scores(frame, visit, arguments, caller.token)
        for own, made in asked.merges.values():
            if not made.parts:
                own.evaluation = scored
    return forms.scored(scored, list(asked.places))
