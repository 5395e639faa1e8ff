"""Question answering: long texts are cut into windows that overlap, and answers are spans of the text.

windows = encode_questions([("Who?", "Anna lives in Paris.")], tokenizer, max_length=384)
windows[0]["example"], windows[0]["offsets"]      # 0, where each token stands in the text (None: not of the text)
best_spans(spans_of(start, end, windows[0]))[0]   # Span(start=0, end=4, score=..)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusehub.data.tokenizing import numbers_of
from fusehub.errors import BadData, Incompatible
from fusehub.utils.untrusted.limits import QUESTION_CHARACTERS, TOKEN_CHARACTERS

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

# Tokens that two windows share, and the longest answer in tokens: those of transformers' own example.
OVERLAP, LONGEST_ANSWER, CANDIDATES = 128, 30, 20


@dataclass(frozen=True)
class Span:
    """A piece of a text, `text[start:end]`; of no length where the text holds no answer. `score` is a logit."""

    start: int
    end: int
    score: float


def encode_questions(
    pairs: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> list[dict[str, Any]]:
    """One dict of token ids a window of `max_length` tokens, each with the whole question.

    `example` is the index of its pair, `offsets` says of each token where it stands in the text, `nothing` is the
    index of the token that stands for no answer. A question takes at most half of the room.
    """
    if not tokenizer.is_fast:
        raise Incompatible(
            f"The tokenizer ({type(tokenizer).__name__}) cannot say where a token stands in the text.",
            "Save the model with a fast tokenizer (tokenizer.json).",
        )
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
    windows = []
    for number, (question, text) in enumerate(pairs):
        if len(text) > QUESTION_CHARACTERS:
            raise BadData(
                f"Text {number + 1} has {len(text):,} characters; in no more than {QUESTION_CHARACTERS:,} is an "
                "answer looked for.",
                "Give the part of it that the question is about.",
            )
        question = question.strip()[: room * TOKEN_CHARACTERS]
        ids = numbers_of(tokenizer, question, add_special_tokens=False)["input_ids"]
        if len(ids) > room // 2:
            question = str(tokenizer.decode(ids[: room // 2], skip_special_tokens=True))
            ids = tokenizer(question, add_special_tokens=False)["input_ids"]
        encoded = numbers_of(
            tokenizer,
            question.strip(),
            text,
            truncation="only_second",
            max_length=max_length,
            stride=max(0, min(OVERLAP, (room - len(ids)) // 2)),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        names = [name for name in encoded if name in tokenizer.model_input_names]
        for window in range(len(encoded["input_ids"])):
            of_text = [part == 1 for part in encoded.sequence_ids(window)]
            offsets = [
                tuple(offset) if inside else None
                for offset, inside in zip(encoded["offset_mapping"][window], of_text, strict=True)
            ]
            own = {name: encoded[name][window] for name in names}
            cls = tokenizer.cls_token_id
            nothing = own["input_ids"].index(cls) if cls in own["input_ids"] else 0
            windows.append(own | {"example": number, "offsets": offsets, "nothing": nothing})
    return windows


def spans_of(start: np.ndarray, end: np.ndarray, window: dict[str, Any]) -> list[Span]:
    """The likeliest answers in one window by its logits [tokens], and after them the span of no length: no answer."""
    offsets, nothing = window["offsets"], window["nothing"]
    inside = [index for index, offset in enumerate(offsets) if offset is not None and offset[1] > offset[0]]
    firsts = sorted(inside, key=lambda index: -start[index])[:CANDIDATES]
    lasts = sorted(inside, key=lambda index: -end[index])[:CANDIDATES]
    found = [
        Span(offsets[first][0], offsets[last][1], float(start[first] + end[last]))
        for first in firsts
        for last in lasts
        if first <= last < first + LONGEST_ANSWER
    ]
    found.sort(key=lambda span: -span.score)
    return [*found[:CANDIDATES], Span(0, 0, float(start[nothing] + end[nothing]))]


def best_spans(windows: Sequence[Sequence[Span]], *, may_be_none: bool) -> list[tuple[Span, float]]:
    """The answers of all windows of one text with their probabilities, the likeliest first; softmax over their scores.

    That there is none counts as likely as in the window that is least sure of it, and only where it `may_be_none`.
    """
    scores: dict[tuple[int, int], float] = {}
    none = math.inf
    for spans in windows:
        for span in spans:
            if span.end == 0:
                none = min(none, span.score)
            else:
                scores[span.start, span.end] = max(span.score, scores.get((span.start, span.end), -math.inf))
    if may_be_none or not scores:
        scores[0, 0] = none
    highest = max(scores.values())
    total = math.fsum(math.exp(score - highest) for score in scores.values())
    ranked = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:CANDIDATES]
    return [(Span(*place, score), math.exp(score - highest) / total) for place, score in ranked]
