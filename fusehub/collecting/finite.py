"""What is counted must be finite: statistics of a model whose numbers are not would spoil all that uses them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fusehub.collecting.probes import masks_of
from fusehub.errors import NonFinite

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fusehub.collecting.probes import Batch
    from fusehub.statistics.grams import GramSum


def require_finite_weights(network: nn.Module, name: str) -> None:
    """Raises `NonFinite` naming the first weight of the model `name` that is not; those kept on a disk are passed
    over."""
    require_finite(dict(network.named_parameters()), name)


def require_finite(weights: Mapping[str, Tensor], name: str) -> None:
    """The same of `weights` by their names."""
    for parameter, value in weights.items():
        if value.is_floating_point() and not value.is_meta and not _is_finite(value):
            raise NonFinite(f"{name}: {parameter} holds NaN or infinity.", "Use a checkpoint that is not broken.")


def require_finite_pass(sums: Mapping[str, GramSum], batch: Batch, output: Any, name: str) -> None:
    """Raises `NonFinite` naming the first layer whose inputs are not, or the output itself, after a forward.

    `output` is the model's, None where there is none to be looked at, or a tensor: the states that its last layer,
    which tells tokens and was not run, is given.
    """
    import torch

    for weight, own in sums.items():
        if not _is_finite(own.total):
            raise _overflowed(name, f"what {weight} is given")
    # What a model says of padding is not looked at by anybody.
    is_given = isinstance(output, torch.Tensor)
    value = output if is_given or output is None else output[0]
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or _is_finite(value):
        return
    for mask in masks_of(batch).values():
        if value.shape[:2] == mask.shape:
            value = value[mask.to(value.device)]
            break
    if is_given:
        if not _is_finite(value):
            raise _overflowed(name, "what the layer that tells tokens is given")
        return
    require_finite_logits(value, name)


def require_finite_logits(value: Tensor, name: str) -> None:
    """Raises `NonFinite` where what the model `name` tells is not; minus infinity is how some say that a token never
    comes."""
    if not _is_finite(value) and bool(value.isnan().any() | value.isposinf().any()):
        raise _overflowed(name, "the output")


def require_finite_sums(sums: Mapping[str, GramSum], name: str) -> None:
    """Raises `NonFinite` naming the first layer whose sums are not: squares overflow before the inputs do."""
    for weight, own in sums.items():
        if not all(map(_is_finite, own.tensors())):
            raise _overflowed(name, f"the square of what {weight} is given")


def _is_finite(value: Tensor) -> bool:
    """NaN and infinity survive a sum, so one sum tells whether to look closer."""
    import torch

    narrow = value.dtype in (torch.float16, torch.bfloat16)
    total = value.detach().sum(dtype=torch.float32 if narrow else None)
    return math.isfinite(total) or bool(torch.isfinite(value).all())


def _overflowed(name: str, what: str) -> NonFinite:
    return NonFinite(
        f"{name}: {what} is NaN or infinity.",
        "The model's numbers grow too large on these texts, or its weights are broken: check how it was made, and "
        "whether it was made for another dtype.",
    )
