"""Watches the inputs of a model's linear layers while it runs, and sums their grams.

    with GramCollector(model, layout.linears) as collector:
        collector.probe(token_ids)
        for batch in batches:
            with collector.counting(batch["attention_mask"]):
                model(**batch)

Three things are easy to get wrong, and are decided per call, not per layer:

- *Which rows count.* Padding never does, so the mask must be applied where an input is a grid of tokens, and must
  not be where it is not (a head on the first token, a table of relative positions). A probe with a batch of 3 and
  a length of 11, numbers that no layer has by chance, tells the kinds of calls apart.
- *Who shares an input.* q, k and v read the same tensor; its gram is computed once. Shared means the same live
  tensor object in every call of every forward: names and memory addresses both give false pairs.
- *How often it counts.* An input without a batch dimension counts once an example, as if each ran alone, so that
  the sums do not depend on how examples are put into batches.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fusehub.statistics.grams import GramSum

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fusehub.layers import Linear

PROBE_BATCH, PROBE_LENGTH = 3, 11


class SharingChanged(Exception):
    """A layer that shared its input with others in the probe did not in a later forward: `weight` names it."""

    def __init__(self, weight: str) -> None:
        super().__init__(weight)
        self.weight = weight


@dataclass
class _Watched:
    """What is known of one linear layer: its sums (none for a follower), and this forward's calls."""

    linear: Linear
    kinds: list[str] = field(default_factory=list)
    leader: _Watched | None = None
    sums: GramSum | None = None
    calls: int = 0
    seen: list[weakref.ref] = field(default_factory=list)


class GramCollector:
    """Hooks on all linear layers of `model` for as long as the context lasts; then everything is as before.

    `share=False`, or a weight's name in `unshared`, computes a layer's gram on its own.
    """

    def __init__(
        self,
        model: nn.Module,
        linears: Mapping[str, Linear],
        *,
        share: bool = True,
        unshared: Iterable[str] = (),
    ) -> None:
        self._model = model
        self._share = share
        self._unshared = set(unshared)
        self._watched = {linear.module: _Watched(linear) for linear in linears.values()}
        self._handles: list = []
        self._mask: Tensor | None = None
        self._recording: list[tuple[_Watched, Tensor]] | None = None

    def __enter__(self) -> GramCollector:
        self._modes = [(module, module.training) for module in self._model.modules()]
        self._model.eval()
        for name, watched in self._watched.items():
            module = self._model.get_submodule(name)
            self._handles.append(module.register_forward_pre_hook(self._hook(watched)))
        return self

    def __exit__(self, *exc_info: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for module, training in self._modes:
            module.training = training

    def probe(self, token_ids: Iterable[int]) -> None:
        """Runs the model once on `token_ids`, repeated into a small grid, and learns the kinds of its calls.

        Nothing is counted. Needs a model that takes `input_ids` and `attention_mask`.
        """
        import itertools

        import torch

        count = PROBE_BATCH * PROBE_LENGTH
        ids = torch.tensor(list(itertools.islice(itertools.cycle(token_ids), count)), device=self._model.device)
        ids = ids.reshape(PROBE_BATCH, PROBE_LENGTH)
        self._recording = []
        try:
            with torch.inference_mode():
                self._model(input_ids=ids, attention_mask=torch.ones_like(ids))
            self._learn(self._recording)
        finally:
            self._recording = None

    @contextmanager
    def counting(self, mask: Tensor) -> Iterator[None]:
        """Counts the inputs of the forward inside; `mask` is [batch, length], zero where there is padding."""
        self._mask = mask.bool()
        self._full = bool(self._mask.all())
        for watched in self._watched.values():
            watched.calls = 0
            watched.seen.clear()
        try:
            yield
        finally:
            self._mask = None

    @property
    def weights(self) -> list[str]:
        """Names of all the weights that are watched."""
        return [watched.linear.weight for watched in self._watched.values()]

    @property
    def sums(self) -> dict[str, GramSum]:
        """The sums by weight name, for the layers that have been called and own theirs."""
        return {watched.linear.weight: watched.sums for watched in self._watched.values() if watched.sums is not None}

    def sums_of(self, weight: str) -> GramSum:
        """The sums of one layer; empty ones where it has seen no row here."""
        watched = next(one for one in self._watched.values() if one.linear.weight == weight)
        if watched.sums is None:
            watched.sums = GramSum(watched.linear.in_features, self._model.device)
        return watched.sums

    @property
    def aliases(self) -> dict[str, str]:
        """Weight name -> the weight whose sums it shares."""
        return {
            watched.linear.weight: watched.leader.linear.weight
            for watched in self._watched.values()
            if watched.leader is not None
        }

    def _hook(self, watched: _Watched):
        def before(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if self._recording is not None:
                self._recording.append((watched, args[0]))
            elif self._mask is not None:
                self._count(watched, args[0])

        return before

    def _learn(self, recorded: list[tuple[_Watched, Tensor]]) -> None:
        # `recorded` holds every input, so an id is one tensor; a leader is the first of its group to be called.
        inputs: dict[str, list[int]] = {}
        for watched, x in recorded:
            watched.kinds.append(_kind(x.shape, PROBE_BATCH, PROBE_LENGTH))
            inputs.setdefault(watched.linear.module, []).append(id(x))
        leaders: dict[tuple[int, ...], _Watched] = {}
        for module, sequence in inputs.items():
            watched = self._watched[module]
            if not self._share or watched.linear.weight in self._unshared:
                continue
            leader = leaders.setdefault(tuple(sequence), watched)
            if leader is not watched:
                watched.leader = leader

    def _count(self, watched: _Watched, x: Tensor) -> None:
        call = watched.calls
        watched.calls += 1
        if watched.leader is not None:
            seen = watched.leader.seen
            if call >= len(seen) or seen[call]() is not x:
                raise SharingChanged(watched.linear.weight)
            return
        watched.seen.append(weakref.ref(x))
        batch, length = self._mask.shape
        kind = watched.kinds[call] if call < len(watched.kinds) else _kind(x.shape, batch, length)
        if watched.sums is None:
            watched.sums = GramSum(watched.linear.in_features, x.device)
        x = x.detach()
        if kind in ("grid", "flat"):
            rows = x.reshape(batch * length, -1)
            if not self._full:
                rows = rows[self._mask.reshape(-1).to(x.device)]
            watched.sums.add(rows)
        else:
            watched.sums.add(x.reshape(-1, x.shape[-1]), times=1 if kind == "example" else batch)


def _kind(shape: tuple[int, ...], batch: int, length: int) -> str:
    """`grid` [batch, length, in], `flat` [batch * length, in], `example` [batch, ..., in], or `constant`."""
    if len(shape) == 3 and tuple(shape[:2]) == (batch, length):
        return "grid"
    if len(shape) == 2 and shape[0] == batch * length:
        return "flat"
    return "example" if len(shape) >= 2 and shape[0] == batch else "constant"
