"""What becomes of each tensor of a merge, decided from headers, configs and the metadata of statistics alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fusehub.checking.heads import LabelPlan
from fusehub.collecting.routing import FEWEST_ROWS, mixture_of, mixture_rows, notes_of, shares_of
from fusehub.errors import Action, BadRecipe, Incompatible
from fusehub.merging.cast import Cast
from fusehub.merging.sources.source import StatisticsSource
from fusehub.methods import Method
from fusehub.methods.base import Options
from fusehub.methods.by_layer import depths
from fusehub.models.checkpoints.checkpoint import Checkpoint, headers
from fusehub.models.completeness import stored_by_some
from fusehub.models.known.layouts import layout_like
from fusehub.models.layout import Layout, Linear
from fusehub.models.quantised.float8 import BLOCK, FLOAT8, REST, can_be_float8
from fusehub.models.resolve import ModelRef
from fusehub.models.tensor_files import TensorInfo
from fusehub.models.ties import merged_parameters, stored_names, tie_notes
from fusehub.utils.findings import incompatible


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
    depth: float = 0.0
    """How deep in the model it lies, 0 to 1, which options may depend on."""
    options: Options = field(default_factory=Options)
    own: tuple[Any, ...] = ()
    """The method's options for this tensor, and those of each model."""
    token_axis: int = 0
    token_rows: tuple[int, ...] = ()
    """Where models know different numbers of tokens: the axis along which these run, and how many each has."""
    base_rows: int | None = None
    """How many the base has then, where it has the tensor."""
    shares: tuple[float, ...] = ()
    """Of a mixture's matrix that is solved: the share of each model's tokens that were routed to it."""

    @property
    def layer(self) -> Linear:
        """The linear layer whose weight this is, of a tensor that is solved."""
        assert self.linear is not None
        return self.linear

    @property
    def coefficients(self) -> list[float]:
        """The weight of each model in this tensor."""
        return [own.weight for own in self.own]


def weights_of_biases(tensors: Mapping[str, TensorPlan], method: Method) -> dict[str, str]:
    """The biases that are solved together with their layer's weight: the name of each -> that of the weight."""
    names = {tensor.parameter: name for name, tensor in tensors.items()}
    return {
        names[bias]: name
        for name, tensor in tensors.items()
        if tensor.action == "solve" and (bias := tensor.layer.bias) in names and method.solves_biases(tensor.options)
    }


def described(tensors: Mapping[str, TensorPlan], method: Method) -> list[dict[str, Any]]:
    """What a person wants to know of each tensor, as plain data."""
    weights = weights_of_biases(tensors, method)
    return [
        {
            "name": tensor.name,
            "shape": list(tensor.info.shape),
            "dtype": tensor.info.dtype,
            "action": tensor.action,
            "why": tensor.why,
            "solved_with": weights.get(tensor.name),
        }
        for tensor in tensors.values()
    ]


@dataclass(frozen=True)
class Planned:
    """What becomes of all tensors."""

    tensors: dict[str, TensorPlan]
    kept: tuple[tuple[str, ...], ...]
    """For each expert the names in its file of what it keeps as it is: its head, and what no other one has."""
    headers: tuple[Mapping[str, TensorInfo], ...]
    """The tensors of each expert, and of the base where there is one."""
    notes: tuple[str, ...]


def planned(cast: Cast, layout: Layout, labels: LabelPlan, statistics: Sequence[StatisticsSource]) -> Planned:
    """Decides for every tensor. Raises `Incompatible` naming one that cannot be merged."""
    planner = _Planner(cast, layout, labels, statistics)
    tensors = planner.tensors()
    kept = planner.kept(tensors)
    return Planned(tensors, kept, planner.headers, tuple(planner.notes))


class _Planner:
    """Decides for each tensor, from what is known of the models."""

    def __init__(self, cast: Cast, layout: Layout, labels: LabelPlan, statistics: Sequence[StatisticsSource]) -> None:
        self.recipe, self.method, self.layout, self.labels = cast.recipe, cast.method, layout, labels
        self.settings, experts, base = cast.settings, cast.experts, cast.base
        self.experts, self.rows = experts, [found.rows for found in statistics]
        self.mixtures = [mixture_rows(rows) for rows in self.rows]
        # The tensors whose Fisher values each expert's statistics have.
        self.fishers = [(found.metadata.get("fisher") or {}).get("exponents", {}) for found in statistics]
        self.data_free = [found.stands_by_update for found in statistics]
        self.infos = [_infos_of(ref) for ref in experts]
        # Experts of different tasks have the body in common, and each its own head.
        self.layouts = [layout_like(ref, layout) for ref in experts]
        self.tasks_differ = any(own is not layout for own in self.layouts)
        # For each expert: the model's parameter -> the name in its file.
        known = zip(experts, self.layouts, self.infos, strict=True)
        self.stored = [stored_names(ref, own, infos) for ref, own, infos in known]
        self.files = [own.at for own in self.stored]
        self.names = merged_parameters(self.stored)
        self.base_infos = _infos_of(base) if base else {}
        self.base_files = stored_names(base, layout, self.base_infos).at if base else {}
        self.headers = (*self.infos, *([self.base_infos] if base else []))
        self.notes: list[str] = []
        self._uncounted: list[str] = []
        self._rows_differ: dict[str, tuple[int, ...]] = {}
        self._rare: list[str] = []
        self._thin: dict[str, dict[str, int]] = {}

    def tensors(self) -> dict[str, TensorPlan]:
        self.depths = depths(name for parameter, name in self.names.items() if self._in_body(parameter))
        plans = {}
        names = [ref.name for ref in self.experts]
        if not self.tasks_differ and (found := list(stored_by_some(self.layout, names, self.infos))):
            raise incompatible(found)
        for parameter, name in self.names.items():
            lacking = [ref.name for ref, own in zip(self.experts, self.files, strict=True) if parameter not in own]
            if lacking and _is_computed(parameter):
                continue
            if self.tasks_differ and (lacking or not self._in_body(parameter)):
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
        if self.recipe.stored_dtype == FLOAT8:
            self.notes.append(_float8_note([plan.info for plan in plans.values()]))
        self.notes += tie_notes(self.experts, self.stored)
        if self._rows_differ:
            self.notes.append(_rows_note(self._rows_differ, self.method))
        self.notes += notes_of(self._rare, self._thin)
        for text in self.settings.filters():
            if not any(text in name for name in plans):
                self.notes.append(f"No tensor has '{text}' in its name: what the recipe says of it holds nowhere.")
        return plans

    def kept(self, tensors: Mapping[str, TensorPlan]) -> tuple[tuple[str, ...], ...]:
        """For each expert the names in its file of what it keeps as it is: its head, and what no other one has.

        (The poolers of some tasks are in the body, and other tasks have none.) Empty where all is merged.
        """
        if self.labels.policy != "keep":
            return ((),) * len(self.experts)
        kept = []
        for index, (layout, own) in enumerate(zip(self.layouts, (names.own for names in self.stored), strict=True)):
            merged = {tensor.sources[index] for tensor in tensors.values() if not tensor.is_head}
            differ = any(len(set(tensor.token_rows)) > 1 for tensor in tensors.values())
            if differ and any(parameter in layout.token_axes for parameter, name in own.items() if name not in merged):
                raise Incompatible(
                    f"{self.experts[index].name} keeps a head with one row a token, and the others know more tokens.",
                    "Merge models of one tokenizer, or leave this one out.",
                )
            kept.append(
                tuple(name for parameter, name in own.items() if name not in merged and not _is_computed(parameter))
            )
        return tuple(kept)

    def _tensor(self, parameter: str, name: str) -> TensorPlan:
        sources = tuple(own[parameter] for own in self.files)
        infos = [own[source] for own, source in zip(self.infos, sources, strict=True)]
        axis = self.layout.label_axes.get(parameter)
        linear = self.layout.linears.get(parameter)
        action, why = self._action(parameter, infos, sources)
        base = self.base_files[parameter] if self._has_update(parameter, infos) else None
        tokens, counts, base_rows = self._token_rows(parameter, infos, base)
        if counts and tokens and action == "solve":
            action, why = "mean", "its tokens are not its rows, and not all models have all of them"
        info = self._stored(parameter, infos[counts.index(max(counts))] if counts else infos[0])
        depth = self.depths.get(name, 0.0)
        options, own = self.settings.at(name, depth)
        rest = {_without(i.shape, tokens if counts else None) for i in infos}
        if axis is None and len(rest) > 1:
            raise Incompatible(
                f"{name} has different shapes: {', '.join(str(list(i.shape)) for i in infos)}.",
                "Merge models of one base with one tokenizer.",
            )
        return TensorPlan(
            name=name,
            parameter=parameter,
            info=info,
            sources=sources,
            base=base,
            token_axis=tokens,
            token_rows=counts,
            base_rows=base_rows,
            depth=depth,
            options=options,
            own=own,
            action=action,
            why=why,
            linear=linear,
            shares=self._shares(sources) if action == "solve" else (),
            label_axis=axis,
            is_body_matrix=len(info.shape) == 2 and self._in_body(parameter),
            is_head=self.labels.policy == "keep" and not self._in_body(parameter),
        )

    def _action(self, parameter: str, infos: Sequence[TensorInfo], sources: Sequence[str]) -> tuple[str, str]:
        kinds = {info.is_float for info in infos}
        if len(kinds) > 1:
            dtypes = zip(self.experts, infos, strict=True)
            raise Incompatible(
                f"{parameter} is stored as " + ", ".join(f"{info.dtype} in {ref.name}" for ref, info in dtypes) + ".",
                "Save them in one dtype: real numbers are not averaged with whole ones.",
            )
        if not infos[0].is_float:
            return "copy", "not made of real numbers"
        if self.method.base == "needed" and not self._has_update(parameter, infos):
            return "mean", "the base has no such tensor"
        if self.method.needs_fisher:
            told = zip(self.experts, self.fishers, sources, strict=True)
            if lacking := [ref.name for ref, names, source in told if source not in names]:
                return "mean", f"no Fisher values in the statistics of {', '.join(lacking)}"
        if not self.method.needs_statistics:
            return "combine", self.method.title
        if parameter not in self.layout.linears:
            return "mean", "not a linear layer's weight"
        if self.method.needs_data:
            return "solve", self.method.title
        known = zip(self.experts, self.rows, self.mixtures, self.data_free, sources, strict=True)
        counted = [
            # An expert of a mixture that no token came to is known to be of no use there.
            (ref.name, rows.get(source, 0), rows.get(source) or mixtures.get(mixture_of(source) or ""))
            for ref, rows, mixtures, data_free, source in known
            if not data_free
        ]
        lacking = [name for name, _, is_known in counted if not is_known]
        if counted and not lacking and mixture_of(sources[0]) and sum(n for _, n, _ in counted) < FEWEST_ROWS:
            self._rare.append(sources[0])
            return "mean", f"fewer than {FEWEST_ROWS} rows in the statistics of all"
        if lacking:
            self._uncounted.append(self.names[parameter])
            return "mean", f"no input rows in the statistics of {', '.join(lacking)}"
        updated = [ref.name for ref, data_free in zip(self.experts, self.data_free, strict=True) if data_free]
        if updated and not self._has_update(parameter, infos):
            self._uncounted.append(self.names[parameter])
            return "mean", f"the base has no such tensor, so {', '.join(updated)} has no update of it"
        inputs = self.layout.linears[parameter].in_features
        thin = {name: rows for name, rows, _ in counted if rows < inputs}
        if thin and mixture_of(sources[0]):
            self._thin[sources[0]] = thin
        return "solve", self.method.title

    def _token_rows(
        self, parameter: str, infos: Sequence[TensorInfo], base: str | None
    ) -> tuple[int, tuple[int, ...], int | None]:
        """The axis along which tokens run, how many each expert has, and the base; no counts where all have the same.

        Of tokens that only some have, the part that all have is merged as any tensor: see
        `fusehub.merging.engine.elementwise`.
        """
        axis = self.layout.token_axes.get(parameter)
        if axis is None:
            return 0, (), None
        counts = tuple(info.shape[axis] for info in infos)
        base_rows = self.base_infos[base].shape[axis] if base else None
        every = counts if base_rows is None else (*counts, base_rows)
        if len(set(every)) == 1:
            return axis, (), None
        if not axis:
            self._rows_differ[parameter] = every
        return axis, counts, base_rows

    def _shares(self, sources: Sequence[str]) -> tuple[float, ...]:
        # Where the texts are at hand, nothing was counted yet.
        return () if self.method.needs_data else shares_of(sources, self.rows, self.mixtures, self.data_free)

    def _has_update(self, parameter: str, infos: Sequence[TensorInfo]) -> bool:
        """Whether the base has the same tensor, so that what an expert learned is the difference.

        It may have more or fewer rows of tokens.
        """
        if parameter not in self.base_files:
            return False
        if parameter in self.layout.label_axes and not self.labels.is_identity:
            return False
        tokens = self.layout.token_axes.get(parameter)
        theirs, mine = self.base_infos[self.base_files[parameter]].shape, infos[0].shape
        return _without(theirs, tokens) == _without(mine, tokens)

    def _stored(self, parameter: str, info: TensorInfo) -> TensorInfo:
        dtype = self.recipe.stored_dtype if info.is_float and self.recipe.stored_dtype else info.dtype
        if dtype == FLOAT8 and not self._is_matrix(parameter, info):
            dtype = REST
        shape, axis = list(info.shape), self.layout.label_axes.get(parameter)
        if axis is not None and self.labels.policy == "merge":
            shape[axis] = len(self.labels.labels)
        return TensorInfo(dtype, tuple(shape))

    def _is_matrix(self, parameter: str, info: TensorInfo) -> bool:
        """Whether it is a weight that models are stored in float8 by: of a linear layer [out, in] within the body."""
        linear = self.layout.linears.get(parameter)
        within = linear is not None and not linear.transposed and self._in_body(parameter)
        return within and parameter not in self.layout.output and can_be_float8(info.shape)

    def _in_body(self, parameter: str) -> bool:
        return self.layout.in_body(parameter)


def _without(shape: Sequence[int], axis: int | None) -> tuple[int, ...]:
    """`shape` without the size along `axis`; None takes nothing away."""
    return tuple(size for place, size in enumerate(shape) if place != axis)


def _rows_note(rows: Mapping[str, tuple[int, ...]], method: Method) -> str:
    """What becomes of tensors of which models have different numbers of rows."""
    counts = next(iter(rows.values()))
    sizes = " and ".join(map(str, sorted(set(counts))))
    rest = "are those of the models that have them, averaged by weight where several do"
    if method.base == "needed":
        rest += "; where the base has them, they go through the method too"
    return (
        f"Models have {sizes} rows, one a token or padding, in {', '.join(rows)}: "
        f"the {min(counts)} that all have are merged by {method.title} as any other tensor, the others {rest}."
    )


def _float8_note(infos: Sequence[TensorInfo]) -> str:
    """How many are written in float8. Raises `BadRecipe` where none is."""
    count = sum(info.dtype == FLOAT8 for info in infos)
    if not count:
        raise BadRecipe(
            "The models have no linear layer that can be stored in float8: none in the body whose weight is stored as "
            f"[out, in], with sides up to {BLOCK} or multiples of it.",
            "Store the result in bfloat16: --dtype bfloat16.",
            actions=[Action("choose-dtype")],
        )
    return (
        f"{count} matrices are stored in float8, with a scale for each {BLOCK} x {BLOCK} of it; all else in bfloat16."
    )


def _is_computed(parameter: str) -> bool:
    return parameter.endswith(("position_ids", "token_type_ids", "num_batches_tracked"))


def _infos_of(ref: ModelRef) -> dict[str, TensorInfo]:
    """Names, shapes and dtypes of the model's tensors; of a .bin, by downloading it."""
    known = headers(ref)
    if known is not None:
        return dict(known)
    with Checkpoint(ref) as checkpoint:  # A .bin has no header: it is downloaded and opened.
        return checkpoint.tensors
