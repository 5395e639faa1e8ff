"""What a config says of weights in fewer bits: which of that can be read, and which is refused by name.

Read is float8 with scales, where a weight is its numbers times these:

    {"quant_method": "fp8", "weight_block_size": [128, 128]}             # DeepSeek-V3, Qwen3: NAME_scale_inv, by block
    {"quant_method": "fbgemm_fp8"}                                       # Llama 3.1: NAME_scale, by row
    {"quant_method": "compressed-tensors", "format": "float-quantized"}  # vLLM's: NAME_scale, of all, by row or block
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fusehub.errors import Incompatible, shortly

KEY = "quantization_config"
_ORIGINAL = "Use the repo with the original float weights."
_SAVE = "load it with from_pretrained(..., {}), and save it with save_pretrained"
# What to do about those that people meet. What others are stored as, only their own library knows.
_WAYS_OUT = {
    "bitsandbytes": f"{_ORIGINAL} Or {_SAVE.format('dtype=torch.bfloat16')} after model.dequantize().",
    "mxfp4": f"{_ORIGINAL} Or {_SAVE.format('quantization_config=Mxfp4Config(dequantize=True)')}.",
    "compressed-tensors": f"{_ORIGINAL} Of this format only float8 is read (float-quantized).",
}


@dataclass(frozen=True)
class Float8:
    """Weights in float8: a scale is called as its weight, with `suffix` behind it, and multiplies a block of `block`
    rows and columns, or, where that is None, a row or all of the matrix, as its shape tells."""

    suffix: str
    block: tuple[int, int] | None

    def __str__(self) -> str:
        return f"one scale a block of {self.block[0]} x {self.block[1]}" if self.block else "a scale a row or matrix"


def float8_of(config: Mapping[str, Any], name: str) -> Float8 | None:
    """How the weights of the model called `name` are stored in float8; None where its config says nothing of bits.

    Raises `Incompatible` for what is not read, by its name.
    """
    said = config.get(KEY)
    if not said:
        return None
    method = said.get("quant_method") or _implied(said)
    if method == "fp8":
        if said.get("expert_dtype", "fp8") != "fp8":
            raise _refused(name, f"fp8 with experts in {said['expert_dtype']}", method)
        return Float8("_scale_inv", _block(said.get("weight_block_size"), name))
    if method == "fbgemm_fp8":
        return Float8("_scale", None)
    if method == "compressed-tensors":
        return _compressed(said, name)
    raise _refused(name, str(method), str(method))


def _implied(said: Mapping[str, Any]) -> str:
    """The method of configs that are older than its name."""
    return "bitsandbytes" if {"load_in_4bit", "load_in_8bit"} & said.keys() else "an unknown method"


def _refused(name: str, kind: str, method: str) -> Incompatible:
    return Incompatible(
        f"{name} is quantised ({kind}); the sum of quantised weights is not a weight.",
        _WAYS_OUT.get(method, _ORIGINAL),
    )


def _block(said: Any, name: str) -> tuple[int, int] | None:
    if said is None:
        return None
    if not (isinstance(said, list) and len(said) == 2 and all(type(side) is int and side > 0 for side in said)):
        raise Incompatible(
            f"{name}: the size of a block of scales in config.json is {shortly(said)}.",
            "Two numbers of 1 or more are.",
        )
    return said[0], said[1]


def _compressed(said: Mapping[str, Any], name: str) -> Float8:
    """compressed-tensors: groups of layers, each with how its weights are stored."""
    method, groups = "compressed-tensors", said.get("config_groups")
    if not isinstance(groups, Mapping) or not all(isinstance(group, Mapping) for group in groups.values()):
        raise _refused(name, f"{method}, no groups of layers", method)
    kinds = [group.get("weights") for group in groups.values()]
    if said.get("format") not in ("float-quantized", "naive-quantized"):
        raise _refused(name, f"{method}, {said.get('format') or 'no format'}", method)
    for kind in kinds:
        if not isinstance(kind, Mapping) or (kind.get("type"), kind.get("num_bits")) != ("float", 8):
            what = f"{kind.get('type')} of {kind.get('num_bits')} bits" if isinstance(kind, Mapping) else "none"
            raise _refused(name, f"{method}, weights: {what}", method)
    sparsity = said.get("sparsity_config") or {}
    if not isinstance(sparsity, Mapping) or sparsity.get("format", "dense") != "dense":
        raise _refused(name, f"{method}, sparse", method)
    blocks = {_block(kind.get("block_structure"), name) for kind in kinds}
    if len(blocks) > 1:
        raise _refused(name, f"{method}, blocks of different sizes", method)
    return Float8("_scale", blocks.pop() if blocks else None)
