"""Answers that are tokens for the masks of a text."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fusehub.comparing.answers import LIKELIEST, Answer, Span
from fusehub.comparing.averages import mean_of_labels
from fusehub.comparing.metrics.measured import Measured
from fusehub.comparing.said import Asked, Said, embedded, on_device, require_numbers
from fusehub.comparing.tasks.labelled import top
from fusehub.comparing.tasks.task import Shown, TaskAnswers
from fusehub.comparing.token_logits import TokenLogits
from fusehub.data.examples import Examples
from fusehub.data.inputs import Inputs
from fusehub.data.language_models import IGNORED, require_mask
from fusehub.data.tokenizing import Text, are_texts, batches, encode, max_length_of, require_rows, split_words
from fusehub.errors import BadData
from fusehub.models.loading import running
from fusehub.models.resolve import ModelRef

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

# How a mask is written in a text, whatever the model calls its own.
MASKS = ("[MASK]", "<mask>")


class FillMaskAnswers(TaskAnswers):
    """For each text [masks, tokens]."""

    shown = Shown("it finds the word that is missing in a text", "demo_masked.py.jinja")
    does = "fills in the masks of every text"
    typed = "The film was [MASK].\nParis is the capital of [MASK]."
    asks = "Texts with [MASK] where a word is to be found, one a line"
    scored_on = "texts"
    question = 'f"This is {model.tokenizer.mask_token} than I thought."'

    def asked_of(self, examples: Examples, seed: int) -> Examples:
        return mask_a_word(examples, seed)

    def labels(self, ref: ModelRef, tokenizer: PreTrainedTokenizerBase | None) -> list[str]:
        """All tokens."""
        assert tokenizer is not None  # It is a model of texts.
        return list(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))

    def predict(self, asked: Asked, texts: Sequence[Text]) -> Said:
        """For each text the probabilities of all tokens for each of its masks, [masks, tokens].

        A mask is written [MASK] or <mask>, whatever the model's own is. Raises `BadData` where a text has none.
        """
        import torch

        assert are_texts(texts)
        network, tokenizer = asked.network, asked.of_texts
        require_mask(tokenizer)
        own = []
        for text in texts:
            for mask in MASKS:
                text = text.replace(mask, tokenizer.mask_token)
            own.append(text)
        length = max_length_of(tokenizer, network.config, asked.max_length)
        encodings = encode(own, tokenizer, max_length=length)
        require_rows(asked.name, embedded(network), encodings, tokenizer)
        for text, encoding in zip(texts, encodings, strict=True):
            if tokenizer.mask_token_id not in encoding["input_ids"]:
                raise BadData(f"There is no mask in '{text[:60]}'.", "Write [MASK] where a word is to be found.")
        found: list[Any] = [None] * len(texts)
        logits = TokenLogits(network)
        done = 0
        for indices, batch in batches(encodings, tokenizer, batch_size=asked.batch_size):
            masks = batch["input_ids"] == tokenizer.mask_token_id
            with torch.inference_mode(), running(asked.name):
                pieces = logits.of(on_device(network, batch), masks)
                chances = [
                    require_numbers(piece, asked.name).softmax(-1)[:, : len(tokenizer)].cpu() for piece in pieces
                ]
            of_texts = torch.cat(chances).split(masks.sum(-1).tolist())
            for index, own in zip(indices, of_texts, strict=True):
                found[index] = own.numpy()
            done += len(indices)
            asked.progress(done, len(texts), asked.name)
        return asked.said(found)

    def answers(self, said: Said) -> list[Any]:
        """A list with one (token, probability) a mask."""
        return [[top(said.labels, row) for row in rows] for rows in said.probabilities]

    def _mean(self, said: Sequence[Said]) -> tuple[list[str], Any]:
        return mean_of_labels(said, text_by_text=True, key=str)

    def answer(self, said: Said, index: int, given: Any, text: str, spans: Sequence[Span]) -> Answer:
        """What is put for each mask; with one mask, also the next likeliest tokens."""
        fillings = [clean_token(token) for token, _ in given]
        marked = text
        for filling in fillings:
            at, mask = min(((marked.find(mask), mask) for mask in MASKS if mask in marked), default=(-1, ""))
            marked = f"{marked[:at]}[{filling}]{marked[at + len(mask) :]}" if at >= 0 else marked
        likeliest = {}
        if len(fillings) == 1:
            row = said.probabilities[index][0]
            likeliest = {clean_token(said.labels[at]): float(row[at]) for at in row.argsort()[::-1][:LIKELIEST]}
        return Answer(said.model, fillings, min(p for _, p in given), likeliest, [], marked)

    def score(self, said: Said, examples: Examples) -> Measured:
        raise TypeError("the task is scored by the perplexity of its tokens")

    def targets(self, inputs: Inputs, indices: Sequence[int], batch: Mapping[str, Tensor]) -> Tensor:
        """Those that are masked."""
        import torch

        longest = batch["input_ids"].shape[1]
        rows = [inputs.encodings[index]["labels"] for index in indices]
        return torch.tensor([row + [IGNORED] * (longest - len(row)) for row in rows])


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


def clean_token(token: str) -> str:
    """A token as a person writes it, without the marks that tokenizers put at the start of words or inside them."""
    return token.removeprefix("##").replace("Ġ", "").replace("▁", "") or token
