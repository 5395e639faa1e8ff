"""Texts in, batches of token ids out: cut to length, sorted by length, padded to the longest of their batch.

    encodings = encode(texts, tokenizer, max_length=256)
    for indices, batch in batches(encodings, tokenizer, batch_size=32):
        logits = model(**batch).logits          # row i belongs to texts[indices[i]]

Words that were split beforehand stay traceable: `word_ids` says for every token which word it is of.
"""

from __future__ import annotations

import copy
import logging
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from fusehub.data.chats import Chat, put_into_words
from fusehub.data.images import Picture
from fusehub.errors import BadData, Incompatible, first_line, is_panic
from fusehub.utils.logging import warn
from fusehub.utils.untrusted.limits import TOKEN_CHARACTERS

if TYPE_CHECKING:
    import torch
    from transformers import BatchEncoding, PretrainedConfig, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

DEFAULT_MAX_LENGTH = 512
# Tokenizers without a limit say so with a number that no text reaches.
NO_LIMIT = 10**6
# These count positions from behind the padding token's id, so that two of their 514 positions are never used.
OFFSET_POSITIONS = (
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "xmod", "data2vec-text"),
    *("mpnet", "longformer", "ibert", "luke", "markuplm", "layoutlmv3", "esm"),
)

Text = str | tuple[str, str] | list[str] | Picture | Chat


def are_texts(values: Sequence[Any]) -> TypeGuard[Sequence[str]]:
    return all(isinstance(value, str) for value in values)


def are_pairs(values: Sequence[Any]) -> TypeGuard[Sequence[tuple[str, str]]]:
    return all(isinstance(value, tuple) for value in values)


def are_word_lists(values: Sequence[Any]) -> TypeGuard[Sequence[list[str]]]:
    return all(isinstance(value, list) for value in values)


def are_chats(values: Sequence[Any]) -> TypeGuard[Sequence[Chat]]:
    return all(isinstance(value, Chat) for value in values)


def max_length_of(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, wanted: int | None = None) -> int:
    """How many tokens a text may have: `wanted`, or what the model can take, but not over 512.

    Raises `BadData` where the model cannot take as many as `wanted`, or where no text would fit.
    """
    positions = positions_of(config)
    special = tokenizer.num_special_tokens_to_add()
    if wanted is not None:
        if positions is not None and wanted > positions:
            raise BadData(
                f"The model takes texts of up to {positions} tokens, not {wanted}.", f"Say {positions} or less."
            )
        if wanted <= special:
            raise BadData(f"Of {wanted} tokens, {special} are special ones: no text fits.", "Give a larger length.")
        return wanted
    limits = [DEFAULT_MAX_LENGTH, positions, tokenizer.model_max_length]
    # The tokenizer has what its file says, whatever that is.
    return min(int(limit) for limit in limits if isinstance(limit, int | float) and special < limit < NO_LIMIT)


def positions_of(config: PretrainedConfig) -> int | None:
    """Number of positions that the model was built for; None where it has no limit."""
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    # DeBERTa without absolute positions takes any length: what it calls positions bounds nothing.
    if not positions or positions < 0 or getattr(config, "position_biased_input", True) is False:
        return None
    if config.model_type in OFFSET_POSITIONS:
        padding = getattr(config, "pad_token_id", None)
        return positions - (1 if padding is None else padding) - 1
    return positions


def encode(
    texts: Sequence[Text], tokenizer: PreTrainedTokenizerBase, *, max_length: int, reply: bool = False
) -> list[dict[str, Any]]:
    """One dict of token ids per text, pair of texts, list of words or conversation, cut to `max_length` tokens.

    With `reply`, a conversation ends where the model is to speak.

    Lists of words also get `word_ids`: for each token the index of its word, None for special tokens. Words that do
    not fit, and words of which the tokenizer makes nothing, are in no token; how many is logged as a warning.
    """
    if not texts:
        return []
    split = isinstance(texts[0], list)
    _check_kinds(texts)
    if split:
        tokenizer = _for_words(tokenizer)
    pairs, chats = isinstance(texts[0], tuple), isinstance(texts[0], Chat)
    if are_chats(texts):
        texts = put_into_words(texts, tokenizer, reply=reply)
    encodings: list[dict[str, Any]] = [{}] * len(texts)
    waiting, room = list(range(len(texts))), max_length * TOKEN_CHARACTERS
    while waiting:
        parts = [_cut(texts[index], room, tokenizer.truncation_side) for index in waiting]
        encoded = numbers_of(
            tokenizer,
            *([list(column) for column in zip(*parts, strict=True)] if pairs else [parts]),
            truncation=True,
            max_length=max_length,
            is_split_into_words=split,
            add_special_tokens=not chats,  # A template has them where they belong.
        )
        names = [name for name in encoded if name != "overflow_to_sample_mapping"]
        for place, index in enumerate(waiting):
            encodings[index] = {name: encoded[name][place] for name in names}
            if split:
                encodings[index]["word_ids"] = encoded.word_ids(place)
        # A text of spaces, or of the like, becomes so few tokens that more of it must be looked at.
        short = [len(encodings[index]["input_ids"]) < max_length for index in waiting]
        waiting = [
            index
            for index, part, is_short in zip(waiting, parts, short, strict=True)
            if is_short and part != texts[index]
        ]
        room *= 4
    if are_word_lists(texts):
        _report_lost(texts, encodings, max_length)
    return encodings


def _cut(text: Text, room: int, side: str) -> str | tuple[str, str] | list[str]:
    """The `room` characters of a text, of both of a pair, or as many words and characters of each, that are left when
    the other `side` is cut."""
    if isinstance(text, str):
        return _cut_text(text, room, side)
    if isinstance(text, tuple):
        return _cut_text(text[0], room, side), _cut_text(text[1], room, side)
    assert isinstance(text, list)  # Conversations were put into words, and pictures refused.
    # Words are called by their numbers, which those at the end keep.
    return [_cut_text(word, room, side) for word in (text if side == "left" else text[:room])]


def _cut_text(text: str, room: int, side: str) -> str:
    return text[-room:] if side == "left" else text[:room]


def numbers_of(tokenizer: PreTrainedTokenizerBase, *texts: Any, **options: Any) -> BatchEncoding:
    """What the tokenizer makes of the texts. Raises `Incompatible` where an expression of its own takes no end, or a
    piece of a text has no token and there is none for the unknown."""
    try:
        return tokenizer(*texts, **options)
    except BaseException as error:
        # The library of tokenizers raises nothing more special.
        if not (is_panic(error) or type(error) is Exception):
            raise
        raise Incompatible(
            f"The tokenizer fails on these texts ({first_line(error)}).",
            "Are tokenizer.json and tokenizer_config.json those of the model's base? Take its tokenizer from there.",
        ) from error


def require_rows(
    name: str, rows: int, encodings: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raises `Incompatible` where a token that the model called `name` is given has none of its `rows` embeddings."""
    sides = ("input_ids", "decoder_input_ids")
    highest = max((token for encoding in encodings for side in sides for token in encoding.get(side, ())), default=0)
    if tokenizer.pad_token_id is not None and len(encodings) > 1:
        highest = max(highest, tokenizer.pad_token_id)
    if highest >= rows:
        raise Incompatible(
            f"{name}: its tokenizer knows token {highest} ({tokenizer.convert_ids_to_tokens(highest)}), but the model "
            f"has only {rows} embeddings.",
            "Use the tokenizer of these weights, or call resize_token_embeddings(len(tokenizer)) before training.",
        )


def first_tokens(encoding: dict[str, Any]) -> dict[int, int]:
    """The first token of each word: index of the word -> index of the token."""
    first: dict[int, int] = {}
    for token, word in enumerate(encoding["word_ids"]):
        if word is not None:
            first.setdefault(word, token)
    return first


def batches(
    encodings: Sequence[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int | None = None,
    batch_tokens: int | None = None,
    padding_side: str = "right",
) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """(indices of the texts, their padded tensors on the CPU), until every text was in one batch, longest first.

    A batch has at most `batch_size` texts and `batch_tokens` tokens, padding and the decoder's included, but always
    one text. Padding is on the right whatever the tokenizer prefers: on the left, where texts are to be continued, it
    shifts the positions of GPT-2 and its like unless they are told. Raises `Incompatible` without a token for it.
    """
    import torch

    if tokenizer.pad_token_id is None:
        raise Incompatible(
            "The tokenizer has no token that texts are padded with, nor one that ends them.",
            "Copy the tokenizer's files from the model's base; or name one as pad_token in tokenizer_config.json.",
        )
    sizes = [(len(encoding["input_ids"]), len(encoding.get("decoder_input_ids", ()))) for encoding in encodings]
    for group in groups(sizes, batch_size=batch_size, batch_tokens=batch_tokens):
        rows = [
            {name: value for name, value in encodings[index].items() if name in tokenizer.model_input_names}
            for index in group
        ]
        batch = dict(tokenizer.pad(rows, padding_side=padding_side, return_tensors="pt"))
        decoded = [encodings[index]["decoder_input_ids"] for index in group if sizes[index][1]]
        if decoded:
            longest = max(map(len, decoded))
            padded = [ids + [tokenizer.pad_token_id] * (longest - len(ids)) for ids in decoded]
            batch["decoder_input_ids"] = torch.tensor(padded)
            batch["decoder_attention_mask"] = torch.tensor(
                [[1] * len(ids) + [0] * (longest - len(ids)) for ids in decoded]
            )
        yield group, batch


def groups(
    sizes: Sequence[tuple[int, ...]], *, batch_size: int | None = None, batch_tokens: int | None = None
) -> list[list[int]]:
    """Indices of inputs of these sizes (tokens of the encoder, of the decoder) put into batches, the largest first.

    A batch has at most `batch_size` inputs, 32 unless anything is said, and `batch_tokens` tokens once all of it are
    padded to the longest, but always one input.
    """
    if batch_size is None and batch_tokens is None:
        batch_size = 32
    made: list[list[int]] = []
    longest: tuple[int, ...] = ()
    for index in sorted(range(len(sizes)), key=lambda index: tuple(-size for size in sizes[index])):
        wider = tuple(map(max, longest, sizes[index])) if made else sizes[index]
        tokens = (len(made[-1]) + 1) * sum(wider) if made else 0
        if not made or len(made[-1]) == batch_size or (batch_tokens is not None and tokens > batch_tokens):
            made.append([])
            wider = sizes[index]
        longest = wider
        made[-1].append(index)
    return made


def split_words(text: str) -> list[tuple[int, int]]:
    """Where the words of a text start and end: as newspapers' annotators split them, punctuation by itself.

    Hyphens, apostrophes, dots and commas inside a word ("co-op", "3.5") stay in it. Chinese and Japanese characters
    are words of their own.
    """
    spans: list[tuple[int, int]] = []
    inside = False
    for at, character in enumerate(text):
        category = unicodedata.category(character)[0]
        alone = "\u3040" <= character <= "\u30ff" or "\u3400" <= character <= "\u9fff"
        of_word = category in "LNM" or character == "_"
        joins = inside and character in "-'’.,&" and text[at + 1 : at + 2].isalnum()
        # The 's of "Anna's" belongs to no name.
        if character in "'’" and text[at + 1 : at + 2] == "s" and not text[at + 2 : at + 3].isalnum():
            spans.append((at, at + 1))
            inside = True
            continue
        if inside and not alone and (of_word or joins):
            spans[-1] = (spans[-1][0], at + 1)
        elif not character.isspace() and category != "C":
            spans.append((at, at + 1))
            inside = of_word and not alone
        else:
            inside = False
    return spans


def _check_kinds(texts: Sequence[Text]) -> None:
    kinds = list(dict.fromkeys(type(text) for text in texts))
    if len(kinds) > 1 or kinds[0] not in (str, tuple, list, Chat):
        raise BadData(
            f"The texts are of several kinds ({', '.join(kind.__name__ for kind in kinds)}).",
            "Give only texts, only pairs of texts, or only lists of words.",
        )


def _for_words(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer as it must be for words that were split beforehand.

    RoBERTa's and GPT-2's own classes glue such words together unless told to put a space before each; transformers
    up to 4 refused, and so their models were trained with it. Tokenizers of no such class (ModernBERT, Llama 3) are
    left as they are, as transformers' own training script leaves them.
    """
    if not tokenizer.is_fast:
        raise Incompatible(
            f"The tokenizer ({type(tokenizer).__name__}) cannot say which token belongs to which word.",
            "Save the model with a fast tokenizer (tokenizer.json).",
        )
    if tokenizer.init_kwargs.get("add_prefix_space") is not False:
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    before = tokenizer.backend_tokenizer.pre_tokenizer
    if hasattr(before, "add_prefix_space"):
        before.add_prefix_space = True
    return tokenizer


def _report_lost(texts: Sequence[list[str]], encodings: Sequence[dict[str, Any]], max_length: int) -> None:
    lost = [len(words) - len(first_tokens(encoding)) for words, encoding in zip(texts, encodings, strict=True)]
    if any(lost):
        warn(
            logger,
            "%d words in %d texts get no prediction: they do not fit into %d tokens, or the tokenizer drops them.",
            sum(lost),
            sum(map(bool, lost)),
            max_length,
        )
