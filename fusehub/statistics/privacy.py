"""What statistics may tell of the texts they were made from, and when that is too much to publish them.

A gram whose rows do not span all of the layer's inputs gives away the space that they do span, and any vector can be
tested for lying in it: in the first layer that is each token of the vocabulary, and finds the tokens of the texts
without an error. Words repeat, so it takes several times as many rows as inputs until that space is everything. A
head's inputs gather about one point a label, so a label of few examples gives away the mean of these few.
`tests/benchmarks/privacy.py` measures it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fusehub.data.values import name_of
from fusehub.errors import BadStatistics

MIN_ROWS = 100
"""Fewest rows that a layer of statistics for everyone may have; never fewer than it has inputs, see `fewest_rows`."""
TOKEN_ROWS = 4
"""Rows for each input that a layer must have which sees tokens, since many of these are the same."""
MIN_EXAMPLES = 20
"""Fewest examples that a label may have, unless it has none."""


def fewest_rows(inputs: int, *, of_tokens: bool) -> int:
    """The fewest rows that a layer with so many inputs may have in statistics for everyone."""
    return max(MIN_ROWS, inputs * (TOKEN_ROWS if of_tokens else 1))


def count_labels(labels: Sequence[Any] | None) -> dict[str, int] | None:
    """How many examples have each label, by name; None without labels, or where they are numbers to be predicted.

    Of classifiers only: the answers to questions and the texts that are to be written are data, which nobody may see.

    `labels` has a name an example, or a list of names (several labels, or one a word: then an example counts once).
    """
    if labels is None or any(isinstance(label, float) and not label.is_integer() for label in labels):
        return None
    counts: Counter[str] = Counter()
    for label in labels:
        counts.update({str(name) for name in (label if isinstance(label, list | tuple) else [name_of(label)])})
    return dict(sorted(counts.items()))


def require_enough(metadata: Mapping[str, Any], origin: str) -> None:
    """Raises `BadStatistics` naming the layers that have too few rows, and the labels that have too few examples.

    Statistics with noise are for everyone whatever their counts: the noise is made for a single text.
    """
    if metadata.get("noise"):
        return
    layers = metadata["layers"]
    examples = metadata.get("examples") or 0
    thin = {
        name: own["rows"]
        for name, own in layers.items()
        if own["rows"] < fewest_rows(own["size"], of_tokens=own["rows"] > examples)
    }
    counts = [part.get("labels") or {} for part in (metadata.get("parts") or [metadata])]
    labels = sum((Counter(own) for own in counts), Counter())
    rare = {name: count for name, count in labels.items() if count < MIN_EXAMPLES}
    said = []
    if thin:
        said.append(
            f"of few rows ({_counted(thin, 'rows')}; a layer needs {MIN_ROWS}, as many as it has inputs, and "
            f"{TOKEN_ROWS} times as many where it sees tokens)"
        )
    if rare:
        said.append(f"of labels with few examples ({_counted(rare, 'examples')}; a label needs {MIN_EXAMPLES})")
    if said:
        raise BadStatistics(
            f"The statistics in {origin} are {' and '.join(said)}: they can tell what was in the texts.",
            "Collect them from more texts, or with --noise; or, if nothing in the texts is private: --allow-few-rows.",
        )


def _counted(counts: Mapping[str, int], what: str) -> str:
    """`a.weight: 9 rows, b.weight: 12, and 3 more`, the fewest first."""
    ordered = sorted(counts.items(), key=lambda item: item[1])
    named = [f"{name}: {count}" + (f" {what}" if number == 0 else "") for number, (name, count) in enumerate(ordered)]
    more = f", and {len(named) - 5} more" if len(named) > 5 else ""
    return ", ".join(named[:5]) + more
