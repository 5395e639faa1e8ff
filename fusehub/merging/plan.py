"""The plan of a merge: what will be done with every tensor, why, and what it will cost, before weights are read.

Made from headers, configs and the metadata of statistics alone. `engine` carries it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fusehub.checking.heads import LabelPlan
from fusehub.checking.report import Report
from fusehub.hub.access import Access
from fusehub.merging.cast import cast_of
from fusehub.merging.checked import checked
from fusehub.merging.cost import cost_of
from fusehub.merging.donors import Donors, donors_of
from fusehub.merging.plan_file import LocalFile, PlanRecord, local_files
from fusehub.merging.planned_model import require_whole
from fusehub.merging.planner import TensorPlan, described, planned
from fusehub.merging.preconditions import require_usable
from fusehub.merging.recipe import Recipe
from fusehub.merging.sources import sources_of
from fusehub.merging.sources.source import StatisticsSource
from fusehub.methods import Method
from fusehub.methods.by_layer import Settings
from fusehub.methods.plugins import load_plugins, require_plugins
from fusehub.models.checkpoints.checkpoint import Shard, plan_shards
from fusehub.models.known.layouts import layout_for
from fusehub.models.layout import Layout
from fusehub.models.ref import ModelRef, short_names
from fusehub.models.resolve import ref_of
from fusehub.models.tensor_files import TensorInfo
from fusehub.utils.findings import NOTHING_ALLOWED, Allowed
from fusehub.utils.formats import describe
from fusehub.utils.frozen import freeze, thawed
from fusehub.utils.processes import Processes

MAX_SHARD_SIZE = 5 * 10**9


@dataclass(frozen=True)
class Plan:
    """A merge that is ready to be carried out.

    Attributes:
        recipe: What was asked for, with every model at its commit.
        method: How it is merged.
        settings: The method's options, of the merge and of each model.
        experts: The models, resolved.
        base: The model that they were fine-tuned from, where there is one.
        names: The experts' short names.
        layout: The linear layers of the result.
        labels: How the rows of the heads are matched.
        tensors: What is done with each tensor, by name.
        kept: For each expert the names in its file of what it keeps as it is, where heads are not merged.
        shards: The files of weights that are written.
        headers: The tensors of each expert, and of the base where there is one, as they were told when this was
            planned.
        statistics: Those of each expert, for a method that needs some.
        hashes: For each expert its files of weights -> their sha256.
        report: What was found about the models.
        allowed: What it goes on with although it is dangerous.
        notes: What is worth knowing.
        all_donors: Whose config, tokenizer and chat template each model has that is written: one, or, where heads are
            not merged, one for each expert.
        cost: Bytes that are downloaded, written and held in memory, and the work.
        max_shard_size: The most bytes of one file of weights.
        tuning: How parameters and weights were chosen, where validation data did that: see `fusehub.comparing.tuning`.
        files: What lies in folders, as it was when this was planned.

    Examples:
        >>> plan = fusehub.plan_merge(fusehub.Recipe.of(["user/expert-1", "user/expert-2"]))
        >>> plan.names
        ('expert-1', 'expert-2')
        >>> fusehub.merge(plan, "merged").folder
        PosixPath('merged')

        It can be kept, and carried out later:

        >>> plan.save("plan.json")
        >>> fusehub.merge(Path("plan.json"), "later").plan.to_dict() == plan.to_dict()
        True
    """

    recipe: Recipe
    method: Method
    settings: Settings
    experts: tuple[ModelRef, ...]
    base: ModelRef | None
    names: tuple[str, ...]
    layout: Layout
    labels: LabelPlan
    tensors: Mapping[str, TensorPlan]
    kept: tuple[tuple[str, ...], ...]
    shards: tuple[Shard, ...]
    headers: tuple[Mapping[str, TensorInfo], ...]
    statistics: tuple[StatisticsSource, ...]
    hashes: tuple[Mapping[str, str], ...]
    report: Report
    allowed: Allowed = NOTHING_ALLOWED
    notes: tuple[str, ...] = ()
    all_donors: tuple[Donors, ...] = ()
    cost: Mapping[str, int] = field(default_factory=dict)
    max_shard_size: int = MAX_SHARD_SIZE
    tuning: Mapping[str, Any] | None = None
    files: tuple[LocalFile, ...] = ()

    def __post_init__(self) -> None:
        freeze(self, "tensors", "headers", "hashes", "cost", "tuning")

    def __str__(self) -> str:
        """What will be done, as text."""
        lines = [f"{self.method.title}: {describe(self.settings.written())}".removesuffix(": ")]
        for ref, own in zip(self.experts, self.model_options, strict=True):
            lines.append(f"model: {ref.id}" + (f" ({describe(own)})" if own else ""))
        lines += [f"base: {self.base.id}"] if self.base else []
        together = zip(self.experts, self.statistics, strict=False)
        lines += [f"statistics of {ref.name}: {found.words()}" for ref, found in together]
        lines += [f"{f.level}: {f.what}" for f in self.report.findings]
        lines += [f"note: {note}" for note in self.notes]
        for tensor in self.tensors.values():
            lines.append(f"{tensor.action} {tensor.name} {list(tensor.info.shape)} {tensor.info.dtype}: {tensor.why}")
        return "\n".join(lines)

    def save(self, path: str | Path) -> None:
        """Writes the plan as JSON, to be carried out later: `fusehub.merge(Path(path), out)`.

        Args:
            path: The file, `.json`.

        Raises:
            Outdated: What it was made from has changed already.
        """
        entries = self.recipe.models
        if self.statistics:
            found = zip(entries, self.statistics, strict=True)
            entries = tuple(entry.model_copy(update=own.recorded(entry)) for entry, own in found)
        allowed = {
            "unrelated": self.allowed.unrelated,
            "other_weights": self.allowed.other_weights,
            "ignored": sorted(self.allowed.ignored),
        }
        recipe = self.recipe.model_copy(update={"models": entries}).to_dict()
        PlanRecord.of(recipe, self.refs, allowed, self.max_shard_size, self.hashes, self.files, self.to_dict()).write(
            Path(path)
        )

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        plugins: Sequence[str | Path] = (),
        token: bool | str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Plan:
        """The plan that `save` wrote, if everything that it was made from is there as it was.

        Args:
            path: The file.
            plugins: Files with methods of your own, which are run: those that the plan was made with.
            token: The Hub's token; None for the one of `hf auth login` if there is one, True where there must be,
                False for none.
            cache_dir: Where downloads lie; the Hub's cache of this machine where nothing is said.
            local_files_only: Read what is in the cache already, and ask the Hub for nothing.

        Returns:
            The plan, for `merge`.

        Raises:
            Outdated: A file of a folder or of statistics has changed, or something would be done otherwise.
            NotFound: The file, or a repo, is gone.
        """
        record = PlanRecord.read(Path(path))
        record.require_files()
        recipe = Recipe.parse(record.recipe)
        require_plugins(recipe.merge_method, recipe.plugins, load_plugins(plugins))
        access = Access(token, cache_dir, local_files_only)
        refs = {said: replace(ref_of(own.id, access), name=own.name) for said, own in record.models.items()}
        allowed = Allowed(record.allowed.unrelated, record.allowed.other_weights, frozenset(record.allowed.ignored))
        plan = plan_merge(
            recipe,
            allowed=allowed,
            max_shard_size=record.max_shard_size,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            resolved=refs,
        )
        record.require_same(plan.to_dict(), plan.hashes)
        return replace(plan, notes=tuple(record.planned.notes), tuning=record.planned.tuning)

    @property
    def donors(self) -> Donors | None:
        """Whose config, tokenizer and chat template the result has; None where each expert keeps its head and its
        own."""
        return self.all_donors[0] if self.labels.policy == "merge" else None

    @property
    def refs(self) -> dict[str, ModelRef]:
        """The models and the base, by their names in the recipe."""
        named = {entry.model: ref for entry, ref in zip(self.recipe.models, self.experts, strict=True)}
        return named | ({self.recipe.base_model: self.base} if self.base and self.recipe.base_model else {})

    @property
    def weights(self) -> list[Any]:
        """Each model's weight as the recipe says it: a number, or what it is by layer."""
        common = self.settings.common.get("weight", 1.0)
        return [thawed(said.get("weight", common)) for said in self.settings.models]

    @property
    def model_options(self) -> list[dict[str, Any]]:
        """What holds for each model, its weight among it, as the recipe says it or by default."""
        fields = self.method.own_options.fields()
        defaults = {name: option.default for name, option in fields.items()}
        return [thawed({**defaults, **self.settings.common, **said}) for said in self.settings.models]

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data, for `--json` and the report beside a merge.

        Returns:
            Method, options, models, base, labels, what is done with each tensor, and what it costs.
        """
        return {
            "method": self.method.name,
            "options": self.settings.written(),
            "models": [ref.id for ref in self.experts],
            "model_options": self.model_options,
            "base": self.base.id if self.base else None,
            "files": self.donors.described() if self.donors else None,
            "heads": self.labels.policy,
            "labels": list(self.labels.labels),
            "findings": [
                {"code": f.code, "level": f.level, "what": f.what, "fix": f.fix} for f in self.report.findings
            ],
            "notes": list(self.notes),
            "statistics": [found.origin for found in self.statistics],
            "data": [thawed(found.metadata) for found in self.statistics] if self.method.needs_data else [],
            "tuning": thawed(self.tuning),
            "cost": dict(self.cost),
            "tensors": described(self.tensors, self.method),
        }


def plan_merge(
    recipe: Recipe,
    *,
    allowed: Allowed = NOTHING_ALLOWED,
    max_shard_size: int = MAX_SHARD_SIZE,
    token: bool | str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    resolved: Mapping[str, ModelRef] | None = None,
) -> Plan:
    """The plan of `recipe`: what would be done with every tensor, and what it costs. Nothing is merged.

    Args:
        recipe: What is merged, and how.
        allowed: What it goes on with although it is dangerous.
        max_shard_size: The most bytes of one file of weights.
        token: The Hub's token; None for the one of `hf auth login` if there is one, True where there must be, False
            for none.
        cache_dir: Where downloads lie; the Hub's cache of this machine where nothing is said.
        local_files_only: Read what is in the cache already, and ask the Hub for nothing.
        resolved: Models that are known already, by their names in the recipe.

    Returns:
        The plan, for `merge` or `tune`.

    Raises:
        FuseHubError: It cannot be carried out; all problems are listed.

    Examples:
        >>> plan = fusehub.plan_merge(fusehub.Recipe.of(["user/expert-1", "user/expert-2"]))
        >>> plan.tensors["bert.encoder.layer.0.output.dense.weight"].action
        'solve'
        >>> plan.cost["output_bytes"] > 0
        True
    """
    return plan_by(
        recipe,
        Access(token, cache_dir, local_files_only),
        allowed=allowed,
        max_shard_size=max_shard_size,
        resolved=resolved or {},
    )


def plan_by(
    recipe: Recipe,
    access: Access,
    *,
    allowed: Allowed = NOTHING_ALLOWED,
    max_shard_size: int = MAX_SHARD_SIZE,
    resolved: Mapping[str, ModelRef] = MappingProxyType({}),
    report: Report | None = None,
    processes: Processes | None = None,
    made: bool = True,
) -> Plan:
    """The same within a run that has asked the Hub of these models before; `report` is what `check` found of them and
    the base, `processes` those that plan together, and `made` whether something is to be made by the plan: then
    weights in folders are hashed anew."""
    cast = cast_of(recipe, resolved, access)
    recipe, method, experts, base = cast.recipe, cast.method, cast.experts, cast.base
    found = checked(cast, allowed, report, processes or Processes(), made=made)
    statistics, notes = sources_of(recipe, method, experts, found.hashes, allowed, access)
    layout = layout_for(experts[0])
    decided = planned(cast, layout, found.labels, statistics)
    donors = donors_of(recipe, experts, base, found.report, found.labels)
    require_usable(recipe, method, decided.tensors.values(), statistics, experts, base)
    require_whole(donors, decided, found.report, allowed)
    infos = {name: tensor.info for name, tensor in decided.tensors.items()}
    shards = tuple(plan_shards(infos, max_shard_size, scaled=True))
    return Plan(
        recipe=recipe,
        method=method,
        settings=cast.settings,
        experts=experts,
        base=base,
        names=tuple(short_names(experts, folders=True)),
        layout=layout,
        labels=found.labels,
        tensors=decided.tensors,
        kept=decided.kept,
        shards=shards,
        headers=decided.headers,
        statistics=statistics,
        hashes=found.hashes,
        report=found.report,
        allowed=allowed,
        max_shard_size=max_shard_size,
        files=local_files(cast.everyone, statistics),
        notes=(*cast.notes, *(note for own in donors for note in own.notes), *notes, *decided.notes),
        all_donors=donors,
        cost=cost_of(recipe, decided.tensors.values(), shards, method, experts, statistics, found.report),
    )


def replan(plan: Plan, recipe: Recipe) -> Plan:
    """The plan with other parameters, weights or scale, which `recipe` has; nothing else may differ, and nothing is
    looked up anew. Raises `BadRecipe` where a value cannot be."""
    settings = Settings.of(plan.method, recipe.parameters, [entry.parameters for entry in recipe.models])
    tensors = {}
    for name, tensor in plan.tensors.items():
        options, own = settings.at(name, tensor.depth)
        tensors[name] = replace(tensor, options=options, own=own)
    require_usable(recipe, plan.method, tensors.values(), plan.statistics, plan.experts, plan.base)
    return replace(plan, recipe=recipe, settings=settings, tensors=tensors)
