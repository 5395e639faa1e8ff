"""What two configs tell of their models: where they compute differently, and which base they come from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from fusehub.adapters import AdaptedRef
from fusehub.refs import ModelRef
from fusehub.tasks import load_config

# Keys of config.json that do not change what the weights compute once the model is in eval mode.
_IGNORED = re.compile(
    r"(_name_or_path|transformers_version|torch_dtype|dtype|id2label|label2id|num_labels|_num_labels|problem_type"
    r"|finetuning_task|task_specific_params|use_cache|output_.*|.*dropout.*|.*_drop|layerdrop|gradient_checkpointing"
    r"|initializer_.*|architectures|_attn_implementation.*|.*_prob|return_dict|language|license|_commit_hash"
    r"|max_length|min_length|num_beams|do_sample|temperature|top_k|top_p|repetition_penalty|model_card|_diffusers.*)"
)


def config_differences(first: ModelRef, other: ModelRef) -> dict[str, tuple[Any, Any]]:
    """Keys that make two models of one architecture compute differently, with the value in each."""
    if not _differences(first.config, other.config):
        return {}
    # Older configs leave defaults out: let transformers fill them in before calling it a difference.
    return _differences(load_config(first).to_dict(), load_config(other).to_dict())


def base_of(ref: ModelRef, config: Mapping[str, Any]) -> str | None:
    """The model that this one says it comes from: its card's `base_model`, else what its config was loaded from."""
    if isinstance(ref, AdaptedRef) and ref.base.repo_id:
        return ref.base.repo_id
    said = ref.card.get("base_model")
    if isinstance(said, list):
        said = said[0] if said else None
    if isinstance(said, str) and said:
        return said
    loaded = config.get("_name_or_path")
    # A folder of somebody's machine says nothing, and neither does a model that names itself.
    if isinstance(loaded, str) and re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", loaded) and loaded != ref.repo_id:
        return loaded
    return None


def _differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = [key for key in dict.fromkeys([*mine, *theirs]) if not _IGNORED.fullmatch(key)]
    return {
        key: (mine.get(key), theirs.get(key))
        for key in keys
        if json.dumps(mine.get(key), sort_keys=True, default=str)
        != json.dumps(theirs.get(key), sort_keys=True, default=str)
    }
