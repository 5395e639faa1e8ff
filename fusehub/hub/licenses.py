"""The license of a merged model, from those of what went into it: the strictest wins, and some cannot be together.

    reconcile([("a", "gpl-3.0"), ("b", "cc-by-nc-4.0")]).conflicts   # one: no license allows to share the result

This is an ordering of what the licenses' own texts ask for, not legal advice; the card says so. What is not known to
be forbidden is not said to be.
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


_GPL = frozenset(["gpl", "gpl-2.0", "gpl-3.0", "agpl-3.0"])
_SHARE_ALIKE = frozenset(["cc-by-sa-3.0", "cc-by-sa-4.0", "osl-3.0", "odbl"])
_USE_RESTRICTED, _NON_COMMERCIAL = (dict(_LEVELS)[level] for level in ("use-restricted", "non-commercial"))
# Two licenses whose works cannot be shared as one work, whoever combines them, and what in them says so.
_CONFLICTS: tuple[tuple[frozenset[str], frozenset[str], str], ...] = (
    # gnu.org/licenses: gpl-2.0 section 6, gpl-3.0 and agpl-3.0 section 10, and license-list on licenses like these.
    (_GPL, _USE_RESTRICTED | _NON_COMMERCIAL, "the GPL allows no restriction beside its own"),
    # creativecommons.org/licenses/by-sa/4.0/legalcode section 3(b), the chart of wiki.creativecommons.org/wiki/
    # Wiki/cc_license_compatibility; opensource.org/license/osl-3-0 section 1(c); opendatacommons.org ODbL 4.4 and 4.8.
    (_SHARE_ALIKE, _USE_RESTRICTED | _NON_COMMERCIAL, "share-alike allows no restriction beside its own"),
    (
        frozenset(name for name in _NON_COMMERCIAL if "-sa-" in name),
        _USE_RESTRICTED,
        "share-alike allows no restriction beside its own",
    ),
    # gnu.org/licenses/license-list: apache2, and the matrix of gnu.org/licenses/gpl-faq (AllCompatibility).
    (
        frozenset({"gpl-2.0"}),
        frozenset({"apache-2.0", "ecl-2.0", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "cc-by-sa-4.0"}),
        'they go together only where it says "version 2 or later"',
    ),
    # gnu.org/licenses/license-list, "GPL-Incompatible Free Software Licenses"; of CC BY-SA 4.0 alone, version 3 is
    # named as compatible (creativecommons.org/share-your-work/licensing-considerations/compatible-licenses).
    (
        _GPL,
        frozenset({"epl-1.0", "epl-2.0", "ms-pl", "afl-3.0", "osl-3.0", "odbl", "cc-by-sa-3.0", "gfdl", "lppl-1.3c"}),
        "each asks for terms that the other does not allow",
    ),
    (
        frozenset({"cc-by-sa-3.0", "cc-by-sa-4.0"}),
        frozenset({"osl-3.0", "odbl"}),
        "each asks that the whole is under it alone",
    ),
    (frozenset({"osl-3.0"}), frozenset({"odbl"}), "each asks that the whole is under it alone"),
)
# Of licenses of one level, those whose works may be shared under another: gpl-3.0 section 13, the compatible licenses
# of CC BY-SA 4.0, "any version" where none is said, and later versions of the same Creative Commons license.
_ABSORBS: dict[str, frozenset[str]] = {
    license: frozenset(others.split())
    for license, others in {
        "gpl-2.0": "gpl",
        "gpl-3.0": "gpl cc-by-sa-4.0",
        "agpl-3.0": "gpl gpl-3.0",
        "lgpl-2.1": "lgpl",
        "lgpl-3.0": "lgpl",
        "cc-by-sa-4.0": "cc-by-sa-3.0",
        "cc-by-nc-4.0": "cc-by-nc-2.0 cc-by-nc-3.0",
        "cc-by-nc-sa-3.0": "cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-sa-2.0",
        "cc-by-nc-sa-4.0": "cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0",
    }.items()
}


@dataclass(frozen=True)
class LicenseVerdict:
    """The merged model's license, why, and what speaks against sharing it.

    None for a license: nobody knows, or `conflicts` says which two do not go together. `forbids_publishing`: one of
    them alone does not allow to share what is made from it.
    """

    license: str | None
    why: str
    forbids_publishing: bool = False
    conflicts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def is_loosened_by(self, license: str) -> bool:
        """Whether `license` (or each of several that are joined by commas) asks for less than this one."""
        stated = [_spelt(part) for part in license.split(",") if part.strip()]
        return self.license is not None and bool(stated) and max(map(_rank, stated)) < _rank(self.license)


def license_of(card: Mapping[str, Any]) -> str | None:
    """The license that a card's front matter names, in lower case; None where it names none.

    Several are joined by commas, and all of them hold. One that the Hub does not know is called by its `license_name`.
    """
    said = card.get("license")
    named = [_spelt(name) for name in (said if isinstance(said, list) else [said]) if isinstance(name, str)]
    own = card.get("license_name")
    if isinstance(own, str) and _spelt(own):
        named = [_spelt(own) if name == "other" else name for name in named]
    return ", ".join(dict.fromkeys(name for name in named if name and name != "unknown")) or None


def reconcile(licenses: Iterable[tuple[str, str | None]]) -> LicenseVerdict:
    """The license of what is made of several models, given as (name, license) pairs."""
    licenses = [(name, None if license == "unknown" else license) for name, license in licenses]
    warnings = []
    nameless = [name for name, license in licenses if license is None]
    if nameless:
        warnings.append(
            f"No license is stated by {', '.join(nameless)}: ask the owner before you publish a merge of it."
        )
    stated = [(name, part) for name, license in licenses if license for part in license.split(", ")]
    odd = [f"{name} ({license})" for name, license in stated if _level(license) is None]
    if odd:
        warnings.append(f"FuseHub does not know the license of {', '.join(odd)}: read it before you publish.")
    if not stated:
        return LicenseVerdict(None, "no model states a license", warnings=tuple(warnings))
    rank = {license: _rank(license) for _, license in stated}
    strictest = max(rank.values())
    level = list(dict.fromkeys(license for _, license in stated if rank[license] == strictest))
    license = next((it for it in level if {*level} - {it} <= _ABSORBS.get(it, frozenset())), level[0])
    name = next(name for name, own in stated if own == license)
    if strictest == len(_LEVELS) - 1:
        why = f"{name} is under {license}, which does not allow to share what is made from it"
        return LicenseVerdict(license, why, True, warnings=tuple(warnings))
    conflicts = _conflicts(stated)
    if conflicts:
        why = "two of the licenses cannot hold together"
        return LicenseVerdict(None, why, conflicts=conflicts, warnings=tuple(warnings))
    others = {*level} - {license} - _ABSORBS.get(license, frozenset())
    if others and strictest >= 2:
        warnings.append(f"{license} and {', '.join(sorted(others))} are of one strictness but different terms.")
    beside = [f"{name} ({own})" for name, own in stated if own in _USE_RESTRICTED and rank[own] < strictest]
    if beside:
        warnings.append(f"What {', '.join(beside)} may be used for is restricted, and so is what the result may be.")
    if license == "other":
        why = f"{name} has terms of its own"
    elif len(rank) == 1:
        why = f"all models that state a license have {license}"
    else:
        why = f"{name} has the strictest license" if len({*rank.values()}) > 1 else "all licenses are as strict"
        if license != level[0]:
            why = f"works under {' and '.join(own for own in level if own != license)} may be shared under it"
    return LicenseVerdict(license, why, warnings=tuple(warnings))


def is_ordered(license: str) -> bool:
    """Whether it is known how strict the license is, or each of several that are joined by commas."""
    return all(_level(part) is not None for part in license.split(", "))


def _conflicts(stated: list[tuple[str, str]]) -> tuple[str, ...]:
    """Which models cannot be shared as one, each pair of licenses once, and why."""
    found: dict[tuple[str, str], str] = {}
    for position, (name, license) in enumerate(stated):
        for other, theirs in stated[position + 1 :]:
            for one, two, why in _CONFLICTS:
                # Of several licenses of one model, its owner may leave the choice.
                if name != other and ((license in one and theirs in two) or (license in two and theirs in one)):
                    said = f"{name} is under {license} and {other} under {theirs}: {why}"
                    found.setdefault((min(license, theirs), max(license, theirs)), said)
    return tuple(found.values())


def _spelt(name: str) -> str:
    return "-".join(name.strip().lower().split())


def _rank(license: str) -> float:
    """How strict a license is: an unknown one is taken to be stricter than all but those that forbid derivatives."""
    level = _level(license)
    return len(_LEVELS) - 1.5 if level is None else level


def _level(license: str) -> int | None:
    return next((level for level, (_, names) in enumerate(_LEVELS) if license in names), None)
