"""Heads matched by label name: which row of which expert's head says which label of the merged model.

Rows of a classification head mean labels, and two models of one task may have them in another order, may know
different ones, or may call them LABEL_0. Merging by position would then mix meanings without a warning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fusehub.errors import BadRecipe, Incompatible
from fusehub.tasks import are_generic, has_labels, labels_of, problem_type_of

Heads = Literal["auto", "merge", "keep"]


@dataclass(frozen=True)
class LabelPlan:
    """What becomes of the heads.

    With `merge`, the merged model's `labels`, and for each expert the row of its head for each of them (None where
    it does not know the label). With `keep`, each expert keeps its own head, and `labels` is empty.
    """

    policy: Literal["merge", "keep"]
    why: str
    labels: tuple[str, ...] = ()
    rows: tuple[tuple[int | None, ...], ...] = ()
    problem_type: str | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """What may be wrong, as nothing tells what rows mean."""

    @property
    def is_identity(self) -> bool:
        """Whether every expert has exactly the merged model's labels, in its order."""
        return all(rows == tuple(range(len(self.labels))) for rows in self.rows)

    def groups(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Labels that the same experts know, solved together: (indices of experts, indices of labels)."""
        known: dict[tuple[int, ...], list[int]] = {}
        for label in range(len(self.labels)):
            experts = tuple(i for i, rows in enumerate(self.rows) if rows[label] is not None)
            known.setdefault(experts, []).append(label)
        return [(experts, tuple(labels)) for experts, labels in known.items()]


def plan_labels(
    configs: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    *,
    heads: Heads = "auto",
    given: Mapping[str, Sequence[str]] | None = None,
) -> LabelPlan:
    """How the heads of the experts called `names` go together; `given` names the labels of some experts anew.

    Raises `Incompatible` where merging was asked for, or is the only sensible thing, and cannot be done.
    """
    labels = [_labels(config, name, (given or {}).get(name)) for config, name in zip(configs, names, strict=True)]
    for name in given or {}:
        if name not in names:
            raise BadRecipe(
                f"Labels are given for {name}, which is not merged.", f"The models are {', '.join(names)}."
            )
    if heads == "keep":
        return LabelPlan("keep", "asked for")
    if len({str(config.get("architectures")) for config in configs}) > 1:
        return _apart(heads, "the experts are for different tasks")
    if not any(map(has_labels, configs)):
        return LabelPlan("merge", "their heads have no labels", rows=((),) * len(configs))
    kinds = {problem_type_of(config) for config in configs}
    if len(kinds) > 1:
        return _apart(heads, f"the experts solve different problems ({', '.join(sorted(kinds))})")
    generic = [are_generic(own) for own in labels]
    kind = configs[0].get("problem_type")
    if all(generic) and len({len(own) for own in labels}) == 1:
        warning: tuple[str, ...] = ()
        if len(labels[0]) > 1:
            warning = (
                f"No expert names its labels ({', '.join(labels[0][:3])}): row i of every head is taken to mean the "
                f"same. If it does not, name them: --labels {names[0]}=negative,positive",
            )
        rows = tuple(tuple(range(len(own))) for own in labels)
        return LabelPlan("merge", "labels have no names, but are as many", tuple(labels[0]), rows, kind, (), warning)
    if any(generic):
        nameless = names[generic.index(True)]
        if heads == "auto" and all(generic):
            return LabelPlan("keep", "labels have no names, and are not as many")
        raise Incompatible(
            f"{nameless} does not name its labels ({', '.join(labels[generic.index(True)][:3])}), so they cannot be "
            f"matched with those of {names[generic.index(False)] if not all(generic) else 'the others'}.",
            f"Say what they mean, in the order of its head: --labels {nameless}=NAME,NAME,... or keep each expert's "
            "head: --heads keep",
        )
    return _match(labels, heads, kind)


def _match(labels: Sequence[Sequence[str]], heads: Heads, kind: str | None) -> LabelPlan:
    union: dict[str, str] = {}
    for own in labels:
        for label in own:
            union.setdefault(_key(label), label)
    shared = set.intersection(*({_key(label) for label in own} for own in labels))
    if not shared and len(labels) > 1 and heads == "auto":
        return LabelPlan("keep", "the experts have no label in common")
    rows = []
    for own in labels:
        at = {_key(label): row for row, label in enumerate(own)}
        rows.append(tuple(at.get(key) for key in union))
    notes = []
    if any(None in own for own in rows):
        partial = [union[key] for key in union if key not in shared]
        notes.append(f"Only some experts know {', '.join(partial)}: these rows are merged from those that do.")
    elif any(own != rows[0] for own in rows):
        notes.append("The experts have their labels in different orders: rows are matched by name.")
    return LabelPlan("merge", "labels agree by name", tuple(union.values()), tuple(rows), kind, tuple(notes))


def _labels(config: Mapping[str, Any], name: str, given: Sequence[str] | None) -> list[str]:
    own = labels_of(dict(config))
    if given is not None:
        if len(given) != len(own):
            raise BadRecipe(
                f"{len(given)} labels are given for {name}, whose head has {len(own)} rows.",
                "Name each row once.",
            )
        own = list(given)
    if len({_key(label) for label in own}) != len(own):
        raise Incompatible(f"{name} has the same label twice ({', '.join(own)}).", "Name its rows with --labels.")
    return own


def _apart(heads: Heads, why: str) -> LabelPlan:
    if heads == "merge":
        raise Incompatible(f"The heads cannot be merged: {why}.", "Keep each expert's head: --heads keep")
    return LabelPlan("keep", why)


def _key(label: str) -> str:
    return label.strip().casefold()
