"""A model without its weights, and those of its parts read from the files when they are asked for.

    with Checkpoint(ref) as checkpoint:
        skeleton = Skeleton(ref, checkpoint)
        skeleton.load(skeleton.inside("bert.encoder.layer.0"))    # now this block can be run
        skeleton.drop(skeleton.inside("bert.encoder.layer.0"))    # and now it takes no memory again

Its class is that of transformers, with all that it computes from the config alone. The names in the files become
parameters as in `fusehub.models.layout`, so adapters, renamed tensors and experts that are stored one by one are read
as a whole model reads them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from fusehub.errors import Incompatible, Indivisible
from fusehub.models.checkpoints.checkpoint import Checkpoint
from fusehub.models.completeness import require_complete
from fusehub.models.layout import Part, layout_of
from fusehub.models.loading import quiet_transformers, strange_files, tell_padding
from fusehub.models.tasks import class_name_of, load_config
from fusehub.models.tensor_files import torch_dtype
from fusehub.models.ties import is_copy_in, stored_names, untie
from fusehub.models.transformers_internals import kept_wide, model_class
from fusehub.utils.devices import find_dtype, has_float64

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.overrides import TorchFunctionMode
    from transformers import PreTrainedModel

    from fusehub.models.ref import ModelRef

# Bytes of a tensor that are read at once where all of it is looked at and nothing kept.
_PIECE = 2**26


def indivisible(why: str) -> Indivisible:
    """The error for a model that cannot be run part by part, because of `why`: a part of a sentence."""
    return Indivisible(f"The model cannot be run block by block: {why}.", "Have it read whole: --stream off.")


class Skeleton:
    """The model of `ref` in eval mode, whose weights are those of `checkpoint`, on the meta device but for those
    that are loaded.

    `dtype` None keeps the one that it is stored in. Raises `Incompatible` where it could not be loaded whole either,
    and `Indivisible` where its weights are computed from several in a way that only transformers knows.
    """

    def __init__(
        self, ref: ModelRef, checkpoint: Checkpoint, *, dtype: torch.dtype | None = None, device: str = "cpu"
    ) -> None:
        self.name, self.device = ref.name, device
        self._checkpoint = checkpoint
        require_complete(ref, checkpoint.tensors)
        self.network = _empty(ref, dtype or _stored_dtype(ref, checkpoint))
        tell_padding(self.network, ref)
        names = stored_names(ref, layout_of(load_config(ref)), checkpoint.tensors)
        for one, other in names.unsure.items():
            if not is_copy_in(checkpoint, names.own[one], names.own[other]):
                untie(self.network, [other, one])
        every = list(self.network.named_parameters(remove_duplicate=False))
        firsts: dict[int, str] = {}
        self.owners = self._owner = {name: firsts.setdefault(id(value), name) for name, value in every}
        self._names: dict[str, list[str]] = {}
        for name, owner in self._owner.items():
            self._names.setdefault(owner, []).append(name)
        values = dict(every)
        self._dtypes = {owner: self._fitting(values[owner].dtype) for owner in self._names}
        for name in kept_wide(self.network, self.network.dtype):
            self._dtypes[self._owner[name]] = _float32()
        self._sources: dict[str, list[tuple[str, Part | None]]] = {}
        self._find_sources(ref)
        self.loaded: set[str] = set()

    def inside(self, module: str) -> list[str]:
        """The parameters of a module and of all in it, those that they share with others by all their names."""
        return [name for name in self._owner if name.startswith(f"{module}.")]

    def names_of(self, parameter: str) -> list[str]:
        """All names of a parameter."""
        return self._names[self._owner[parameter]]

    def load(self, parameters: Iterable[str]) -> dict[str, Tensor]:
        """Reads those that are not in memory; gives them by name. Raises `Indivisible` where a file lacks one."""
        read: dict[str, Tensor] = {}
        for owner in dict.fromkeys(self._owner[name] for name in parameters):
            if owner not in self.loaded:
                read[owner] = self._read(owner)
                self._put(owner, read[owner])
                self.loaded.add(owner)
        return read

    def drop(self, parameters: Iterable[str]) -> None:
        """Gives their memory back."""
        import torch

        for owner in dict.fromkeys(self._owner[name] for name in parameters):
            if owner in self.loaded:
                self._put(owner, torch.empty_like(self.network.get_parameter(owner), device="meta"))
                self.loaded.remove(owner)

    def nbytes(self, parameters: Iterable[str]) -> int:
        """What they take in memory."""
        owners = dict.fromkeys(self._owner[name] for name in parameters)
        return sum(self.network.get_parameter(own).numel() * self._dtypes[own].itemsize for own in owners)

    def pieces(self, parameter: str) -> Iterator[Tensor]:
        """All numbers of a parameter as they are stored, a few at a time."""
        for name, _ in self._sources.get(self._owner[parameter], ()):
            info = self._checkpoint.tensors[name]
            rows = info.shape[0] if info.shape else 1
            step = max(1, _PIECE // max(1, info.nbytes // max(1, rows)))
            for start in range(0, rows, step):
                yield self._checkpoint.read(name, start, start + step) if info.shape else self._checkpoint[name]

    def _find_sources(self, ref: ModelRef) -> None:
        """Where each parameter is in the files; buffers, which are small, are read at once."""
        layout = layout_of(load_config(ref))
        buffers = dict(self.network.named_buffers())
        for stored, target in layout.names(self._checkpoint).items():
            part = layout.parts.get(target)
            name = part.parameter if part else target
            if name in buffers:
                buffers[name].copy_(self._checkpoint[stored])
            elif name in self._owner:
                self._sources.setdefault(self._owner[name], []).append((stored, part))
            else:
                raise indivisible(f"transformers computes weights of the model from {stored} and others")
        for module in self.network.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = buffer.to(self._fitting(buffer.dtype)).to(self.device)

    def _fitting(self, dtype: torch.dtype) -> torch.dtype:
        """float64 as float32 on a device that has none."""
        wide = str(dtype) == "torch.float64"
        return _float32() if wide and not has_float64(self.device) else dtype

    def _read(self, owner: str) -> Tensor:
        import torch

        sources = self._sources.get(owner)
        if not sources:
            raise indivisible(f"{owner} is not in its files")
        dtype = self._dtypes[owner]
        if sources[0][1] is None:
            return self._as_stored(sources[0][0]).to(dtype).to(self.device)
        value = torch.empty(self.network.get_parameter(owner).shape, dtype=dtype, device=self.device)
        for stored, part in sources:
            assert part is not None  # All of a fused weight are its parts.
            value[part.expert, part.start : part.stop] = self._as_stored(stored).to(dtype)
        return value

    def _as_stored(self, name: str) -> Tensor:
        """With an adapter's update, which is computed more widely, in the dtype of the file."""
        return self._checkpoint[name].to(torch_dtype(self._checkpoint.tensors[name].dtype))

    def _put(self, owner: str, value: Tensor) -> None:
        from torch import nn

        parameter = nn.Parameter(value, requires_grad=False)
        for name in self._names[owner]:
            module, _, leaf = name.rpartition(".")
            self.network.get_submodule(module)._parameters[leaf] = parameter


def _float32() -> torch.dtype:
    import torch

    return torch.float32


def _stored_dtype(ref: ModelRef, checkpoint: Checkpoint) -> torch.dtype:
    """As transformers tells it where nothing is said: by the config, or by the first weight."""
    first = next(torch_dtype(info.dtype) for info in checkpoint.tensors.values() if info.is_float)
    return find_dtype(load_config(ref).dtype) or first


def _empty(ref: ModelRef, dtype: torch.dtype) -> PreTrainedModel:
    """The model with all that its class computes from the config, and parameters without numbers."""
    from accelerate import init_empty_weights

    config = copy.deepcopy(load_config(ref))
    make = model_class(class_name_of(config))
    if make is None:
        raise Incompatible(f"transformers has no class {class_name_of(config)}.", "Update transformers.")
    with quiet_transformers(), strange_files(ref.name, "config.json"), init_empty_weights(include_buffers=False):
        with _without_memory():
            network = make(copy.deepcopy(config), dtype=dtype).eval()
        if any(buffer.is_meta for buffer in network.buffers()):
            # Some class fills what it takes for a buffer, and does not make it of numbers at once.
            network = make(config, dtype=dtype).eval()
    # Sharing is lost where parameters are replaced one by one.
    network.tie_weights()
    # What a block that is not run again would have added to it is missing.
    if getattr(network.config, "use_cache", False):
        network.config.use_cache = False
    return network


def _without_memory() -> TorchFunctionMode:
    """Has `torch.empty`, of which parameters are made, take no memory: what is given back at once still leaves the
    process with as many addresses, which limits count."""
    import torch
    from torch.overrides import TorchFunctionMode

    class Mode(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
            kwargs = dict(kwargs or {})
            if function is torch.empty:
                kwargs["device"] = "meta"
            return function(*args, **kwargs)

    return Mode()
