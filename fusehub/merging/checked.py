"""The models of a merge, checked: what `fusehub.check` finds of them, and the hashes of their weights."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fusehub.checking.check import check
from fusehub.checking.heads import LabelPlan
from fusehub.checking.report import Report
from fusehub.errors import Action, BadRecipe, Incompatible
from fusehub.hub.verified import file_hash, remembered_hash
from fusehub.merging.cast import Cast
from fusehub.merging.recipe import Recipe
from fusehub.models.checkpoints.checkpoint import hash_share, share_hashes, weight_hashes
from fusehub.models.ref import ModelRef
from fusehub.utils.findings import Allowed
from fusehub.utils.processes import Processes


@dataclass(frozen=True)
class Checked:
    """What was found; `labels` is what becomes of the heads, `hashes` the sha256 of each expert's weight files."""

    report: Report
    labels: LabelPlan
    hashes: tuple[dict[str, str], ...]


def checked(
    cast: Cast, allowed: Allowed, report: Report | None, processes: Processes, *, made: bool = True
) -> Checked:
    """What is found of the cast; `report` is what `check` has found of it already, if it has.

    Each of the `processes` hashes its share of what only lies in folders; where nothing is `made` of it, what another
    command has found will do. Raises `Incompatible` with all that speaks against the merge, but for what is `allowed`.
    """
    recipe, experts = cast.recipe, cast.experts
    given = {ref.name: list(entry.labels) for ref, entry in zip(experts, recipe.models, strict=True) if entry.labels}
    with ThreadPoolExecutor(1) as pool:
        hashing = pool.submit(hash_share, experts, processes) if made else None
        import torch  # noqa: F401  # takes a second, which hashing fills

        if report is None or [model.id for model in report.models] != [ref.id for ref in experts]:
            report = check(experts, base=cast.base, heads=recipe.heads, labels=given)
    _require_tokenizer(recipe, experts, cast.base, report)
    report.require_ok(allowed.ignored)
    if report.labels is None:
        report.require_ok()
        raise Incompatible("The models' heads cannot be planned.", "Say --heads keep.", actions=[Action("keep-heads")])
    if hashing:
        hashing.result()
        share_hashes(processes)
    hashes = tuple(weight_hashes(ref, file_hash if made else remembered_hash) for ref in experts)
    _require_provenance(recipe, experts, hashes)
    return Checked(report, report.labels, hashes)


def _require_tokenizer(recipe: Recipe, experts: Sequence[ModelRef], base: ModelRef | None, report: Report) -> None:
    """Raises `BadRecipe` where mergekit's choice of tokens is another than that of the result."""
    source = recipe.tokenizer_source
    if source is None:
        return
    if source == "union":
        if any(finding.code == "vocabulary-differs" for finding in report.findings):
            raise BadRecipe(
                "tokenizer_source: union puts the tokens of different vocabularies together, which FuseHub does not: "
                "the models give one number to different tokens.",
                "Merge models of which one has the tokens of all others, in the same places.",
            )
        return
    named = next((ref for ref in (*experts, base) if ref is not None and source in (ref.name, ref.id)), None)
    ref = base if source == "base" else named
    if ref is None:
        raise BadRecipe(
            f"tokenizer_source: {source} is none of the merge's models.",
            "Leave tokenizer_source out: the result has the tokenizer of the model that knows the most tokens.",
        )
    if ref.id not in report.knowing_all:
        raise BadRecipe(
            f"tokenizer_source: {source} would drop tokens that other models know, and FuseHub keeps all.",
            "Leave tokenizer_source out: the result has the tokenizer of the model that knows the most tokens.",
        )


def _require_provenance(recipe: Recipe, experts: Sequence[ModelRef], hashes: Sequence[dict[str, str]]) -> None:
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
