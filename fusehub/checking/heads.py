"""Heads matched by label name: which row of which expert's head says which label of the merged model.

Rows of a classification head mean labels, and two models of one task may have them in another order, may know
different ones, or may call them LABEL_0. Merging by position would then mix meanings without a warning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from fusehub.errors import Action, BadRecipe, Incompatible
from fusehub.models.label_names import are_generic, key_of, number_in, resembling
from fusehub.models.tasks import has_labels, labels_of, problem_type_of

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
    resembling: tuple[str, ...] = ()
    """Labels that are rows of their own and look as if they were one."""

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
    kinds = {problem_type_of(config, name) for config, name in zip(configs, names, strict=True)}
    if len(kinds) > 1:
        return _apart(heads, f"the experts solve different problems ({', '.join(sorted(kinds))})")
    generic = [are_generic(own) for own in labels]
    kind = configs[0].get("problem_type")
    if all(generic):
        return _match_numbers(labels, names, heads, kind)
    if any(generic):
        nameless = generic.index(True)
        raise _nameless(names[nameless], labels[nameless], names[generic.index(False)])
    return _match(labels, heads, kind)


def _match_numbers(labels: Sequence[Sequence[str]], names: Sequence[str], heads: Heads, kind: str | None) -> LabelPlan:
    """Of experts whose labels are numbers: by number where all have the same ones, which `LABEL_3` and `3` are.

    Where every expert counts its rows, the numbers say no more than the rows' positions.
    """
    numbers = [[str(number_in(label)) for label in own] for own in labels]
    for own, name in zip(numbers, names, strict=True):
        _require_once(own, name)
    if len({frozenset(own) for own in numbers}) > 1:
        if len({len(own) for own in labels}) > 1:
            return _apart(heads, "labels have no names, and are not as many")
        odd = next(index for index, own in enumerate(numbers) if set(own) != set(numbers[0]))
        raise _nameless(names[odd], labels[odd], names[0])
    plan = replace(_match(numbers, heads, kind), labels=tuple(labels[0]))
    if len(labels[0]) == 1 or any(own != [str(row) for row in range(len(own))] for own in numbers):
        return plan
    warning = (
        f"No expert names its labels ({', '.join(labels[0][:3])}): row i of every head is taken to mean the same."
    )
    return replace(plan, why="labels have no names, but are as many", warnings=(warning,))


def _nameless(name: str, labels: Sequence[str], other: str) -> Incompatible:
    return Incompatible(
        f"{name} does not name its labels ({', '.join(labels[:3])}), so they cannot be matched with those of {other}.",
        f"Say what they mean, in the order of its head: --labels {name}=NAME,NAME,... or keep each expert's head: "
        "--heads keep",
        actions=[Action("name-labels"), Action("keep-heads")],
    )


def _match(labels: Sequence[Sequence[str]], heads: Heads, kind: str | None) -> LabelPlan:
    union: dict[str, str] = {}
    for own in labels:
        for label in own:
            union.setdefault(key_of(label), label)
    shared = set.intersection(*({key_of(label) for label in own} for own in labels))
    if not shared and len(labels) > 1 and heads == "auto":
        return LabelPlan("keep", "the experts have no label in common")
    rows = []
    for own in labels:
        at = {key_of(label): row for row, label in enumerate(own)}
        rows.append(tuple(at.get(key) for key in union))
    notes = []
    if any(None in own for own in rows):
        partial = [union[key] for key in union if key not in shared]
        notes.append(f"Only some experts know {', '.join(partial)}: these rows are merged from those that do.")
    elif any(own != rows[0] for own in rows):
        notes.append("The experts have their labels in different orders: rows are matched by name.")
    alike = tuple(resembling(list(union.values()))) if any(None in own for own in rows) else ()
    return LabelPlan(
        "merge", "labels agree by name", tuple(union.values()), tuple(rows), kind, tuple(notes), resembling=alike
    )


def _labels(config: Mapping[str, Any], name: str, given: Sequence[str] | None) -> list[str]:
    own = labels_of(config, name)
    if given is not None:
        if len(given) != len(own):
            raise BadRecipe(
                f"{len(given)} labels are given for {name}, whose head has {len(own)} rows.",
                "Name each row once.",
            )
        own = list(given)
    _require_once(own, name)
    return own


def _require_once(labels: Sequence[str], name: str) -> None:
    if len({key_of(label) for label in labels}) != len(labels):
        raise Incompatible(
            f"{name} has the same label twice ({', '.join(labels)}).",
            "Name its rows with --labels.",
            actions=[Action("name-labels")],
        )


def _apart(heads: Heads, why: str) -> LabelPlan:
    if heads == "merge":
        raise Incompatible(
            f"The heads cannot be merged: {why}.",
            "Keep each expert's head: --heads keep",
            actions=[Action("keep-heads")],
        )
    return LabelPlan("keep", why)
