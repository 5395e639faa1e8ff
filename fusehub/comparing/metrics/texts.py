"""How good texts are that models gave: answers of question answering, and texts that were written for a source.

Answers count as SQuAD counts them (Rajpurkar et al. 2016): letter case, punctuation and articles do not matter; of
several right answers the best one counts. Written texts by sacrebleu's chrF and BLEU, in fractions of 1.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from fusehub.utils.extras import needs


def answer_metrics(right: Sequence[Sequence[str]], said: Sequence[str]) -> dict[str, float]:
    """F1 over words and exact match, means over all questions. No right answer means that there is none: ""."""
    pairs = [(list(answers) or [""], one) for answers, one in zip(right, said, strict=True)]
    return {
        "f1": sum(max(_f1(answer, one) for answer in answers) for answers, one in pairs) / len(pairs),
        "exact_match": sum(any(_words(a) == _words(one) for a in answers) for answers, one in pairs) / len(pairs),
    }


def written_metrics(right: Sequence[str], said: Sequence[str]) -> dict[str, float]:
    """chrF and BLEU over all texts, and the share of texts that are the very same."""
    with needs("evaluate", "Scores of written texts"):
        from sacrebleu import corpus_bleu, corpus_chrf
    return {
        "chrf": corpus_chrf(list(said), [list(right)]).score / 100,
        "bleu": corpus_bleu(list(said), [list(right)]).score / 100,
        "exact_match": sum(a.strip() == b.strip() for a, b in zip(right, said, strict=True)) / len(right),
    }


def _words(text: str) -> list[str]:
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def _f1(right: str, said: str) -> float:
    a, b = _words(right), _words(said)
    if not a or not b:
        return float(a == b)
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b))
