"""What one model says about one text, for a person: a label, entities, the likeliest answers.

find_entities("Anna lives in Paris.", [(0, 4), ...], ["B-PER", "O", "O", "B-LOC"], [0.9, 0.8, 0.9, 0.7])
mark("Anna lives in Paris.", entities)        # "[Anna](PER) lives in [Paris](LOC)."
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fusehub.utils.extras import needs

Span = tuple[int, int]
LIKELIEST = 5
"""How many answers are told beside the likeliest."""


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
