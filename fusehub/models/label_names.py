"""What a config says that the rows of a head are called, and whether it says anything.

    read_labels({"id2label": {"0": "neg", "1": "pos"}}, "user/expert")      # ["neg", "pos"]

A config that does not tell for every row what it means is refused: rows would be matched with the wrong ones.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from fusehub.errors import Incompatible, shortly
from fusehub.utils.untrusted.limits import LABELS

_FIX = 'Write it as {"0": "NAME", "1": "NAME", ...}, one name for each row of the head.'
_GENERIC = re.compile(r"(?:label[_ -]?)?(\d+)")


def read_labels(config: Mapping[str, Any], name: str) -> list[str]:
    """The labels by the number of their row; `LABEL_i` where the config of the model called `name` has none.

    Raises `Incompatible` where `id2label` or `num_labels` cannot be understood, or `label2id` says otherwise.
    """
    said = config.get("id2label")
    require_few_labels(_counted(config), name)
    if said is None:
        named = config.get("label2id")
        if isinstance(named, Mapping) and not are_generic([str(label) for label in named]):
            raise _refused(name, f"is not there, and label2id has names ({', '.join(map(str, [*named][:3]))})")
        return [f"LABEL_{row}" for row in range(_number(config, name))]
    if not isinstance(said, Mapping) or not said:
        kind = "empty" if said in ({}, [], "") else f"a {type(said).__name__}"
        raise _refused(name, f"is {kind}, and no table of the rows' names")
    rows = {key: int(key) for key in said if re.fullmatch(r"\d+", str(key))}
    if len(rows) < len(said):
        odd = next(key for key in said if key not in rows)
        swapped = all(isinstance(value, int) for value in said.values())
        raise _refused(
            name,
            f"has {shortly(odd)} where the number of a row belongs"
            + (": names and numbers are swapped" if swapped else ""),
        )
    if sorted(rows.values()) != list(range(len(said))):
        numbers = ", ".join(map(str, sorted(rows.values())[:6]))
        raise _refused(name, f"numbers its {len(said)} labels {numbers}, but rows go from 0 to {len(said) - 1}")
    labels = [""] * len(said)
    for key, value in said.items():
        # A number may be a name: of stars, for example.
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise _refused(name, f"calls row {key} {shortly(value)}, which is no name")
        labels[rows[key]] = str(value)
        if not key_of(str(value)):
            raise _refused(name, f"has an empty name for row {key}")
    _require_no_contradiction(config.get("label2id"), labels, name)
    return labels


def require_few_labels(count: int, name: str) -> None:
    """Raises `Incompatible` for more labels than any head has."""
    if count > LABELS:
        raise Incompatible(
            f"{name} counts {count:,} labels, and no more than {LABELS:,} are read.", "Is it the right config.json?"
        )


def are_generic(labels: Sequence[str]) -> bool:
    """Whether the names say nothing: LABEL_0, LABEL_1, ... or plain numbers."""
    return all(number_in(label) is not None for label in labels)


def number_in(label: str) -> int | None:
    """The number that a label is, or that `LABEL_3` has; None for a name."""
    found = _GENERIC.fullmatch(label.strip().casefold())
    return int(found[1]) if found else None


def key_of(label: str) -> str:
    """What two labels have in common that mean the same: neither case nor spaces around nor the encoding matter."""
    return unicodedata.normalize("NFC", label.strip().casefold())


def resembling(labels: Sequence[str]) -> list[str]:
    """Those of the labels that differ from another one only in signs and spaces: not_entailment, not-entailment."""
    found: dict[str, list[str]] = {}
    for label in labels:
        letters = "".join(letter for letter in unicodedata.normalize("NFKC", key_of(label)) if letter.isalnum())
        found.setdefault(letters, []).append(label)
    return [label for alike in found.values() if len(alike) > 1 for label in alike]


def _counted(config: Mapping[str, Any]) -> int:
    """The most labels that any of the three keys counts."""
    tables = [config.get(key) for key in ("id2label", "label2id")]
    number = config.get("num_labels")
    return max(number if isinstance(number, int) else 0, *(len(own) for own in tables if isinstance(own, Mapping)), 0)


def _number(config: Mapping[str, Any], name: str) -> int:
    said = config.get("num_labels")
    if said is None:
        return 2
    if isinstance(said, bool) or not isinstance(said, int) or said < 1:
        raise Incompatible(
            f"{name}: num_labels in config.json is {shortly(said)}, and no number of labels.",
            "Write the number of rows that the head has.",
        )
    return said


def _require_no_contradiction(label2id: Any, labels: Sequence[str], name: str) -> None:
    """Refuses a name with another row there; names that are not in `id2label` are left over from another task."""
    if not isinstance(label2id, Mapping):
        return
    said = {key_of(str(label)): number for label, number in label2id.items()}
    for row, label in enumerate(labels):
        other = label2id.get(label, said.get(key_of(label)))
        if re.fullmatch(r"\d+(\.0)?", str(other)) and float(other) != row:
            raise _refused(name, f"calls row {row} {shortly(label)}, and label2id says that this is row {other}")


def _refused(name: str, what: str) -> Incompatible:
    return Incompatible(f"{name}: id2label in config.json {what}.", _FIX)
