"""LoRA adapters as experts: a base's weights with an adapter's update added to each tensor as it is read.

    resolve("meta-llama/Llama-3.2-1B+user/adapter")     # or the adapter alone, which names its base
    W = W_0 + s · B A,    s = α / r  (rsLoRA: α / √r)

Nothing is loaded as a model: `Checkpoint` reads such a reference tensor by tensor, and the result is what peft's
`merge_and_unload` makes (Hu et al. 2021, "LoRA"; DoRA: Liu et al. 2024). What an adapter's config asks for beyond
that is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.errors import Incompatible, NotFound
from fusehub.refs import SIDE_FILES, ModelRef

if TYPE_CHECKING:
    from torch import Tensor

    from fusehub.checkpoint import PickleFile, SafetensorsFile, TensorInfo

CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
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


@dataclass(frozen=True)
class AdaptedRef(ModelRef):
    """A base with an adapter: config and weights of the base, everything else (card, statistics) the adapter's."""

    base: ModelRef | None = None
    adapter: ModelRef | None = None
    _config: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def id(self) -> str:
        return f"{self.base.id}+{self.adapter.id}"

    def owner(self, filename: str) -> ModelRef:
        return self.adapter if filename in self.adapter.files and filename != "config.json" else self.base

    def path(self, filename: str) -> Path:
        return self.owner(filename).path(filename)

    @property
    def config(self) -> dict[str, Any]:
        return dict(self._config)

    def weight_files(self) -> list[str]:
        return self.base.weight_files()

    def hashed_files(self) -> list[str]:
        return [*self.weight_files(), _weights_file(self.adapter), CONFIG]

    @property
    def tokenizer_ref(self) -> ModelRef:
        return self.adapter if "tokenizer_config.json" in self.adapter.files else self.base


def adapted(name: str, base: ModelRef, adapter: ModelRef) -> AdaptedRef:
    """`adapter` on `base`, called `name`. Raises `Incompatible` for what cannot be done exactly."""
    said = adapter.json(CONFIG)
    _require_plain(adapter.name, said)
    if isinstance(base, AdaptedRef):
        raise Incompatible(
            f"{name}: an adapter on an adapter.", "Merge the first into its base: `merge_and_unload()`."
        )
    config = base.config
    if config.get("quantization_config"):
        raise Incompatible(
            f"{base.name} is quantised, and {adapter.name} was put on top of it.",
            "Name the base in full precision: BASE+ADAPTER.",
        )
    own = [
        n
        for n in SIDE_FILES
        if n in base.files and not (n in adapter.files or "tokenizer_config.json" in adapter.files)
    ]
    kept = {n: base.files[n] for n in ("config.json", *own, *base.weight_files()) if n in base.files}
    kept |= {n: file for n, file in base.files.items() if n.endswith(".index.json")}
    ref = AdaptedRef(
        **{
            key: getattr(adapter, key)
            for key in ("repo_id", "commit", "folder", "card", "downloads", "subfolder", "token")
        },
        name=name,
        files={**adapter.files, **kept} | {n: adapter.files[n] for n in adapter.files if n in SIDE_FILES},
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
        return ref.adapter.json("config.json")
    table = _TASKS.get(said.get("task_type") or "")
    if table is None:
        return config
    from transformers.models.auto import modeling_auto

    wanted = getattr(modeling_auto, table).get(config["model_type"])
    if wanted is None or wanted in config.get("architectures", ()):
        return config
    config = {**config, "architectures": [wanted if isinstance(wanted, str) else wanted[0]]}
    if said["task_type"] in ("SEQ_CLS", "TOKEN_CLS"):
        rows = _labels(ref.adapter)
        config["id2label"] = {str(row): f"LABEL_{row}" for row in range(rows)}
        config["label2id"] = {f"LABEL_{row}": row for row in range(rows)}
    return config


def _labels(adapter: ModelRef) -> int:
    """How many labels the head has that the adapter brings along."""
    reader = _reader(adapter)
    try:
        heads = [
            info.shape[0]
            for name, info in reader.tensors.items()
            if "lora_" not in name and len(info.shape) == 2 and re.search(r"(classifier|score|out_proj)", name)
        ]
    finally:
        reader.close()
    if not heads:
        raise Incompatible(
            f"{adapter.name} was trained for a task with labels and brings no head.",
            "Give the base that has the head: BASE+ADAPTER.",
        )
    return min(heads)


class Updates:
    """What an adapter changes, by the names that the tensors have in the base's files."""

    def __init__(self, ref: AdaptedRef, infos: Mapping[str, TensorInfo]) -> None:
        from fusehub.layers import layout_of
        from fusehub.tasks import load_config

        self._name = f"{ref.adapter.name} on {ref.base.name}"
        self._said = ref.adapter.json(CONFIG)
        self._infos = infos
        self._layout = layout_of(load_config(ref))
        self._stored = {parameter: name for name, parameter in self._layout.names(infos).items()}
        self.reader = _reader(ref.adapter)
        self.changes: dict[str, dict[str, str]] = {}
        try:
            for key in self.reader.tensors:
                if ".original_module." in key:  # What a saved module took the place of.
                    continue
                parameter, part = _target(key, self._name)
                self.changes.setdefault(self._place(parameter, part), {})[part] = key
            for name, parts in self.changes.items():
                self._check(name, parts)
        except BaseException:
            self.reader.close()
            raise
        self.added: dict[str, TensorInfo] = {
            name: self.reader.tensors[parts["whole"]] for name, parts in self.changes.items() if "whole" in parts
        }
        """Tensors that come as a whole: a head, a bias."""

    def __contains__(self, name: str) -> bool:
        return name in self.changes

    def read(
        self, name: str, base: Callable[[int, int | None], Tensor], start: int = 0, stop: int | None = None
    ) -> Tensor:
        """Rows `start:stop` of the tensor `name` with its update, in float32 or wider; `base` reads the base's."""
        parts = self.changes[name]
        if "magnitude" in parts:  # Its norms may run over rows.
            whole = self._with_update(parts, base(0, None), 0, None)
            return whole[start:stop]
        weight = self.reader.read(parts["whole"], start, stop) if "whole" in parts else base(start, stop)
        if set(parts) == {"whole"}:
            return weight
        return self._with_update(parts, weight, start, stop)

    def _with_update(self, parts: Mapping[str, str], weight: Tensor, start: int, stop: int | None) -> Tensor:
        import torch

        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        weight = weight.double()
        if "bias" in parts:
            return (weight + self.scale(parts["bias"]) * self.read_part(parts["bias"])[start:stop]).to(dtype)
        a, b = self.read_part(parts["A"]), self.read_part(parts["B"])
        rows, columns = (a.T, b.T) if self._is_turned(parts) else (b, a)
        updated = weight + self.scale(parts["A"]) * (rows[start:stop] @ columns)
        if "magnitude" in parts:
            axis = 0 if self._is_turned(parts) else 1
            factor = self.read_part(parts["magnitude"]).flatten() / torch.linalg.vector_norm(updated, dim=axis)
            updated *= factor.unsqueeze(axis)
        return updated.to(dtype)

    def read_part(self, key: str) -> Tensor:
        """One matrix of the adapter's file, in float64."""
        return self.reader.read(key, 0, None).double()

    def module(self, key: str) -> str:
        """The module that a tensor of the adapter's file belongs to."""
        return _target(key, self._name)[0].rpartition(".")[0]

    def _is_turned(self, parts: Mapping[str, str]) -> bool:
        """Whether the weight is stored as [in, out]: embeddings, and GPT-2's Conv1D."""
        parameter, _ = _target(parts["A"], self._name)
        linear = self._layout.linears.get(parameter)
        return "lora_embedding_" in parts["A"] or (linear is not None and linear.transposed)

    def scale(self, key: str) -> float:
        """α / r, or α / √r, of the module that `key` belongs to; patterns as peft reads them."""
        module = self.module(key)
        rank = self.reader.tensors[re.sub(r"lora_B\.bias$", "lora_A.weight", key)].shape[0]
        alpha = self._said["lora_alpha"]
        for pattern, own in (self._said.get("alpha_pattern") or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                alpha = own
                break
        return alpha / (rank**0.5 if self._said.get("use_rslora") else rank)

    def _place(self, parameter: str, part: str) -> str:
        """The name in the base's files (or a new one, for a head that the base has not)."""
        if parameter in self._stored:
            return self._stored[parameter]
        if part == "whole" and parameter in self._layout.shapes:
            return parameter
        shared = self._layout.tied.get(parameter)
        raise Incompatible(
            f"{self._name}: the adapter changes {parameter}, "
            + (f"which shares its numbers with {shared}." if shared else "which the base has not."),
            "Merge it into its base with peft's `merge_and_unload()`, and give the result."
            if shared
            else "Is it the base that the adapter was trained on? Say BASE+ADAPTER.",
        )

    def _check(self, name: str, parts: Mapping[str, str]) -> None:
        """Raises `Incompatible` where the parts are not those of a LoRA update of that tensor."""
        shapes = {part: self.reader.tensors[key].shape for part, key in parts.items()}
        whole = shapes.get("whole")
        parameter = _target(next(iter(parts.values())), self._name)[0]
        expected = self._infos[name].shape if name in self._infos else whole
        if whole is not None and name not in self._infos:
            expected = self._layout.shapes[parameter]
        if whole is not None and whole != expected and parameter not in self._layout.label_axes:
            raise Incompatible(
                f"{self._name}: the adapter brings {name} as {list(whole)}, and the base has {list(expected)}.",
                "Resize the base's vocabulary to the adapter's first, and give the folder of that.",
            )
        if "A" in parts or "B" in parts or "magnitude" in parts:
            if "A" not in shapes or "B" not in shapes or len(shapes["A"]) != 2 or len(shapes["B"]) != 2:
                raise Incompatible(
                    f"{self._name}: the update of {name} is not a product of two matrices.",
                    "Merge it into its base with peft's `merge_and_unload()`, and give the result.",
                )
            if "magnitude" in parts and "lora_embedding_" in parts["A"]:
                raise Incompatible(
                    f"{self._name}: DoRA on the embedding {name}.",
                    "Merge it into its base with peft's `merge_and_unload()`, and give the result.",
                )
            out, size = shapes["B"][0], shapes["A"][1]
            made = (size, out) if self._is_turned(parts) else (out, size)
            if made != self._infos[name].shape or shapes["A"][0] != shapes["B"][1]:
                raise Incompatible(
                    f"{self._name}: the update of {name} has the shape {list(made)}, the base has "
                    f"{list(self._infos[name].shape)}.",
                    "Is it the base that the adapter was trained on? Say BASE+ADAPTER.",
                )


def _target(key: str, owner: str) -> tuple[str, str]:
    """A tensor of an adapter's file -> the parameter of the model, and which part of its update it is."""
    name = key.removeprefix("base_model.model.")
    for pattern, leaf, part in (
        (r"\.lora_A\.weight$", ".weight", "A"),
        (r"\.lora_B\.weight$", ".weight", "B"),
        (r"\.lora_B\.bias$", ".bias", "bias"),
        (r"\.lora_embedding_A$", ".weight", "A"),
        (r"\.lora_embedding_B$", ".weight", "B"),
        (r"\.lora_magnitude_vector(\.weight)?$", ".weight", "magnitude"),
    ):
        parameter, count = re.subn(pattern, leaf, name)
        if count:
            return parameter, part
    if re.search(r"\.(lora_|token_adapter|trainable_tokens)", name):
        raise Incompatible(
            f"{owner}: the adapter holds {key}, which plain LoRA has not.",
            "Merge it into its base with peft's `merge_and_unload()`, and give the result.",
        )
    # With bias="all", peft also writes the bias of a module to be saved under these names.
    name = re.sub(r"\.modules_to_save(\.default)?\.", ".", name.replace(".base_layer.", "."))
    return name, "whole"


def _weights_file(adapter: ModelRef) -> str:
    for name in _WEIGHTS:
        if name in adapter.files:
            return name
    raise NotFound(f"{adapter.name} has no {_WEIGHTS[0]}.", "Is the upload of the adapter complete?")


def _reader(adapter: ModelRef) -> SafetensorsFile | PickleFile:
    from fusehub.checkpoint import PickleFile, SafetensorsFile

    path = adapter.path(_weights_file(adapter))
    return (SafetensorsFile if path.suffix == ".safetensors" else PickleFile)(path, adapter.name)
