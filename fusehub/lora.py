"""What a LoRA adapter changes: its update, added to each of the base's tensors as it is read.

    W = W_0 + s · B A,    s = α / r  (rsLoRA: α / √r)

Nothing is loaded as a model: `Checkpoint` reads an adapter on its base tensor by tensor, and the result is what
peft's `merge_and_unload` makes (Hu et al. 2021, "LoRA"; DoRA: Liu et al. 2024).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from fusehub.adapters import AdaptedRef, open_adapter
from fusehub.errors import Incompatible, NonFinite
from fusehub.layers import layout_of
from fusehub.tasks import load_config
from fusehub.tensor_files import TensorInfo

if TYPE_CHECKING:
    from torch import Tensor

# peft's default, and how long an expression may look at the name of one module, in seconds.
_ALPHA, _PATIENCE = 8, 2.0


class Updates:
    """What an adapter changes, by the names that the tensors have in the base's files."""

    def __init__(self, ref: AdaptedRef, infos: Mapping[str, TensorInfo]) -> None:
        self._name = f"{ref.adapter.name} on {ref.base.name}"
        self._said = ref.adapter.adapter_config
        self._infos = infos
        self._layout = layout_of(load_config(ref))
        self._stored = {parameter: name for name, parameter in self._layout.names(infos).items()}
        self.reader = open_adapter(ref.adapter)
        self.changes: dict[str, dict[str, str]] = {}
        try:
            for key in self.reader.tensors:
                if ".original_module." in key:  # What a saved module took the place of.
                    continue
                parameter, part = self._target(key)
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
        """One matrix of the adapter's file, in float64. Raises `NonFinite` where it holds NaN or infinity."""
        import torch

        value = self.reader.read(key, 0, None).double()
        if not bool(torch.isfinite(value).all()):
            raise NonFinite(f"{self._name}: {key} holds NaN or infinity.", "Use an adapter that is not broken.")
        return value

    def current_key(self, key: str) -> str:
        """`key` with its module called as transformers calls it now."""
        before, now = (target.rpartition(".")[0] for target in (_target(key, self._name)[0], self._target(key)[0]))
        return key.replace(before, now, 1)

    def module(self, key: str) -> str:
        """The module that a tensor of the adapter's file belongs to."""
        return _target(key, self._name)[0].rpartition(".")[0]

    def _is_turned(self, parts: Mapping[str, str]) -> bool:
        """Whether the weight is stored as [in, out]: embeddings, and GPT-2's Conv1D."""
        parameter, _ = self._target(parts["A"])
        linear = self._layout.linears.get(parameter)
        return "lora_embedding_" in parts["A"] or (linear is not None and linear.transposed)

    def scale(self, key: str) -> float:
        """α / r, or α / √r, of the module that `key` belongs to; patterns as peft reads them."""
        module = self.module(key)
        rank = self.reader.tensors[re.sub(r"lora_B\.bias$", "lora_A.weight", key)].shape[0]
        alpha = self._said.get("lora_alpha", _ALPHA)
        for pattern, own in (self._said.get("alpha_pattern") or {}).items():
            if self._fits(pattern, module):
                alpha = own
                break
        return alpha / (rank**0.5 if self._said.get("use_rslora") else rank)

    def _fits(self, pattern: str, module: str) -> bool:
        """Whether an expression of `alpha_pattern` means the module; a stranger's may never come to an end."""
        import regex

        try:
            return regex.match(rf"(.*\.)?({pattern})$", module, timeout=_PATIENCE) is not None
        except (regex.error, TimeoutError) as error:
            said = str(error) or "it takes too long"
            raise Incompatible(
                f"{self._name}: the pattern {pattern[:60]!r} in alpha_pattern cannot be used ({said}).",
                "Write the name of the module, or the end of it.",
            ) from error

    def _target(self, key: str) -> tuple[str, str]:
        """The model's parameter that a tensor of the adapter's file belongs to, and which part of its update it is.

        Adapters name modules as the transformers did that they were trained with: what was renamed since is found by
        transformers' own rules, as for the names in old checkpoints.
        """
        parameter, part = _target(key, self._name)
        if parameter not in self._stored and parameter not in self._layout.shapes:
            parameter = self._layout.names([parameter]).get(parameter, parameter)
        return parameter, part

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
        parameter = self._target(next(iter(parts.values())))[0]
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
