"""A merge of LoRA adapters over one base, written as an adapter again: exact, by the rank of all together.

    Σ c_i s_i B_i A_i  =  [c_1 s_1 B_1, c_2 s_2 B_2, ...] · [A_1; A_2; ...]

Possible for methods that add updates up, whose `factors` are the c_i; the others need the whole weights.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.errors import Action, BadRecipe, Incompatible, NonFinite
from fusehub.merging.plan import Plan
from fusehub.merging.planner import TensorPlan
from fusehub.methods.base import Layer
from fusehub.methods.mean import weighted_mean
from fusehub.models.adapters.lora import Updates
from fusehub.models.adapters.ref import CONFIG, WEIGHTS, open_adapter
from fusehub.models.checkpoints.checkpoint import Checkpoint, headers
from fusehub.models.ref import Parts
from fusehub.models.tensor_files import sha256_of

if TYPE_CHECKING:
    from torch import Tensor

_INSTEAD = "Leave out --as-adapter: the merged weights as a whole."


def write_adapter(plan: Plan, folder: Path) -> dict[str, str]:
    """Writes the merge of `plan` into `folder` as an adapter; the sha256 of its files. Raises where it is none."""
    from safetensors.torch import save_file

    experts = _require_addable(plan)
    base = experts[0].base
    with contextlib.ExitStack() as files:
        checkpoints = [files.enter_context(Checkpoint(ref)) for ref in plan.experts]
        for checkpoint, told in zip(checkpoints, plan.headers, strict=False):
            checkpoint.require(told)
        # A .bin has no headers to read from afar; it is here by now.
        infos = headers(base) or files.enter_context(Checkpoint(base)).tensors
        updates = [
            Updates(ref, infos, open_adapter(parts.adapter)) for ref, parts in zip(plan.experts, experts, strict=True)
        ]
        for update in updates:
            files.callback(update.reader.close)
        own_base = files.enter_context(Checkpoint(plan.base)) if plan.base else None
        tensors: dict[str, Tensor] = {}
        ranks: dict[str, int] = {}
        for name in dict.fromkeys(name for update in updates for name in update.changes):
            parts = [update.changes.get(name, {}) for update in updates]
            _require_factors(name, parts)
            # The first adapter that has it says what it is called.
            update, own = next((update, own) for update, own in zip(updates, parts, strict=True) if own)
            keys = {part: update.current_key(key) for part, key in own.items()}
            if "whole" in own:
                merged = _whole(plan, plan.tensors[name], checkpoints, own_base)
                tensors[keys["whole"]] = merged.float().contiguous()
                continue
            shares = [plan.recipe.scale * factor for factor in _factors(plan, plan.tensors[name])]
            a, b = _joined(updates, parts, shares)
            tensors[keys["A"]], tensors[keys["B"]] = a.float().contiguous(), b.float().contiguous()
            ranks[update.module(keys["A"])] = a.shape[0]
    _require_finite(tensors)
    save_file(dict(sorted(tensors.items())), folder / WEIGHTS, metadata={"format": "pt"})
    config = _config(experts, base, ranks)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return {name: sha256_of(folder / name) for name in (WEIGHTS, CONFIG)}


def _require_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raises `NonFinite` naming the first tensor that is not, as a merge of whole weights does."""
    import torch

    for name, value in tensors.items():
        if not bool(torch.isfinite(value).all()):
            raise NonFinite(f"{name}: one of the adapters holds NaN or infinity.", "Use adapters that are not broken.")


def _require_addable(plan: Plan) -> list[Parts]:
    """Base and adapter of each expert, if they are adapters over one base, whose updates add up to one."""
    experts = [ref.parts for ref in plan.experts if ref.parts]
    others = [ref.name for ref in plan.experts if not ref.parts]
    if others:
        raise BadRecipe(f"{', '.join(others)} is no adapter, so the merge is none.", _INSTEAD)
    bases = sorted({parts.base.id for parts in experts} | ({plan.base.id} if plan.base else set()))
    if len(bases) > 1:
        raise Incompatible(f"The adapters do not share one base: {', '.join(bases)}.", _INSTEAD)
    if plan.labels.policy == "keep" or not plan.labels.is_identity:
        raise BadRecipe("The adapters' heads are not all the same, and an adapter has one.", _INSTEAD)
    for tensor in plan.tensors.values() if plan.method.base != "needed" else ():
        total = sum(_factors(plan, tensor))
        if abs(total - 1) > 1e-9:
            raise BadRecipe(
                f"The weights of {tensor.name} add up to {total:g}: the base itself is scaled.",
                "Give weights that add up to 1 (normalize=true makes them so), or leave out --as-adapter.",
                actions=[Action("merge-whole")],
            )
    return experts


def _require_factors(name: str, parts: Sequence[Mapping[str, str]]) -> None:
    odd = sorted({part for own in parts for part in own} - {"A", "B", "whole"})
    if odd:
        raise Incompatible(f"{name} has a {odd[0]} of DoRA's or of lora_bias: its updates do not add up.", _INSTEAD)
    if any("whole" in own for own in parts) and any("A" in own for own in parts):
        raise Incompatible(f"{name} is replaced by one adapter and updated by another.", _INSTEAD)


def _factors(plan: Plan, tensor: TensorPlan) -> list[float]:
    """What each expert's update is multiplied by in this tensor, before `scale`."""
    assert plan.method.factors is not None  # A method without is refused before.
    layer = Layer(tensor.name, (), tensor.coefficients, own=tensor.own, seed=plan.recipe.seed)
    return list(plan.method.factors(layer, tensor.options))


def _joined(
    updates: Sequence[Updates], parts: Sequence[Mapping[str, str]], shares: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """`[A_1; A_2; ...]` and `[c_1 s_1 B_1, ...]` of those that have the tensor, in float64.

    Where that is more rank than the product of them can have, the product itself and a unit matrix.
    """
    import torch

    found = [
        (update.read_part(own["A"]), update.read_part(own["B"]) * (update.scale(own["A"]) * share))
        for update, own, share in zip(updates, parts, shares, strict=True)
        if own
    ]
    a, b = torch.cat([a for a, _ in found]), torch.cat([b for _, b in found], dim=1)
    rank, rows, columns = a.shape[0], b.shape[0], a.shape[1]
    if rank > min(rows, columns):
        unit = torch.eye(min(rows, columns), dtype=a.dtype)
        a, b = (b @ a, unit) if rows <= columns else (unit, b @ a)
    return a, b


def _whole(plan: Plan, tensor: TensorPlan, experts: Sequence[Checkpoint], base: Checkpoint | None) -> Tensor:
    """A head or a bias, merged as in a merge of whole weights."""
    values = [file[name].double() for file, name in zip(experts, tensor.sources, strict=True)]
    before = base[tensor.base].double() if base is not None and tensor.base else None
    if tensor.action == "combine":
        layer = Layer(tensor.name, values, tensor.coefficients, before, own=tensor.own, seed=plan.recipe.seed)
        merged = plan.method.merge(layer, tensor.options).tensor
    else:
        shares = [max(0.0, weight) for weight in tensor.coefficients]
        merged = weighted_mean(values, shares if any(shares) else [1.0] * len(values))
    return merged if before is None else before + plan.recipe.scale * (merged - before)


def _config(experts: Sequence[Parts], base: Any, ranks: Mapping[str, int]) -> dict[str, Any]:
    """The adapter's config: of rank and alpha alike in each module, so that the product counts as it is."""
    said = [parts.adapter.adapter_config for parts in experts]
    biases = sorted({own.get("bias", "none") for own in said})
    if len(biases) > 1:
        raise Incompatible(f"The adapters train other biases: {', '.join(biases)}.", _INSTEAD)
    rank = max(ranks.values(), default=1)
    others = {module: own for module, own in sorted(ranks.items()) if own != rank}
    saved = dict.fromkeys(module for own in said for module in own.get("modules_to_save") or ())
    return {
        "peft_type": "LORA",
        "task_type": said[0].get("task_type"),
        "base_model_name_or_path": base.repo_id or str(base.folder),
        "revision": base.commit,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
        "modules_to_save": list(saved) or None,
        "bias": biases[0],
        "fan_in_fan_out": said[0].get("fan_in_fan_out", False),
        "lora_dropout": 0.0,
        "init_lora_weights": True,
    }
