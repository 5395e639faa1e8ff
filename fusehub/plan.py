"""The plan of a merge: what will be done with every tensor, why, and what it will cost, before weights are read.

Made from headers, configs and the metadata of statistics alone. `merge.py` carries it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from fusehub.checkpoint import Checkpoint, Shard, TensorInfo, headers, plan_shards, weight_hashes
from fusehub.compat import Report, check
from fusehub.errors import BadRecipe, BadStatistics, Incompatible
from fusehub.labels import LabelPlan
from fusehub.layers import Layout, Linear, layout_of, plain_layout
from fusehub.methods import Method, find_method
from fusehub.methods.registry import Options
from fusehub.methods.settings import Settings, depths
from fusehub.recipe import ModelEntry, Recipe
from fusehub.refs import ModelRef, resolve, short_names
from fusehub.statistics.datafree import DATA_FREE, DataFree
from fusehub.statistics.sources import FoundStatistics, find_statistics
from fusehub.tasks import load_config

MAX_SHARD_SIZE = 5 * 10**9
# What importing torch and transformers takes before any tensor is read; measured on Linux.
_PROCESS_BYTES = 450 * 2**20


@dataclass(frozen=True)
class TensorPlan:
    """What will be done with one tensor of the merged model.

    `name` is its name in the merged file, `sources` its name in each expert's file, in order. `action` is `solve`
    (the method, with statistics), `combine` (the method, element by element), `mean`, or `copy` (from the first).
    """

    name: str
    parameter: str
    info: TensorInfo
    sources: tuple[str, ...]
    base: str | None
    action: str
    why: str
    linear: Linear | None = None
    label_axis: int | None = None
    is_head: bool = False
    is_body_matrix: bool = False
    """A matrix of the part that experts of one base share: what tells relatives from strangers."""
    options: Options | None = None
    own: tuple[Any, ...] = ()
    """The method's options for this tensor, and those of each model."""

    @property
    def coefficients(self) -> list[float]:
        """The weight of each model in this tensor."""
        return [own.weight for own in self.own]


@dataclass(frozen=True)
class Plan:
    """A merge that is ready to be carried out."""

    recipe: Recipe
    method: Method
    settings: Settings
    experts: tuple[ModelRef, ...]
    base: ModelRef | None
    names: tuple[str, ...]
    layout: Layout
    labels: LabelPlan
    tensors: dict[str, TensorPlan]
    shards: tuple[Shard, ...]
    statistics: tuple[FoundStatistics | DataFree, ...]
    hashes: tuple[dict[str, str], ...]
    report: Report
    force: bool = False
    notes: tuple[str, ...] = ()
    cost: dict[str, int] = field(default_factory=dict)

    @property
    def weights(self) -> list[Any]:
        """Each model's weight as the recipe says it: a number, or what it is by layer."""
        common = self.settings.common.get("weight", 1.0)
        return [said.get("weight", common) for said in self.settings.models]

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data, for `--json` and the report beside a merge."""
        return {
            "method": self.method.name,
            "options": self.settings.written(),
            "models": [ref.id for ref in self.experts],
            "base": self.base.id if self.base else None,
            "heads": self.labels.policy,
            "labels": list(self.labels.labels),
            "findings": [{"level": f.level, "what": f.what, "fix": f.fix} for f in self.report.findings],
            "notes": list(self.notes),
            "statistics": [found.origin for found in self.statistics],
            "cost": dict(self.cost),
            "tensors": [
                {
                    "name": tensor.name,
                    "shape": list(tensor.info.shape),
                    "dtype": tensor.info.dtype,
                    "action": tensor.action,
                    "why": tensor.why,
                }
                for tensor in self.tensors.values()
            ],
        }


def plan_merge(
    recipe: Recipe,
    *,
    force: bool = False,
    max_shard_size: int = MAX_SHARD_SIZE,
    token: str | None = None,
) -> Plan:
    """The plan of `recipe`. Raises a `FuseHubError` that lists all problems if it cannot be carried out.

    `force` goes on where models look unrelated, or statistics were made for other weights.
    """
    method = find_method(recipe.merge_method)
    recipe, experts, base = _cast(recipe, method, token)
    settings = Settings.of(method, recipe.parameters, [entry.parameters for entry in recipe.models])
    given = {ref.name: list(entry.labels) for ref, entry in zip(experts, recipe.models, strict=True) if entry.labels}
    with ThreadPoolExecutor() as pool:
        hashing = [pool.submit(weight_hashes, ref) for ref in experts]
        import torch  # noqa: F401  # takes a second, which hashing fills

        report = check(experts, base=base, heads=recipe.heads, labels=given)
    if not force:
        report.require_ok()
    if report.labels is None:
        report.require_ok()
        raise Incompatible("The models' heads cannot be planned.", "Say --heads keep.")
    hashes = tuple(future.result() for future in hashing)
    _check_provenance(recipe, experts, hashes)
    statistics: list[FoundStatistics | DataFree] = []
    if method.needs_statistics:
        statistics = _find_all(recipe, experts, hashes, force, data_free=method.data_free)
    layout = _layout(method, experts, base, report.labels)
    planner = _Planner(recipe, method, experts, base, layout, report.labels, statistics, settings)
    tensors = planner.tensors()
    _require_usable(recipe, method, tensors.values(), statistics, experts, base)
    return Plan(
        recipe=recipe,
        method=method,
        settings=settings,
        experts=tuple(experts),
        base=base,
        names=tuple(short_names(experts)),
        layout=layout,
        labels=report.labels,
        tensors=tensors,
        shards=tuple(plan_shards({name: plan.info for name, plan in tensors.items()}, max_shard_size)),
        statistics=tuple(statistics),
        hashes=hashes,
        report=report,
        force=force,
        notes=(
            *_forced(experts, statistics, hashes),
            *_without_data(experts, statistics, method),
            *_diagonal(experts, statistics),
            *planner.notes,
        ),
        cost=_cost(tensors.values(), method, experts, statistics, report),
    )


class _Planner:
    """Decides for each tensor, from what is known of the models."""

    def __init__(
        self,
        recipe: Recipe,
        method: Method,
        experts: Sequence[ModelRef],
        base: ModelRef | None,
        layout: Layout,
        labels: LabelPlan,
        statistics: Sequence[FoundStatistics | DataFree],
        settings: Settings,
    ) -> None:
        self.recipe, self.method, self.layout, self.labels = recipe, method, layout, labels
        self.settings = settings
        self.experts, self.rows = experts, [found.rows for found in statistics]
        self.data_free = [isinstance(found, DataFree) for found in statistics]
        self.infos = [_infos(ref) for ref in experts]
        # For each expert: the model's parameter -> the name in its file.
        self.files = [_parameters(layout, infos) for infos in self.infos]
        self.base_infos = _infos(base) if base else {}
        self.base_files = _parameters(layout, self.base_infos) if base else {}
        self.notes: list[str] = []
        self._uncounted: list[str] = []

    def tensors(self) -> dict[str, TensorPlan]:
        first = self.files[0]
        self.depths = depths(name for parameter, name in first.items() if self._in_body(parameter))
        plans = {}
        for parameter, name in first.items():
            lacking = [ref.name for ref, own in zip(self.experts, self.files, strict=True) if parameter not in own]
            if (lacking and self._is_shared(parameter)) or self._is_tied(parameter):
                continue
            if lacking:
                raise Incompatible(
                    f"{', '.join(lacking)} has no tensor {parameter}, which {self.experts[0].name} has.",
                    "Merge models that were saved from the same architecture.",
                )
            plans[name] = self._tensor(parameter, name)
        if self._uncounted:
            self.notes.append(
                f"{len(self._uncounted)} linear layers have no statistics of every expert and are averaged: "
                + ", ".join(self._uncounted[:3]) + (", ..." if len(self._uncounted) > 3 else "")
            )  # fmt: skip
        for text in self.settings.filters():
            if not any(text in name for name in plans):
                self.notes.append(f"No tensor has '{text}' in its name: what the recipe says of it holds nowhere.")
        return plans

    def _is_shared(self, parameter: str) -> bool:
        """Whether the parameter is only another name of one that all experts have, or is computed and not trained."""
        return parameter in self.layout.tied or parameter.endswith(("position_ids", "token_type_ids"))

    def _is_tied(self, parameter: str) -> bool:
        """Whether every expert's file holds under this name only a second copy of a tensor that it shares.

        Loading shares it again. Configs do not tell: transformers says of every T5 that its head is tied, also of
        those (v1.1) whose head is their own.
        """
        shared = self.layout.tied.get(parameter)
        if shared is None or not all({parameter, shared} <= set(own) for own in self.files):
            return False
        if any(ref.config.get("tie_word_embeddings") is False for ref in self.experts):
            return False
        import torch

        for ref, own in zip(self.experts, self.files, strict=True):
            with Checkpoint(ref) as checkpoint:
                if not torch.equal(checkpoint.read(own[parameter]), checkpoint.read(own[shared])):
                    return False
        return True

    def _tensor(self, parameter: str, name: str) -> TensorPlan:
        sources = tuple(own[parameter] for own in self.files)
        infos = [own[source] for own, source in zip(self.infos, sources, strict=True)]
        axis = self.layout.label_axes.get(parameter)
        linear = self.layout.linears.get(parameter)
        action, why = self._action(parameter, infos, sources)
        info = self._stored(infos[0], axis)
        options, own = self.settings.at(name, self.depths.get(name, 0.0))
        if axis is None and len({i.shape for i in infos}) > 1:
            raise Incompatible(
                f"{name} has different shapes: {', '.join(str(list(i.shape)) for i in infos)}.",
                "Merge models of one base with one tokenizer.",
            )
        return TensorPlan(
            name=name,
            parameter=parameter,
            info=info,
            sources=sources,
            base=self.base_files[parameter] if self._has_update(parameter, infos) else None,
            options=options,
            own=own,
            action=action,
            why=why,
            linear=linear,
            label_axis=axis,
            is_body_matrix=len(info.shape) == 2 and self._in_body(parameter),
            is_head=self.labels.policy == "keep" and not self._in_body(parameter),
        )

    def _action(self, parameter: str, infos: Sequence[TensorInfo], sources: Sequence[str]) -> tuple[str, str]:
        if not infos[0].is_float:
            return "copy", "not made of real numbers"
        if self.method.base == "needed" and not self._has_update(parameter, infos):
            return "mean", "the base has no such tensor"
        if not self.method.needs_statistics:
            return "combine", self.method.title
        if parameter not in self.layout.linears:
            return "mean", "not a linear layer's weight"
        known = zip(self.experts, self.rows, self.data_free, sources, strict=True)
        lacking = [ref.name for ref, rows, data_free, source in known if not data_free and not rows.get(source)]
        if lacking:
            self._uncounted.append(sources[0])
            return "mean", f"no input rows in the statistics of {', '.join(lacking)}"
        updated = [ref.name for ref, data_free in zip(self.experts, self.data_free, strict=True) if data_free]
        if updated and not self._has_update(parameter, infos):
            self._uncounted.append(sources[0])
            return "mean", f"the base has no such tensor, so {', '.join(updated)} has no update of it"
        return "solve", self.method.title

    def _has_update(self, parameter: str, infos: Sequence[TensorInfo]) -> bool:
        """Whether the base has the same tensor, so that what an expert learned is the difference."""
        if parameter not in self.base_files:
            return False
        if parameter in self.layout.label_axes and not self.labels.is_identity:
            return False
        return self.base_infos[self.base_files[parameter]].shape == infos[0].shape

    def _stored(self, info: TensorInfo, axis: int | None) -> TensorInfo:
        dtype = self.recipe.stored_dtype if info.is_float and self.recipe.stored_dtype else info.dtype
        shape = list(info.shape)
        if axis is not None and self.labels.policy == "merge":
            shape[axis] = len(self.labels.labels)
        return TensorInfo(dtype, tuple(shape))

    def _in_body(self, parameter: str) -> bool:
        return self.layout.in_body(parameter)


def _layout(method: Method, experts: Sequence[ModelRef], base: ModelRef | None, labels: LabelPlan) -> Layout:
    """The architecture's layout; a plain one, which needs no transformers, where all files are alike and nothing
    depends on what a tensor is."""
    if not method.needs_statistics and base is None and labels.policy == "merge" and labels.is_identity:
        infos = [headers(ref) for ref in experts]
        shapes = [own and {name: info.shape for name, info in own.items()} for own in infos]
        if shapes[0] and all(own == shapes[0] for own in shapes):
            return plain_layout(experts[0].config["architectures"][0], shapes[0])
    return layout_of(load_config(experts[0]))


def _infos(ref: ModelRef) -> dict[str, TensorInfo]:
    known = headers(ref)
    if known is not None:
        return dict(known)
    with Checkpoint(ref) as checkpoint:  # A .bin has no header: it is downloaded and opened.
        return checkpoint.tensors


def _parameters(layout: Layout, infos: dict[str, TensorInfo]) -> dict[str, str]:
    return {parameter: name for name, parameter in layout.names(infos).items()}


def _cast(recipe: Recipe, method: Method, token: str | None) -> tuple[Recipe, list[ModelRef], ModelRef | None]:
    """Who plays which part: the models that are merged, and the base.

    As in mergekit, the base may be listed among the models. A method that works on differences to it does not count
    it then; one that begins at it (SLERP) has it as its first model, listed or not.
    """
    base = resolve(recipe.base_model, token=token) if recipe.base_model else None
    cast = [(entry, resolve(entry.model, token=token)) for entry in recipe.models]
    if base is None and method.base == "needed":
        raise BadRecipe(
            f"{method.title} adds differences to a base, and the recipe names none.",
            "Say --base MODEL: the pretrained model that the experts share.",
        )
    if base is not None and method.base != "optional":
        others = [(entry, ref) for entry, ref in cast if ref.id != base.id]
        own = [(entry, ref) for entry, ref in cast if ref.id == base.id]
        cast = others
        if method.base == "end":
            cast = [*(own[:1] or [(ModelEntry(model=recipe.base_model), base)]), *others]
    fewest, most = method.models
    if not fewest <= len(cast) <= (most or len(cast)):
        wanted = f"exactly {fewest}" if fewest == most else f"at least {fewest}"
        raise BadRecipe(
            f"{method.title} merges {wanted} model{'s' if fewest > 1 else ''}"
            f"{' beside the base' if method.base == 'needed' else ''}, and the recipe has {len(cast)}.",
            "Name more or fewer models, or choose another method: `fusehub methods`.",
        )
    recipe = recipe.model_copy(update={"models": tuple(entry for entry, _ in cast)})
    return recipe, [ref for _, ref in cast], base


def _require_shares(method: Method, tensor: TensorPlan) -> None:
    """Raises `BadRecipe` where weights cannot be used, naming the tensor where they are not the same for all."""
    weights = tensor.coefficients
    if any(weight < 0 for weight in weights) and not method.negative_weights:
        raise BadRecipe(
            f"The weights {', '.join(f'{weight:g}' for weight in weights)} (of {tensor.name}) cannot be used: "
            f"{method.title} has no sense for negative ones.",
            "Give weights that are not negative, or take what was learned away by task_arithmetic.",
        )
    if method.base != "needed" and not any(weights):
        raise BadRecipe(
            f"All models have the weight 0 in {tensor.name}.", "Give at least one of them a weight above zero."
        )


def _find_all(
    recipe: Recipe,
    experts: Sequence[ModelRef],
    hashes: Sequence[dict[str, str]],
    force: bool,
    *,
    data_free: bool,
) -> list[FoundStatistics | DataFree]:
    """Statistics of every expert; the error names all experts that have none. `data_free`: the method wants none."""
    from fusehub.errors import NotFound

    found, problems = [], []
    for ref, entry, own in zip(experts, recipe.models, hashes, strict=True):
        if data_free or entry.statistics == DATA_FREE:
            found.append(DataFree())
            continue
        try:
            found.append(find_statistics(ref, entry.statistics, hashes=own, force=force))
        except (NotFound, BadStatistics) as error:
            problems.append(error)
    if problems:
        kind = type(problems[0])
        raise kind("\n".join(error.what for error in problems), "\n     ".join(dict.fromkeys(e.fix for e in problems)))
    return found


def _require_usable(
    recipe: Recipe,
    method: Method,
    tensors: Iterable[TensorPlan],
    statistics: Sequence[FoundStatistics | DataFree],
    experts: Sequence[ModelRef],
    base: ModelRef | None,
) -> None:
    """Raises `BadRecipe` where what is asked for needs more than there is."""
    data_free = [ref.name for ref, found in zip(experts, statistics, strict=False) if isinstance(found, DataFree)]
    if data_free and base is None:
        raise BadRecipe(
            f"Without data, what {', '.join(data_free)} learned is its difference to the base, and no base is said.",
            "Say --base MODEL: the pretrained model that the experts share.",
        )
    blind = data_free + [
        ref.name
        for ref, found in zip(experts, statistics, strict=False)
        if (found.metadata.get("imported") or {}).get("means") is False
    ]
    if base is None and recipe.scale != 1:
        raise BadRecipe("scale needs the base model that the experts share.", "Say --base MODEL.")
    for tensor in tensors:
        _require_shares(method, tensor)
        if base is None and getattr(tensor.options, "anchor", None) == "base":
            raise BadRecipe("anchor=base needs the base model that the experts share.", "Say --base MODEL.")
        if blind and getattr(tensor.options, "affine", False):
            raise BadRecipe(
                f"affine solves biases from the mean inputs, which are not known of {', '.join(blind)}.",
                "Leave affine out, or give statistics that were collected with FuseHub.",
            )


def _forced(
    experts: Sequence[ModelRef], statistics: Sequence[FoundStatistics | DataFree], hashes: Sequence[dict[str, str]]
) -> list[str]:
    """What has to be said of statistics that are used although they were made for other weights."""
    return [
        f"The statistics {found.origin} were made for other weights than those of {ref.name}: used because of force."
        for ref, found, own in zip(experts, statistics, hashes, strict=False)
        if not isinstance(found, DataFree)
        and sorted(found.metadata["model"]["weights"].values()) != sorted(own.values())
    ]


def _without_data(
    experts: Sequence[ModelRef], statistics: Sequence[FoundStatistics | DataFree], method: Method
) -> list[str]:
    """What has to be said of experts without statistics, where the method itself would take them."""
    names = [ref.name for ref, found in zip(experts, statistics, strict=False) if isinstance(found, DataFree)]
    if not names or method.data_free:
        return []
    return [f"Without statistics: {', '.join(names)}. The difference to the base stands in for them (data-free)."]


def _diagonal(experts: Sequence[ModelRef], statistics: Sequence[FoundStatistics | DataFree]) -> list[str]:
    """What has to be said of statistics that are less than grams."""
    notes = []
    for ref, found in zip(experts, statistics, strict=False):
        encodings = [layer.get("encoding") for layer in found.metadata.get("layers", {}).values()]
        if "diagonal" in encodings:
            kind = (found.metadata.get("imported") or {}).get("from", "sums of squares")
            notes.append(
                f"{ref.name}: {encodings.count('diagonal')} grams are known by their diagonal alone ({kind}): they "
                "count input by input, whatever alpha."
            )
    return notes


def _check_provenance(recipe: Recipe, experts: Sequence[ModelRef], hashes: Sequence[dict[str, str]]) -> None:
    """A recipe that FuseHub wrote says which weights it was made from: they must be those that are here now."""
    recorded = (recipe.provenance or {}).get("weights")
    if recorded is None:
        return
    for ref, own, said in zip(experts, hashes, recorded, strict=True):
        if sorted(own.values()) != sorted(said.values()):
            raise Incompatible(
                f"{ref.name} has other weights now than when this recipe was written.",
                "Name the commit that was used, or delete `provenance` from the recipe to merge what is there now.",
            )


def _cost(
    tensors: Iterable[TensorPlan],
    method: Method,
    experts: Sequence[ModelRef],
    statistics: Sequence[FoundStatistics | DataFree],
    report: Report,
) -> dict[str, int]:
    """Bytes to download, to write, and at the peak in memory; multiplications in units of 10^9."""
    tensors = list(tensors)
    output = sum(tensor.info.nbytes for tensor in tensors)
    peak = flops = 0
    for tensor in tensors:
        if tensor.action == "combine" and method.whole_tensor:
            # What is read, the same in wide numbers, masks and sums; and what was merged before and is not written.
            peak = max(peak, (2 * len(experts) + 6) * tensor.info.numel * 8)
        if tensor.action != "solve":
            continue
        size, numel = tensor.linear.in_features, tensor.info.numel
        # Grams as stored, one unpacked, their sum and its factor; weights, their differences and the right side.
        peak = max(peak, len(experts) * size * size * 2 + 4 * size * size * 8 + (2 * len(experts) + 4) * numel * 8)
        # ΔᵀΔ is made for the sum, and again for the right side.
        updates = 2 * sum(isinstance(found, DataFree) for found in statistics)
        flops += (2 * len(experts) + 2 + updates) * numel * size + size**3 // 3
    return {
        "download_bytes": report.download,
        "output_bytes": output,
        "memory_bytes": _PROCESS_BYTES + peak,
        "gflop": flops // 10**9,
    }
