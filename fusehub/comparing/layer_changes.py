"""What each layer of a merge kept of each expert: by how much the layer changed, from the expert's point of view.

    found = layer_changes("merged")
    found.changes[0]     # LayerChange(layer="encoder.layer.0.attention.self.query", expert="expert-1", ...)

For expert `i` with the weight `W_i` of a linear layer, [out, in], and the merge's `W`:

    weights = ‖W − W_i‖ / ‖W_i‖
    outputs = (tr((W − W_i) S_i (W − W_i)ᵀ) / tr(W_i S_i W_iᵀ))^½

`outputs` is the same over the inputs that the expert's texts give to the layer, `S_i` the sum of their squares: by how
much what the layer gives changed, its bias left out. Both are 0 where the layer is the expert's own. They tell where
a merge left an expert; how well the merge does, they do not: layers make up for each other, and a residual does not
rank merges by accuracy (`fusehub.evaluate` does).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.errors import Incompatible, NotFound
from fusehub.hub.access import Access
from fusehub.merging.plan import Plan, plan_by
from fusehub.merging.planner import TensorPlan
from fusehub.merging.recipe import FILENAME, Recipe
from fusehub.models.checkpoints.checkpoint import Checkpoint, fetch_weights
from fusehub.models.known.layouts import layout_for
from fusehub.models.ref import ModelRef, short_names
from fusehub.models.resolve import ref_of
from fusehub.utils.findings import CODES, Allowed
from fusehub.utils.progress import Progress, silent
from fusehub.utils.symmetric import add_strip_product

if TYPE_CHECKING:
    from torch import Tensor

    from fusehub.merging.sources.source import SourceLayer


@dataclass(frozen=True)
class LayerChange:
    """By how much one linear layer changed for one expert: relative to its weights, and to what it gives for the
    expert's own texts, where the merge was made by statistics of these."""

    layer: str
    expert: str
    weights: float
    outputs: float | None

    @property
    def main(self) -> float:
        """`outputs` where they are known, else `weights`."""
        return self.weights if self.outputs is None else self.outputs


@dataclass(frozen=True)
class LayerChanges:
    """A merge layer by layer, in the order of the model.

    Attributes:
        merged: The merge's name.
        experts: What went into it.
        layers: Its linear layers, but for heads whose labels were matched.
        changes: One for each layer and expert.

    Examples:
        >>> merged = fusehub.merge(["user/expert-1", "user/expert-2"], "merged")
        >>> found = fusehub.layer_changes(merged.folder)
        >>> found.experts
        ['expert-1', 'expert-2']
        >>> len(found.changes) == len(found.experts) * len(found.layers)
        True
    """

    merged: str
    experts: list[str]
    layers: list[str]
    changes: list[LayerChange]

    @property
    def of_outputs(self) -> bool:
        """Whether the change of what layers give is known of all."""
        return all(change.outputs is not None for change in self.changes)

    def rows(self) -> list[dict[str, Any]]:
        """One row a layer for a table.

        Returns:
            Its name, and each expert's change of outputs, or of weights where one of the outputs is not known.
        """
        by_layer: dict[str, dict[str, Any]] = {layer: {"layer": layer} for layer in self.layers}
        for change in self.changes:
            by_layer[change.layer][change.expert] = change.main if self.of_outputs else change.weights
        return list(by_layer.values())

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it.

        Returns:
            Each attribute by its name, `of_outputs` and the `rows`.
        """
        return asdict(self) | {"of_outputs": self.of_outputs, "rows": self.rows()}


def layer_changes(
    model: str | Path | ModelRef,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    token: bool | str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    progress: Progress = silent,
) -> LayerChanges:
    """What each linear layer of a merge kept of each expert, from the files of all and the recipe beside the merge.

    One layer at a time is in memory. Statistics are read where the merge was made by them.

    Args:
        model: The folder that `merge` wrote, or a repo that it was pushed to.
        revision: The commit, branch or tag of the repo, where the name does not say it.
        subfolder: The folder in it that holds the merge, where the name does not say it.
        token: The Hub's token; None for the one of `hf auth login` if there is one, True where there must be, False
            for none.
        cache_dir: Where downloads lie; the Hub's cache of this machine where nothing is said.
        local_files_only: Read what is in the cache already, and ask the Hub for nothing.
        progress: Called with (done, total, what).

    Returns:
        The changes, layer by layer.

    Raises:
        NotFound: There is no recipe of FuseHub beside the model, or an expert or its statistics are gone.
        Incompatible: The merge has none of the layers, as one that was written as an adapter.

    Examples:
        >>> merged = fusehub.merge(["user/expert-1", "user/expert-2"], "merged", method="mean")
        >>> [change.outputs for change in fusehub.layer_changes(merged.folder).changes][:2]  # no statistics were used
        [None, None]
    """
    access = Access(token, cache_dir, local_files_only)
    named = model if isinstance(model, ModelRef) else str(model)
    ref = ref_of(named, access, revision=revision, subfolder=subfolder)
    # It was made: whatever speaks against it was allowed then.
    ignorable = frozenset(code for code, kind in CODES.items() if kind.ignorable)
    plan = plan_by(Recipe.read(_recipe_of(ref)), access, allowed=Allowed(True, True, ignorable))
    changes = [change for own in _measured(ref, plan, progress) for change in own]
    if not changes:
        raise Incompatible(
            f"{ref.name} has no linear layer of its experts' under its name.",
            "Give the folder of a merge that holds whole weights; an adapter does not.",
        )
    layers = list(dict.fromkeys(change.layer for change in changes))
    return LayerChanges(short_names([ref])[0], list(plan.names), layers, changes)


def _recipe_of(ref: ModelRef) -> Path:
    if FILENAME in ref.files:
        return ref.path(FILENAME)
    # Where every expert keeps its head, the recipe is in the folder above.
    if ref.folder is not None and (ref.folder.parent / FILENAME).is_file():
        return ref.folder.parent / FILENAME
    raise NotFound(
        f"{ref.name} has no {FILENAME}, so nobody knows what it was merged from.", "Give a merge that FuseHub made."
    )


def _measured(ref: ModelRef, plan: Plan, progress: Progress) -> Iterator[list[LayerChange]]:
    """The changes of each layer, in the order of the model."""
    fetch_weights([ref, *plan.experts])
    with ExitStack() as files:
        merge = files.enter_context(Checkpoint(ref))
        experts = [files.enter_context(Checkpoint(own)) for own in plan.experts]
        statistics: list[Mapping[str, SourceLayer]] = []
        if not (plan.method.needs_fisher or plan.method.needs_data):
            statistics = [
                {} if found.stands_by_update else files.enter_context(found.open()) for found in plan.statistics
            ]
        tensors = [tensor for tensor in plan.tensors.values() if _is_compared(tensor) and tensor.name in merge]
        # As the model has them: files have their tensors by name, what comes after all blocks before the second one.
        places = {parameter: place for place, parameter in enumerate(layout_for(plan.experts[0]).linears)}
        tensors.sort(key=lambda tensor: places[tensor.parameter])
        for number, tensor in enumerate(tensors):
            progress(number, len(tensors), "layers")
            yield _of_layer(tensor, merge, experts, statistics, plan.names)
        progress(len(tensors), len(tensors), "layers")


def _is_compared(tensor: TensorPlan) -> bool:
    """Whether it is a linear layer's weight, of which all models have all rows."""
    is_whole = tensor.label_axis is None and not tensor.is_head and not tensor.token_rows
    return tensor.linear is not None and len(tensor.info.shape) == 2 and is_whole


def _of_layer(
    tensor: TensorPlan,
    merge: Checkpoint,
    experts: Sequence[Checkpoint],
    statistics: Sequence[Mapping[str, SourceLayer]],
    names: Sequence[str],
) -> list[LayerChange]:
    layer = tensor.layer
    merged = merge.read(tensor.name).double()
    result = []
    for index, (expert, name) in enumerate(zip(experts, names, strict=True)):
        own = expert.read(tensor.sources[index]).double()
        difference = merged - own
        weights = _ratio(float(difference.square().sum()), float(own.square().sum()))
        counted = statistics[index].get(tensor.sources[index]) if statistics else None
        outputs = None
        if counted is not None and counted.rows:
            sizes = [_output(weight.T if layer.transposed else weight, counted) for weight in (difference, own)]
            outputs = _ratio(*sizes)
        result.append(LayerChange(layer.module, name, weights, outputs))
    return result


def _output(weight: Tensor, statistics: SourceLayer) -> float:
    """tr(W S Wᵀ), the sum of the squares of what the layer gives for the inputs that were counted: [out, in]."""
    import torch

    product = torch.zeros_like(weight)  # W S, [out, in]
    for strip in statistics.strips(torch.float64):
        add_strip_product(strip, weight, product)
    return float((product * weight).sum())


def _ratio(change: float, size: float) -> float:
    """Of two sums of squares; what has no size has not changed."""
    return (max(change, 0.0) / size) ** 0.5 if size > 0 else 0.0
