"""What a model is given: examples made into batches of tensors, for any task.

    inputs = Inputs.of(resolve("user/expert"), load_examples("reviews.csv", "text-classification"))
    for indices, batch in inputs.batches(batch_tokens=4096):
        logits = model(**batch).logits          # row i belongs to inputs.encodings[indices[i]]

A batch is the dict of the model's own inputs, on the CPU: `input_ids` and `attention_mask`, for models with a decoder
`decoder_input_ids` and `decoder_attention_mask` too, for images `pixel_values`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusehub.data.chats import Chat
from fusehub.data.images import Picture
from fusehub.data.language_models import encode_masked, encode_targets
from fusehub.data.questions import encode_questions
from fusehub.data.tokenizing import are_pairs, are_texts, batches, encode, groups, max_length_of, require_rows
from fusehub.errors import BadData
from fusehub.models.layout import layout_of
from fusehub.models.loading import load_processor, load_tokenizer, strange_files
from fusehub.models.tasks import CAUSAL, IMAGES, MASKED, QUESTIONS, SEQ2SEQ, TASKS, TEXTS, WORDS, load_config

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BaseImageProcessor, PretrainedConfig, PreTrainedTokenizerBase

    from fusehub.data.examples import Examples
    from fusehub.models.resolve import ModelRef

PROBE_BATCH, PROBE_LENGTH, PROBE_DECODER_LENGTH = 3, 11, 7


@dataclass(frozen=True)
class Inputs:
    """Examples as one model takes them. `encodings` has one dict a row; `len` is the number of rows.

    A row is an example; in question answering a window of one, whose index is under `example`. What is to be told is
    under `labels` for masked language models and sequence to sequence. `max_length` is None for images.
    """

    task: str
    max_length: int | None
    encodings: list[dict[str, Any]]
    processor: PreTrainedTokenizerBase | BaseImageProcessor
    patches: int = 0
    """Of a model of images, the number of tokens that one becomes, for bounding batches."""

    @classmethod
    def of(
        cls,
        ref: ModelRef,
        examples: Examples,
        *,
        max_length: int | None = None,
        seed: int = 0,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> Inputs:
        """The inputs of the model `ref` for `examples`, cut to `max_length` tokens (its own limit unless said).

        `seed` decides what is masked for a masked language model, for each text by itself. `tokenizer` is the model's
        own, where it is loaded already. Raises `BadData` where the examples are not what the task takes, and
        `Incompatible` where the model has no embedding of one of their tokens.
        """
        require_kind(examples.task, examples.texts)
        config = load_config(ref)
        if TASKS[examples.task].of_images:
            encodings = [{"picture": picture} for picture in examples.texts]
            return cls(examples.task, None, encodings, load_processor(ref), _patches(config))
        if tokenizer is None:
            tokenizer = load_tokenizer(ref)
        length = max_length_of(tokenizer, config, max_length)
        encodings = _encode(examples, tokenizer, config, length, seed)
        layout = layout_of(config)
        for parameter in layout.embeddings[:1]:
            require_rows(ref.name, layout.shapes[parameter][0], encodings, tokenizer)
        return cls(examples.task, length, encodings, tokenizer)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The processor of any model but one of images."""
        from transformers import PreTrainedTokenizerBase

        assert isinstance(self.processor, PreTrainedTokenizerBase)
        return self.processor

    def __len__(self) -> int:
        return len(self.encodings)

    @property
    def of_images(self) -> bool:
        """Whether the model is given images, and not texts."""
        return TASKS[self.task].of_images

    @property
    def tokens(self) -> int:
        """Real tokens in all rows, the decoder's too, padding not among them; for images what they become."""
        if self.of_images:
            return len(self) * self.patches
        return sum(
            len(encoding["input_ids"]) + len(encoding.get("decoder_input_ids", ())) for encoding in self.encodings
        )

    def batches(
        self, *, batch_tokens: int | None = None, batch_size: int | None = None
    ) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """(indices of rows, their tensors) until every row was in one batch: always the same, longest first.

        A batch has at most `batch_size` rows and `batch_tokens` tokens, padding included; 32 rows unless said.
        """
        if not self.of_images:
            yield from batches(self.encodings, self.tokenizer, batch_size=batch_size, batch_tokens=batch_tokens)
            return
        for group in groups([(self.patches,)] * len(self), batch_size=batch_size, batch_tokens=batch_tokens):
            yield group, self._look_at([self.encodings[index]["picture"] for index in group])

    def probe(self) -> dict[str, Tensor]:
        """A batch of 3 rows, of length 11 and 7 in the decoder, without padding: numbers by which axes can be told.

        For images, 3 of them.
        """
        import torch

        first = self.encodings[0]
        if self.of_images:
            return self._look_at([first["picture"]] * PROBE_BATCH)
        made: dict[str, Tensor] = {}
        for side, length in (("", PROBE_LENGTH), ("decoder_", PROBE_DECODER_LENGTH)):
            if ids := first.get(f"{side}input_ids"):
                rows = torch.tensor(_of_length(ids, length)).repeat(PROBE_BATCH, 1)
                made |= {f"{side}input_ids": rows, f"{side}attention_mask": torch.ones_like(rows)}
        return made

    def _look_at(self, pictures: Sequence[Picture]) -> dict[str, Tensor]:
        opened = [picture.open() for picture in pictures]
        with strange_files("The model", "its preprocessor_config.json"):
            return {"pixel_values": self.processor(images=opened, return_tensors="pt")["pixel_values"]}


def require_kind(task: str, texts: Sequence[Any]) -> None:
    """Raises `BadData` unless the examples of a model of `task` are what it takes."""
    if not texts:
        raise BadData("There is no example.", "Give at least one.")
    kinds = {
        **{WORDS: (list,), QUESTIONS: (tuple,), IMAGES: (Picture,)},
        **{TEXTS: (str, tuple), CAUSAL: (str, Chat)},
    }.get(task, (str,))
    odd = next((text for text in texts if not isinstance(text, kinds)), None)
    if odd is not None:
        raise BadData(
            f"A model for {task} cannot take {_kind_of(odd)}.", f"It takes {TASKS[task].data}: give it those."
        )


def _kind_of(value: Any) -> str:
    kinds = {
        str: "a text",
        tuple: "a pair of texts",
        list: "a list of words",
        Picture: "an image",
        Chat: "a conversation",
    }
    return kinds.get(type(value), type(value).__name__)


def _encode(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, length: int, seed: int
) -> list[dict[str, Any]]:
    texts = examples.texts
    if examples.task == QUESTIONS:
        assert are_pairs(texts)
        return encode_questions(texts, tokenizer, max_length=length)
    if examples.task == MASKED:
        assert are_texts(texts)
        return encode_masked(texts, tokenizer, max_length=length, seed=seed)
    if examples.task == SEQ2SEQ:
        if examples.labels is None:
            raise BadData(
                f"{examples.source} has no target texts, or not for every source.",
                "Name both columns: --text-column SOURCE,TARGET",
            )
        assert are_texts(texts) and are_texts(examples.labels)
        return encode_targets(texts, examples.labels, tokenizer, config, max_length=length)
    return encode(texts, tokenizer, max_length=length)


def _patches(config: PretrainedConfig) -> int:
    """Tokens that an image becomes: its patches and one for the whole; of other models those of the usual 16 by 16."""
    sides = [getattr(config, "image_size", None) or 224, getattr(config, "patch_size", None) or 16]
    image, patch = (side[0] if isinstance(side, list | tuple) else side for side in sides)
    return (int(image) // int(patch)) ** 2 + 1


def _of_length(ids: list[int], length: int) -> list[int]:
    """`ids` repeated or cut to `length`. The last stays the last: some models look for the one end of a text."""
    *body, last = ids
    return [*itertools.islice(itertools.cycle(body or ids), length - 1), last]
