"""The app's own work of merging: several plans at once, those that can be made one after the other."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import fusehub
from fusehub.errors import FuseHubError
from fusehub.utils.progress import Progress

from .pace import NETWORK, Course, Merging, Tell


def merge(
    tell: Tell,
    token: str | None,
    *,
    models: list[str],
    recipes: list[dict[str, Any]],
    room: tuple[int, str],
) -> dict[str, Any]:
    """Those that can be made (`made`), and why the others cannot (`failed`, by name). Raises where none can."""
    from fusehub.errors import together
    from fusehub.hub.access import Access
    from fusehub.merging.plan import plan_by
    from fusehub.models.checkpoints.downloads import missing_bytes, room_of_downloads
    from fusehub.models.resolve import refs_of
    from fusehub.utils.folders.places import require_room

    memory, command = room
    tell("Planning")
    access = Access(token)
    refs = refs_of(models, access)
    known = dict(zip(models, refs, strict=True))
    plans: dict[str, Any] = {}
    failed: dict[str, FuseHubError] = {}
    for recipe in recipes:
        try:
            plan = plan_by(_recipe(recipe), access, resolved=known)
            if plan.cost["memory_bytes"] > memory:
                raise _too_large(plan.cost["memory_bytes"], memory, command)
            plans[recipe["name"]] = plan
        except FuseHubError as error:
            failed[recipe["name"]] = error
    if not plans:
        raise together([*failed.values()])
    todo = [recipe for recipe in recipes if recipe["name"] in plans]
    require_room(room_of_downloads(refs))
    merges = [Merging(plans[recipe["name"]]) for recipe in todo]
    course = Course([*(missing_bytes(ref) / NETWORK for ref in refs), *(merging.seconds for merging in merges)])
    for number, ref in enumerate(refs):
        tell(f"Downloading {ref.name} ({number + 1} of {len(refs)})", share=course.share(number, 0))
        ref.download()

    def progress_of(place: int) -> Progress:
        plan = plans[todo[place]["name"]]
        which = f" ({place + 1} of {len(todo)})" if len(todo) > 1 else ""

        def progress(done: int, total: int, unit: str) -> None:
            tensor, share = merges[place].at(done)
            tell(f"{plan.method.title}{which}: {tensor}", done, total, unit, course.share(len(refs) + place, share))

        return progress

    made: list[dict[str, Any]] = []
    for place, recipe in enumerate(todo):
        try:
            made.append(_merge_one(plans[recipe["name"]], recipe, progress_of(place)))
        except FuseHubError as error:
            failed[recipe["name"]] = error
    if not made:
        raise together([*failed.values()])
    return {"made": made, "failed": [*failed.items()]}


def _merge_one(plan: Any, recipe: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    started = time.monotonic()
    result = fusehub.merge(plan, recipe["out"], progress=progress)
    notes = sorted({*result.told, *result.remarks})
    parts = list(plan.names) if plan.labels.policy == "keep" else []
    written = (result.folder / "fusehub_recipe.yaml").read_text(encoding="utf-8")
    return {
        "name": recipe["name"],
        "folder": str(result.folder),
        "parts": parts,
        "notes": notes[:8],
        "seconds": time.monotonic() - started,
        "recipe": written,
    }


def _recipe(asked: Mapping[str, Any]) -> Any:
    return fusehub.Recipe.of(
        asked["models"],
        asked["method"],
        parameters=asked["parameters"],
        weights=asked["weights"],
        statistics=asked["statistics"],
        labels=asked["labels"],
        heads=asked["heads"],
        base_model=asked["base_model"],
    )


def _too_large(needed: int, there: int, command: str) -> FuseHubError:
    from fusehub.utils.formats import size

    return FuseHubError(
        f"This merge needs about {size(needed)} of memory, and this machine has {size(there)}.",
        f"Do it on a larger one: {command}",
    )
