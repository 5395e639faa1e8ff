"""How the matrices of a mixture of experts count: by the share of a model's tokens that were routed to them.

Sums over few rows are noise. Where every matrix had the same say whatever it was given, three tokens of one model
would decide as much as ten thousand of another. With `S / N`, `N` all rows of the mixture instead of the matrix's own,
the error that is made as small as can be is that of the tokens of each model, wherever they go.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

# Matrices that all models together gave fewer rows are averaged: what so few say is chance.
FEWEST_ROWS = 32
_NUMBER = re.compile(r"(\bexperts\.)(expert_)?\d+\.")


def mixture_of(name: str) -> str | None:
    """What the matrix `name` has in common with those of the other experts that do the same; None where it is plain.

    `layers.0.mlp.experts.3.down_proj.weight` -> `layers.0.mlp.experts.*.down_proj.weight`
    """
    replaced, count = _NUMBER.subn(r"\1*.", name)
    return replaced if count else None


def mixture_rows(rows: Mapping[str, int]) -> Counter[str]:
    """The rows of each mixture's matrices together, by `mixture_of`."""
    found: Counter[str] = Counter()
    for name, count in rows.items():
        if mixture := mixture_of(name):
            found[mixture] += count
    return found


def shares_of(
    sources: Sequence[str],
    rows: Sequence[Mapping[str, int]],
    totals: Sequence[Mapping[str, int]],
    blind: Sequence[bool] = (),
) -> tuple[float, ...]:
    """Which share of the rows of its mixture each model's matrix was given; empty where it is of no mixture.

    `sources` is its name in each model's file, `rows` and `totals` are each model's own (see `mixture_rows`). Models
    that are `blind` have no statistics, and the mean share of the others.
    """
    if mixture_of(sources[0]) is None:
        return ()
    found = [
        own.get(source, 0) / (total.get(mixture_of(source) or "", 0) or 1)
        for source, own, total in zip(sources, rows, totals, strict=True)
    ]
    blind = list(blind) or [False] * len(found)
    known = [share for share, is_blind in zip(found, blind, strict=True) if not is_blind]
    mean = sum(known) / len(known) if any(known) else 1.0
    return tuple(mean if is_blind else share for share, is_blind in zip(found, blind, strict=True))


def notes_of(rare: Sequence[str], thin: Mapping[str, Mapping[str, int]]) -> list[str]:
    """What is said of a merge's matrices that few tokens came to: those that are averaged for it, and those that have
    fewer rows than inputs, with the rows of each model of which that is so."""
    said = []
    if rare:
        said.append(
            f"{len(rare)} matrices of mixtures have fewer than {FEWEST_ROWS} rows of all models, and are averaged: "
            f"{_some(rare)}"
        )
    if thin:
        told = [
            f"{name} ({', '.join(f'{count} of {whose}' for whose, count in own.items())})"
            for name, own in thin.items()
        ]
        said.append(
            f"{len(thin)} matrices of mixtures have fewer rows than inputs, and count by their share of the rows of "
            f"their mixture: {_some(told)}"
        )
    return said


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
