"""Task arithmetic: what the experts learned, added up."""

from __future__ import annotations

from fusehub.methods.base import Layer, Merged
from fusehub.methods.registry import merge_method
from fusehub.methods.task_vectors.base import TaskOptions, TaskShare, add_up, differences, factors_of


class TaskArithmeticOptions(TaskOptions):
    """Options of `task_arithmetic`."""


@merge_method(
    "task_arithmetic",
    title="Task arithmetic",
    summary="Adds each expert's difference to the base, times its weight, to the base. Elementwise and cheap.",
    when="Experts of different tasks over one base, with weights well below 1 (0.3 each is usual); a negative weight "
    "takes away what an expert learned. Weights of 1 for experts of one task go too far: use regmean or the mean.",
    paper="https://arxiv.org/abs/2212.04089",
    options=TaskArithmeticOptions,
    own_options=TaskShare,
    base="needed",
    factors=factors_of,
    negative_weights=True,
    models=(1, None),
)
def task_arithmetic(layer: Layer, options: TaskArithmeticOptions) -> Merged:
    """`W_0 + λ Σ w_i δ_i` (Ilharco et al. 2023, "Editing models with task arithmetic")."""
    return add_up(layer, differences(layer), options)
