"""Merges models into a folder: plans the recipe, carries out the plan, and lets the folder appear when it is complete.

    merge(["user/expert-1", "user/expert-2"], "merged", parameters={"alpha": 0.9})
    merge(Path("recipe.yaml"), "merged")

Everything goes into a temporary folder beside the target, which takes the target's name at the end.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fusehub.adapter_merging import write_adapter
from fusehub.engine import MergeResult, carry_out
from fusehub.errors import BadRecipe, NoSpace, OtherHeader, OutputExists
from fusehub.findings import Allowed
from fusehub.methods.plugins import load_plugins, require_plugins
from fusehub.places import made_folder, place_errors, require_place
from fusehub.plan import MAX_SHARD_SIZE, Plan, plan_merge
from fusehub.progress import Progress, silent
from fusehub.provenance import write_side_files
from fusehub.recipe import Recipe
from fusehub.remote import forget_headers


def merge(
    models: Sequence[str] | Recipe | Plan | Path,
    out: str | Path,
    *,
    method: str | None = None,
    plugins: Sequence[str | Path] = (),
    allow_unrelated: bool = False,
    allow_other_weights: bool = False,
    ignore: Sequence[str] = (),
    max_shard_size: int = MAX_SHARD_SIZE,
    token: str | None = None,
    progress: Progress = silent,
    **changes: Any,
) -> MergeResult:
    """Merges `models` (or what a recipe, a recipe's file or a plan says) into the folder `out`, new or empty.

    `method` is one of `fusehub.METHODS`, RegMean unless said; `changes` are those of `Recipe.changed`: weights,
    statistics, labels and data by model, parameters of the method, base_model, heads, scale, dtype, seed, as_adapter;
    and for data its limit, max_length and text_column.
    `plugins` are files with methods of your own, which are run.

    `allow_unrelated` goes on where the weights are of different bases, `allow_other_weights` where statistics were
    made for other weights, `ignore` has the codes of findings (`fusehub.findings.CODES`) that do not stop this merge.

    The folder appears when it is complete: weights, config, tokenizer, the recipe with everything resolved, and a
    report. Raises a `FuseHubError` and leaves nothing behind where it cannot be done.
    """
    target = Path(out)
    with place_errors(target):
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise OutputExists(f"{target} exists and is not empty.", "Give a new folder, or empty this one.")
        fixed = target.is_dir() and _must_stay(target)
    home = target if fixed else target.parent
    require_place(home)
    if isinstance(models, Plan):
        if method or changes or plugins:
            raise BadRecipe("A plan is carried out as it is.", "Change the recipe, and plan it again.")
        plan = models
    else:
        recipe = recipe_of(models, method, plugins=plugins, **changes)
        allowed = Allowed.of(unrelated=allow_unrelated, other_weights=allow_other_weights, ignore=ignore)
        plan = plan_merge(recipe, allowed=allowed, max_shard_size=max_shard_size, token=token)
    with made_folder(home):
        try:
            return _carried_out(plan, target, home, progress)
        except OtherHeader:
            return _carried_out(_planned_anew(plan), target, home, progress)


def _planned_anew(plan: Plan) -> Plan:
    """The plan of the same merge, by headers that are asked for again: those that it was made by were wrong."""
    forget_headers()
    again = plan_merge(
        plan.recipe, allowed=plan.allowed, max_shard_size=plan.max_shard_size, token=plan.experts[0].token
    )
    return replace(again, tuning=plan.tuning)


def _carried_out(plan: Plan, target: Path, home: Path, progress: Progress) -> MergeResult:
    """The merge that is planned, written into a temporary folder in `home` first, and then to `target`."""
    partial = _new_folder(home, target.resolve().name)
    try:
        _require_space(partial, plan)
        if plan.recipe.as_adapter:
            result = MergeResult(partial, plan, hashes=write_adapter(plan, partial))
        else:
            result = carry_out(plan, partial, progress)
        write_side_files(result.plan, partial, result.notes, result.hashes)
        if home == target:
            # Without its config, which comes last, the folder is no model yet.
            for path in sorted(partial.iterdir(), key=lambda path: path.name == "config.json"):
                os.replace(path, target / path.name)
        else:
            _take_place(partial, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NoSpace(
                f"The disk takes no more ({error.strerror}): {target} needs {plan.cost['output_bytes'] / 1e9:.1f} GB.",
                "Make room, or give an output folder on another disk.",
            ) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    result.folder = target
    return result


def recipe_of(
    models: Sequence[str] | Recipe | Path,
    method: str | None = None,
    *,
    plugins: Sequence[str | Path] = (),
    **changes: Any,
) -> Recipe:
    """The recipe that `models`, a recipe or a recipe's file mean, with `changes` (see `Recipe.changed`).

    Runs `plugins`; a recipe that was made with some wants the same ones.
    """
    loaded = load_plugins(plugins)
    if isinstance(models, str):
        raise BadRecipe("One model is no merge.", "Give a list of two or more, or Path('recipe.yaml').")
    if isinstance(models, Path):
        models = Recipe.read(models)
    if isinstance(models, Recipe):
        require_plugins(models.merge_method, models.plugins, loaded)
        return models.changed(merge_method=method, plugins=loaded, **changes)
    return Recipe.of(models, method or "regmean", plugins=loaded, **changes)


def _require_space(folder: Path, plan: Plan) -> None:
    needed, free = plan.cost["output_bytes"], shutil.disk_usage(folder).free
    if needed > free:
        raise NoSpace(
            f"The merged model needs {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB left.",
            "Make room, or give an output folder on another disk.",
        )


def _must_stay(folder: Path) -> bool:
    """Whether another folder cannot take the place of this one: where we are, a link, or a disk of its own."""
    return folder.is_symlink() or folder.is_mount() or folder.samefile(Path.cwd())


def _new_folder(home: Path, name: str) -> Path:
    """A hidden folder that nobody else has, with the permissions that any new folder gets."""
    while True:
        folder = home / f".{name}.{secrets.token_hex(4)}.partial"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder


def _take_place(partial: Path, target: Path) -> None:
    """Gives a complete folder its name. Raises `OutputExists` where another has come to have it meanwhile."""
    try:
        if target.is_dir():
            # Not every system puts a folder in the place of an empty one.
            target.rmdir()
        os.replace(partial, target)
    except OSError as error:
        if not target.exists():
            raise
        raise OutputExists(
            f"{target} was written by something else while this merge was made.", "Merge again, into a new folder."
        ) from error
