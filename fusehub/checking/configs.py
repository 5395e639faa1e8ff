"""What two configs tell of their models: where they compute differently, and which base they come from.

Equal numbers are equal however they are written, and old spellings are read as transformers reads them. What is left
is told apart by what it does (`config_effects`): another computation, other ends of texts, or nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusehub.checking.config_effects import ABSENT, Effect, effects_of, flat
from fusehub.errors import FuseHubError, shortly
from fusehub.hub.client import client
from fusehub.hub.origins import base_of_merge, called, named_origins, names_parents
from fusehub.models.resolve import ModelRef
from fusehub.models.tasks import load_config
from fusehub.utils.findings import Finding, Level

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Who wrote the file and how the model is called: never worth a word. Labels have rules of their own.
_BOOKKEEPING = re.compile(
    r"_?name_or_path|transformers_version|(torch_)?dtype|architectures|model_type|id2label|label2id|_?num_labels"
    r"|problem_type|finetuning_task|task_specific_params|_commit_hash|language|license|model_card"
    r"|_?(attn|experts)_implementation(_\w+)?|return_dict|use_cache|output_(hidden_states|attentions|router_logits)"
    r"|_output_attentions|gradient_checkpointing"
    # What is shared is told by the files, and merged as it runs.
    r"|tie_word_embeddings"
)
# What acts in training alone, where that is not seen in the source: rates of what is dropped, and losses. (Two rates
# scale what is computed at all times.)
_TRAINING = re.compile(
    r"(?!(moe_)?token_dropout$)(\w+_)?(dropout|pdrop|layerdrop|drop)(_(prob|rate|p))?|drop_(\w+_)?rate|(\w+_)?loss(_\w+)?"
)
# The expression tries each word of a name as the first; names of one key that are longer are of no library's making.
_LONGEST = 200
# How fast the same is computed.
_SPEED = frozenset(
    {"chunk_size_feed_forward", "pretraining_tp", "reorder_and_upcast_attn", "deterministic_flash_attn"}
    | {"reference_compile", "use_mamba_kernels", "use_mambapy", "use_bfloat16", "torchscript"}
)
# What needs no asking: the first is that of the tokenizer, the second is read by what all models have in common.
_ALWAYS = frozenset({"vocab_size", "is_encoder_decoder"})
# What other keys get their values from, where these are not said.
_DERIVING = ("model_type", "tie_word_embeddings")
# Left by transformers beside the newer spelling.
_OLD = re.compile(r"(.+\.)?rope_parameters\.(.+\.)?type")


@dataclass(frozen=True)
class Difference:
    """A key, dotted where it is of a config within, that two configs have different values for, and what it does."""

    key: str
    mine: Any
    theirs: Any
    effect: Effect


def config_differences(first: ModelRef, other: ModelRef) -> list[Difference]:
    """What differs in the configs of two models of one architecture, as transformers understands them."""
    said = _differing(first.config, other.config)
    # transformers fills in one by the other: whether T5 scales its outputs by whether it shares its embeddings.
    if not said and all(first.config.get(key) == other.config.get(key) for key in _DERIVING):
        return []
    try:
        config = load_config(first)
        differing = _differing(config.to_dict(), load_config(other).to_dict())
        effects = effects_by_key(config, {key: theirs for key, (_, theirs) in differing.items()})
    except FuseHubError:
        # Who cannot read them cannot tell.
        differing, effects = said, effects_by_key(None, {key: theirs for key, (_, theirs) in said.items()})
    kind, their_kind = (ref.config.get("model_type") for ref in (first, other))
    own = [] if kind == their_kind else [Difference("model_type", kind, their_kind, "computes")]
    return [*own, *(Difference(key, mine, theirs, effects[key]) for key, (mine, theirs) in differing.items())]


def config_findings(first: ModelRef, other: ModelRef, *, is_base: bool, same_tokens: bool) -> list[Finding]:
    """What the configs of two models say of a merge; `same_tokens`: their vocabularies fit, whatever their sizes."""
    found, harmless = [], []
    for it in config_differences(first, other):
        values = f"{first.name} has {shortly(it.mine)}, {other.name} has {shortly(it.theirs)}"
        name = it.key.rpartition(".")[2]
        if name == "vocab_size" and same_tokens:
            continue
        if it.effect == "computes":
            fix = "Models that compute differently cannot share weights: merge models of one base."
            level: Level = "warning" if is_base else "error"
            found.append(Finding("config-differs", level, f"config {it.key}: {values}.", "" if is_base else fix))
        elif it.effect == "reads tokens":
            found.append(Finding("config-differs", "warning", f"config {it.key}: {values}."))
        elif name == "max_position_embeddings":
            what = (
                f"config {it.key}: {values}. No weight depends on it; how long texts may be, the result's config says."
            )
            found.append(Finding("config-differs", "note", what))
        else:
            harmless.append(f"{it.key} ({shortly(it.mine)} and {shortly(it.theirs)})")
    if harmless:
        what = f"The configs of {first.name} and {other.name} differ in what changes no answer: {', '.join(harmless)}."
        found.append(Finding("config-differs", "note", what))
    kinds = [ref.config.get("problem_type") for ref in (first, other)]
    if None not in kinds and kinds[0] != kinds[1] and not is_base:
        what = f"config problem_type: {first.name} has {shortly(kinds[0])}, {other.name} has {shortly(kinds[1])}."
        found.append(Finding("config-differs", "warning", what, "Their heads were trained to be read in other ways."))
    return found


@dataclass(frozen=True)
class Origin:
    """Where a model says it comes from: `base`, where that is one, and for a merge the `parents` that are in it."""

    base: str | None
    parents: tuple[str, ...] = ()


def base_of(ref: ModelRef, config: Mapping[str, Any]) -> str | None:
    """The model that this one says it was trained from; of a merge, the one that all models in it were trained from.
    None where nothing is said, and where these are several."""
    return origin_of(ref, config).base


def common_base(named: Sequence[str | None]) -> str | None:
    """The base that all models name, of the one that each names; None where one names none, or another."""
    return named[0] if named[0] and len({called(name or "") for name in named}) == 1 else None


NAMED_BASE = "the base that was named"


def different_bases(
    refs: Sequence[ModelRef], base: ModelRef | None = None, origins: Mapping[str, Origin] | None = None
) -> dict[str, str]:
    """For each model that says it, the base that it comes from, where they cannot all be of one; empty else.

    A model and what was trained from it are of one family. A merge of several models is of the family of those that
    are there, and of their base; where that is not known, nothing is held against it. `origins`: those of the models,
    by their ids, where they were asked for already.
    """
    known: dict[str, str] = {}
    families: list[set[str]] = []
    unknown: set[str] = set()
    for ref in refs:
        origin = origins[ref.id] if origins else origin_of(ref, ref.config)
        own = {called(name) for name in (ref.repo_id, origin.base, *origin.parents) if name}
        if origin.base is not None:
            known[ref.name] = origin.base
        elif origin.parents:
            unknown |= own
        families.append(own)
    if base is not None and base.repo_id:
        known[NAMED_BASE] = base.repo_id
        families.append({called(base.repo_id)})
    stated = {called(name) for name in known.values()}
    # Those that have a name in common are one.
    joined: list[set[str]] = []
    for family in families:
        for other in [other for other in joined if other & family]:
            family = family | other
            joined.remove(other)
        joined.append(family)
    return known if sum(bool(family & stated) and not family & unknown for family in joined) > 1 else {}


def origin_of(ref: ModelRef, config: Mapping[str, Any]) -> Origin:
    """What a card's `base_model` says; else what the config was loaded from. The Hub is asked about the models in a
    merge, unless it must not be."""
    if ref.parts and ref.parts.base.repo_id:
        return Origin(ref.parts.base.repo_id)
    named = named_origins(ref.card)
    if names_parents(ref.card):
        base = None if ref.access.is_offline else base_of_merge(named, client(ref.access.token))
        return Origin(base, tuple(named))
    if named:
        return Origin(named[0])
    loaded = config.get("_name_or_path")
    # A folder of somebody's machine says nothing, and neither does a model that names itself.
    if isinstance(loaded, str) and re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", loaded) and loaded != ref.repo_id:
        return Origin(loaded)
    return Origin(None)


def effects_by_key(config: PretrainedConfig | None, other: Mapping[str, Any]) -> dict[str, Effect]:
    """What each key does; only what is not known is asked for. Without a config, the rest may do anything."""
    known: dict[str, Effect] = {key: "none" for key in other if _is_harmless(key)}
    known |= {key: "computes" for key in other if key.rpartition(".")[2] in _ALWAYS}
    asked = {key: value for key, value in other.items() if key not in known}
    if not asked:
        return known
    return {**known, **(effects_of(config, asked) if config else dict.fromkeys(asked, "computes"))}


def _is_harmless(key: str) -> bool:
    name = key.rpartition(".")[2]
    return name in _SPEED or (len(name) <= _LONGEST and _TRAINING.fullmatch(name) is not None)


def _differing(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys of two configs with the values of both where they are not the same."""
    mine, theirs = flat(mine), flat(theirs)
    keys = [
        key
        for key in dict.fromkeys([*mine, *theirs])
        if not _OLD.fullmatch(key) and not any(_BOOKKEEPING.fullmatch(part) for part in key.split("."))
    ]
    values = {key: (mine.get(key, ABSENT), theirs.get(key, ABSENT)) for key in keys}
    return {key: (one, other) for key, (one, other) in values.items() if not _same(one, other)}


def _same(one: Any, other: Any) -> bool:
    """Whether two values are one: numbers as exact as float32, in which many configs were written; none is absent."""
    nothing = (None, ABSENT)
    if one in nothing or other in nothing:
        return (one in nothing or one == {}) and (other in nothing or other == {})
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other or (one != one and other != other) or abs(one - other) <= 1e-7 * max(abs(one), abs(other))
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other
