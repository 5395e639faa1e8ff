"""Several models side by side on the same texts: what each says, how sure it is, and where they differ.

comparison = compare(["user/expert-1", "user/expert-2", "out/merged"], ["Anna lives in Paris."])
for row in comparison.texts:
    for answer in row.answers:
        print(answer.model, answer.label, answer.probability, answer.marked)
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.comparing.answers import MASKS
from fusehub.comparing.ensemble import ensemble, experts_among
from fusehub.comparing.predictor import (
    REGRESSION,
    TOKENS,
    Prediction,
    Predictor,
    check_one_task,
    known_labels,
    predict_all,
)
from fusehub.data.examples import Examples, load_examples
from fusehub.data.images import picture_of
from fusehub.data.tokenizing import are_texts, split_words
from fusehub.data.values import name_of
from fusehub.errors import BadData
from fusehub.hub.access import Access
from fusehub.models.resolve import ModelRef, ref_of, short_names
from fusehub.models.tasks import MASKED, QUESTIONS, TASKS
from fusehub.utils.devices import Device
from fusehub.utils.extras import needs
from fusehub.utils.progress import Progress, silent

if TYPE_CHECKING:
    from fusehub.comparing.model_cache import KeptModels

logger = logging.getLogger(__name__)

Span = tuple[int, int]
_LIKELIEST = 5


@dataclass(frozen=True)
class Entity:
    """A piece of a text that a model marks: `text[start:end]`, with the mean probability of its words."""

    start: int
    end: int
    label: str
    score: float
    text: str


@dataclass(frozen=True)
class Answer:
    """What one model says about one text.

    `label` is a name; a list of names of a multi-label model; the number of a regression model; None for token
    classification, whose answer is `entities`. `probability` is that of the label, or of the surest of them.
    For question answering `label` is the answer ("" where there is none), of a masked language model what it puts for
    each mask, of one that writes its text. `probabilities` are those of all labels, or of the five likeliest answers.
    """

    model: str
    label: str | list[str] | float | None
    probability: float | None
    probabilities: dict[str, float]
    entities: list[Entity]
    marked: str


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

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return asdict(self)

    def to_rows(self) -> list[dict[str, Any]]:
        """One flat row for each text and model, for a table. Entities are marked in the text."""
        return [
            {
                "text": text.text,
                "model": answer.model,
                "label": answer.marked if self.task == TOKENS else answer.label,
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
    refs = [ref_of(model, access) for model in models]
    task = check_one_task(refs)
    names = short_names(refs)
    if (texts is None) == (data is None):
        raise BadData("Give either texts or data to compare on.", "Say --text TEXT or --data SOURCE.")
    members = experts_among(refs, names, ensemble)
    if members and TASKS[task].writes and ensemble is True:
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
        if task == MASKED:
            examples = mask_a_word(examples, seed)
        shown, spans = _shown(examples)
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
    return Comparison(task, [one.model for one in predictions], rows, ensemble_of, examples.source or None)


def _mean(predictions: Sequence[Prediction]) -> Prediction:
    return ensemble(predictions)


def _from_texts(texts: list[str], task: str) -> tuple[Examples, list[str], list[list[Span]]]:
    """Plain texts as examples; for token classification split into words that remember where they stand."""
    if not texts or not all(text.strip() for text in texts):
        raise BadData("A text is empty.", "Give texts with at least one word.")
    if task == QUESTIONS:
        pairs = [(one.strip(), other.strip()) for one, _, other in (text.partition("|") for text in texts)]
        if not all(one and other for one, other in pairs):
            raise BadData(
                "A question needs the text that holds its answer.",
                'Write both, with a bar between: --text "Who? | Text."',
            )
        return Examples(task, pairs, None, "", None), texts, [[] for _ in texts]
    if TASKS[task].of_images:
        pictures = [picture for text in texts if (picture := picture_of(text, None, "--text")) is not None]
        return Examples(task, pictures, None, "", None), texts, [[] for _ in texts]
    if task != TOKENS:
        return Examples(task, list(texts), None, "", None), texts, [[] for _ in texts]
    spans = [split_words(text) for text in texts]
    words = [[text[start:end] for start, end in own] for text, own in zip(texts, spans, strict=True)]
    if not all(words):
        raise BadData("A text holds no word.", "Give texts with at least one word.")
    return Examples(task, list(words), None, "", None), texts, spans


def _shown(examples: Examples) -> tuple[list[str], list[list[Span]]]:
    """The examples as texts to read: words joined by spaces, pairs by a bar."""
    shown, spans = [], []
    for text in examples.texts:
        own: list[Span] = []
        if isinstance(text, list):
            end = -1
            for word in text:
                own.append((end + 1, end + 1 + len(word)))
                end = own[-1][1]
            text = " ".join(text)
        shown.append(" | ".join(text) if isinstance(text, tuple) else text if isinstance(text, str) else text.name)
        spans.append(own)
    return shown, spans


def _rows(
    predictions: Sequence[Prediction], examples: Examples, shown: Sequence[str], spans: Sequence[list[Span]]
) -> list[ComparedText]:
    answers = [prediction.answers() for prediction in predictions]
    rows = []
    for index, text in enumerate(shown):
        own = [
            _answer(prediction, index, given[index], text, spans[index])
            for prediction, given in zip(predictions, answers, strict=True)
        ]
        true = examples.labels[index] if examples.labels else None
        entities = None
        if examples.task == TOKENS and isinstance(true, list):
            entities, true = find_entities(text, spans[index], true, [1.0] * len(true)), None
        elif isinstance(true, float) and predictions[0].problem != REGRESSION:
            true = name_of(true)
        rows.append(ComparedText(text, own, _differ(own, predictions[0].problem), true, entities))
    return rows


def _answer(prediction: Prediction, index: int, given: Any, text: str, spans: list[Span]) -> Answer:
    if prediction.task == TOKENS:
        entities = find_entities(text, spans, [label for label, _ in given], [score for _, score in given])
        return Answer(prediction.model, None, None, {}, entities, mark(text, entities))
    if prediction.task == MASKED:
        return _filled(prediction, index, given, text)
    label, probability = given
    if prediction.written is not None or prediction.task == QUESTIONS:
        likeliest = [] if prediction.written is not None else list(prediction.spans(index).items())[:_LIKELIEST]
        return Answer(prediction.model, label, probability, dict(likeliest), [], text)
    row = prediction.probabilities[index]
    named = zip(prediction.labels, row, strict=True)
    probabilities = {} if prediction.problem == REGRESSION else {name: float(value) for name, value in named}
    return Answer(prediction.model, label, probability, probabilities, [], text)


def _filled(prediction: Prediction, index: int, given: Any, text: str) -> Answer:
    """What a masked language model puts for each mask; with one mask, also the next likeliest tokens."""
    fillings = [clean_token(token) for token, _ in given]
    marked = text
    for filling in fillings:
        at, mask = min(((marked.find(mask), mask) for mask in MASKS if mask in marked), default=(-1, ""))
        marked = f"{marked[:at]}[{filling}]{marked[at + len(mask) :]}" if at >= 0 else marked
    likeliest = {}
    if len(fillings) == 1:
        row = prediction.probabilities[index][0]
        likeliest = {clean_token(prediction.labels[at]): float(row[at]) for at in row.argsort()[::-1][:_LIKELIEST]}
    return Answer(prediction.model, fillings, min(p for _, p in given), likeliest, [], marked)


def clean_token(token: str) -> str:
    """A token as a person writes it, without the marks that tokenizers put at the start of words or inside them."""
    return token.removeprefix("##").replace("Ġ", "").replace("▁", "") or token


def mask_a_word(examples: Examples, seed: int) -> Examples:
    """The texts with one word each masked, drawn by `seed`; the words are the labels. Texts with a mask stay."""
    assert are_texts(examples.texts)
    texts, words = [], []
    for text in examples.texts:
        spans = [] if any(mask in text for mask in MASKS) else [s for s in split_words(text) if text[s[0]].isalnum()]
        start, end = random.Random(f"{seed} {text}").choice(spans) if spans else (0, 0)
        texts.append(f"{text[:start]}{MASKS[0]}{text[end:]}" if spans else text)
        words.append(text[start:end])
    if not all(any(mask in text for mask in MASKS) for text in texts):
        raise BadData(f"{examples.source} has a text without a word.", "Give texts with at least one word.")
    return replace(examples, texts=texts, labels=words if all(words) else None)


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


def find_entities(
    text: str, spans: Sequence[Span], tags: Sequence[str | None], scores: Sequence[float | None]
) -> list[Entity]:
    """The entities that the words at `spans` of `text` make up by their tags (IOB1, IOB2, BIOES or BILOU).

    Tags without such a prefix (NOUN) mark each run of words that share one.
    """
    with needs("evaluate", "Entities"):
        from seqeval.metrics.sequence_labeling import get_entities

    found = []
    for label, first, last in get_entities(with_prefixes(tags)):
        start, end = spans[first][0], spans[last][1]
        own = [score for score in scores[first : last + 1] if score is not None]
        found.append(Entity(start, end, label, sum(own) / len(own), text[start:end]))
    return found


def with_prefixes(tags: Sequence[str | None]) -> list[str]:
    """Tags as seqeval reads them: every one O or with a prefix of B, I, E or S."""
    meant = {"L": "E", "U": "S"}
    result = []
    for tag in tags:
        match = re.fullmatch(r"([BIESLU])-(.+)", tag or "O", re.DOTALL)
        if tag is None or tag.upper() == "O":
            result.append("O")
        else:
            result.append(f"{meant.get(match[1], match[1])}-{match[2]}" if match else f"I-{tag}")
    return result


def mark(text: str, entities: Sequence[Entity]) -> str:
    """The text with its entities marked: "[Anna](PER) lives in [Paris](LOC)"."""
    for entity in sorted(entities, key=lambda entity: -entity.start):
        text = f"{text[: entity.start]}[{entity.text}]({entity.label}){text[entity.end :]}"
    return text
