"""Tiny networks that have seen nothing, one of each kind of `fusehub.demo.kinds`, and the batches that teach them.

Each kind has two functions: of rows of data, the network and what reads its texts or images; and of the latter and
some rows, a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from fusehub.demo.training import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

Row = dict[str, Any]
Network = tuple["PreTrainedModel", Any]
TAGS = ("O", "B-PER", "B-LOC", "B-ORG")
COLOURS = {"red": (200, 60, 50), "green": (60, 170, 80), "blue": (60, 90, 200)}
SIDE = 32
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SHAPE: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}


def new_of_entities(rows: Sequence[Row]) -> Network:
    import transformers

    reader = _tokenizer(rows)
    config = transformers.BertConfig(**_encoder(reader), **_labels(TAGS))
    return transformers.BertForTokenClassification(config), reader


def batch_of_entities(reader: Any, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    batch = reader([row["tokens"] for row in rows], is_split_into_words=True, padding=True, return_tensors="pt")
    labels = torch.full_like(batch["input_ids"], IGNORED)
    for at, row in enumerate(rows):
        # One token a word, between [CLS] and [SEP].
        labels[at, 1 : 1 + len(row["tokens"])] = torch.tensor([TAGS.index(tag) for tag in row["ner_tags"]])
    return {**batch, "labels": labels}


def new_of_questions(rows: Sequence[Row]) -> Network:
    import transformers

    reader = _tokenizer(rows)
    return transformers.BertForQuestionAnswering(transformers.BertConfig(**_encoder(reader))), reader


def batch_of_questions(reader: Any, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    batch = reader(
        *[[row[side] for row in rows] for side in ("question", "context")], padding=True, return_tensors="pt"
    )
    starts = [row["answers"]["answer_start"][0] for row in rows]
    places = torch.tensor([batch.char_to_token(at, start, 1) for at, start in enumerate(starts)])
    return {**batch, "start_positions": places, "end_positions": places}


def new_of_language(rows: Sequence[Row]) -> Network:
    import transformers

    reader = _tokenizer(rows)
    sides: dict[str, Any] = {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 64}
    ends = reader.sep_token_id
    config = transformers.GPT2Config(
        vocab_size=len(reader), **sides, bos_token_id=ends, eos_token_id=ends, pad_token_id=reader.pad_token_id
    )
    return transformers.GPT2LMHeadModel(config), reader


def batch_of_language(reader: Any, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    texts = [f"{row['text']} [SEP]" for row in rows]
    batch = reader(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)}


def new_of_images(rows: Sequence[Row]) -> Network:
    import transformers

    config = transformers.ViTConfig(**_SHAPE, image_size=SIDE, patch_size=8, **_labels(COLOURS))
    reader = transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE})
    return transformers.ViTForImageClassification(config), reader


def batch_of_images(reader: Any, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    pixels = reader([row["image"] for row in rows], return_tensors="pt")["pixel_values"]
    return {"pixel_values": pixels, "labels": torch.tensor([[*COLOURS].index(row["label"]) for row in rows])}


def _encoder(reader: PreTrainedTokenizerFast) -> dict[str, Any]:
    own = {"vocab_size": len(reader), "max_position_embeddings": 64, "pad_token_id": reader.pad_token_id}
    return _SHAPE | own


def _labels(names: Sequence[str] | dict[str, Any]) -> dict[str, Any]:
    known = dict(enumerate(names))
    return {"id2label": known, "label2id": {name: at for at, name in known.items()}}


def _tokenizer(rows: Sequence[Row]) -> PreTrainedTokenizerFast:
    """One token a word, of the words that are in the rows."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    said = (value for row in rows for value in row.values())
    texts = (" ".join(value) if isinstance(value, list) else value for value in said if not isinstance(value, dict))
    words = dict.fromkeys(word for text in texts for word in text.split())
    known = {word: at for at, word in enumerate((*_SPECIAL, *words))}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    generates = "text" in rows[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A" if generates else "[CLS] $A [SEP]",
        pair="$A $B" if generates else "[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, known[name]) for name in _SPECIAL],
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), _SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)
