"""The largest elements of a tensor, found without putting all of them in order, or having all of them at once.

    keep_largest(delta, count)            # sets all others to zero, in place
    mask = largest(values, count)         # the same as a mask
    cutoff = find_cutoff(parts, numel, count)      # what tells them: the elements pass twice or thrice
    cutoff.chosen(part, start)            # ... in each part

How large an element must be is known from some of them to within a percent; of those in between all are looked at, so
that what is found is exact. Elements pass in pieces that stay in the processor's cache: there is no second tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Parts: TypeAlias = "Callable[[], Iterator[Tensor]]"
"""A tensor's elements in a row, part by part, each time anew."""

# Elements that are worked on at a time, and that are put in order.
_PIECE = 2**16
_SAMPLE = 2**16
# How far the share of a sample is from that of all, in standard deviations, at the most; else all are put in order.
_DEVIATIONS = 5


def pieces(count: int) -> Iterator[slice]:
    """What is worked on at a time of so many elements in a row."""
    return (slice(start, min(count, start + _PIECE)) for start in range(0, count, _PIECE))


class Cutoff(NamedTuple):
    """Which elements are the largest by magnitude: those above `size`, and of that size those up to place `last`."""

    size: float
    last: int

    def chosen(self, part: Tensor, start: int) -> Tensor:
        """1 for each of them, else 0, in the dtype of `part`: elements in a row, the first of which has place
        `start`."""
        sizes = part.abs()
        if self.last < start:
            return sizes.gt_(self.size)
        left_out = None
        if self.last < start + len(part) - 1:
            equal = (sizes == self.size).nonzero().squeeze(1)
            left_out = equal[equal > self.last - start]
        sizes.ge_(self.size)
        if left_out is not None:
            sizes[left_out] = 0
        return sizes


def largest(values: Tensor, count: int) -> Tensor:
    """A mask of exactly the `count` largest of `values` (by magnitude); of equal ones, those that come first."""
    import torch

    flat = values.reshape(-1)
    cutoff = find_cutoff(partial(_cut, [flat]), len(flat), count)
    mask = torch.empty(flat.shape, dtype=torch.bool)
    for part in pieces(len(flat)):
        mask[part] = cutoff.chosen(flat[part], part.start)
    return mask.view(values.shape)


def keep_largest(values: Tensor, count: int) -> None:
    """Sets all but the `count` largest of `values` (by magnitude) to zero, in place."""
    flat = values.reshape(-1)
    keep(values, find_cutoff(partial(_cut, [flat]), len(flat), count))


def keep(values: Tensor, cutoff: Cutoff, start: int = 0) -> None:
    """Sets all but those that `cutoff` chooses to zero, in place; the first of `values` has place `start`."""
    flat = values.reshape(-1)  # A copy where it does not lie in a row.
    for part in pieces(len(flat)):
        flat[part].mul_(cutoff.chosen(flat[part], start + part.start))
    if flat.data_ptr() != values.data_ptr():
        values.copy_(flat.view(values.shape))


def find_cutoff(parts: Parts, numel: int, count: int) -> Cutoff:
    """What tells the `count` largest of `numel` elements; of equal ones, those that come first."""
    import numpy as np

    if not 0 < count < numel:
        return Cutoff(0.0, numel) if count > 0 else Cutoff(math.inf, -1)
    low, high = _between(parts, numel, count)
    above, inside = 0, []
    for sizes in _sizes(parts):
        above += int(np.count_nonzero(sizes > high))
        inside.append(sizes[(sizes >= low) & (sizes <= high)])
    near = np.concatenate(inside)
    if not above < count <= above + len(near):
        near, above = np.concatenate([*_sizes(parts)]), 0
    place = len(near) - (count - above)
    threshold = float(np.partition(near, place)[place])
    equal = count - above - int(np.count_nonzero(near > threshold))
    surplus = int(np.count_nonzero(near == threshold)) - equal
    return Cutoff(threshold, _place_of(parts, threshold, equal) if surplus else numel)


def _cut(parts: list[Tensor]) -> Iterator[Tensor]:
    return (own[part] for own in parts for part in pieces(len(own)))


def _sizes(parts: Parts) -> Iterator[Any]:
    """The magnitudes, in arrays that stay in the processor's cache."""
    import numpy as np

    for own in parts():
        for part in pieces(len(own)):
            yield np.abs(own[part].numpy())


def _place_of(parts: Parts, size: float, number: int) -> int:
    """Where the element is that is the `number`-th of that magnitude."""
    import numpy as np

    start = 0
    for sizes in _sizes(parts):
        found = np.flatnonzero(sizes == size)
        if number <= len(found):
            return start + int(found[number - 1])
        number, start = number - len(found), start + len(sizes)
    raise ValueError(f"fewer elements have the magnitude {size} than were counted")


def _between(parts: Parts, numel: int, count: int) -> tuple[float, float]:
    """Two magnitudes between which the `count`-th largest almost certainly lies, from elements all over the tensor."""
    import numpy as np

    if numel <= _SAMPLE:
        return 0.0, math.inf
    # Odd, as rows have an even number of elements: a sample of a few columns would tell little.
    step, start, some = numel // _SAMPLE | 1, 0, []
    for own in parts():
        some.append(np.abs(own[-start % step :: step].numpy()))
        start += len(own)
    sample = np.sort(np.concatenate(some))[::-1]
    share = count / numel
    place, most = share * len(sample), _DEVIATIONS * math.sqrt(len(sample) * share * (1 - share)) + 1
    first, last = math.floor(place - most), math.ceil(place + most)
    return (
        float(sample[last]) if last < len(sample) else 0.0,
        float(sample[first]) if first >= 0 else math.inf,
    )
