"""Which model's config, tokenizer, generation config and chat template the result of a merge has.

As with mergekit, the base's where there is one: experts are what it has learned. But the tokenizer is that of the
model that knows the most tokens, and where the base does not know them all, what names tokens goes with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fusehub.checking.heads import LabelPlan
from fusehub.checking.preprocessing import tokenizer_for
from fusehub.checking.report import Report
from fusehub.merging.recipe import Recipe
from fusehub.models.chat_templates import most_common, named_template, template_of
from fusehub.models.ref import ModelRef
from fusehub.models.side_documents import GENERATION_CONFIG

# What a config says of a head that a base, pretrained or of another task, may have too.
_OF_THE_HEAD = ("id2label", "label2id", "num_labels", "_num_labels", "problem_type", "finetuning_task")


@dataclass(frozen=True)
class Donors:
    """Whose files the result has; `template` is the text of its chat template, `template_of` says whose that is."""

    config: ModelRef
    head: ModelRef
    """The expert that says what the head is for."""
    tokenizer: ModelRef
    generation: ModelRef | None
    template: str | None
    template_of: str
    tokens_added: bool = False
    """Whether the tokenizer knows tokens that the config's model does not."""
    notes: tuple[str, ...] = ()

    def merged_config(self) -> dict[str, Any]:
        """The config of the result, before labels, numbers of rows and dtype are written into it."""
        theirs = self.head.config
        config = {key: value for key, value in self.config.config.items() if key not in _OF_THE_HEAD}
        config |= {key: theirs[key] for key in _OF_THE_HEAD if key in theirs}
        if self.tokens_added:
            config |= {key: value for key, value in theirs.items() if key.endswith("_token_id")}
        return config

    def described(self) -> dict[str, str | None]:
        """Whose each is, by name, for a plan."""
        return {
            "config": self.config.name,
            "tokenizer": self.tokenizer.name,
            "generation_config": self.generation.name if self.generation else None,
            "chat_template": self.template_of if self.template else None,
        }


def donors_of(
    recipe: Recipe, experts: Sequence[ModelRef], base: ModelRef | None, report: Report, labels: LabelPlan
) -> tuple[Donors, ...]:
    """The donors of each model that a merge writes: of one, or of every expert that keeps its head.

    Raises `BadRecipe` for a chat template that there is not.
    """
    if labels.policy == "merge":
        return (_of_all(recipe, experts, base, report),)
    everyone = [*experts, *([base] if base else [])]
    return tuple(_of_one(ref, everyone) for ref in experts)


def _of_all(recipe: Recipe, experts: Sequence[ModelRef], base: ModelRef | None, report: Report) -> Donors:
    knowing = experts[report.largest]
    tokenizer = tokenizer_for(knowing, [*experts, *([base] if base else [])])
    is_alike = base is not None and base.config.get("architectures") == knowing.config.get("architectures")
    config = base if base is not None and is_alike else knowing
    added = is_alike and config.id not in report.knowing_all
    speaking = tokenizer if added else config
    generation = next((ref for ref in (speaking, tokenizer) if GENERATION_CONFIG in ref.files), None)
    template, whose, notes = _template(recipe, experts, base, speaking)
    if _configs_differ([*experts, *([base] if base else [])], report):
        whose_generation = f", the generation config that of {generation.name}" if generation else ""
        notes = (f"The config of the result is that of {config.name}{whose_generation}.", *notes)
    return Donors(config, knowing, tokenizer, generation, template, whose, added, notes)


def _of_one(ref: ModelRef, everyone: Sequence[ModelRef]) -> Donors:
    """An expert that keeps its own head keeps its own files; of `everyone` one gives it a tokenizer if it has none."""
    generation = ref if GENERATION_CONFIG in ref.files else None
    tokenizer = tokenizer_for(ref, everyone)
    return Donors(ref, ref, tokenizer, generation, template_of(tokenizer), tokenizer.name)


def _configs_differ(everyone: Sequence[ModelRef], report: Report) -> bool:
    """Whether it matters whose config or generation config the result has."""
    said = [ref.json(GENERATION_CONFIG) for ref in everyone if GENERATION_CONFIG in ref.files]
    said = [{key: value for key, value in own.items() if key != "transformers_version"} for own in said]
    return any(finding.code == "config-differs" for finding in report.findings) or any(own != said[0] for own in said)


def _template(
    recipe: Recipe, experts: Sequence[ModelRef], base: ModelRef | None, speaking: ModelRef
) -> tuple[str | None, str, tuple[str, ...]]:
    """The chat template, whose it is, and what has to be said of it."""
    everyone = {ref.id: ref for ref in (*experts, *([base] if base else []))}.values()
    known = {ref.name: template for ref in everyone if (template := template_of(ref)) is not None}
    said = recipe.chat_template
    if said == "auto":
        chosen = most_common(known.values())
        names = [name for name, template in known.items() if template.strip() == chosen]
        return chosen, ", ".join(names) or "no model", ()
    if said is not None:
        return named_template(said), "the recipe", ()
    own = known.get(speaking.name)
    others = [name for name, template in known.items() if own is None or template.strip() != own.strip()]
    if not others:
        return own, speaking.name, ()
    whose = (
        f"The chat template is that of {speaking.name}"
        if own
        else f"{speaking.name} has no chat template, nor the result"
    )
    return (
        own,
        speaking.name,
        (
            f"{whose}; {', '.join(others)} {'have' if len(others) > 1 else 'has'} another: "
            "say chat_template: auto for the one that most models have.",
        ),
    )
