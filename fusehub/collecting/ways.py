"""How a batch goes through a model that is watched: through all of it, up to the layer that tells tokens, or
(`by_blocks/forward.py`) through a part.

The layer that tells tokens is a large part of a small model's work, and what it gives, a number for each word that is
known and each token, can be more than all else that a forward has in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fusehub.collecting.probes import Batch


class Way(Protocol):
    """What `GramCollector` has run; its hooks see the calls of modules while that lasts."""

    @property
    def device(self) -> torch.device:
        """Where a batch must be."""

    @property
    def live(self) -> bool:
        """Whether what modules are given at this moment is what the whole model would give them."""

    def run(self, batch: Batch) -> Any:
        """Runs `batch`, which is on `device`; the model's output, or None where it is not run to its end."""


class Whole:
    """The whole model, at every run."""

    live = True

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    @property
    def device(self) -> torch.device:
        return device_of(self._model)

    def run(self, batch: Batch) -> Any:
        return self._model(**batch)


class UpToTokens(Whole):
    """The whole model at every `run`; `count` runs it up to the layer that tells tokens, where each `run` so far has
    called all of `modules`, by their names, before that layer, and none after it."""

    def __init__(self, model: nn.Module, modules: Iterable[str]) -> None:
        super().__init__(model)
        self._watched = dict.fromkeys(modules)
        self._last = tokens_layer(model)
        self._runs = 0
        self._comes_last = self._last is not None

    def run(self, batch: Batch) -> Any:
        called: list[str | None] = []
        handles = [
            self._model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: called.append(name))
            for name in self._watched
        ]
        if self._last is not None:  # After those of its own, if it is watched itself.
            handles.append(self._last.register_forward_pre_hook(lambda *_: called.append(None)))
        try:
            output = self._model(**batch)
        finally:
            for handle in handles:
                handle.remove()
        self._runs += 1
        self._comes_last &= called.count(None) == 1 and called[-1] is None and self._watched.keys() <= set(called)
        return output

    @property
    def ends_early(self) -> bool:
        """Whether `count` leaves out the layer that tells tokens."""
        return self._comes_last and self._runs > 0

    def count(self, batch: Batch) -> Any:
        """The model's output; or the states [..., in] that the layer that tells tokens would be given."""
        if self._last is None or not self.ends_early:
            return self._model(**batch)
        given: list[Tensor] = []

        def end(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given.append(next(iter([*args, *kwargs.values()])))
            raise _Ended

        # Hooks run in the order in which they were added: who watches that layer has seen its input by then.
        handle = self._last.register_forward_pre_hook(end, with_kwargs=True)
        try:
            return self._model(**batch)
        except _Ended:
            return given[0]
        finally:
            handle.remove()


class _Ended(Exception):
    """The model has been run as far as was asked for."""


def tokens_layer(network: Any) -> nn.Module | None:
    """The layer that tells tokens; None where the model has none."""
    try:
        found: nn.Module | None = network.get_output_embeddings()
    except (NotImplementedError, AttributeError):  # What transformers raises for a class that has none.
        return None
    return found


@contextmanager
def without_cache(network: nn.Module) -> Iterator[None]:
    """Within, the model keeps no keys and values for tokens that would follow: those of all its layers at once."""
    configs = {id(own): own for module in network.modules() if (own := getattr(module, "config", None)) is not None}
    asked = [own for own in configs.values() if getattr(own, "use_cache", None) is True]
    for own in asked:
        own.use_cache = False
    try:
        yield
    finally:
        for own in asked:
            own.use_cache = True


def device_of(model: nn.Module) -> torch.device:
    """Where a model takes its inputs: where its first weight is, or is brought to by accelerate when it is needed."""
    import torch

    places = getattr(model, "hf_device_map", None)
    if places:
        # What is kept on the disk or in memory is run on the accelerator, if there is one in the map.
        running = next((place for place in places.values() if place not in ("cpu", "disk")), "cpu")
        return torch.device(running)
    return next(model.parameters()).device
