"""LoRA adapters as experts: a reference to a base with an adapter on it, which is read like any other model.

    resolve("meta-llama/Llama-3.2-1B+user/adapter")     # or the adapter alone, which names its base

What an adapter's config asks for beyond what `fusehub.models.adapters.lora` does exactly is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from fusehub.errors import Incompatible, NotFound
from fusehub.hub.access import Access
from fusehub.models.label_names import read_labels, require_few_labels
from fusehub.models.quantised.configs import float8_of
from fusehub.models.ref import ModelRef, Parts
from fusehub.models.remote_headers import remote_header
from fusehub.models.side_files import has_vocabulary, side_files, tokenizer_files
from fusehub.models.tensor_files import Header, TensorFile, open_tensors
from fusehub.models.transformers_internals import classes_of
from fusehub.utils.frozen import freeze, thawed

CONFIG = "adapter_config.json"
TIED = "tie_word_embeddings"
WEIGHTS = "adapter_model.safetensors"
_WEIGHTS = (WEIGHTS, "adapter_model.bin")
# Settings that the result of merging does not depend on, or that are followed below.
_FOLLOWED = {
    *("peft_type", "base_model_name_or_path", "revision", "task_type", "auto_mapping", "inference_mode"),
    *("peft_version", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias"),
    *("bias", "modules_to_save", "fan_in_fan_out", "lora_dropout", "target_modules", "exclude_modules"),
    *("layers_to_transform", "layers_pattern", "init_lora_weights", "megatron_core", "megatron_config"),
    *("qalora_group_size", "eva_config", "runtime_config", "ensure_weight_tying"),
}
# Ways to begin that leave the base as it is; others (PiSSA, OLoRA, LoftQ, ...) take their start out of the base.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
_TASKS = {
    "SEQ_CLS": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "TOKEN_CLS": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "QUESTION_ANS": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "CAUSAL_LM": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "SEQ_2_SEQ_LM": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
}

# What classes are called whose heads have a row for each label.
_LABELLED = ("ForSequenceClassification", "ForTokenClassification", "ForImageClassification")


@dataclass(frozen=True)
class AdaptedRef(ModelRef):
    """A base with an adapter: config and weights of the base, everything else (card, statistics) the adapter's."""

    base: ModelRef = field(kw_only=True)
    adapter: ModelRef = field(kw_only=True)
    _config: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        freeze(self, "_config")

    @property
    def parts(self) -> Parts:
        """The base and the adapter on it."""
        return Parts(self.base, self.adapter)

    def asked_by(self, access: Access) -> Self:
        return replace(
            super().asked_by(access), base=self.base.asked_by(access), adapter=self.adapter.asked_by(access)
        )

    @property
    def id(self) -> str:
        return f"{self.base.id}+{self.adapter.id}"

    def owner(self, filename: str) -> ModelRef:
        # A whole model may lie beside the adapter: its weights have the update in them already.
        own = filename in self.adapter.files and not is_model_file(filename)
        return self.adapter if own else self.base

    def path(self, filename: str) -> Path:
        return self.owner(filename).path(filename)

    @property
    def config(self) -> dict[str, Any]:
        return thawed(self._config)

    def weight_files(self) -> list[str]:
        return self.base.weight_files()

    def hashed_files(self) -> list[str]:
        return [*self.weight_files(), *self.adapter_files()]

    def adapter_files(self) -> list[str]:
        """The files of the adapter that decide the weights."""
        return [weights_file(self.adapter), CONFIG]

    @property
    def trained_on_another(self) -> str | None:
        """The base that the adapter's config names, where it is not the one that it is put on: by their names alone,
        since bases have copies."""
        named = self.adapter.adapter_config.get("base_model_name_or_path")
        # A folder of somebody's machine says nothing.
        if not isinstance(named, str) or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", named):
            return None
        own = self.base.own_name
        return None if named.rpartition("/")[2].casefold() == own.rpartition("/")[2].casefold() else named

    @property
    def tokenizer_ref(self) -> ModelRef:
        return self.adapter if has_vocabulary(self.adapter.files) else self.base


def on_an_adapter(name: str) -> Incompatible:
    """What is said of the adapter `name`, whose base is an adapter, too."""
    return Incompatible(f"{name}: an adapter on an adapter.", "Merge the first into its base: `merge_and_unload()`.")


def adapted(name: str, base: ModelRef, adapter: ModelRef) -> AdaptedRef:
    """`adapter` on `base`, called `name`. Raises `Incompatible` for what cannot be done exactly."""
    said = adapter.adapter_config
    _require_plain(adapter.name, said)
    if base.parts is not None:
        raise on_an_adapter(name)
    config = base.config
    try:
        float8_of(config, base.name)
    except Incompatible as error:
        raise Incompatible(
            f"{base.name} is quantised, and {adapter.name} was put on top of it.",
            "Name the base in full precision: BASE+ADAPTER.",
        ) from error
    left_out = set(tokenizer_files(base.files)) if has_vocabulary(adapter.files) else set()
    own = [n for n in side_files(base.files) if n not in adapter.files and n not in left_out]
    kept = {n: base.files[n] for n in ("config.json", *own, *base.weight_files()) if n in base.files}
    kept |= {n: file for n, file in base.files.items() if n.endswith(".index.json")}
    ref = AdaptedRef(
        **{
            key: getattr(adapter, key)
            for key in ("repo_id", "commit", "folder", "card", "card_trouble", "downloads", "subfolder", "access")
        },
        name=name,
        files={**kept, **{n: file for n, file in adapter.files.items() if not is_model_file(n)}},
        gated=adapter.gated or base.gated,
        private=adapter.private or base.private,
        base=base,
        adapter=adapter,
        _config=config,
    )
    return replace(ref, _config=_config_of(ref, said, config))


def _require_plain(name: str, said: Mapping[str, Any]) -> None:
    """Raises `Incompatible` naming every setting of the adapter that is not followed here."""
    kind = said.get("peft_type")
    if kind != "LORA":
        raise Incompatible(f"{name} is an adapter of the kind {kind}, not LoRA.", "Merge it into its base with peft.")
    odd = [
        key
        for key, value in said.items()
        if value and key not in _FOLLOWED and not (key == "loftq_config" and value == {})
    ]
    if said.get("init_lora_weights") not in _PLAIN_STARTS:
        odd.append(f"init_lora_weights={said['init_lora_weights']}")
    if odd:
        raise Incompatible(
            f"{name} uses {', '.join(odd)}, which cannot be added to a base tensor by tensor.",
            "Merge it into its base with peft's `merge_and_unload()`, and give the result.",
        )


def _config_of(ref: AdaptedRef, said: Mapping[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """The config of the adapted model: the adapter's own where it has one, else the base's for the adapter's task."""
    if "config.json" in ref.adapter.files:
        own = {key: value for key, value in ref.adapter.config.items() if key != TIED}
        # It may be that of the merged model, whose head no longer shares its numbers.
        return own | ({TIED: config[TIED]} if TIED in config else {})
    wanted = _architecture(said, config)
    is_new = wanted is not None and wanted not in config.get("architectures", ())
    if is_new:
        config = {**config, "architectures": [wanted]}
    if not str((config.get("architectures") or [""])[0]).endswith(_LABELLED):
        return config
    rows = _head_rows(ref.adapter)
    if rows is None and is_new:
        raise Incompatible(
            f"{ref.adapter.name} was trained for a task with labels and brings no head.",
            "Give the base that has the head: BASE+ADAPTER.",
        )
    # A head of another size than the base's has other labels, whose names the adapter does not tell.
    require_few_labels(rows or 0, ref.adapter.name)
    known = len(read_labels(config, ref.base.name))
    if rows is not None and (is_new or rows != known):
        config = {**config, "id2label": {str(row): f"LABEL_{row}" for row in range(rows)}}
        config["label2id"] = {f"LABEL_{row}": row for row in range(rows)}
    return config


def _architecture(said: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """transformers' class that the adapter was trained with, as far as it says; None where the base's is meant."""
    table = _TASKS.get(said.get("task_type") or "")
    if table is None:
        # Without a type of task, peft notes the class instead; one without a head says nothing.
        kind = (said.get("auto_mapping") or {}).get("base_model_class")
        return kind if isinstance(kind, str) and re.search(r"For[A-Z]|LMHeadModel", kind) else None
    wanted = classes_of(table).get(config["model_type"])
    return wanted if isinstance(wanted, str | None) else wanted[0]


def _head_rows(adapter: ModelRef) -> int | None:
    """How many labels the head has that the adapter brings along; None where it brings none."""
    heads = [
        info.shape[0]
        for name, info in adapter_header(adapter).tensors.items()
        if "lora_" not in name and len(info.shape) == 2 and re.search(r"(classifier|score|out_proj)", name)
    ]
    return min(heads, default=None)


def weights_file(adapter: ModelRef) -> str:
    """The file that holds the adapter's tensors. Raises `NotFound` where there is none."""
    for name in _WEIGHTS:
        if name in adapter.files:
            return name
    raise NotFound(f"{adapter.name} has no {WEIGHTS}.", "Is the upload of the adapter complete?")


def open_adapter(adapter: ModelRef) -> TensorFile:
    """The adapter's own tensors, open for reading."""
    return open_tensors(adapter.path(weights_file(adapter)), adapter.name)


def adapter_header(adapter: ModelRef) -> Header:
    """What the adapter's file holds, told without downloading it where it is safetensors."""
    name = weights_file(adapter)
    if adapter.folder is None and name.endswith(".safetensors"):
        return Header(remote_header(adapter, name))
    reader = open_adapter(adapter)
    reader.close()
    return Header(reader.tensors)


def is_model_file(name: str) -> bool:
    """Whether it is a whole model's config, weights or their index."""
    return name == "config.json" or re.match(r"(model|pytorch_model)\b.*\.(safetensors|bin|json)$", name) is not None
