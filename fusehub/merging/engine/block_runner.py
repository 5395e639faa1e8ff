"""A model that is run block by block: up to a block, and what came before it only once.

    runner = Runner(network, [*blocks_of(network), "bert.pooler.dense"])
    runner.learn(probe)                            # runner.order: the blocks as the model calls them
    runner.run(batch, key=0, upto=3)               # runs blocks 0 to 3, and stops there
    runner.run(batch, key=0, upto=4)               # blocks 0 to 2 give what they gave before: only 3 and 4 are run

The model's own code runs at every call, with all of its masks, positions and caches, so nothing need be known of its
architecture; a block that is not to be run again only gives back what it gave. That is right as long as nothing but
the next block looks at it, which `holds` finds out.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fusehub.collecting.by_blocks.kept_outputs import is_plain, tensors_in
from fusehub.models.piecewise.blocks import list_of
from fusehub.utils.memory import available_memory

if TYPE_CHECKING:
    from torch import Tensor, nn

# The part of the memory that is free which outputs of blocks may take; above it, blocks are run again.
_ROOM = 0.5
# Inputs that are the same need not be so to the last bit on every device.
_CLOSE = 1e-3


class _Reached(Exception):
    """The model has been run as far as was asked for."""


class Runner:
    """One network whose modules `stages` are run one after the other, over batches that are told by keys.

    Until it is closed, it stands in for these modules' forwards. A stage is an index into `order`.
    """

    def __init__(self, network: nn.Module, stages: Sequence[str]) -> None:
        self._network = network
        self._names = list(stages)
        self._calls: dict[str, int] = {}
        self._learning = False
        self._upto: int | None = None
        self._key: Hashable = None
        self._kept: dict[str, dict[Hashable, tuple[int, Any]]] = {}
        self._single: dict[str, bool] = {}
        self._bytes = 0
        self._room = _ROOM * available_memory()
        self._keeping = True
        self._seen: list[Tensor] | None = None
        self.order: list[str] = []
        """The stages in the order of their first call; those that a forward never calls are not among them."""
        self._forwards = {name: network.get_submodule(name).forward for name in self._names}
        for name in self._names:
            network.get_submodule(name).forward = self._standing_in(name)

    def close(self) -> None:
        """The network is as before."""
        for name in self._names:
            # The forward of the class shows again.
            del self._network.get_submodule(name).forward
        self.forget()

    def learn(self, batch: Mapping[str, Tensor]) -> None:
        """Finds out in which order, and how often, the stages are called."""
        from torch import nn

        self._calls = {}
        self._learning = True
        try:
            self._forward(batch)
        finally:
            self._learning = False
        self.order = list(self._calls)
        self._place = {name: place for place, name in enumerate(self.order)}
        # Only what a list of blocks gives to the next is kept, and only where each is called once.
        self._single = {
            own: all(self._calls.get(name) == 1 for name in self._names if list_of(name) == own)
            for own in {list_of(name) for name in self._names}
            if isinstance(self._network.get_submodule(own), nn.ModuleList)
        }

    def run(self, batch: Mapping[str, Tensor], *, key: Hashable, upto: int) -> None:
        """Runs the network over `batch` to the end of the stage `upto`; what was kept for `key` is not run again."""
        self._key, self._upto, self._left = key, upto, self._calls[self.order[upto]]
        try:
            self._forward(batch)
        except _Reached:
            pass
        finally:
            self._upto = None

    def holds(self, batch: Mapping[str, Tensor], *, key: Hashable, upto: int) -> bool:
        """Whether the stage `upto` is given the same, whether or not those before it are run again.

        Where it is not, nothing is kept from here on, and all is run again each time.
        """
        if not self._keeping:
            return False
        seen = []
        for keeping in (True, False):
            self._keeping, self._seen = keeping, []
            try:
                self.run(batch, key=key, upto=upto)
                seen.append(self._seen)
            finally:
                self._keeping, self._seen = True, None
        self._keeping = len(seen[0]) == len(seen[1]) and all(map(_same, *seen))
        if not self._keeping:
            self.forget()
        return self._keeping

    def forget(self) -> None:
        """Lets go of all that was kept."""
        self._kept.clear()
        self._bytes = 0

    def _forward(self, batch: Mapping[str, Tensor]) -> None:
        import torch

        with torch.inference_mode():
            self._network(**batch)

    def _standing_in(self, name: str) -> Any:
        forward, own = self._forwards[name], list_of(name)

        def stand_in(*args: Any, **kwargs: Any) -> Any:
            if self._learning:
                self._calls[name] = self._calls.get(name, 0) + 1
            if self._upto is None or name not in self._place:
                return forward(*args, **kwargs)
            place = self._place[name]
            if place < self._upto:
                return self._again(own, place, forward, args, kwargs)
            if place == self._upto:
                if self._seen is not None:
                    self._seen += tensors_in((args, kwargs))
                output = forward(*args, **kwargs)
                self._left -= 1
                if not self._left:
                    raise _Reached
                return output
            return forward(*args, **kwargs)

        return stand_in

    def _again(self, own: str, place: int, forward: Any, args: Any, kwargs: Any) -> Any:
        """What a stage that is done gives: what it, or one after it in its list, gave before, or else it is run."""
        may = self._keeping and self._single.get(own, False)
        kept = self._kept.setdefault(own, {})
        if may and self._key in kept and kept[self._key][0] >= place:
            return _moved(kept[self._key][1], _device_of(args, kwargs))
        output = forward(*args, **kwargs)
        if may and is_plain(output):
            before = kept.pop(self._key, (0, None))[1]
            kept[self._key] = (place, _moved(output, "cpu"))
            self._bytes += _nbytes(output) - _nbytes(before)
            if self._bytes > self._room:
                self._keeping = False
                self.forget()
        return output


def _moved(value: Any, device: Any) -> Any:
    """A copy of it: what a model is given, it may write into."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.to(device, copy=True)
    return type(value)(_moved(item, device) for item in value) if value is not None else None


def _device_of(args: Any, kwargs: Any) -> Any:
    return next(tensors_in((args, kwargs))).device


def _nbytes(value: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(value))


def _same(a: Tensor, b: Tensor) -> bool:
    import torch

    return a.shape == b.shape and torch.allclose(a, b, rtol=_CLOSE, atol=_CLOSE)
