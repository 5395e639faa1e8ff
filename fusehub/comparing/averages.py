"""The mean of what several models say, label by label by name, whatever the order in which each has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fusehub.comparing.said import REGRESSION, SINGLE, Said
from fusehub.errors import Incompatible
from fusehub.models.label_names import key_of

if TYPE_CHECKING:
    import numpy as np


def mean_of_labels(
    said: Sequence[Said], *, text_by_text: bool = False, key: Callable[[str], str] = key_of
) -> tuple[list[str], Any]:
    """All labels in the order in which they first occur, and the mean probabilities.

    Those of a text are one row, or with `text_by_text` a matrix, [words, labels] or [masks, labels]. Labels are the
    same whose `key` is. A label that only some models know is averaged over those that do; each row is then scaled to
    sum to 1 again (multi-label and regression are not). Raises `Incompatible` where a model shares no label with the
    others.
    """
    import numpy as np

    labels, columns = _union(said, key)

    def mean(rows: Sequence[np.ndarray]) -> np.ndarray:
        spread = np.full((len(rows), len(rows[0]), len(labels)), np.nan)
        for number, (own, at) in enumerate(zip(rows, columns, strict=True)):
            spread[number][:, at] = own
        known = ~np.isnan(spread)
        count = known.sum(0)
        total = np.where(known, spread, 0).sum(0)
        average = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
        if said[0].problem != SINGLE:
            return average
        # In texts that were cut differently, a word may have been seen only by models that lack some label.
        seen = (count > 0).any(-1, keepdims=True)
        average = np.where(seen & np.isnan(average), 0, average)
        return average / average.sum(-1, keepdims=True)

    rows = [own.probabilities for own in said]
    return labels, [mean(own) for own in zip(*rows, strict=True)] if text_by_text else mean(rows)


def _union(said: Sequence[Said], key: Callable[[str], str]) -> tuple[list[str], list[list[int]]]:
    """All labels in the order in which they first occur, and for each model where its labels are in them."""
    if said[0].problem == REGRESSION:
        return said[0].labels, [list(range(len(one.labels))) for one in said]
    own = [[key(label) for label in one.labels] for one in said]
    for number, keys in enumerate(own):
        others = {name for at, other in enumerate(own) if at != number for name in other} - {"o"}
        if len(own) > 1 and not others & set(keys):
            raise Incompatible(
                f"{said[number].model} ({', '.join(said[number].labels[:6])}) has no label in common "
                "with the other models.",
                "Ensemble models with the same labels; if only the names differ, rename them in config.json.",
            )
    labels: dict[str, str] = {}
    for one, keys in zip(said, own, strict=True):
        for name, label in zip(keys, one.labels, strict=True):
            labels.setdefault(name, label)
    at = {name: index for index, name in enumerate(labels)}
    return list(labels.values()), [[at[name] for name in keys] for keys in own]
