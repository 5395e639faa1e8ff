"""A model that is run up to one of its blocks, of which only that one need be in memory.

    way = BlockForward(skeleton, kept)
    block = way.begin(probe)         # loads the block that comes next; None where all have been run: the rest remains
    way.run(batch)                   # what the block gives is kept
    way.end()                        # gives its memory back

The model's own code runs at every call, with all of its masks, positions and branches, so nothing need be known of
its architecture. Blocks that are done are not run: the last of each list gives what was kept, and those before it
zeros, since nobody but the next block looks at what they give. That is not taken for granted: on the probe they give
random numbers once more, and the next block must be given the same (else the model is `Indivisible`). Likewise for
embeddings of tokens, which are large: once their numbers are in what is kept, they are not in memory either, unless
the comparison shows that something else looks at them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fusehub.collecting.by_blocks.kept_outputs import KeptOutputs, is_plain, tensors_in
from fusehub.collecting.finite import require_finite
from fusehub.collecting.ways import tokens_layer
from fusehub.errors import first_line
from fusehub.models.loading import is_of_files
from fusehub.models.piecewise.blocks import list_of
from fusehub.models.piecewise.skeleton import Skeleton, indivisible

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fusehub.collecting.probes import Batch


# Inputs that are the same need not be so to the last bit on every device.
_CLOSE = 1e-3


class Reached(Exception):
    """The model has been run as far as was asked for."""


class BlockForward:
    """One model, whose `blocks` are run one after the other; `done` are those that have been, in their order.

    `spared` are embeddings that need not be in memory, as an earlier run found. Until it is closed it stands in for
    the forwards of these modules.
    """

    def __init__(
        self, skeleton: Skeleton, kept: KeptOutputs, blocks: Sequence[str], done: list[str], spared: list[str]
    ) -> None:
        import torch
        from torch import nn

        self._skeleton, self._kept, self._network = skeleton, kept, skeleton.network
        self._blocks, self.done, self.spared = blocks, list(done), list(spared)
        self.device = torch.device(skeleton.device)
        self.live = False
        self._current: str | None = None
        self._probing = self._garbage = self._differentiates = False
        self._seen: list[Tensor] | None = None
        self._called: set[str] = set()
        self._again: dict[str, Any] = {}
        self._key = ""
        self._output = tokens_layer(self._network)
        firsts: dict[int, str] = {}
        # A module may have several names.
        self._first = {
            name: firsts.setdefault(id(module), name)
            for name, module in self._network.named_modules(remove_duplicate=False)
        }
        self._embeddings = {
            name: module
            for name, module in self._network.named_modules()
            if isinstance(module, nn.Embedding) and not any(name.startswith(f"{block}.") for block in blocks)
        }
        self._require_apart()
        self._fit_to_be_spared: set[str] = set()
        self._handles: list[Any] = []
        self._replaced: list[nn.Module] = []
        for name in blocks:
            self._replace(self._network.get_submodule(name), partial(self._block, name))
        for name, module in self._embeddings.items():
            self._replace(module, partial(self._embedding, name, module))
        if self._output is not None:
            self._replace(self._output, self._head)
        self._load_frame(everything=not done)

    def close(self) -> None:
        """The modules have their own forwards again, and no block is in memory."""
        if self._current is not None:
            self._skeleton.drop(self._skeleton.inside(self._current))
        for handle in self._handles:
            handle.remove()
        for module in self._replaced:
            del module.forward  # The one of the class shows again.

    def begin(self, probe: Batch) -> str | None:
        """Finds the block that comes after those that are done, and has it in memory; None where there is none.

        Raises `Indivisible` where it is given other than what the last one gave.
        """
        probe = {name: value.to(self.device) for name, value in probe.items()}
        self._current, self._probing = None, True
        try:
            seen = self._look(probe, garbage=False)
            if not self.done:
                return self._current
            if not _same(seen, self._look(probe, garbage=True)) and self.spared:
                self._unspare()
                seen = self._look(probe, garbage=False)
            if not _same(seen, self._look(probe, garbage=True)):
                given = self._current or "what comes after the last block"
                raise indivisible(f"{given} is given more than what {self.done[-1]} gives")
        finally:
            self._probing = False
        return self._current

    def outside_of(self, probe: Batch) -> list[str]:
        """The parameters outside of the blocks that what the current block is given depends on, beside what the last
        one gave; what comes before the first depends on all that it likes."""
        import torch

        if not self.done or self._current is None:
            return []
        outside = {name: self._network.get_parameter(name) for name in self._frame() if name in self._skeleton.loaded}
        outside = {name: own for name, own in outside.items() if own.is_floating_point()}
        probe = {name: value.to(self.device) for name, value in probe.items()}
        self._differentiates = True
        try:
            for own in outside.values():
                own.requires_grad_()
            seen = [own.sum() for own in self._look(probe, garbage=True) if own.requires_grad]
            found = torch.autograd.grad(seen, list(outside.values()), allow_unused=True) if seen else ()
        finally:
            self._differentiates = False
            for own in outside.values():
                own.requires_grad_(False)
        return [name for name, own in zip(outside, found, strict=False) if own is not None]

    def run(self, batch: Batch) -> Any:
        """Runs the current block, or what comes after the last. Its output is kept; that of the model is given."""
        import torch

        self._key = key_of(batch)
        self._called, self._again = set(), {}
        self.live = not self.done
        try:
            with torch.inference_mode(not self._differentiates), torch.set_grad_enabled(self._differentiates):
                output = self._network(**batch)
        except Reached:
            output = None
        finally:
            self.live = False
        if self._current is not None and self._current not in self._called:
            raise indivisible(f"some texts are not run through {self._current}")
        return output

    def end(self) -> None:
        """The current block is done."""
        if self._current is not None:
            self._skeleton.drop(self._skeleton.inside(self._current))
            self.done.append(self._current)
            self._current = None
        self.spared = sorted({*self.spared, *self._fit_to_be_spared})
        self._skeleton.drop(self._only_in(self._frame(), {*self.spared, *self._heads()}))

    def refuse(self, module: str) -> None:
        """From here on it is an error that the module, which is outside of the blocks, is called once more."""

        def before(*_: Any) -> None:
            if self.live:
                raise indivisible(f"{module} is called before a block and after it")

        self._handles.append(self._network.get_submodule(module).register_forward_pre_hook(before))

    def _replace(self, module: nn.Module, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        module.forward = make(module.forward)
        self._replaced.append(module)

    def _frame(self) -> list[str]:
        """The parameters that are in no block."""
        inside = {name for block in self._blocks for name in self._skeleton.inside(block)}
        return [name for name, _ in self._network.named_parameters(remove_duplicate=False) if name not in inside]

    def _require_apart(self) -> None:
        """Raises `Indivisible` where a block shares weights with another, or with what is outside of all."""
        for block in self._blocks:
            for name in self._skeleton.inside(block):
                others = [own for own in self._skeleton.names_of(name) if not own.startswith(f"{block}.")]
                if others:
                    raise indivisible(f"{name} and {others[0]} are one")

    def _heads(self) -> list[str]:
        """The layer that tells tokens: nothing is counted after it, so that it is never run."""
        return [name for name, module in self._network.named_modules() if module is self._output]

    def _unneeded(self) -> list[str]:
        """Modules outside of the blocks whose weights are not needed."""
        return self._heads()

    def _only_in(self, parameters: list[str], modules: set[str]) -> list[str]:
        """Those of `parameters` that are in none but `modules`, by all their names."""
        return [
            name
            for name in parameters
            if all(self._first[own.rpartition(".")[0]] in modules for own in self._skeleton.names_of(name))
        ]

    def _load_frame(self, *, everything: bool) -> None:
        """Reads what is outside of the blocks, and looks whether all of it is finite where `everything` is read."""
        frame, unused = self._frame(), {*self.spared, *self._unneeded()}
        left = self._only_in(frame, unused)
        require_finite(self._skeleton.load(name for name in frame if name not in left), self._skeleton.name)
        for name in left if everything else ():
            for piece in self._skeleton.pieces(name):
                require_finite({name: piece}, self._skeleton.name)

    def _unspare(self) -> None:
        self._fit_to_be_spared.clear()
        self.spared, self._embeddings = [], {}
        self._load_frame(everything=False)

    def _look(self, probe: Batch, *, garbage: bool) -> list[Tensor]:
        """What the next block is given, or what is given to the end, where there is none."""
        self._seen, self._garbage = [], garbage
        try:
            output = self.run(probe)
            return self._seen + list(tensors_in(output))
        except Exception as error:
            if not is_of_files(error):
                raise
            # Of what a block needs and was not given, or of the model's own: run whole, it says which.
            raise indivisible(f"it fails when it is ({type(error).__name__}: {first_line(error)})") from error
        finally:
            self._seen, self._garbage = None, False

    def _block(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def stand_in(*args: Any, **kwargs: Any) -> Any:
            if name in self._called:
                raise indivisible(f"{name} is run more than once for a text")
            self._called.add(name)
            if name in self.done:
                return self._gave(name)
            if self._current is None and self._probing:
                require_finite(self._skeleton.load(self._skeleton.inside(name)), self._skeleton.name)
                self._current = name
            if name != self._current or not self.live:
                raise indivisible(f"not every text is run through the blocks in the order that ends with {name}")
            if self._seen is not None:
                self._seen += list(tensors_in([*args, kwargs]))
            if self._garbage:
                raise Reached
            before = _state_of([args, kwargs]) if self._probing else None
            output = forward(*args, **kwargs)
            if before is not None and before != _state_of([args, kwargs]):
                raise indivisible(f"{name} writes into what all blocks are given")
            if not is_plain(output):
                raise indivisible(f"{name} gives something else than tensors ({type(output).__name__})")
            self._keep(output)
            raise Reached

        return stand_in

    def _gave(self, name: str) -> Any:
        """What a block that is done gives."""
        own = list_of(name)
        last = max(place for place, block in enumerate(self.done) if list_of(block) == own)
        self.live = len(self._called.intersection(self.done)) == len(self.done)
        if self.done[last] == name:
            return self._read(last)
        if own not in self._again:
            self._again[own] = _filled(self._read(last), self._garbage)
        return self._again[own]

    def _keep(self, output: Any) -> None:
        """Takes what the current block gives."""
        self._kept.write(len(self.done), self._key, output)

    def _read(self, stage: int) -> Any:
        """What the block of that number gave."""
        return self._kept.read(stage, self._key, self.device)

    def _head(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """What stands in for the layer that tells tokens."""
        return self._last

    def _embedding(self, name: str, module: nn.Embedding, forward: Callable[..., Any]) -> Callable[..., Any]:
        import torch

        def stand_in(*args: Any, **kwargs: Any) -> Any:
            ids = next(iter([*args, *kwargs.values()]))
            shape = (*ids.shape, module.embedding_dim)
            if not self.live and name in self.spared:
                empty = torch.empty(shape, dtype=module.weight.dtype, device=self.device)
                return _filled(empty, self._garbage)
            self._skeleton.load([f"{name}.weight"])
            output = forward(*args, **kwargs)
            if self.live and name in self._embeddings and output.shape == shape:
                self._fit_to_be_spared.add(name)
            return output

        return stand_in

    def _last(self, *args: Any, **kwargs: Any) -> Any:
        if self._seen is not None:
            self._seen += list(tensors_in([*args, kwargs]))
        raise Reached


def key_of(batch: Batch) -> str:
    """Tells a batch from others by all that is in it."""
    import torch

    digest = hashlib.sha256()
    for name, value in sorted(batch.items()):
        own = value.detach().cpu().contiguous()
        digest.update(f"{name} {own.dtype} {tuple(own.shape)} ".encode())
        digest.update(own.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def _state_of(value: Any) -> Any:
    """What tells whether something was put into a list, a mapping or an object, or taken out: which things are in it.

    Numbers of tensors are not looked at.
    """
    import torch

    if isinstance(value, dict):
        return {key: _state_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_state_of(item) for item in value]
    if isinstance(value, torch.Tensor) or not hasattr(value, "__dict__") or isinstance(value, type):
        return id(value)
    return {name: [id(item), len(item) if hasattr(item, "__len__") else 0] for name, item in vars(value).items()}


def _filled(value: Any, random: bool) -> Any:
    """A value of the same form, of zeros or of random numbers."""
    import torch

    if isinstance(value, torch.Tensor):
        if not random:
            return torch.zeros_like(value)
        return torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).to(value)
    return type(value)(_filled(item, random) for item in value) if value is not None else None


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    import torch

    return len(a) == len(b) and all(
        one.shape == other.shape and torch.allclose(one.float(), other.float(), _CLOSE, _CLOSE, equal_nan=True)
        for one, other in zip(a, b, strict=True)
    )
