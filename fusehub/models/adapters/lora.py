"""What a LoRA adapter changes: its update, added to each of the base's tensors as it is read.

    W = W_0 + s · B A,    s = α / r  (rsLoRA: α / √r)

Nothing is loaded as a model: `Checkpoint` reads an adapter on its base tensor by tensor, and the result is what
peft's `merge_and_unload` makes (Hu et al. 2021, "LoRA"; DoRA: Liu et al. 2024).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from fusehub.errors import Incompatible, NonFinite
from fusehub.models.adapters.settings import AdapterSettings
from fusehub.models.known.layouts import layout_for
from fusehub.models.ref import ModelRef
from fusehub.models.tensor_files import TensorFile, TensorInfo, is_copy

if TYPE_CHECKING:
    from torch import Tensor

    ReadTensor = Callable[[str, int, int | None], Tensor]

_ALPHA = 8  # peft's default.
_PREFIX = "base_model.model."
# What peft and wrappers of the whole model put before its names; and what compiling and sharding put between them.
_WRAPPED = re.compile(r"^((base_model\.model|module)\.)+")
_INSIDE = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


class Updates:
    """What an adapter changes, by the names that the tensors have in the base's files.

    `infos` are the base's tensors, `reader` the adapter's own, open or only their header.
    """

    def __init__(self, ref: ModelRef, infos: Mapping[str, TensorInfo], reader: TensorFile) -> None:
        assert ref.parts is not None  # It is an adapter on a base.
        base, adapter = ref.parts
        self._name = f"{adapter.name} on {base.name}"
        self._said = adapter.adapter_config
        self._settings = AdapterSettings(self._said, self._name)
        self._infos = infos
        self._layout = layout_for(ref)
        self._stored = {parameter: name for name, parameter in self._layout.names(infos).items()}
        self.reader = reader
        self.changes: dict[str, dict[str, str]] = {}
        self._apart: list[tuple[str, str]] = []
        self._together: list[tuple[str, str]] = []
        for key in self.reader.tensors:
            if ".original_module." in key:  # What a saved module took the place of.
                continue
            parameter, part = self._target(key)
            name = self._place(parameter, part)
            self._put(self.changes.setdefault(name, {}), name, part, key)
        for name, parts in self.changes.items():
            self._check(name, parts)
        if not self.changes:
            raise Incompatible(
                f"{self._name}: the adapter holds no tensors.", "Is the upload of the adapter complete?"
            )
        if not any("A" in parts or "B" in parts for parts in self.changes.values()):
            raise Incompatible(
                f"{self._name}: the adapter's file holds {next(iter(self.reader.tensors))} and no matrix of LoRA's.",
                "Is the upload of the adapter complete? Where nothing else was trained, give the whole model.",
            )
        self._require_agreement()
        self._copies = self._left_behind()
        self.added: dict[str, TensorInfo] = {
            name: self.reader.tensors[parts["whole"]] for name, parts in self.changes.items() if "whole" in parts
        }
        """Tensors that come as a whole: a head, a bias; and what a new embedding leaves behind."""
        self.added |= {name: infos[source] for name, source in self._copies.items()}

    def __contains__(self, name: str) -> bool:
        return name in self.changes or name in self._copies

    def read(self, name: str, base: ReadTensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows `start:stop` of the tensor `name` with its update, in float32 or wider; `base` reads the base's."""
        if name in self._copies:
            return base(self._copies[name], start, stop)
        parts = self.changes[name]
        if "magnitude" in parts:  # Its norms may run over rows.
            whole = self._with_update(parts, base(name, 0, None), 0, None)
            return whole[start:stop]
        weight = self.reader.read(parts["whole"], start, stop) if "whole" in parts else base(name, start, stop)
        if set(parts) == {"whole"}:
            return weight
        return self._with_update(parts, weight, start, stop)

    def require_apart(self, base: ReadTensor) -> None:
        """Raises `Incompatible` where what is updated is only a second copy of numbers that another tensor has, or
        what the base has once comes as two."""
        for name, other in self._apart:
            if is_copy(partial(base, name), partial(base, other)):
                raise self._shared(name, other)
        for key, other in self._together:
            if not is_copy(partial(self.reader.read, key), partial(self.reader.read, other)):
                raise Incompatible(
                    f"{self._name}: {key} and {other} share their numbers in the base and differ in the adapter.",
                    "Name their modules in modules_to_save of adapter_config.json if they were trained apart, or take "
                    "the one that was not trained out of the adapter's file.",
                )

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
        """One matrix of the adapter's file, in float64. Raises `NonFinite` where it holds NaN or infinity."""
        import torch

        value = self.reader.read(key, 0, None).double()
        if not bool(torch.isfinite(value).all()):
            raise NonFinite(f"{self._name}: {key} holds NaN or infinity.", "Use an adapter that is not broken.")
        return value

    def current_key(self, key: str) -> str:
        """What peft calls `key` in a file, its module called as transformers calls it now."""
        parameter, part = self._target(key)
        module = parameter if part == "whole" else parameter.rpartition(".")[0]
        return f"{_PREFIX}{module}{_leaf(key)}"

    def module(self, key: str) -> str:
        """The module that a tensor of the adapter's file belongs to, called as in the file."""
        return _targets(key, self._name)[0][0].rpartition(".")[0]

    def _is_turned(self, parts: Mapping[str, str]) -> bool:
        """Whether the weight is stored as [in, out]: embeddings, and GPT-2's Conv1D."""
        parameter, _ = self._target(parts["A"])
        linear = self._layout.linears.get(parameter)
        return "lora_embedding_" in parts["A"] or (linear is not None and linear.transposed)

    def scale(self, key: str) -> float:
        """α / r, or α / √r, of the module that `key` belongs to; patterns as peft reads them."""
        module = self.module(key)
        rank = self.reader.tensors[re.sub(r"\.lora_B\.(.*\.)?bias$", r".lora_A.\1weight", key)].shape[0]
        alpha = self._settings.alpha(module, _ALPHA)
        return alpha / (rank**0.5 if self._said.get("use_rslora") else rank)

    def _target(self, key: str) -> tuple[str, str]:
        """The model's parameter that a tensor of the adapter's file belongs to, and which part of its update it is.

        Adapters name modules as the transformers did that they were trained with: what was renamed since is found by
        transformers' own rules, as for the names in old checkpoints.
        """
        targets = _targets(key, self._name)
        for parameter, part in targets:
            if not self._is_known(parameter):
                parameter = self._layout.names([parameter]).get(parameter, parameter)
            if self._is_known(parameter):
                return parameter, part
        return targets[0]

    def _is_known(self, parameter: str) -> bool:
        return parameter in self._stored or parameter in self._layout.shapes

    def _put(self, parts: dict[str, str], name: str, part: str, key: str) -> None:
        other = parts.get(part)
        saved = ".modules_to_save." in key
        if other is None:
            parts[part] = key
        elif part == "whole" and saved != (".modules_to_save." in other):
            # With bias="all", peft also writes the bias that a saved module took the place of.
            parts[part] = key if saved else other
        else:
            raise Incompatible(
                f"{self._name}: the file has two updates of {name}, {other} and {key}.",
                "Save one adapter alone: peft's `save_pretrained(selected_adapters=[...])`.",
            )

    def _place(self, parameter: str, part: str) -> str:
        """The name in the base's files (or a new one, for what the base has not by itself)."""
        others = [self._stored[own] for own in self._layout.tied_with(parameter) if own in self._stored]
        if parameter in self._stored:
            name = self._stored[parameter]
            if others and part != "whole":
                # Whether it is a copy is told by its numbers alone.
                self._apart += [(name, other) for other in others]
            elif part != "whole" and self._layout.tied_with(parameter):
                raise self._shared(name, self._layout.tied_with(parameter)[0])
            return name
        if others and part != "whole":
            raise self._shared(parameter, others[0])
        if part == "whole" and parameter in self._layout.shapes:
            # peft wraps saved modules, which parts them from what they were shared with; biases it trains in place.
            return others[0] if others and parameter.endswith(".bias") else parameter
        raise Incompatible(
            f"{self._name}: the adapter changes {parameter}, which the base has not.",
            "Is it the base that the adapter was trained on? Say BASE+ADAPTER.",
        )

    def _left_behind(self) -> dict[str, str]:
        """Parameters that shared the numbers of a tensor that the adapter replaces, and stay as they were: each with
        the base's tensor that has them, as in peft, where a saved module is one of its own."""
        copies = {}
        for name, parts in list(self.changes.items()):
            parameter = self._target(parts["whole"])[0] if "whole" in parts else ""
            if not parameter or parameter.endswith(".bias"):
                continue
            is_saved = self._is_saved(parts["whole"])
            for other in self._layout.tied_with(parameter):
                if not is_saved:  # Trained in place, so whatever shares its numbers has the new ones.
                    theirs = self.changes.get(self._stored.get(other, other), {}).get("whole", parts["whole"])
                    if theirs != parts["whole"] and not self._is_saved(theirs):
                        self._together.append((parts["whole"], theirs))
                    if other in self._stored:
                        self.changes.setdefault(self._stored[other], parts)
                elif parameter in self._stored and other not in self._stored and other not in self.changes:
                    copies[other] = name
        return copies

    def _is_saved(self, key: str) -> bool:
        """Whether what comes as a whole is of a module that the adapter's config says is saved."""
        return any(self._settings.saves(module) for module in self._modules(key))

    def _modules(self, key: str) -> set[str]:
        """What the module of a tensor of the adapter's file is called in the file, and in the model."""
        return {self.module(key), self._target(key)[0].rpartition(".")[0]}

    def _require_agreement(self) -> None:
        """Raises `Incompatible` where the adapter's config asks for another adapter than the file holds."""
        for name, parts in self.changes.items():
            whole, factor = parts.get("whole"), parts.get("A")
            if whole and ".modules_to_save." in whole and not self._is_saved(whole):
                raise self._contradiction(f"{name} in modules_to_save", "modules_to_save does not name its module")
            if "bias" in parts and not self._said.get("lora_bias"):
                raise self._contradiction(f"a bias with the update of {name}", "lora_bias is not true")
            if factor is None:
                continue
            if not any(self._settings.targets(module) for module in self._modules(factor)):
                raise self._contradiction(
                    f"an update of {name}",
                    "its target_modules, exclude_modules, layers_to_transform and modules_to_save leave that out",
                )
            # What cannot be used of alpha_pattern is told here, and not when numbers are read.
            self.scale(factor)
            rank, said = self.reader.tensors[factor].shape[0], self._settings.rank(self.module(factor))
            if rank != said:
                raise self._contradiction(
                    f"an update of {name} of rank {rank}", f"its r or rank_pattern makes that {said}"
                )
            if ("magnitude" in parts) is not bool(self._said.get("use_dora")):
                has = "a magnitude of DoRA's" if "magnitude" in parts else "no magnitude of DoRA's"
                raise self._contradiction(f"{has} for {name}", f"use_dora is {str('magnitude' not in parts).lower()}")
        brought = {self._target(parts["whole"])[0] for parts in self.changes.values() if "whole" in parts}
        if self._said.get("ensure_weight_tying"):
            brought |= {other for name in brought for other in self._layout.tied_with(name)}
        lacking = self._settings.lacking(self._layout.shapes, brought)
        if lacking is not None:
            raise Incompatible(
                f"{self._name}: modules_to_save or the task in adapter_config.json says that the adapter brings "
                f"{lacking}, which its file lacks.",
                "Is the upload of the adapter complete? If it was trained without, take the module out of "
                "modules_to_save, and write null for task_type if that asks for it.",
            )

    def _contradiction(self, held: str, said: str) -> Incompatible:
        return Incompatible(
            f"{self._name}: the adapter's file holds {held}, and adapter_config.json says otherwise: {said}.",
            "Write into adapter_config.json what the adapter was trained with, or take out of its file what is not "
            "its own.",
        )

    def _shared(self, name: str, other: str) -> Incompatible:
        return Incompatible(
            f"{self._name}: the adapter updates {name}, which shares its numbers with {other} in the base: run, the "
            "adapter changes the one, and merged by peft it changes both.",
            "Untie the base (save it with a head of its own and tie_word_embeddings false), and give BASE+ADAPTER.",
        )

    def _check(self, name: str, parts: Mapping[str, str]) -> None:
        """Raises `Incompatible` where the parts are not those of a LoRA update of that tensor."""
        shapes = {part: self.reader.tensors[key].shape for part, key in parts.items()}
        whole = shapes.get("whole")
        parameter = self._target(next(iter(parts.values())))[0]
        if whole is not None:
            expected = self._infos[name].shape if name in self._infos else self._layout.shapes[parameter]
            if whole != expected and parameter not in self._layout.label_axes:
                raise Incompatible(
                    f"{self._name}: the adapter brings {name} as {list(whole)}, and the base has {list(expected)}.",
                    "Resize the base's vocabulary to the adapter's first, and give the folder of that.",
                )
        if "A" in parts or "B" in parts or "magnitude" in parts:
            if any(len(shapes.get(part, ())) != 2 or not shapes[part][0] for part in "AB"):
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


def _targets(key: str, owner: str) -> list[tuple[str, str]]:
    """A tensor of an adapter's file -> the parameter of the model, and which part of its update it is.

    Several parameters where the name can be read in several ways.
    """
    name = _WRAPPED.sub("", _INSIDE.sub("", key))
    for pattern, leaf, part in (
        (r"\.lora_A(\.[^.]+)?\.weight$", ".weight", "A"),
        (r"\.lora_B(\.[^.]+)?\.weight$", ".weight", "B"),
        (r"\.lora_B(\.[^.]+)?\.bias$", ".bias", "bias"),
        (r"\.lora_embedding_A(\.[^.]+)?$", ".weight", "A"),
        (r"\.lora_embedding_B(\.[^.]+)?$", ".weight", "B"),
        (r"\.lora_magnitude_vector(\.[^.]+){0,2}$", ".weight", "magnitude"),
    ):
        parameter, count = re.subn(pattern, leaf, name)
        if count:
            return [(parameter, part)]
    if re.search(r"\.(lora_|token_adapter|trainable_tokens)", name):
        raise Incompatible(
            f"{owner}: the adapter holds {key}, which plain LoRA has not.",
            "Merge it into its base with peft's `merge_and_unload()`, and give the result.",
        )
    name = name.replace(".base_layer.", ".")
    module, saved, rest = name.partition(".modules_to_save.")
    if not saved:
        return [(name, "whole")]
    # What comes next may be the adapter's name, or belong to the module's.
    return [(f"{module}.{rest.partition('.')[2]}", "whole"), (f"{module}.{rest}", "whole")]


def _leaf(key: str) -> str:
    """How peft's name of a part ends; nothing for what comes as a whole."""
    found = re.search(r"\.(lora_[AB])(?:\.[^.]+)?\.(weight|bias)$", key)
    if found:
        return f".{found[1]}.{found[2]}"
    found = re.search(r"\.(lora_embedding_[AB])(?:\.[^.]+)?$", key)
    return f".{found[1]}" if found else ""
