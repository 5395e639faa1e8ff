"""Text files of words with their tags, a word a line, as CoNLL and its many relatives have them.

    are_words_with_tags(["Anna NNP B-PER", "lives VBZ O", ""])        # True
    next(sentences(lines, "a.txt"))     # {"tokens": ["Anna", "lives"], "ner_tags": ["B-PER", "O"]}

A word is first in its line, or second after its number; its tag is last. An empty line ends a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from fusehub.errors import BadFile

_DOCUMENT = "-DOCSTART-"
_TAG = re.compile(r"O|[BIESLU]-\S+")
# Tags without a B or I before them: PER, LOC.
_PLAIN = re.compile(r"[A-Z][A-Z_]*")
_COMMENTS = ("#", "#begin", "#end")
# So many lines of two words or more that all end in "O" are no texts.
_ALL_OUTSIDE = 10

Row = dict[str, list[str]]


def are_words_with_tags(lines: Sequence[str]) -> bool:
    """Whether these are lines of words with tags: every last field is one (B-PER, I-PER, O), and some tag is no O.

    Plain tags (PER, O) are taken for such where every line has as many fields, and some tag is an O.
    """
    fields = [own for line in lines if (own := _fields(line))]
    if not fields or any(len(own) < 2 for own in fields):
        return False
    tags = [own[-1] for own in fields]
    if all(_TAG.fullmatch(tag) for tag in tags):
        return len(tags) >= _ALL_OUTSIDE or any(tag != "O" for tag in tags)
    alike = len({len(own) for own in fields}) == 1
    return alike and "O" in tags and all(_PLAIN.fullmatch(tag) for tag in tags)


def sentences(lines: Iterable[str], name: str, head: Sequence[str] = ()) -> Iterator[Row]:
    """The words and tags of each sentence; from `head`, the first lines, is seen whether words are numbered.

    Raises `BadFile` for a word without a tag.
    """
    first = 1 if _are_numbered(head) else 0
    words: list[str] = []
    tags: list[str] = []
    for number, line in enumerate(chain(lines, [""]), 1):
        fields = _fields(line)
        if fields is None:
            continue
        if not fields:
            if words:
                yield {"tokens": words, "ner_tags": tags}
                words, tags = [], []
        elif len(fields) < first + 2:
            raise BadFile(f"{name}, line {number}: '{fields[-1]}' has no tag.", "Write a word and its tag a line.")
        else:
            words.append(fields[first])
            tags.append(fields[-1])


def _fields(line: str) -> list[str] | None:
    """The fields of a line, none of an empty one or one that begins a document; None for a comment."""
    if line.startswith(_DOCUMENT):
        return []
    fields = line.split()
    # "#" may be a word, and has a tag then.
    tagged = len(fields) > 1 and (_TAG.fullmatch(fields[-1]) or (len(fields) == 2 and _PLAIN.fullmatch(fields[1])))
    return None if fields and fields[0] in _COMMENTS and not tagged else fields


def _are_numbered(lines: Sequence[str]) -> bool:
    """Whether the first of three fields or more is a running number, which begins anew with a sentence or runs on."""
    before = None
    numbered = 0
    for fields in filter(None, map(_fields, lines)):
        if len(fields) < 3 or not fields[0].isdecimal():
            return False
        number = int(fields[0])
        if number not in (0, 1) and number - 1 != before:
            return False
        numbered += number - 1 == before
        before = number
    return numbered > 0
