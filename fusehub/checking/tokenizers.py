"""Does the same text become the same numbers? Two tokenizers are run over a probe, and it is said how they differ.

The probe is made of words that both know, so that a small vocabulary shows a difference too: in capitals, with
accents, in other encodings of the same letters, between other spaces; and of numbers, scripts, code, special tokens.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusehub.errors import is_panic

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WORDS = 24


@dataclass(frozen=True)
class Difference:
    """One thing that two tokenizers do otherwise, for a person.

    `grave` says whether ordinary texts become other numbers; otherwise only special tokens put around them
    (`is_around`), or texts that are rare.
    """

    what: str
    grave: bool
    is_around: bool = False


def differences(
    mine: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase, names: tuple[str, str]
) -> list[Difference]:
    """In what the tokenizers of the models called `names`, which have the same tokens, differ; empty if in nothing.

    A text in which one finds a token that the other does not have at all tells nothing of the rest.
    """
    vocabularies = [dict(tokenizer.get_vocab()) for tokenizer in (mine, theirs)]
    shared = {token: number for token, number in vocabularies[0].items() if vocabularies[1].get(token) == number}
    words = _words(shared)
    found = list(_normalising(mine, theirs, names, words))
    if any(difference.grave for difference in found):
        return found  # Nearly every text would show it again.
    special = [token for token in mine.all_special_tokens if token in theirs.all_special_tokens]
    odd: dict[str, tuple[str, Any, Any]] = {}
    for kind, text in _probe(words, special):
        one, other = (_numbers(tokenizer, text) for tokenizer in (mine, theirs))
        if one != other and all(isinstance(own, str) or set(shared.values()).issuperset(own) for own in (one, other)):
            odd.setdefault(_BEGINNING if _differ_at_first(one, other) else kind, (text, one, other))
    if odd:
        grave = [kind for kind in odd if kind not in _RARE]
        text, one, other = odd[(grave or list(odd))[0]]
        what = f"{names[0]} and {names[1]} cut {', '.join(odd)} differently: {text[:40]!r} becomes "
        return [*found, Difference(what + " and ".join(_from_difference(one, other)), bool(grave))]
    around = [_around(tokenizer, words) for tokenizer in (mine, theirs)]
    if around[0] != around[1]:
        what = f"{names[0]} and {names[1]} put other special tokens around a text: {around[0]} and {around[1]}"
        found.append(Difference(what, grave=False, is_around=True))
    return found


_BEGINNING = "the beginning of a text"
# Kinds of texts that are rare where experts are used, or that differ by a token or two at the edge.
_RARE = (_BEGINNING, "spaces", "line breaks and tabs", "special tokens in a text", "nothing")


def _differ_at_first(one: list[int] | str, other: list[int] | str) -> bool:
    """Whether only the first word differs, before which some tokenizers put a space and others do not."""
    if isinstance(one, str) or isinstance(other, str):
        return False
    same = 0
    while same < min(len(one), len(other)) and one[-1 - same] == other[-1 - same]:
        same += 1
    return same > 0 and max(len(one), len(other)) - same <= 3 and one[:1] != other[:1]


def _from_difference(one: list[int] | str, other: list[int] | str, most: int = 8) -> list[str]:
    """Both, from the first number on that is not the same."""
    if isinstance(one, str) or isinstance(other, str):
        return [str(one), str(other)]
    start = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    before = "..., " if start else ""
    return [
        f"[{before}{', '.join(map(str, own[start : start + most]))}{', ...' if own[start + most :] else ''}]"
        for own in (one, other)
    ]


def _probe(words: Sequence[str], special: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(kind, text): lower case and without accents, which are looked at by themselves."""
    some = list(words[:6]) or ["a", "b"]
    yield from (("ordinary texts", " ".join(part)) for part in (words[:12], words[12:]))
    yield "ordinary texts", "the quick brown fox jumps over the lazy dog, doesn't it? (it's 3 o'clock.) we'll see..."
    yield "long words", "".join(some) + "un" * 60
    yield from (("numbers", text) for text in ("1234567", "3.14 2,000 007 5% $9.99 1st"))
    yield from (("other scripts", text) for text in ("你好世界 今天", "こんにちは", "привет мир", "مرحبا"))
    yield "emoji", "😀 👩‍👩‍👧 🇩🇪 ✨"
    yield "code", "def f(x_1):\n    return x_1['a'] != 0  # done\n\tif (a&&b) { return; }"
    yield from (("spaces", "   ".join(some)), ("spaces", f"{some[0]}  "))
    yield from (("line breaks and tabs", end.join(some)) for end in ("\n", "\n\n", "\t", "\r\n", "\u00a0"))
    yield from (("special tokens in a text", f"{some[0]} {token} {some[-1]}{token}") for token in special[:8])
    yield "spaces", f" {some[0]}"
    yield "nothing", ""


def _normalising(
    mine: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase, names: tuple[str, str], words: Sequence[str]
) -> Iterator[Difference]:
    """What one of both does to a text before it is cut, and the other does not."""
    capitals = [*(word.upper() for word in words), *(word.capitalize() for word in words), "PARIS Paris iPhone"]
    accents = [*(word.translate(_ACCENTS) for word in words), "café naïve über señor"]
    told = False
    wide = [*(word.translate(_WIDE) for word in words), "ﬁne ①"]
    for texts, change, what, grave in (
        (capitals, str.lower, "lower-cases texts", True),
        (accents, _without_accents, "drops accents", True),
        (accents, _apart, "takes a letter and its accent apart for the letter with it", False),
        (wide, _plain, "takes full-width letters for plain ones", False),
    ):
        does = [_ignores(tokenizer, texts, change) for tokenizer in (mine, theirs)]
        if does[0] != does[1] and not (change is _apart and told):  # Dropping accents does that too.
            told = True
            yes, no = names if does[0] else names[::-1]
            yield Difference(f"{yes} {what}, and {no} does not", grave)


_ACCENTS = str.maketrans("aeiouAEIOU", "áéíóúÁÉÍÓÚ")
_WIDE = {code: code + 0xFEE0 for code in range(ord("a"), ord("z") + 1)}


def _without_accents(text: str) -> str:
    return "".join(letter for letter in _apart(text) if unicodedata.category(letter) != "Mn")


def _apart(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _ignores(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], change: Callable[[str], str]) -> bool:
    """Whether `change` makes no difference to the numbers of any of `texts`."""
    return all(_numbers(tokenizer, text) == _numbers(tokenizer, change(text)) for text in texts)


def _words(shared: Mapping[str, int]) -> list[str]:
    """Up to so many words of plain small letters that are tokens of both, from all over the vocabulary."""
    plain = (token.lstrip("▁Ġ").removesuffix("</w>") for token in sorted(shared, key=shared.__getitem__))
    found = dict.fromkeys(word for word in plain if re.fullmatch("[a-z]{3,}", word))
    return list(found)[:: max(1, len(found) // _WORDS)][:_WORDS]


def _numbers(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int] | str:
    """Those of a text, without special tokens; why it cannot be cut, where it cannot."""
    try:
        made = tokenizer(text, add_special_tokens=False, truncation=False, padding=False, verbose=False)
        return list(made["input_ids"])
    except BaseException as error:
        return _failure(error)


def _around(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[str] | str:
    """The tokens of a short text, with those that the tokenizer adds at its ends."""
    text = words[0] if words else "a"
    try:
        numbers = tokenizer(text, truncation=False, padding=False, verbose=False)["input_ids"]
        return tokenizer.convert_ids_to_tokens(numbers)
    except BaseException as error:
        return _failure(error)


def _failure(error: BaseException) -> str:
    """Why a text cannot be cut: the library of tokenizers raises nothing special."""
    if isinstance(error, Exception) or is_panic(error):
        return type(error).__name__
    raise error
