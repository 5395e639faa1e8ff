"""The plan of a merge: what will be done with every tensor, why, and what it will cost, before weights are read.

Made from headers, configs and the metadata of statistics alone. `engine.py` carries it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from fusehub.checking.check import check
from fusehub.checking.heads import LabelPlan
from fusehub.checking.report import Report
from fusehub.errors import BadRecipe, Incompatible
from fusehub.merging.cost import cost_of
from fusehub.merging.donors import Donors, donors_of, require_tokenizer
from fusehub.merging.planned_model import require_whole
from fusehub.merging.planner import Planner, TensorPlan, described
from fusehub.merging.preconditions import (
    idle_base,
    require_adding,
    require_fisher,
    require_layers,
    require_provenance,
    require_usable,
    run_over,
)
from fusehub.merging.recipe import ModelEntry, Recipe
from fusehub.merging.sources import find_sources, wanted_of
from fusehub.merging.sources.data_at_hand import require_data
from fusehub.merging.sources.source import StatisticsSource
from fusehub.methods import Method, find_method
from fusehub.methods.by_layer import Settings
from fusehub.models.chat_templates import require_template
from fusehub.models.checkpoint import Shard, plan_shards, weight_hashes
from fusehub.models.layout import Layout, layout_of
from fusehub.models.resolve import ModelRef, resolve, short_names
from fusehub.models.tasks import load_config
from fusehub.models.tensor_files import TensorInfo
from fusehub.utils.findings import NOTHING_ALLOWED, Allowed

MAX_SHARD_SIZE = 5 * 10**9
# How methods count the base.
_BESIDE = {
    "needed": " beside the base",
    "origin": " beside the base",
    "end": " (the base is one of them, listed or not)",
}


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
        donors: Whose config, tokenizer and chat template the result has; None where each expert keeps its head and its
            own.
        cost: Bytes that are downloaded, written and held in memory, and the work.
        max_shard_size: The most bytes of one file of weights.
        tuning: How parameters and weights were chosen, where validation data did that: see `fusehub.comparing.tuning`.

    Examples:
        >>> plan = fusehub.plan_merge(fusehub.Recipe.of(["user/expert-1", "user/expert-2"]))
        >>> plan.names, plan.notes
        (('expert-1', 'expert-2'), ())
        >>> fusehub.merge(plan, "merged").folder
        PosixPath('merged')
    """

    recipe: Recipe
    method: Method
    settings: Settings
    experts: tuple[ModelRef, ...]
    base: ModelRef | None
    names: tuple[str, ...]
    layout: Layout
    labels: LabelPlan
    tensors: dict[str, TensorPlan]
    kept: tuple[tuple[str, ...], ...]
    shards: tuple[Shard, ...]
    headers: tuple[Mapping[str, TensorInfo], ...]
    statistics: tuple[StatisticsSource, ...]
    hashes: tuple[dict[str, str], ...]
    report: Report
    allowed: Allowed = NOTHING_ALLOWED
    notes: tuple[str, ...] = ()
    donors: Donors | None = None
    cost: dict[str, int] = field(default_factory=dict)
    max_shard_size: int = MAX_SHARD_SIZE
    tuning: dict[str, Any] | None = None

    @property
    def weights(self) -> list[Any]:
        """Each model's weight as the recipe says it: a number, or what it is by layer."""
        common = self.settings.common.get("weight", 1.0)
        return [said.get("weight", common) for said in self.settings.models]

    @property
    def model_options(self) -> list[dict[str, Any]]:
        """What holds for each model, its weight among it, as the recipe says it or by default."""
        fields = self.method.own_options.fields()
        defaults = {name: option.default for name, option in fields.items()}
        return [{**defaults, **self.settings.common, **said} for said in self.settings.models]

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data, for `--json` and the report beside a merge."""
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
            "data": [dict(found.metadata) for found in self.statistics] if self.method.needs_data else [],
            "tuning": self.tuning,
            "cost": dict(self.cost),
            "tensors": described(self.tensors, self.method),
        }


def plan_merge(
    recipe: Recipe,
    *,
    allowed: Allowed = NOTHING_ALLOWED,
    max_shard_size: int = MAX_SHARD_SIZE,
    token: str | None = None,
) -> Plan:
    """The plan of `recipe`: what would be done with every tensor, and what it costs. Nothing is merged.

    Args:
        recipe: What is merged, and how.
        allowed: What it goes on with although it is dangerous.
        max_shard_size: The most bytes of one file of weights.
        token: The Hub's token; the one of `hf auth login` where none is given.

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
    method = find_method(recipe.merge_method)
    require_adding(recipe, method)
    said = Settings.of(method, recipe.parameters, [entry.parameters for entry in recipe.models])
    require_template(recipe.chat_template)
    named = recipe
    recipe, experts, base = _cast(recipe, method, token)
    require_data(recipe, method, experts)
    settings = Settings.of(method, recipe.parameters, [entry.parameters for entry in recipe.models])
    given = {ref.name: list(entry.labels) for ref, entry in zip(experts, recipe.models, strict=True) if entry.labels}
    with ThreadPoolExecutor() as pool:
        hashing = [pool.submit(weight_hashes, ref) for ref in experts]
        import torch  # noqa: F401  # takes a second, which hashing fills

        report = check(experts, base=base, heads=recipe.heads, labels=given)
    require_tokenizer(recipe, experts, base, report)
    report.require_ok(allowed.ignored)
    if report.labels is None:
        report.require_ok()
        raise Incompatible("The models' heads cannot be planned.", "Say --heads keep.")
    hashes = tuple(future.result() for future in hashing)
    require_provenance(recipe, experts, hashes)
    wanted = wanted_of(recipe, method, experts, hashes, allowed, token)
    statistics = find_sources(wanted)
    if method.needs_fisher:
        require_fisher(experts, statistics)
    layout = layout_of(load_config(experts[0]))
    planner = Planner(recipe, method, experts, base, layout, report.labels, statistics, settings)
    tensors = planner.tensors()
    donors = donors_of(recipe, experts, base, report) if report.labels.policy == "merge" else None
    require_usable(recipe, method, tensors.values(), statistics, experts, base)
    kept = planner.kept(tensors)
    require_whole(experts, base, donors, report, tensors, kept, allowed)
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
        kept=kept,
        shards=tuple(plan_shards({name: plan.info for name, plan in tensors.items()}, max_shard_size)),
        headers=(*planner.infos, *([planner.base_infos] if base else [])),
        statistics=tuple(statistics),
        hashes=hashes,
        report=report,
        allowed=allowed,
        max_shard_size=max_shard_size,
        notes=(
            *recipe.notes,
            *said.notes,
            *idle_base(named, recipe, base),
            *(donors.notes if donors else ()),
            *(note for found, own in zip(statistics, wanted, strict=True) for note in found.notes(own)),
            *run_over(experts, statistics, method),
            *planner.notes,
        ),
        donors=donors,
        cost=cost_of(recipe, tensors.values(), method, experts, statistics, report),
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
            f"{_BESIDE.get(method.base, '') if base else ''}, and the recipe has {len(cast)}.",
            "Name more or fewer models, or choose another method: `fusehub methods`.",
        )
    recipe = recipe.model_copy(update={"models": tuple(entry for entry, _ in cast)})
    require_layers(recipe, [ref for _, ref in cast])
    return recipe, [ref for _, ref in cast], base
