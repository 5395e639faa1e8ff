"""The largest elements of a tensor, found without putting all of them in order.

    keep_largest(delta, count)       # sets all others to zero, in place
    mask = largest(values, count)    # the same as a mask

How large an element must be is known from some of them to within a percent; of those in between all are looked at, so
that what is found is exact. Elements pass in pieces that stay in the processor's cache: there is no second tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# Elements that are worked on at a time, and that are put in order.
_PIECE = 2**16
_SAMPLE = 2**16
# How far the share of a sample is from that of all, in standard deviations, at the most; else all are put in order.
_DEVIATIONS = 5


def pieces(count: int) -> Iterator[slice]:
    """What is worked on at a time of so many elements in a row."""
    return (slice(start, min(count, start + _PIECE)) for start in range(0, count, _PIECE))


def largest(values: Tensor, count: int) -> Tensor:
    """A mask of exactly the `count` largest of `values` (by magnitude); of equal ones, those that come first."""
    import torch

    flat = values.reshape(-1)
    mask = torch.empty(flat.shape, dtype=torch.bool)
    for part, own in _chosen(flat, count):
        mask[part] = own
    return mask.view(values.shape)


def keep_largest(values: Tensor, count: int) -> None:
    """Sets all but the `count` largest of `values` (by magnitude) to zero, in place."""
    flat = values.reshape(-1)  # A copy where it does not lie in a row.
    for part, own in _chosen(flat, count):
        flat[part].mul_(own)
    if flat.data_ptr() != values.data_ptr():
        values.copy_(flat.view(values.shape))


def _chosen(flat: Tensor, count: int) -> Iterator[tuple[slice, Tensor]]:
    """1 for each of the `count` largest magnitudes, else 0, piece by piece, in the dtype of `flat`."""
    if not 0 < count < len(flat):
        for part in pieces(len(flat)):
            yield part, flat.new_full((part.stop - part.start,), float(count > 0))
        return
    threshold, equal, surplus = _threshold(flat.numpy(), count)
    for part in pieces(len(flat)):
        chosen = flat[part].abs()
        left_out = None
        if surplus:
            among = (chosen == threshold).nonzero().squeeze(1)
            left_out = among[equal:]
            equal, surplus = max(0, equal - len(among)), surplus - len(left_out)
        chosen.ge_(threshold)
        if left_out is not None:
            chosen[left_out] = 0
        yield part, chosen


def _threshold(flat: Any, count: int) -> tuple[float, int, int]:
    """The `count`-th largest magnitude of an array; how many of that size are among the `count` largest, and how many
    are not."""
    import numpy as np

    low, high = _between(flat, count)
    above, inside = 0, []
    for part in pieces(len(flat)):
        sizes = np.abs(flat[part])
        above += int(np.count_nonzero(sizes > high))
        inside.append(sizes[(sizes >= low) & (sizes <= high)])
    near = np.concatenate(inside)
    if not above < count <= above + len(near):
        near, above = np.abs(flat), 0
    place = len(near) - (count - above)
    threshold = float(np.partition(near, place)[place])
    equal = count - above - int(np.count_nonzero(near > threshold))
    return threshold, equal, int(np.count_nonzero(near == threshold)) - equal


def _between(flat: Any, count: int) -> tuple[float, float]:
    """Two magnitudes between which the `count`-th largest almost certainly lies, from elements all over the array."""
    import numpy as np

    if len(flat) <= _SAMPLE:
        return 0.0, math.inf
    # Odd, as rows have an even number of elements: a sample of a few columns would tell little.
    sample = np.sort(np.abs(flat[:: len(flat) // _SAMPLE | 1]))[::-1]
    share = count / len(flat)
    place, most = share * len(sample), _DEVIATIONS * math.sqrt(len(sample) * share * (1 - share)) + 1
    first, last = math.floor(place - most), math.ceil(place + most)
    return (
        float(sample[last]) if last < len(sample) else 0.0,
        float(sample[first]) if first >= 0 else math.inf,
    )
