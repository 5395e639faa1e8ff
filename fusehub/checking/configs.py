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
from fusehub.errors import FuseHubError
from fusehub.models.adapters import AdaptedRef
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
        values = f"{first.name} has {it.mine!r}, {other.name} has {it.theirs!r}"
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
            harmless.append(f"{it.key} ({it.mine!r} and {it.theirs!r})")
    if harmless:
        what = f"The configs of {first.name} and {other.name} differ in what changes no answer: {', '.join(harmless)}."
        found.append(Finding("config-differs", "note", what))
    kinds = [ref.config.get("problem_type") for ref in (first, other)]
    if None not in kinds and kinds[0] != kinds[1] and not is_base:
        what = f"config problem_type: {first.name} has {kinds[0]!r}, {other.name} has {kinds[1]!r}."
        found.append(Finding("config-differs", "warning", what, "Their heads were trained to be read in other ways."))
    return found


def base_of(ref: ModelRef, config: Mapping[str, Any]) -> str | None:
    """The model that this one says it was trained from; None where it says nothing, or that it is made of several."""
    said = _origins_of(ref, config)
    return said[0] if len(said) == 1 else None


def common_base(refs: Sequence[ModelRef]) -> str | None:
    """The base that all of these models name, as the first one names it; None where one names none, or another."""
    named = [base_of(ref, ref.config) for ref in refs]
    return named[0] if named[0] and len({_called(name or "") for name in named}) == 1 else None


def different_bases(refs: Sequence[ModelRef], base: ModelRef | None = None) -> dict[str, str]:
    """For each model that says it, the base that it comes from, where they cannot all be of one; empty else.

    A model and what was trained from it are of one family. A merge of several models is of the family of those that
    are there; which base it has otherwise is not known, and nothing is held against it.
    """
    known: dict[str, str] = {}
    families: list[set[str]] = []
    unknown: set[str] = set()
    for ref in refs:
        said = _origins_of(ref, ref.config)
        own = {_called(name) for name in (ref.repo_id, *said) if name}
        if len(said) == 1:
            known[ref.name] = said[0]
        elif said:
            unknown |= own
        families.append(own)
    if base is not None and base.repo_id:
        known[f"--base {base.name}"] = base.repo_id
        families.append({_called(base.repo_id)})
    stated = {_called(name) for name in known.values()}
    # Those that have a name in common are one.
    joined: list[set[str]] = []
    for family in families:
        for other in [other for other in joined if other & family]:
            family = family | other
            joined.remove(other)
        joined.append(family)
    return known if sum(bool(family & stated) and not family & unknown for family in joined) > 1 else {}


def _called(name: str) -> str:
    """The name of a model without its owner: the same one is found at mirrors."""
    return name.rpartition("/")[2].casefold()


def _origins_of(ref: ModelRef, config: Mapping[str, Any]) -> list[str]:
    """The models of a card's `base_model`, several where it is a merge; else what its config was loaded from."""
    if isinstance(ref, AdaptedRef) and ref.base.repo_id:
        return [ref.base.repo_id]
    said = ref.card.get("base_model")
    named = [name for name in (said if isinstance(said, list) else [said]) if isinstance(name, str) and name]
    if named:
        return list(dict.fromkeys(named))
    loaded = config.get("_name_or_path")
    # A folder of somebody's machine says nothing, and neither does a model that names itself.
    if isinstance(loaded, str) and re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", loaded) and loaded != ref.repo_id:
        return [loaded]
    return []


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
