"""What a merge writes beside its weights: config, tokenizer, the recipe with everything resolved, and a report.

Nothing here depends on when or where the merge ran, so that the same recipe gives the same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fusehub.hub.client import software
from fusehub.hub.licenses import license_of
from fusehub.merging.donors import Donors
from fusehub.merging.plan import Plan
from fusehub.merging.planned_model import config_of_result
from fusehub.merging.planner import described
from fusehub.merging.recipe import FILENAME, Recipe
from fusehub.merging.result import MergeResult
from fusehub.models.chat_templates import FILENAME as TEMPLATE
from fusehub.models.chat_templates import template_of
from fusehub.models.ref import ModelRef
from fusehub.models.side_documents import GENERATION_CONFIG
from fusehub.models.side_files import legal_files
from fusehub.models.tensor_files import sha256_of
from fusehub.utils.frozen import thawed

REPORT_FILENAME = "fusehub_report.json"


def write_side_files(result: MergeResult) -> None:
    """Writes all files of a merge but the weights into its folder."""
    plan, folder = result.plan, result.folder
    keeps = plan.labels.policy == "keep"
    for donors, name, kept in zip(plan.all_donors, plan.names, result.kept, strict=False):
        _write_model_files(result, folder / name if keeps else folder, donors, kept)
    (folder / FILENAME).write_text(resolved_recipe(plan).to_yaml(), encoding="utf-8")
    planned = plan.to_dict()
    # What was still to be downloaded is told by the cache, not by the recipe.
    del planned["cost"]["download_bytes"]
    report = {
        **planned,
        "notes": list(result.remarks),
        "tensors": described(result.tensors, plan.method),
        "layer_notes": {name: [asdict(note) for note in own] for name, own in result.notes.items()},
        "precision": dict(sorted(result.precision.items())),
        "sha256": dict(sorted(result.hashes.items())),
        "sources": [_source(plan, index) for index in range(len(plan.experts))],
        "base_source": _base_source(plan),
        "software": software("torch"),
    }
    (folder / REPORT_FILENAME).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def resolved_recipe(plan: Plan) -> Recipe:
    """The plan's recipe with commits, statistics, labels, options and versions filled in."""
    entries = []
    for index, (entry, ref) in enumerate(zip(plan.recipe.models, plan.experts, strict=True)):
        found = plan.statistics[index] if plan.statistics else None
        used = {"statistics": entry.statistics, "data": None} if found is None else found.recorded(entry)
        model = ref.id if ref.repo_id else entry.model
        said = thawed(plan.settings.models[index])
        if "weight" in plan.method.own_options.fields():
            said = {"weight": plan.weights[index], **said}
        entries.append(entry.model_copy(update={"model": model, "parameters": said, **used}))
    provenance: dict[str, Any] = {"weights": [dict(own) for own in plan.hashes], "software": software("torch")}
    if plan.method.needs_data:
        provenance["data"] = [found.metadata["data"] for found in plan.statistics]
    if tuning := thawed(plan.tuning) or (plan.recipe.provenance or {}).get("tuning"):
        # The trials are in the report.
        provenance["tuning"] = {key: value for key, value in tuning.items() if key not in ("trials", "chosen")}
    return plan.recipe.model_copy(
        update={
            "merge_method": plan.method.name,
            "models": tuple(entries),
            "tokenizer_source": None,
            "base_model": (plan.base.id if plan.base.repo_id else plan.recipe.base_model) if plan.base else None,
            "parameters": plan.settings.written(),
            "heads": plan.labels.policy,
            "provenance": provenance,
        }
    )


def _write_model_files(result: MergeResult, folder: Path, donors: Donors, kept: Sequence[str]) -> None:
    """Config, tokenizer and what else a model has beside its weights, with the merged labels and dtype.

    `kept` are the names of what it has from one expert alone.
    """
    plan = result.plan
    everyone = [*plan.experts, *([plan.base] if plan.base else [])]
    written = [name for name, tensor in result.tensors.items() if not tensor.is_head]
    config = config_of_result(donors, plan.labels, result.tensors, [*written, *kept])
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    _write_side_files(donors, folder)
    _copy_legal_files(everyone, folder)


def _copy_legal_files(everyone: Sequence[ModelRef], folder: Path) -> None:
    """Texts of licenses go with the result where they are the same for all that went in."""
    first, *others = everyone
    for name in legal_files(first.files):
        if all(name in ref.files and sha256_of(ref.path(name)) == sha256_of(first.path(name)) for ref in others):
            shutil.copyfile(first.path(name), folder / name)


def _write_side_files(donors: Donors, folder: Path) -> None:
    """The files of the tokenizer or processor, the generation config and the chat template."""
    ref = donors.tokenizer
    same = donors.template == template_of(ref)
    for name in ref.side_files():
        if name != GENERATION_CONFIG and (same or name != TEMPLATE):
            (folder / name).parent.mkdir(exist_ok=True)  # Further chat templates have a folder.
            shutil.copyfile(ref.path(name), folder / name)
    if donors.generation is not None:
        shutil.copyfile(donors.generation.path(GENERATION_CONFIG), folder / GENERATION_CONFIG)
    if same:
        return
    said = folder / "tokenizer_config.json"
    if said.is_file() and "chat_template" in (own := json.loads(said.read_text(encoding="utf-8"))):
        del own["chat_template"]
        said.write_text(json.dumps(own, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if donors.template is not None:
        (folder / TEMPLATE).write_text(donors.template, encoding="utf-8")


def _source(plan: Plan, index: int) -> dict[str, Any]:
    """Where one expert and its statistics came from, for the card."""
    ref = plan.experts[index]
    found = plan.statistics[index] if plan.statistics else None
    return {
        "name": ref.name,
        "short_name": plan.names[index],
        "repo_id": ref.repo_id,
        "commit": ref.commit,
        "weight": plan.weights[index],
        "license": plan.report.models[index].license,
        "languages": ref.card.get("language"),
        "datasets": ref.card.get("datasets"),
        "base": plan.report.models[index].base,
        "private": ref.gated or ref.private,
        "adapter_base": _origin(ref.parts.base) if ref.parts else None,
        "statistics": {
            "origin": found.origin,
            "data": thawed(found.metadata.get("data")),
            "examples": found.metadata.get("examples"),
            "tokens": found.metadata.get("tokens"),
        }
        if found
        else None,
    }


def _base_source(plan: Plan) -> dict[str, Any] | None:
    """What the base's own terms ask of the result."""
    return _origin(plan.base) if plan.base else None


def _origin(base: ModelRef) -> dict[str, Any]:
    return {
        "name": base.name if base.repo_id else base.own_name,
        "repo_id": base.repo_id,
        "commit": base.commit,
        "folder": None if base.repo_id else str(base.folder),
        "license": license_of(base.card),
        "private": base.gated or base.private,
    }
