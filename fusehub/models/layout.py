"""The anatomy of a model, told from its config alone: which tensors are linear layers' weights, which way
round they are stored, which rows belong to labels, and what a checkpoint's names mean.

The model is built on the meta device, so this costs no memory and no download beyond the config.

    layout = layout_of(config)
    layout.linears["bert.encoder.layer.0.attention.self.query.weight"]   # Linear(in_features=768, ...)
    layout.label_axes                                                     # {"classifier.weight": 0, ...}
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from fusehub.errors import Incompatible, first_line
from fusehub.models.piecewise.blocks import blocks_of
from fusehub.models.tasks import class_name_of, has_labels
from fusehub.models.tensor_files import require_few
from fusehub.models.transformers_internals import (
    StoredName,
    fused,
    left_over,
    may_be_missing,
    model_class,
    stored_names,
    tied_names,
)
from fusehub.utils.frozen import freeze
from fusehub.utils.untrusted.limits import BUFFER_BYTES, MODULES

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Linear:
    """One linear layer, `x @ W.T + b`: its module, its parameters' names, and how the weight is stored."""

    module: str
    weight: str
    bias: str | None
    in_features: int
    out_features: int
    transposed: bool
    """Stored as [in, out] (transformers' Conv1D, as in GPT-2) instead of [out, in]."""


@dataclass(frozen=True)
class Part:
    """One expert's matrix of a mixture of experts, which checkpoints store by itself and the model fused with others.

    It is `model.get_parameter(parameter)[expert, start:stop]`.
    """

    parameter: str
    expert: int
    start: int
    stop: int


@dataclass(frozen=True)
class Layout:
    """What the parameters of one architecture are.

    `shapes` has every parameter and persistent buffer; `label_axes` those that have one row (or element) a
    label, with the axis along which labels run; `tied` maps a name to the one whose storage it shares. `parts` are
    the matrices that are fused when transformers loads them, by the names that they have in checkpoints (but for
    renamings); each is a linear layer among `linears`, whose module is the one that holds all of them.
    """

    key: str
    """What all configs of this layout have in common."""
    architecture: str
    shapes: Mapping[str, tuple[int, ...]]
    linears: Mapping[str, Linear]
    label_axes: Mapping[str, int]
    tied: Mapping[str, str]
    base_prefix: str
    blocks: tuple[str, ...]
    """The repeated blocks that hold linear layers, and are more than one by itself."""
    embeddings: tuple[str, ...]
    """The parameter with one row a token of the input, by all names that it has; none for models of images."""
    output: tuple[str, ...]
    """The weight that tells tokens from what the model computed; none for models that tell something else."""
    ties_said: tuple[bool | None, ...]
    """What the config and those inside it say of sharing."""
    left_over: tuple[str, ...]
    """Expressions for what checkpoints have and models compute by now, or have no use for, as transformers says it."""
    computed: tuple[str, ...]
    """Expressions for what a checkpoint need not have."""
    places: Callable[[tuple[str, ...]], Mapping[str, StoredName]] = field(compare=False, repr=False)
    """Where transformers loads the tensors of a file, which it is asked by their names, all at once."""
    parts: Mapping[str, Part] = field(default_factory=dict)
    token_axes: Mapping[str, int] = field(default_factory=dict)
    """Which tensors have one row (or element) a token of the vocabulary, with the axis along which tokens run."""
    _placed: dict[tuple[str, ...], Mapping[str, StoredName]] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        freeze(self, "shapes", "linears", "label_axes", "tied", "parts", "token_axes")

    def names(self, stored: Iterable[str]) -> dict[str, str]:
        """For each name in a checkpoint, the model's parameter that transformers loads it into.

        Follows transformers' own renamings (LayerNorm.gamma, missing or extra base prefix, ...). A tensor that is
        fused with others or taken apart when it is loaded gets a name of its own, that of `parts` where it has one:
        transformers only moves numbers around then, so it is merged as it is stored. Tensors that the model does not
        have are left out.
        """
        return {name: parameter for name, (parameter, _) in self._places(stored).items()}

    def _places(self, stored: Iterable[str]) -> Mapping[str, StoredName]:
        # The same names are asked for by every check and every step of a merge.
        names = tuple(stored)
        if names not in self._placed:
            self._placed[names] = self.places(names) if names else {}
        return self._placed[names]

    def unknown(self, stored: Iterable[str]) -> list[str]:
        """Names in a checkpoint that the model has nothing for, and that are not known to be left over."""
        stored = list(stored)
        known = self._places(stored)
        return [name for name in stored if name not in known and not self._left_over.search(name)]

    def missing(self, stored: Iterable[str]) -> list[str]:
        """Parameters that transformers would fill with random numbers if a checkpoint has only the names `stored`."""
        places = self._places(stored)
        named = {parameter for parameter, _ in places.values()}
        fused: dict[str, list[str]] = {}
        for name, part in self.parts.items():
            fused.setdefault(part.parameter, []).append(name)
        made = {target for _, targets in places.values() for target in targets if target not in fused} | named
        missing = []
        for name in self.shapes:
            if name in made or made.intersection(self.tied_with(name)) or self._computed.search(name):
                continue
            missing += [part for part in fused.get(name, [name]) if part not in named]
        return missing

    def shape_of(self, parameter: str) -> tuple[int, ...] | None:
        """The shape of a parameter, or of a part, as a checkpoint has it; None where it is taken apart."""
        if part := self.parts.get(parameter):
            return part.stop - part.start, self.shapes[part.parameter][2]
        return self.shapes.get(parameter)

    def optional(self, stored: Iterable[str]) -> dict[str, str]:
        """Of the names in a checkpoint those that it might lack, as the model has numbers to begin with for them, each
        with the model's parameter."""
        return {name: own for name, own in self.names(stored).items() if self._computed.search(own)}

    @property
    def _left_over(self) -> re.Pattern[str]:
        always = ("position_ids$", r"rotary_emb\.inv_freq$", r"\.attn\.(masked_)?bias$")
        return re.compile("|".join([*always, *self.left_over]))

    @property
    def _computed(self) -> re.Pattern[str]:
        always = "(position_ids|token_type_ids|num_batches_tracked)$"
        return re.compile("|".join([always, *self.computed]))

    def tied_with(self, parameter: str) -> list[str]:
        """The other names of what shares its storage with `parameter`."""
        source = self.tied.get(parameter, parameter)
        names = [source, *(name for name, own in self.tied.items() if own == source)]
        return [name for name in names if name != parameter] if len(names) > 1 else []

    @property
    def has_body(self) -> bool:
        """Whether a task's head was put on a pretrained model that is found again in others. (T5 is all of it.)"""
        return any(name.startswith(f"{self.base_prefix}.") for name in self.shapes)

    def in_body(self, parameter: str) -> bool:
        """Whether the parameter is of the pretrained model and not of the head that a task put on it."""
        if self.has_body:
            return parameter.startswith(f"{self.base_prefix}.")
        return parameter not in self.label_axes


def layout_of(config: PretrainedConfig) -> Layout:
    """The layout of the architecture that `config` names; made once for all configs of the same shapes.

    Raises `Incompatible` where transformers has no such class, or cannot build it.
    """
    said = {key: value for key, value in config.to_dict().items() if key not in _WITHOUT_SHAPE}
    labels = getattr(config, "num_labels", None)
    return _layout_of(_Key(json.dumps([said, labels], sort_keys=True, default=str), config))


# What two configs may say differently of models that have the same parameters.
_WITHOUT_SHAPE = ("id2label", "label2id", "dtype", "torch_dtype", "transformers_version", "_name_or_path")


@dataclass(frozen=True)
class _Key:
    """A config that is compared by what it says."""

    text: str
    config: PretrainedConfig = field(compare=False, repr=False)


@lru_cache(maxsize=16)
def _layout_of(key: _Key) -> Layout:
    config = key.config
    model = meta_model(config)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    parts = _parts(model, shapes)
    linears = linears_of(model) | {name: _part_linear(name, part, shapes) for name, part in parts.items()}
    return Layout(
        key=hashlib.sha256(key.text.encode()).hexdigest(),
        architecture=class_name_of(config),
        shapes=shapes,
        linears=linears,
        label_axes=_axes_of(config, "num_labels", shapes) if has_labels(config.to_dict()) else {},
        token_axes=_axes_of(config, "vocab_size", shapes),
        tied=tied_names(model),
        base_prefix=model.base_model_prefix,
        blocks=tuple(blocks_of(model, [linear.module.rpartition(".")[0] for linear in linears.values()])),
        embeddings=_names_of(model, model.get_input_embeddings),
        output=_names_of(model, model.get_output_embeddings),
        ties_said=tie_flags(config),
        left_over=left_over(model),
        computed=may_be_missing(model),
        places=partial(stored_names, model),
        parts=parts,
    )


def tie_flags(config: PretrainedConfig) -> tuple[bool | None, ...]:
    """What the config and those inside it say of sharing."""
    parts = [config, *(getattr(config, name, None) for name in config.sub_configs)]
    return tuple(getattr(part, "tie_word_embeddings", None) for part in parts)


def _names_of(model: PreTrainedModel, get: Callable[[], Any]) -> tuple[str, ...]:
    """All names of the weight of a module of the model; none where it has no such module."""
    try:
        weight = getattr(get(), "weight", None)
    except (NotImplementedError, AttributeError):  # What transformers raises for a class that has none.
        return ()
    return tuple(name for name, value in model.named_parameters(remove_duplicate=False) if value is weight)


def meta_model(config: PretrainedConfig) -> PreTrainedModel:
    """The model of `config.architectures[0]`, with parameters that have shapes but no data.

    Raises `Incompatible` where transformers has no such class, or cannot build it.
    """
    import torch
    import transformers

    architecture = class_name_of(config)
    make = model_class(architecture)
    if make is None:
        raise Incompatible(
            f"transformers {transformers.__version__} has no class {architecture}, which config.json says that the "
            "model is.",
            "Update transformers, or use a model of an architecture that it knows.",
        )
    try:
        # The config that is given is written into.
        with torch.device("meta"), _few_modules(architecture):
            model = make(copy.deepcopy(config)).eval()
    except Incompatible:
        raise
    except Exception as error:  # What a config with wrong values raises is whatever they lead to.
        raise Incompatible(
            f"transformers cannot make a {architecture} by its config ({first_line(error)}).",
            "Correct config.json, or take it from the model's base.",
        ) from error
    if (nbytes := sum(buffer.nbytes for buffer in model.buffers())) > BUFFER_BYTES:
        raise Incompatible(
            f"The config of the {architecture} asks for {nbytes:,} bytes of masks and positions, and no more than "
            f"{BUFFER_BYTES:,} are made.",
            "Is its number of positions right?",
        )
    return model


@contextmanager
def _few_modules(architecture: str) -> Iterator[None]:
    """Raises `Incompatible` as soon as more modules are made, in this thread, than any model has."""
    from torch.nn.modules.module import register_module_module_registration_hook

    thread, made = threading.get_ident(), 0

    def count(*_: object) -> None:
        nonlocal made
        made += threading.get_ident() == thread
        if made > MODULES:
            raise Incompatible(
                f"The config of the {architecture} describes a model of more than {MODULES:,} modules.",
                "Correct config.json, or take it from the model's base.",
            )

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def linears_of(model: PreTrainedModel, *, tied: bool = True) -> dict[str, Linear]:
    """All linear layers of a model by the name of their weight. A weight used twice is listed once.

    Without `tied`, not those whose weight is an embedding's in this model as it was loaded: its file has them once,
    and what is merged is the embedding.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    embeddings = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    found: dict[str, Linear] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | Conv1D):
            continue
        if not tied and any(module.weight is weight for weight in embeddings):
            continue
        transposed = isinstance(module, Conv1D)
        rows, columns = module.weight.shape
        found[f"{name}.weight"] = Linear(
            module=name,
            weight=f"{name}.weight",
            bias=f"{name}.bias" if module.bias is not None else None,
            in_features=rows if transposed else columns,
            out_features=columns if transposed else rows,
            transposed=transposed,
        )
    return found


def _parts(model: PreTrainedModel, shapes: dict[str, tuple[int, ...]]) -> dict[str, Part]:
    """The matrices that make up each fused weight [experts, rows, in], by their names in files."""
    parts: dict[str, Part] = {}
    for ending, sources in fused(model):
        for parameter, shape in shapes.items():
            if not parameter.endswith(ending) or len(shape) != 3 or shape[1] % len(sources):
                continue
            rows = shape[1] // len(sources)
            require_few(len(parts) + shape[0] * len(sources), "The config")
            for expert in range(shape[0]):
                for place, source in enumerate(sources):
                    name = parameter.removesuffix(ending) + source.replace("*", str(expert))
                    parts[name] = Part(parameter, expert, place * rows, (place + 1) * rows)
    return parts


def _part_linear(name: str, part: Part, shapes: dict[str, tuple[int, ...]]) -> Linear:
    module = part.parameter.rpartition(".")[0]
    return Linear(module, name, None, shapes[part.parameter][2], part.stop - part.start, transposed=False)


def _axes_of(config: PretrainedConfig, key: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Which tensors grow when the config gets one label or token more, and along which axis.

    Asking the architecture itself needs no list of what heads are called in each family.
    """
    count = getattr(config, key, None)
    if not isinstance(count, int):
        return {}
    wider = copy.deepcopy(config)
    setattr(wider, key, count + 1)
    axes = {}
    for name, shape in meta_model(wider).state_dict().items():
        differing = [axis for axis, (a, b) in enumerate(zip(shape.shape, shapes[name], strict=True)) if a != b]
        if differing:
            axes[name] = differing[0]
    return axes
