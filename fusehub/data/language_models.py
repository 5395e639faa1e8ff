"""What language models are given: texts with some tokens masked, and pairs of a source and a target text.

Masks are those of BERT's training: 15 % of the tokens are to be told, of which 80 % are replaced by the mask, 10 % by
any token, and 10 % stay. Each text is masked by itself, by a seed and its own tokens: whatever the batches, the order
of the texts, and the number of processes, a text is always masked the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fusehub.data.tokenizing import encode, numbers_of
from fusehub.errors import Incompatible
from fusehub.models.tasks import class_name_of
from fusehub.utils.untrusted.limits import TOKEN_CHARACTERS

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

MASKED_SHARE, REPLACED, RANDOM = 0.15, 0.8, 0.1
IGNORED = -100
"""The label of a token that is not to be told, as transformers writes it."""


def encode_masked(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, max_length: int, seed: int
) -> list[dict[str, Any]]:
    """One dict of token ids a text, some of them masked; `labels` are what stood there, -100 elsewhere.

    At least one token of every text is to be told. Raises `Incompatible` where the tokenizer has no mask.
    """
    require_mask(tokenizer)
    special = set(tokenizer.all_special_ids)
    ordinary = [token for token in sorted(tokenizer.get_vocab().values()) if token not in special]
    encodings = encode(texts, tokenizer, max_length=max_length)
    for encoding in encodings:
        ids = encoding["input_ids"]
        rng = random.Random(f"{seed} {ids}")
        places = [place for place, token in enumerate(ids) if token not in special]
        chosen = [place for place in places if rng.random() < MASKED_SHARE] or rng.sample(places, min(1, len(places)))
        encoding["labels"] = [IGNORED] * len(ids)
        encoding["input_ids"] = list(ids)
        for place in chosen:
            encoding["labels"][place] = ids[place]
            draw = rng.random()
            if draw < REPLACED:
                encoding["input_ids"][place] = tokenizer.mask_token_id
            elif draw < REPLACED + RANDOM:
                encoding["input_ids"][place] = rng.choice(ordinary)
    return encodings


def require_mask(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises `Incompatible` where the tokenizer has no token that stands for a masked one."""
    if tokenizer.mask_token_id is None:
        raise Incompatible(
            f"The tokenizer ({type(tokenizer).__name__}) has no mask token, which a masked language model needs.",
            "Copy the tokenizer of the model's base into its repo.",
        )


def encode_targets(
    sources: Sequence[str],
    targets: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    *,
    max_length: int,
) -> list[dict[str, Any]]:
    """One dict of token ids a pair: those of the source, the target's as `labels`, and `decoder_input_ids`.

    The decoder is given the target shifted by one, by the model's own rule, as it is when it learns.
    """
    encodings = encode(sources, tokenizer, max_length=max_length)
    most = max_length * TOKEN_CHARACTERS
    short = [target[:most] for target in targets]
    labels = numbers_of(tokenizer, text_target=short, truncation=True, max_length=max_length)["input_ids"]
    shift = _shift(config)
    for encoding, own in zip(encodings, labels, strict=True):
        encoding["labels"], encoding["decoder_input_ids"] = list(own), shift(own)
    return encodings


def _shift(config: PretrainedConfig) -> Callable[[list[int]], list[int]]:
    """The model's own rule by which targets become what its decoder is given."""
    import torch

    from fusehub.models.layout import meta_model

    model = meta_model(config)
    rule = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if rule is None:
        raise Incompatible(
            f"{class_name_of(config)} does not say how targets become inputs of its decoder.",
            "Use a model such as T5, BART, Pegasus or Marian.",
        )
    try:
        rule(labels=torch.tensor([[1]]))
    except (ValueError, TypeError) as error:
        raise Incompatible(
            f"The config of the model does not say with which token its decoder starts ({error}).",
            "Add decoder_start_token_id and pad_token_id to its config.json.",
        ) from error
    return lambda labels: rule(labels=torch.tensor([labels]))[0].tolist()
