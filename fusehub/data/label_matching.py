"""Which of a model's labels the labels of data are: by name, and by number only where the numbering is certain.

    match_labels(examples, ["1 star", "2 stars", "3 stars"])     # {"1": 0, "3": 2}

A number is certain where the numbers of the data run over all that the model has: 0 to 4 for five labels, or 1 to 5
for those that are called after them. Two labels fewer, and nobody knows whether counting begins at 0 or at 1.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fusehub.data.examples import Examples
from fusehub.data.values import name_of
from fusehub.errors import Action, BadData
from fusehub.models.label_names import are_generic, key_of
from fusehub.models.tasks import TASKS
from fusehub.utils.logging import warn

logger = logging.getLogger(__name__)


def match_labels(examples: Examples, labels: Sequence[str]) -> dict[str, int | None]:
    """For each label of the data, the index of the model's label it is; None where the model does not know it.

    By name, whatever the case. Where no name agrees, by number if the numbering is certain (with a warning where
    labels are but counted), or by the order of the names that the data gives to its numbers, if the model has none.
    Raises `BadData` where nothing of this works: words of like meaning are never taken as the same.
    """
    present = _present(examples)
    every = list(dict.fromkeys([*(examples.names or examples.seen or ()), *present]))
    by_name = {_key(label): index for index, label in enumerate(labels)}
    matched = {label: by_name.get(_key(label)) for label in every}
    if all(index is not None for index in matched.values()):
        return {label: matched[label] for label in present}
    numbered = _by_number(examples, every, labels)
    if numbered is not None:
        return {label: numbered[label] for label in present}
    counted = are_generic(every) and are_generic(list(labels))
    known = [label for label in present if matched[label] is not None and label.upper() != "O"]
    only_outside = present and all(label.upper() == "O" for label in present)
    if (known or only_outside) and not counted:
        return {label: matched[label] for label in present}
    order = _order(examples, every, labels)
    if order is None:
        fix = "Name the right column with --label-column, or rename the labels in the data as the model names them."
        if _numbers(every) is not None:
            fix = f"Whether they count from 0 or from 1 is not certain. {fix}"
        raise BadData(
            f"The labels of {examples.source} ({_listed(every)}) are not those of the model ({_listed(labels)}).",
            fix,
            actions=[Action("name-columns")],
        )
    _warn_of_counting(examples, order, labels)
    return {label: order[label] for label in present}


def labels_as_ids(examples: Examples, labels: Sequence[str]) -> list[Any]:
    """The labels of the examples as indices into the model's `labels`, in the shape they have.

    Raises `BadData` where there are none, or where the model does not know one of them.
    """
    if examples.labels is None:
        raise BadData(f"{examples.source} has no labels, or not for every text.", "Name their column.")
    if not TASKS[examples.task].of_words:
        examples = from_multi_hot(examples, labels)
    matched = match_labels(examples, labels)
    unknown = [label for label, index in matched.items() if index is None]
    if unknown:
        raise BadData(
            f"{examples.source} has labels that the model does not know ({_listed(unknown)}); it knows "
            f"{_listed(labels)}.",
            "Leave out those examples, or use a model that knows these labels.",
        )
    return [
        [matched[name] for name in label] if isinstance(label, list) else matched[name_of(label)]
        for label in examples.labels or ()
    ]


def from_multi_hot(examples: Examples, labels: Sequence[str]) -> Examples:
    """The examples with lists such as [0, 1, 0], one number for each of the model's `labels`, turned into names."""
    lists = [label for label in examples.labels or () if isinstance(label, list)]
    bits = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
    if (
        not lists
        or examples.names
        or examples.told
        or any(len(label) != len(labels) or not {bit.casefold() for bit in label} <= set(bits) for label in lists)
    ):
        return examples
    named = [[name for name, bit in zip(labels, label, strict=True) if bits[bit.casefold()]] for label in lists]
    return replace(examples, labels=named, seen=())


def one_a_text(examples: Examples, labels: Sequence[str]) -> Examples:
    """Examples that `told` by columns of 0 and 1, for a model that gives one of its `labels`: one a text.

    Of two labels the one is the other's opposite, so that one column is enough. Examples with none or several of the
    labels that were told stay as they are.
    """
    if not examples.told or examples.labels is None:
        return examples
    told = {key_of(label) for label in examples.told}
    others = [label for label in labels if key_of(label) not in told]
    rest = others if len(labels) == 2 and len(told) == 1 else []
    given = [label if len(label) == 1 else [*label, *rest] for label in examples.labels if isinstance(label, list)]
    if len(given) != len(examples.labels) or any(len(label) != 1 for label in given):
        return examples
    if others and not rest:
        return examples
    return replace(examples, labels=[label[0] for label in given], told=())


def _by_number(examples: Examples, every: Sequence[str], labels: Sequence[str]) -> dict[str, int] | None:
    """The labels by the one number in each: "3" or "3 stars" is "3 stars"; None where that is not certain.

    Bare numbers must run over all numbers of the model, or reach one that counting from 0 would not.
    """
    own, theirs = _counted(labels), _counted(every)
    if own is None or theirs is None or are_generic(list(labels)):
        return None
    (word, numbers), (their_word, their_numbers) = own, theirs
    index = {number: at for at, number in enumerate(numbers)}
    if their_word not in ("", word):
        return None
    same = set(their_numbers) <= set(index)
    from_zero = set(their_numbers) <= set(range(len(labels)))
    if same and (their_word or not from_zero or set(their_numbers) == set(index)):
        return {label: index[number] for label, number in zip(every, their_numbers, strict=True)}
    if not same and not their_word and set(their_numbers) == set(range(len(labels))) and sorted(numbers) == numbers:
        order = dict(zip(every, their_numbers, strict=True))
        _warn_of_counting(examples, order, labels)
        return order
    return None


def _counted(labels: Sequence[str]) -> tuple[str, list[int]] | None:
    """The word that all labels share, in the singular, and the number that each of them has; None if not so."""
    found = [match for label in labels if (match := re.fullmatch(r"(\D*)(\d+)(\D*)", name_of(label)))]
    if len(found) < len(labels):
        return None
    words = {re.sub(r"[\W_]+", "", f"{match[1]}{match[3]}").casefold().removesuffix("s") for match in found}
    numbers = [int(match[2]) for match in found]
    return (words.pop(), numbers) if len(words) == 1 and len(set(numbers)) == len(numbers) else None


def _order(examples: Examples, every: Sequence[str], labels: Sequence[str]) -> Mapping[str, int] | None:
    """The labels of the data by their numbers: those that they are, or those of their names; None if not certain."""
    numbers = _numbers(every)
    if numbers is not None:
        if _numbers(labels) is not None or (_counted(labels) and not are_generic(list(labels))):
            return None  # Both are numbered, and not alike.
        whole = {0, len(labels) - 1} <= set(numbers) and max(numbers) < len(labels)
        return dict(zip(every, numbers, strict=True)) if whole else None
    names = examples.names or ()
    if len(names) == len(labels) and are_generic(list(labels)) and set(every) <= set(names):
        return {name: number for number, name in enumerate(names)}
    return None


def _numbers(labels: Sequence[str]) -> list[int] | None:
    """The numbers that the labels are; false is 0 and true is 1. None where one is a name."""
    if {label.casefold() for label in labels} == {"true", "false"}:
        return [int(label.casefold() == "true") for label in labels]
    return [int(label) for label in labels] if all(label.isdecimal() for label in labels) else None


def _warn_of_counting(examples: Examples, order: Mapping[str, int], labels: Sequence[str]) -> None:
    pairs = ", ".join(f"{label} = {labels[index]}" for label, index in list(order.items())[:8])
    warn(logger, "%s: labels are matched by number: %s. Is that right?", examples.source, pairs)


def _key(label: str) -> str:
    """A label as names are compared, and 1.0 is 1."""
    text = key_of(label)
    return text.partition(".")[0] if re.fullmatch(r"\d+\.0+", text) else text


def _present(examples: Examples) -> list[str]:
    """The labels that occur, each once, in the order in which they do."""
    present: dict[str, None] = {}
    for label in examples.labels or ():
        present.update(dict.fromkeys(label if isinstance(label, list) else [name_of(label)]))
    return list(present)


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
