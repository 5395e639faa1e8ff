"""Whether what was merged is numbers, and whose fault it is where it is not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fusehub.errors import Action, NonFinite
from fusehub.merging.engine.elementwise import Work
from fusehub.merging.plan import Plan
from fusehub.models.tensor_files import dtype_name

if TYPE_CHECKING:
    from torch import Tensor


def require_finite(plan: Plan, work: Work, merged: Tensor, inputs: Callable[[Work], Sequence[Tensor]]) -> None:
    """Raises `NonFinite`, naming the model where one of the `inputs` is not finite, read once more only then.

    NaN and infinity survive a sum, so one sum tells whether to look closer.
    """
    import torch

    if math.isfinite(merged.sum(dtype=torch.float32 if merged.dtype == torch.float16 else None)):
        return
    tensor = work.tensor
    names = [ref.name for index, ref in enumerate(plan.experts) if work.has(index)]
    names += [plan.base.name] if plan.base else []
    for name, value in zip(names, inputs(work), strict=False):
        if not bool(torch.isfinite(value).all()):
            raise NonFinite(f"{name}: {tensor.name} holds NaN or infinity.", "Use a checkpoint that is not broken.")
    if not bool(torch.isfinite(merged).all()):
        raise NonFinite(
            f"{tensor.name}: the merged values do not fit into {dtype_name(merged.dtype)}.",
            "Take smaller weights, or a smaller lambda or scale."
            if merged.dtype == torch.float32
            else "Store the result in a wider dtype: --dtype float32.",
            actions=[Action("choose-dtype")],
        )
