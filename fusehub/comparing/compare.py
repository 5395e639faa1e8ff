"""Several models side by side on the same texts: what each says, how sure it is, and where they differ.

comparison = compare(["user/expert-1", "user/expert-2", "out/merged"], ["Anna lives in Paris."])
for row in comparison.texts:
    for answer in row.answers:
        print(answer.model, answer.label, answer.probability, answer.marked)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.comparing.answers import Answer, Entity, Span
from fusehub.comparing.ensemble import ensemble, experts_among, is_merge
from fusehub.comparing.prediction import Prediction
from fusehub.comparing.predictor import Predictor, check_one_task, known_labels, predict_all
from fusehub.comparing.said import REGRESSION
from fusehub.comparing.tasks import answers_of
from fusehub.data.examples import Examples, load_examples
from fusehub.errors import Action, BadData
from fusehub.hub.access import Access
from fusehub.models.ref import ModelRef, short_names
from fusehub.models.resolve import refs_of
from fusehub.utils.devices import Device
from fusehub.utils.progress import Progress, silent

if TYPE_CHECKING:
    from fusehub.comparing.model_cache import KeptModels

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ComparedText:
    """A text, its true label or entities where they are known, the answers, and whether these differ."""

    text: str
    answers: list[Answer]
    differs: bool
    label: str | list[str] | float | None = None
    entities: list[Entity] | None = None


@dataclass(frozen=True)
class Comparison:
    """Texts by models: what each says of each text.

    Attributes:
        task: What the models are for.
        models: Names in the order of each text's answers, the ensemble among them.
        texts: The texts, each with the answers.
        ensemble_of: Whose probabilities the ensemble is the mean of; empty where there is none.
        source: Where the texts are from, where they were read from data.
        experts: Those of the models that are no merges.

    Examples:
        >>> comparison = fusehub.compare(["user/expert-1", "user/expert-2"], ["Not bad at all."])
        >>> comparison.models
        ['expert-1', 'expert-2', 'ensemble']
        >>> [row["model"] for row in comparison.to_rows()]
        ['expert-1', 'expert-2', 'ensemble']
    """

    task: str
    models: list[str]
    texts: list[ComparedText]
    ensemble_of: list[str]
    source: str | None = None
    experts: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return asdict(self)

    def to_rows(self) -> list[dict[str, Any]]:
        """One flat row for each text and model, for a table. Entities are marked in the text."""
        return [
            {
                "text": text.text,
                "model": answer.model,
                "label": answer.marked if answer.label is None else answer.label,
                "probability": answer.probability,
                "differs": text.differs,
            }
            for text in self.texts
            for answer in text.answers
        ]


def compare(
    models: Sequence[str | ModelRef],
    texts: Sequence[str] | None = None,
    *,
    data: str | None = None,
    ensemble: bool | Sequence[str] = True,
    limit: int = 20,
    seed: int = 0,
    text_column: str | None = None,
    label_column: str | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
    device: Device | None = None,
    token: bool | str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    progress: Progress = silent,
    kept: KeptModels | None = None,
) -> Comparison:
    """What each of `models` says about each of `texts`, or about `limit` texts of `data`.

    Args:
        models: One or more, all for one task.
        texts: What they are asked about.
        data: A file, a folder or `user/dataset[:config][/split]`, in place of texts.
        ensemble: Whether the mean of the experts' probabilities is added: of all models that are no merges, or of
            those named here.
        limit: How many texts of `data` are drawn.
        seed: For that draw.
        text_column: The column of `data` that has the texts; guessed where it is not said.
        label_column: The column of `data` that has the labels; guessed where it is not said.
        batch_size: How many texts a model is given at once.
        max_length: Where texts are cut, in tokens.
        device: Where the models run; by itself an accelerator where there is one.
        token: The Hub's token; None for the one of `hf auth login` if there is one, True where there must be, False
            for none.
        cache_dir: Where downloads lie; the Hub's cache of this machine where nothing is said.
        local_files_only: Read what is in the cache already, and ask the Hub for nothing.
        progress: Called with (done, total, what).
        kept: Models that stay in memory between calls (see `fusehub.comparing.model_cache`).

    Returns:
        The answers, text by text, and whether they differ.

    Raises:
        Incompatible: The models are for different tasks.
        BadData: The models do not take these texts.
        NonFinite: A model predicts NaN.

    Examples:
        >>> comparison = fusehub.compare(["user/expert-1", "user/expert-2"], ["Not bad at all."])
        >>> {answer.label for answer in comparison.texts[0].answers} <= {"negative", "positive"}
        True
    """
    access = Access(token, cache_dir, local_files_only)
    refs = refs_of(models, access)
    task = check_one_task(refs)
    names = short_names(refs)
    if (texts is None) == (data is None):
        raise BadData(
            "Give either texts or data to compare on.",
            "Say --text TEXT or --data SOURCE.",
            actions=[Action("give-data")],
        )
    members = experts_among(refs, names, ensemble)
    if members and not answers_of(task).has_mean and ensemble is True:
        logger.warning("Texts that models write have no mean: no ensemble is shown.")
        members = []
    if data is not None:
        examples = load_examples(
            data,
            task,
            limit=limit,
            seed=seed,
            text_column=text_column,
            label_column=label_column,
            default_split="test",
            access=access,
            labels=known_labels(refs),
        )
        examples = answers_of(task).asked_of(examples, seed)
        to_read = [answers_of(task).to_read(text) for text in examples.texts]
        shown, spans = [text for text, _ in to_read], [own for _, own in to_read]
    else:
        examples, shown, spans = _from_texts(list(texts or ()), task)
    results = predict_all(
        refs,
        names,
        [examples.texts],
        batch_size=batch_size,
        max_length=max_length,
        device=device,
        progress=progress,
        load=kept.predictor if kept is not None else Predictor,
    )
    predictions = [own[0] for own in results]
    if members:
        place = max(members) + 1
        predictions.insert(place, _mean([predictions[index] for index in members]))
    rows = _rows(predictions, examples, shown, spans)
    ensemble_of = [names[index] for index in members]
    experts = [name for name, ref in zip(names, refs, strict=True) if not is_merge(ref)]
    asked = [one.model for one in predictions]
    return Comparison(task, asked, rows, ensemble_of, examples.source or None, experts)


def _mean(predictions: Sequence[Prediction]) -> Prediction:
    return ensemble(predictions)


def _from_texts(texts: list[str], task: str) -> tuple[Examples, list[str], list[list[Span]]]:
    """Plain texts as examples; for token classification split into words that remember where they stand."""
    if not texts or not all(text.strip() for text in texts):
        raise BadData("A text is empty.", "Give texts with at least one word.")
    typed, spans = answers_of(task).read_typed(texts)
    return Examples(task, typed, None, "", None), texts, spans


def _rows(
    predictions: Sequence[Prediction], examples: Examples, shown: Sequence[str], spans: Sequence[list[Span]]
) -> list[ComparedText]:
    task = answers_of(examples.task)
    answers = [prediction.answers() for prediction in predictions]
    rows = []
    for index, text in enumerate(shown):
        own = [
            task.answer(prediction, index, given[index], text, spans[index])
            for prediction, given in zip(predictions, answers, strict=True)
        ]
        true = examples.labels[index] if examples.labels else None
        problem = predictions[0].problem
        label, entities = task.right(true, problem, text, spans[index])
        rows.append(ComparedText(text, own, _differ(own, problem), label, entities))
    return rows


def _differ(answers: Sequence[Answer], problem: str) -> bool:
    """Whether the models give different answers, whatever the case of their labels. Numbers always do somewhat."""
    if problem == REGRESSION:
        return False
    said = {
        str(
            [(entity.start, entity.end, entity.label) for entity in answer.entities]
            if answer.label is None
            else sorted(answer.label if isinstance(answer.label, list) else [str(answer.label)])
        ).casefold()
        for answer in answers
    }
    return len(said) > 1
