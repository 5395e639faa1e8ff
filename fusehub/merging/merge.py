"""Merges models into a folder: plans the recipe, carries out the plan, and lets the folder appear when it is complete.

    merge(["user/expert-1", "user/expert-2"], "merged", parameters={"alpha": 0.9})
    merge(Path("recipe.yaml"), "merged")

Everything goes into a temporary folder beside the target, which takes the target's name at the end.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from fusehub.checking.heads import Heads
from fusehub.errors import BadRecipe, FuseHubError, NotFound, OtherHeader
from fusehub.hub.access import STORED, Access
from fusehub.merging.as_adapter import write_adapter
from fusehub.merging.engine.begun import RECORD, Begun, fingerprint
from fusehub.merging.engine.run import carry_out
from fusehub.merging.hub_recipe import may_have_recipe, recipe_at_hub
from fusehub.merging.plan import MAX_SHARD_SIZE, Plan, plan_by
from fusehub.merging.plan_file import require_unwritten
from fusehub.merging.provenance import write_side_files
from fusehub.merging.recipe import Changes, DType, Recipe
from fusehub.merging.result import MergeResult
from fusehub.merging.room import memory_errors_of, require_disk, require_memory
from fusehub.methods.plugins import load_plugins, require_plugins
from fusehub.models.placement import own_device
from fusehub.models.ref import ModelRef
from fusehub.models.remote_headers import forget_headers
from fusehub.utils.devices import Device, asked_for, find_device
from fusehub.utils.findings import Allowed
from fusehub.utils.folders.holding import empty
from fusehub.utils.folders.places import place_errors
from fusehub.utils.folders.unfinished import output
from fusehub.utils.processes import Processes
from fusehub.utils.progress import Progress, silent

if TYPE_CHECKING:
    import torch


def merge(
    models: Sequence[str | ModelRef] | Recipe | Plan | Path,
    out: str | Path,
    *,
    method: str | None = None,
    base_model: str | ModelRef | None = None,
    weights: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
    statistics: Mapping[str, str] | None = None,
    data: Mapping[str, str] | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
    heads: Heads | None = None,
    scale: float | None = None,
    dtype: DType | torch.dtype | None = None,
    out_dtype: DType | torch.dtype | None = None,
    seed: int | None = None,
    limit: int | None = None,
    max_length: int | None = None,
    text_column: str | None = None,
    as_adapter: bool | None = None,
    tokenizer_source: str | None = None,
    chat_template: str | None = None,
    plugins: Sequence[str | Path] = (),
    allow_unrelated: bool = False,
    allow_other_weights: bool = False,
    ignore: Sequence[str] = (),
    max_shard_size: int = MAX_SHARD_SIZE,
    device: Device | None = None,
    token: bool | str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    progress: Progress = silent,
) -> MergeResult:
    """Merges `models` into the folder `out`, which appears when it is complete.

    It then has weights, config, tokenizer, the recipe with everything resolved, and a report. A merge that was killed
    goes on when it is started again: files of weights that were complete are kept. Where several processes were
    started together (`torchrun`), all call it with the same, each makes its share, and all return the same.

    The other arguments are those of `Recipe.changed`.

    Args:
        models: Two or more models, a recipe, a recipe's file, the name of a repo on the Hub that has one, a plan, or
            the file of one (.json). What `fusehub.resolve` returned is a model at its commit, and goes by its `id`
            where models are named.
        out: A folder, new or empty.
        method: One of `fusehub.METHODS`; RegMean where nothing is said.
        plugins: Files with methods of your own, which are run.
        allow_unrelated: Go on where the weights look as if they were of different bases.
        allow_other_weights: Go on where statistics were made for other weights.
        ignore: Codes of findings that do not stop this merge.
        max_shard_size: The most bytes of one file of weights.
        device: Where layers are solved, and a model is run: `cpu`, `cuda`, `mps`; by itself what `FUSEHUB_DEVICE`
            says, else an accelerator where there is one. What is combined element by element stays on the CPU.
        token: The Hub's token; None for the one of `hf auth login` if there is one, True where there must be, False
            for none.
        cache_dir: Where downloads lie; the Hub's cache of this machine where nothing is said.
        local_files_only: Read what is in the cache already, and ask the Hub for nothing.
        progress: Called with (done, total, what).

    Returns:
        Where the merge is, the plan that it was made by, and what is worth knowing about it.

    Raises:
        FuseHubError: It cannot be done; then nothing is left behind.
        Outdated: What a plan was made from has changed since.
        OutputExists: `out` is there and not empty, or another merge into it was killed with files complete.

    Examples:
        >>> result = fusehub.merge(["user/expert-1", "user/expert-2"], "merged", parameters={"alpha": 0.9})
        >>> sorted(path.name for path in result.folder.glob("*.safetensors"))
        ['model.safetensors']

        A recipe says the same in a file, and gives the same bytes again:

        >>> again = fusehub.merge(Path("merged/fusehub_recipe.yaml"), "again")
        >>> again.hashes == result.hashes
        True
    """
    changes = Changes(
        base_model=base_model, weights=weights, parameters=parameters, statistics=statistics, data=data,
        labels=labels, heads=heads, scale=scale, dtype=dtype, out_dtype=out_dtype, seed=seed, limit=limit,
        max_length=max_length, text_column=text_column, as_adapter=as_adapter, tokenizer_source=tokenizer_source,
        chat_template=chat_template,
    )  # fmt: skip
    target = Path(out)
    saved = models if isinstance(models, Path) and models.suffix == ".json" else None
    is_plan = saved is not None or isinstance(models, Plan)
    if is_plan and (method or (plugins and saved is None) or any(said is not None for said in changes.values())):
        raise BadRecipe("A plan is carried out as it is.", "Change the recipe, and plan it again.")
    allowed = Allowed.of(unrelated=allow_unrelated, other_weights=allow_other_weights, ignore=ignore)
    access = Access(token, cache_dir, local_files_only)

    def ready() -> Plan:
        if saved is not None:
            return Plan.load(
                saved, plugins=plugins, token=token, cache_dir=cache_dir, local_files_only=local_files_only
            )
        if isinstance(models, Plan):
            return models
        return plan_of(models, method, plugins, allowed, access, max_shard_size, processes, **changes)

    processes = Processes.join()
    with processes.together():
        if processes.is_main:
            with output(target, last="config.json", record=RECORD) as folder:
                plan = ready()
                if is_plan:
                    require_unwritten(plan.files)
                try:
                    result = _carried_out(plan, target, folder, processes, device, progress)
                except OtherHeader:
                    if processes.count > 1:
                        raise
                    empty(folder)
                    result = _carried_out(_planned_anew(plan), target, folder, processes, device, progress)
        else:
            result = _helped(ready(), processes, device, progress)
        # The folder has its name now; or what the main process has to say against it is raised here.
        processes.agree()
    return replace(result, folder=target)


def _planned_anew(plan: Plan) -> Plan:
    """The plan of the same merge, by headers that are asked for again: those that it was made by were wrong."""
    forget_headers()
    again = plan_by(
        plan.recipe, plan.experts[0].access, allowed=plan.allowed, max_shard_size=plan.max_shard_size,
        resolved=plan.refs,
    )  # fmt: skip
    return replace(again, tuning=plan.tuning)


def _carried_out(
    plan: Plan, target: Path, folder: Path, processes: Processes, device: Device | None, progress: Progress
) -> MergeResult:
    """The merge that is planned, written into `folder`, which is to be `target`."""
    _require_dividable(plan, processes)
    place = _place(plan, processes, device)
    begun = Begun.of(folder, plan, target, place)
    require_disk(plan, target, begun.nbytes)
    require_memory(plan, place, processes.on_this_host)
    processes.agree((os.path.abspath(folder), begun.record))
    if plan.recipe.as_adapter:
        hashes = write_adapter(plan, folder)
        processes.agree(hashes)
        result = MergeResult(folder, plan, plan.tensors, plan.kept, plan.notes, hashes=hashes)
    else:
        with memory_errors_of(plan):
            result = carry_out(plan, folder, begun, processes, place, progress)
    write_side_files(result)
    begun.close()
    return result


def _helped(plan: Plan, processes: Processes, device: Device | None, progress: Progress) -> MergeResult:
    """The same merge, of which the main process writes all but this one's share of the tensors."""
    _require_dividable(plan, processes)
    place = _place(plan, processes, device)
    path, record = processes.agree()[0]
    folder = Path(path)
    if record.plan != fingerprint(plan, place):
        raise FuseHubError(
            "The processes do not plan the same merge.", "Give all of them the same models, files and versions."
        )
    if not folder.is_dir():
        raise NotFound(
            f"This process sees no folder {folder}, which the main one writes into.",
            "Merge into a folder that all hosts have.",
        )
    if plan.recipe.as_adapter:
        return MergeResult(folder, plan, plan.tensors, plan.kept, plan.notes, hashes=processes.agree()[0])
    with place_errors(folder), memory_errors_of(plan):
        return carry_out(plan, folder, Begun(folder, record), processes, place, progress)


def _place(plan: Plan, processes: Processes, device: Device | None) -> str:
    """The device of this process. Where nothing is computed on one, none is looked for: it takes an import."""
    if asked_for(device) == "auto" and not (plan.statistics or plan.method.needs_data):
        return "cpu"
    return own_device(processes, device) if processes.count > 1 else find_device(device)


def _require_dividable(plan: Plan, processes: Processes) -> None:
    """Raises `BadRecipe` where layers depend on those before them, so that several processes could only wait."""
    if processes.count > 1 and plan.method.needs_data:
        raise BadRecipe(
            f"{plan.method.title} solves one layer after the other, and {processes.count} processes were started.",
            "Start one, with as many threads as there are cores (OMP_NUM_THREADS).",
        )


def plan_of(
    models: Sequence[str | ModelRef] | Recipe | Path,
    method: str | None,
    plugins: Sequence[str | Path],
    allowed: Allowed,
    access: Access,
    max_shard_size: int = MAX_SHARD_SIZE,
    processes: Processes | None = None,
    **changes: Unpack[Changes],
) -> Plan:
    """The plan of what `models`, a recipe or a recipe's file mean: see `recipe_of`."""
    recipe = recipe_of(models, method, plugins=plugins, access=access, **changes)
    named = [] if isinstance(models, str | Recipe | Path) else [*models]
    refs = [ref for ref in (*named, changes.get("base_model")) if isinstance(ref, ModelRef)]
    return plan_by(
        recipe, access, allowed=allowed, max_shard_size=max_shard_size, resolved={ref.id: ref for ref in refs},
        processes=processes,
    )  # fmt: skip


def recipe_of(
    models: Sequence[str | ModelRef] | Recipe | Path,
    method: str | None = None,
    *,
    plugins: Sequence[str | Path] = (),
    access: Access = STORED,
    **changes: Unpack[Changes],
) -> Recipe:
    """The recipe that `models`, a recipe, a recipe's file or a repo with one mean, with `changes` (see
    `Recipe.changed`).

    Runs `plugins`; a recipe that was made with some wants the same ones.
    """
    loaded = load_plugins(plugins)
    if isinstance(models, str):
        if not may_have_recipe(models):
            raise BadRecipe("One model is no merge.", "Give a list of two or more, or Path('recipe.yaml').")
        models = recipe_at_hub(models, access)
    if isinstance(models, Path):
        models = Recipe.read(models)
    if isinstance(models, Recipe):
        require_plugins(models.merge_method, models.plugins, loaded)
        return models.changed(merge_method=method, plugins=loaded, **changes)
    return Recipe.of(models, method or "regmean", plugins=loaded, **changes)
