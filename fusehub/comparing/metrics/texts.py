"""How good texts are that models gave: answers of question answering, and texts that were written for a source.

Answers count as SQuAD counts them (Rajpurkar et al. 2016): letter case, punctuation and articles do not matter; of
several right answers the best one counts. Written texts by sacrebleu's chrF and BLEU, in fractions of 1.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fusehub.comparing.metrics.measured import Measured, Tally, mean_of
from fusehub.utils.extras import needs

if TYPE_CHECKING:
    import numpy as np


def answer_metrics(right: Sequence[Sequence[str]], said: Sequence[str]) -> Measured:
    """F1 over words and exact match, means over all questions. No right answer means that there is none: ""."""
    pairs = [(list(answers) or [""], one) for answers, one in zip(right, said, strict=True)]
    found: dict[str, list[float]] = {
        "f1": [max(_f1(answer, one) for answer in answers) for answers, one in pairs],
        "exact_match": [any(_words(a) == _words(one) for a in answers) for answers, one in pairs],
    }
    tallies = {name: mean_of(values) for name, values in found.items()}
    return Measured({name: sum(values) / len(pairs) for name, values in found.items()}, tallies)


def written_metrics(right: Sequence[str], said: Sequence[str]) -> Measured:
    """chrF and BLEU over all texts, and the share of texts that are the very same."""
    with needs("evaluate", "Scores of written texts"):
        from sacrebleu.metrics import BLEU, CHRF
    same = [a.strip() == b.strip() for a, b in zip(right, said, strict=True)]
    metrics, tallies = {}, {}
    for name, scorer in (("chrf", CHRF()), ("bleu", BLEU())):
        metrics[name] = scorer.corpus_score(list(said), [list(right)]).score / 100
        tallies[name] = _tally(scorer, right, said)
    return Measured(metrics | {"exact_match": sum(same) / len(same)}, tallies | {"exact_match": mean_of(same)})


def _tally(scorer: Any, right: Sequence[str], said: Sequence[str]) -> Tally:
    """What sacrebleu counts of each text. Its own bootstrap works on this too, and pairs two systems alone; the names
    are private, and `tests/unit/test_intervals.py` holds what they give to the public ones."""
    import numpy as np

    def metric(sums: np.ndarray) -> np.ndarray:
        rows = sums.reshape(-1, sums.shape[-1])
        found = [scorer._compute_score_from_stats([round(count) for count in row]).score / 100 for row in rows]
        return np.array(found).reshape(sums.shape[:-1])

    return Tally(np.array(scorer._extract_corpus_statistics(list(said), [list(right)]), float), metric)


def _words(text: str) -> list[str]:
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def _f1(right: str, said: str) -> float:
    a, b = _words(right), _words(said)
    if not a or not b:
        return float(a == b)
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b))
