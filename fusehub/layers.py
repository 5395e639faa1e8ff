"""The anatomy of a model, told from its config alone: which tensors are linear layers' weights, which way
round they are stored, which rows belong to labels, and what a checkpoint's names mean.

The model is built on the meta device, so this costs no memory and no download beyond the config.

    layout = layout_of(config)
    layout.linears["bert.encoder.layer.0.attention.self.query.weight"]   # Linear(in_features=768, ...)
    layout.label_axes                                                     # {"classifier.weight": 0, ...}
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusehub.errors import Incompatible

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
class Layout:
    """What the parameters of one architecture are.

    `shapes` has every parameter and persistent buffer; `label_axes` those that have one row (or element) a
    label, with the axis along which labels run; `tied` maps a name to the one whose storage it shares.
    """

    architecture: str
    shapes: dict[str, tuple[int, ...]]
    linears: dict[str, Linear]
    label_axes: dict[str, int]
    tied: dict[str, str]
    base_prefix: str
    _model: PreTrainedModel | None

    def names(self, stored: Iterable[str]) -> dict[str, str]:
        """For each name in a checkpoint, the model's parameter that transformers loads it into.

        Follows transformers' own renamings (LayerNorm.gamma, missing or extra base prefix, ...). Tensors that
        the model does not have are left out. Raises `Incompatible` where loading does more than rename.
        """
        if self._model is None:
            return {name: name for name in stored if name in self.shapes}
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

        rules = get_model_conversion_mapping(self._model)
        renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        known = self._model.state_dict()
        prefix = self._model.base_model_prefix
        result: dict[str, str] = {}
        for name in stored:
            target, converter = rename_source_key(name, renamings, converters, prefix, known)
            if target not in known and name in known:
                target, converter = name, None
            if target not in known:
                continue
            if converter is not None:
                raise Incompatible(
                    f"{name}: transformers stores this tensor fused with others when it loads {self.architecture}.",
                    "Architectures with fused weights cannot be merged yet.",
                )
            result[name] = target
        return result


def layout_of(config: PretrainedConfig) -> Layout:
    """The layout of the architecture that `config` names."""
    model = meta_model(config)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    return Layout(
        architecture=config.architectures[0],
        shapes=shapes,
        linears=linears_of(model),
        label_axes=_label_axes(config, shapes),
        tied=dict(getattr(model, "all_tied_weights_keys", None) or {}),
        base_prefix=model.base_model_prefix,
        _model=model,
    )


def plain_layout(architecture: str, shapes: dict[str, tuple[int, ...]]) -> Layout:
    """A layout for checkpoints that have exactly these tensors, told without transformers: it knows no layers.

    The body is told from the most common beginning of the names (`bert.`).
    """
    counts = Counter(name.partition(".")[0] for name in shapes)
    return Layout(architecture, shapes, {}, {}, {}, counts.most_common(1)[0][0], None)


def meta_model(config: PretrainedConfig) -> PreTrainedModel:
    """The model of `config.architectures[0]`, with parameters that have shapes but no data."""
    import torch
    import transformers

    model_class = getattr(transformers, config.architectures[0], None)
    if model_class is None:
        raise Incompatible(
            f"transformers {transformers.__version__} has no class {config.architectures[0]}.",
            "Update transformers, or use a model of an architecture that it knows.",
        )
    # _from_config writes into the config it is given.
    with torch.device("meta"):
        return model_class._from_config(copy.deepcopy(config)).eval()


def linears_of(model: PreTrainedModel) -> dict[str, Linear]:
    """All linear layers of a model by the name of their weight. A weight used twice is listed once."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    found: dict[str, Linear] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | Conv1D):
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


def _label_axes(config: PretrainedConfig, shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Which tensors grow when the config gets one label more, and along which axis.

    Asking the architecture itself needs no list of what heads are called in each family.
    """
    wider = copy.deepcopy(config)
    wider.num_labels = config.num_labels + 1
    axes = {}
    for name, shape in meta_model(wider).state_dict().items():
        differing = [axis for axis, (a, b) in enumerate(zip(shape.shape, shapes[name], strict=True)) if a != b]
        if differing:
            axes[name] = differing[0]
    return axes
