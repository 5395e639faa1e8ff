"""Which keys of a config change what its model computes: told by transformers' own code, not by a list of keys.

    effects_of(config, {"rms_norm_eps": 1e-5, "initializer_range": 0.1})   # {"rms_norm_eps": "computes", ...: "none"}

Two things let a key matter. The model is built otherwise: both are built, with parameters on the meta device and
buffers that are real, and held against each other. Or a forward pass reads the key itself: the source of the model's
classes is searched for that, from `forward` on, without what runs in training alone. Whatever cannot be told counts as
computing something else.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import inspect
import logging
import math
import re
import sys
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

from fusehub.models.tasks import class_name_of
from fusehub.models.transformers_internals import tied_names

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

logger = logging.getLogger(__name__)

Effect = Literal["computes", "reads tokens", "none"]
"""Other numbers come out; texts end or are padded elsewhere, by the same weights; nothing changes."""


class Absent:
    """The value of a key that a config does not have."""

    def __repr__(self) -> str:
        return "nothing"


ABSENT = Absent()

# What forward passes call that is not in the file of the model.
_SHARED = ("masking_utils", "cache_utils", "integrations.sdpa_attention", "modeling_attn_mask_utils", "pytorch_utils")
# Run while a model is built; `_init_weights` only where a file lacks a tensor.
_BUILDING = frozenset({"__init__", "_init_weights", "__post_init__", "post_init"})
# Rotary frequencies that are computed anew as texts grow: from the parameters, and these lengths, at every forward.
_GROWING = ("dynamic", "longrope")
_LENGTHS = ("max_position_embeddings", "original_max_position_embeddings")


def effects_of(config: PretrainedConfig, other: Mapping[str, Any]) -> dict[str, Effect]:
    """What each key of `other` does where it takes the place of the value in `config`; keys are dotted, see `flat`."""
    try:
        model = _build(config)
        reads = _reads_of(model)
        built = _keys_that_build(model, {key: value for key, value in other.items() if not _is_token(key)})
    except Exception as error:  # Whatever transformers raises for a config that is out of the ordinary.
        logger.debug("the effects of %s are not known: %r", list(other), error)
        return dict.fromkeys(other, "computes")
    values = {**flat(config.to_dict()), **other}
    growing = any(key.endswith("rope_type") and value in _GROWING for key, value in values.items())
    effects: dict[str, Effect] = {}
    for key in other:
        name = key.rpartition(".")[2]
        read = bool(reads.config & _names_of(config, key))
        if _is_token(key):
            # Positions are counted from it where the forward pass knows the number of the padding.
            counted = name == "pad_token_id" and "padding_idx" in reads.attributes
            effects[key] = "computes" if counted else "reads tokens" if read else "none"
        else:
            grows = growing and ("rope_parameters." in key or name in _LENGTHS)
            effects[key] = "computes" if read or grows or key in built else "none"
    return effects


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The keys of a config and of the configs in it: `{"text_config": {"a": 1}}` -> `{"text_config.a": 1}`."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _is_token(key: str) -> bool:
    return key.endswith(("_token_id", "_token_ids"))


def _names_of(config: PretrainedConfig, key: str) -> set[str]:
    """What a key is called where it is read: by itself or its alias; of a dictionary's entry, the dictionary."""
    from transformers import PretrainedConfig

    for part in key.split(".")[:-1]:
        inner = getattr(config, part, None)
        if not isinstance(inner, PretrainedConfig):
            key = part
            break
        config, key = inner, key.partition(".")[2]
    return {key, *(alias for alias, own in config.attribute_map.items() if own == key)}


# --- what is built ---------------------------------------------------------------------------------------------------


def _keys_that_build(model: PreTrainedModel, other: Mapping[str, Any]) -> set[str]:
    """The keys with which alone, or without which, another model is built."""
    if not other:
        return set()
    config, mine, theirs = model.config, _fingerprint(model), _fingerprint(_build(_with(model.config, other)))
    if mine == theirs:
        return set()
    if len(other) == 1:
        return set(other)
    found = set()
    for key in other:
        rest = {name: value for name, value in other.items() if name != key}
        if _differs(mine, config, {key: other[key]}) or _differs(theirs, config, rest):
            found.add(key)
    return found or set(other)


def _differs(built: Mapping[Any, Any], config: PretrainedConfig, other: Mapping[str, Any]) -> bool:
    try:
        return built != _fingerprint(_build(_with(config, other)))
    except Exception as error:  # Keys hang together, and one alone can be no config.
        logger.debug("%s cannot be changed alone: %r", list(other), error)
        return True


def _with(config: PretrainedConfig, other: Mapping[str, Any]) -> PretrainedConfig:
    """The config with other values of some keys, as transformers reads it from a file."""
    said = copy.deepcopy(config.to_dict())
    for key, value in other.items():
        *way, last = key.split(".")
        place = said
        for part in way:
            if not isinstance(place.get(part), dict):
                place[part] = {}
            place = place[part]
        place.pop(last, None)
        if value is not ABSENT:
            place[last] = value
    changed = type(config).from_dict(said)
    changed.architectures = config.architectures
    return changed


def _fingerprint(model: PreTrainedModel) -> dict[Any, Hashable]:
    """Everything of a built model that its forward pass can depend on, but for the numbers in its parameters."""
    attributes = _reads_of(model).attributes
    found: dict[Any, Hashable] = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found |= {("tied", name): source for name, source in tied_names(model).items()}
    found |= {("buffer", name): _plain(value) for name, value in model.named_buffers()}
    for name, module in model.named_modules():
        activation = _activation(module)
        found[name, "is"] = activation or f"{type(module).__module__}.{type(module).__qualname__}"
        if activation:
            continue
        own = type(module).__module__.startswith("transformers.")
        for key, value in vars(module).items():
            if key[0] == "_" or key in ("training", "config") or (key not in attributes if own else key in _OF_TORCH):
                continue
            found[name, key] = _plain(value)
    return found


# Attributes of torch's own layers that do nothing once a model is trained.
_OF_TORCH = ("p", "dropout", "padding_idx", "device", "dtype", "inplace")


# Numbers in a buffer that is computed; more are those of masks and positions of lengths that differ anyway.
_LARGEST_BUFFER = 2**24


def _build(config: PretrainedConfig) -> PreTrainedModel:
    """The model without memory for its weights, but with real buffers: rotary frequencies, masks, slopes."""
    import torch
    import transformers
    from torch.overrides import TorchFunctionMode

    factories = (torch.arange, torch.ones, torch.zeros, torch.full, torch.linspace, torch.eye)

    class OnlyWeightsOnMeta(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if function is torch.empty:  # Weights, which are filled later on; buffers are computed.
                kwargs = {**kwargs, "device": "meta"}
            elif function in factories:
                # A config may count a billion positions, and buffers then have as many numbers: their shape will do.
                outline = function(*args, **{**kwargs, "device": "meta"})
                if outline.numel() > _LARGEST_BUFFER:
                    return outline
            name, first = getattr(function, "__name__", ""), next(iter([*args, *kwargs.values()]), None)
            if name[-1:] == "_" != name[:1] and isinstance(first, torch.Tensor) and first.is_meta:
                return first  # Filling them takes far longer than building the model, and fills nothing.
            return function(*args, **kwargs)

    model_class = getattr(transformers, class_name_of(config))
    with torch.random.fork_rng(devices=[]), OnlyWeightsOnMeta():
        return model_class._from_config(copy.deepcopy(config)).eval()


def _activation(module: Any) -> Hashable:
    """An activation by its values, since one function has several names; None for any other module."""
    import torch

    if not type(module).__module__.startswith(("transformers.activations", "torch.nn.modules.activation")):
        return None
    if isinstance(module, torch.nn.MultiheadAttention) or any(True for _ in module.parameters()):
        return None
    with torch.inference_mode():
        return _Curve(tuple(module(torch.linspace(-8, 8, 129)).tolist()))


class _Curve:
    """Values of a function; equal to others where a rounding of float32 is all that differs."""

    def __init__(self, values: tuple[float, ...]) -> None:
        self.values = values

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Curve):
            return NotImplemented
        pairs = zip(self.values, other.values, strict=True)
        return all(math.isclose(mine, theirs, rel_tol=1e-4, abs_tol=1e-4) for mine, theirs in pairs)

    def __hash__(self) -> int:
        return len(self.values)  # Nearly equal ones must have the same.


def _plain(value: Any) -> Hashable:
    """An attribute as what can be compared: numbers by value, functions and other objects by their name."""
    import torch

    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.Tensor):
        if value.device.type == "meta":
            return tuple(value.shape)
        value = value.detach().contiguous()
        numbers = (value.float() if value.dtype in (torch.bfloat16, torch.float16) else value).numpy()
        return tuple(value.shape), hashlib.sha256(numbers.tobytes()).hexdigest()
    if isinstance(value, list | tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, Mapping):
        return tuple((str(key), _plain(item)) for key, item in value.items())
    if isinstance(value, partial):
        return _plain(value.func), _plain(value.args), _plain(value.keywords)
    return getattr(value, "__qualname__", None) or type(value).__qualname__


# --- what a forward pass reads ---------------------------------------------------------------------------------------


@dataclass
class _Reads(ast.NodeVisitor):
    """Names in the functions that were visited: all, attributes that are read, and those read of a config."""

    names: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    config: set[str] = field(default_factory=set)

    def visit_Name(self, node: ast.Name) -> None:
        self.names.add(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.names.add(node.attr)
        if isinstance(node.ctx, ast.Load):
            self._read(node.value, node.attr)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("getattr", "hasattr") and len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
            self._read(node.args[0], str(node.args[1].value))
        if called == "dropout":
            self.visit(node.args[0])
            return
        self.generic_visit(node)

    def visit_If(self, node: ast.If | ast.IfExp) -> None:
        """What is done in training alone is not visited."""
        test, negated = node.test, False
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            test, negated = test.operand, True
        if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) and not negated:
            test = next((value for value in test.values if _is_training(value)), test)
        if not _is_training(test):
            self.generic_visit(node)
            return
        kept = node.body if negated else node.orelse
        for part in kept if isinstance(kept, list) else [kept]:
            self.visit(part)

    visit_IfExp = visit_If

    def _read(self, owner: ast.expr, name: str) -> None:
        self.attributes.add(name)
        if isinstance(owner, ast.Call):
            owner = owner.func  # `self.config.get_text_config().pad_token_id`
        called = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
        if called.endswith("config"):
            self.config.add(name)


def _is_training(test: ast.expr) -> bool:
    return isinstance(test, ast.Attribute) and test.attr == "training"


def _reads_of(model: PreTrainedModel) -> _Reads:
    config_class: type = type(model.config)
    return _reads_of_classes(frozenset(_classes_of(model)), config_class)


def _classes_of(model: PreTrainedModel) -> Iterable[type]:
    """The classes of transformers that the model is made of, without what all models have in common."""
    for kind in {type(module) for module in model.modules()}:
        for base in kind.__mro__:
            if re.match(r"transformers\.(models|modeling_layers|activations)", base.__module__):
                yield base


@cache
def _reads_of_classes(classes: frozenset[type], config_class: type) -> _Reads:
    """What is read from `forward` on, by following the names of functions through the sources of `classes`."""
    import importlib

    functions: dict[str, list[ast.FunctionDef]] = {}
    files = {kind.__module__ for kind in classes}
    for name in _SHARED:
        files.add(importlib.import_module(f"transformers.{name}").__name__)
    used = {(kind.__module__, kind.__name__) for kind in classes}
    # Properties of the config stand for the keys that they are made from.
    own = [kind for kind in config_class.__mro__ if kind.__module__.startswith("transformers.models.")]
    used |= {(kind.__module__, kind.__name__) for kind in own}
    for file in files | {kind.__module__ for kind in own}:
        for node in _parsed(file):
            if isinstance(node, ast.FunctionDef):
                functions.setdefault(node.name, []).append(node)
            elif isinstance(node, ast.ClassDef) and (file, node.name) in used:
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and method.name not in _BUILDING:
                        functions.setdefault(method.name, []).append(method)
            elif isinstance(node, ast.ClassDef) and file.startswith("transformers.cache_utils"):
                functions.setdefault(node.name, []).extend(n for n in node.body if isinstance(n, ast.FunctionDef))
    reads, seen, waiting = _Reads(), set(), ["forward", "sdpa_attention_forward"]
    while waiting:
        for function in functions.get(waiting.pop(), ()):
            for part in function.body:
                reads.visit(part)
        seen |= set(waiting)
        fresh = [name for name in sorted(reads.names) if name in functions and name not in seen]
        seen |= set(fresh)
        waiting += fresh
    properties = {kind_name for kind in own for kind_name, value in vars(kind).items() if isinstance(value, property)}
    for name in sorted(properties & reads.attributes):
        for function in functions.get(name, ()):
            inner = _Reads()
            inner.visit(function)
            reads.config |= inner.attributes
    return reads


@cache
def _parsed(file: str) -> list[ast.stmt]:
    return ast.parse(inspect.getsource(sys.modules[file])).body
