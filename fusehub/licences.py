"""The licence of a merged model, from those of what went into it: the strictest wins.

This is an ordering of what the licences' own texts ask for, not legal advice; the card says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# From the most permissive to the strictest; within one level, the first one met wins.
_LEVELS: tuple[tuple[str, frozenset[str]], ...] = tuple(
    (level, frozenset(names.split()))
    for level, names in (
        ("public domain", "cc0-1.0 unlicense wtfpl pddl"),
        (
            "permissive",
            "mit apache-2.0 bsd bsd-2-clause bsd-3-clause bsl-1.0 isc zlib cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 "
            "artistic-2.0 afl-3.0 ecl-2.0 ms-pl ncsa odc-by",
        ),
        ("weak copyleft", "lgpl lgpl-2.1 lgpl-3.0 mpl-2.0 epl-1.0 epl-2.0 eupl-1.1 cdla-sharing-1.0"),
        ("copyleft", "gpl gpl-2.0 gpl-3.0 agpl-3.0 osl-3.0 cc-by-sa-3.0 cc-by-sa-4.0 odbl"),
        (
            "use-restricted",
            "openrail openrail++ bigscience-openrail-m bigscience-bloom-rail-1.0 creativeml-openrail-m "
            "bigcode-openrail-m llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma",
        ),
        (
            "non-commercial",
            "cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 "
            "fair-noncommercial-research-license",
        ),
        ("no derivatives", "cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0"),
    )
)


@dataclass(frozen=True)
class LicenceVerdict:
    """The merged model's licence (None: nobody knows), why, and whether a licence forbids publishing it."""

    licence: str | None
    why: str
    forbids_publishing: bool = False
    warnings: tuple[str, ...] = ()


def licence_of(card: Mapping[str, Any]) -> str | None:
    """The licence that a card's front matter names, in lower case; None where it names none."""
    said = card.get("license")
    if isinstance(said, list):
        said = said[0] if said else None
    return said.strip().lower() if isinstance(said, str) and said.strip() else None


def reconcile(licences: Iterable[tuple[str, str | None]]) -> LicenceVerdict:
    """The licence of what is made of several models, given as (name, licence) pairs."""
    licences = list(licences)
    warnings = []
    nameless = [name for name, licence in licences if licence is None]
    if nameless:
        warnings.append(
            f"No licence is stated by {', '.join(nameless)}: ask the owner before you publish a merge of it."
        )
    odd = [f"{name} ({licence})" for name, licence in licences if licence and _level(licence) is None]
    if odd:
        warnings.append(f"FuseHub does not know the licence of {', '.join(odd)}: read it before you publish.")
    stated = [(name, licence) for name, licence in licences if licence]
    if not stated:
        return LicenceVerdict(None, "no model states a licence", warnings=tuple(warnings))
    # An unknown licence is taken to be stricter than every known one except those that forbid derivatives.
    rank = {licence: len(_LEVELS) - 1.5 if _level(licence) is None else _level(licence) for _, licence in stated}
    strictest = max(rank.values())
    name, licence = next((name, licence) for name, licence in stated if rank[licence] == strictest)
    others = {other for _, other in stated if rank[other] == strictest and other != licence}
    if others and strictest >= 2:
        warnings.append(f"{licence} and {', '.join(sorted(others))} are of one strictness but different terms.")
    forbidden = strictest == len(_LEVELS) - 1
    if len({licence for _, licence in stated}) == 1:
        why = f"all models that state a licence have {licence}"
    else:
        why = f"{name} has the strictest licence" if len(set(rank.values())) > 1 else "all licences are as strict"
    if forbidden:
        why = f"{name} is under {licence}, which does not allow to share what is made from it"
    return LicenceVerdict(licence, why, forbidden, tuple(warnings))


def _level(licence: str) -> int | None:
    return next((level for level, (_, names) in enumerate(_LEVELS) if licence in names), None)
