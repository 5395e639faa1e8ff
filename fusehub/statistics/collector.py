"""Watches the inputs of a model's linear layers while it runs, and sums their grams.

    with GramCollector(model, linears_of(model)) as collector:
        collector.probe(inputs.probe())
        for _, batch in inputs.batches():
            for part in collector.parts(batch):
                with collector.counting(part):
                    model(**part)

Three things are easy to get wrong, and are decided per call, not per layer:

- *Which rows count.* Padding never does, and which mask tells it depends on the call: see `fusehub.statistics.calls`.
- *Who shares an input.* q, k and v read the same tensor; its gram is computed once. Shared means the same live
  tensor object in every call of every forward: names and memory addresses both give false pairs.
- *How often it counts.* An input without a batch dimension counts once an example, as if each ran alone, so that
  the sums do not depend on how examples are put into batches.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fusehub.statistics.calls import Axes, Call, Recorded, is_grid, judge, plain, possible
from fusehub.statistics.grams import GramSum
from fusehub.statistics.probing import changed, masks_of, repeated, unpadded

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fusehub.layers import Linear
    from fusehub.statistics.probing import Batch


class Misjudged(Exception):
    """A forward showed that a layer is not what the probe made of it: `weight` names it, `verdict` says what it is."""

    def __init__(self, weight: str, verdict: str) -> None:
        super().__init__(f"{weight}: {verdict}")
        self.weight = weight
        self.verdict = verdict


@dataclass
class _Watched:
    """What is known of one linear layer: its sums (none for a follower), and this forward's calls."""

    linear: Linear
    calls: list[Call] = field(default_factory=list)
    leader: _Watched | None = None
    sums: GramSum | None = None
    called: int = 0
    seen: list[weakref.ref] = field(default_factory=list)


class GramCollector:
    """Hooks on all linear layers of `model` for as long as the context lasts; then everything is as before.

    `share=False` computes each layer's gram on its own. `verdicts` says what earlier runs found of single layers, by
    weight: `alone` (shares its input with no other), `rows` or `uncounted` (the kinds of its calls).
    """

    def __init__(
        self,
        model: nn.Module,
        linears: Mapping[str, Linear],
        *,
        share: bool = True,
        verdicts: Mapping[str, str] | None = None,
    ) -> None:
        self._model = model
        self._share = share
        self._verdicts = dict(verdicts or {})
        self._watched = {linear.module: _Watched(linear) for linear in linears.values()}
        self._handles: list = []
        self._masks: dict[str, Tensor] | None = None
        self._recording: list[tuple[_Watched, Tensor]] | None = None

    def __enter__(self) -> GramCollector:
        self._modes = [(module, module.training) for module in self._model.modules()]
        self._model.eval()
        for name, watched in self._watched.items():
            module = self._model.get_submodule(name)
            self._handles.append(module.register_forward_pre_hook(self._hook(watched), with_kwargs=True))
        return self

    def __exit__(self, *exc_info: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for module, training in self._modes:
            module.training = training

    def probe(self, batch: Batch) -> None:
        """Runs the model on small batches made from `batch` (see `Inputs.probe`), and learns the kinds of its calls.

        Nothing is counted.
        """
        first, recorded = self._record(repeated(batch))
        others: list[dict[str, list[Recorded]]] = []
        if any(plain(call) is None for calls in first.values() for call in calls):
            others = [self._record(changed(batch, by))[0] for by in (1, 2)]
        for module, calls in first.items():
            watched = self._watched[module]
            later = [
                other.get(module, []) + [None] * (len(calls) - len(other.get(module, []))) for other in others
            ] or [[None] * len(calls)] * 2
            watched.calls = [
                judge(*triple) for triple in zip(calls, *(own[: len(calls)] for own in later), strict=True)
            ]
            self._apply_verdict(watched)
        self._share_inputs(recorded)

    def parts(self, batch: Batch) -> Iterator[dict[str, Tensor]]:
        """`batch`, or the batches without padding into which it must be split for the layers of this model."""
        kinds = {call.kind for watched in self._watched.values() for call in watched.calls}
        needed = bool(kinds & {"rows", "by length"}) or "rows" in self._verdicts.values()
        return unpadded(batch) if needed else iter([dict(batch)])

    @contextmanager
    def counting(self, batch: Batch) -> Iterator[None]:
        """Counts the inputs of the forward inside, which is one on `batch`. May raise `Misjudged`."""
        self._masks = masks_of(batch)
        self._axes = Axes.of(batch)
        self._full = {side: bool(mask.all()) for side, mask in self._masks.items()}
        for watched in self._watched.values():
            watched.called = 0
            watched.seen.clear()
        try:
            yield
        finally:
            self._masks = None

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
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._recording is None and self._masks is None:
                return
            x = args[0] if args else next(iter(kwargs.values()))
            if self._recording is not None:
                self._recording.append((watched, x))
            else:
                self._count(watched, x)

        return before

    def _record(self, batch: Batch) -> tuple[dict[str, list[Recorded]], list[tuple[_Watched, Tensor]]]:
        """What each module is given in one forward, in the order of its calls; and all of it, in the order of all."""
        import torch

        batch = {name: value.to(self._model.device) for name, value in batch.items()}
        axes = Axes.of(batch)
        self._recording = recorded = []
        try:
            with torch.inference_mode():
                self._model(**batch)
        finally:
            self._recording = None
        calls: dict[str, list[Recorded]] = {}
        for watched, x in recorded:
            calls.setdefault(watched.linear.module, []).append(Recorded(x, axes))
        return calls, recorded

    def _apply_verdict(self, watched: _Watched) -> None:
        verdict = self._verdicts.get(watched.linear.weight)
        if verdict in ("rows", "uncounted"):
            watched.calls = [Call(verdict)] * len(watched.calls)

    def _share_inputs(self, recorded: list[tuple[_Watched, Tensor]]) -> None:
        # `recorded` holds every input, so an id is one tensor; a leader is the first of its group to be called.
        inputs: dict[str, list[int]] = {}
        for watched, x in recorded:
            inputs.setdefault(watched.linear.module, []).append(id(x))
        leaders: dict[tuple[int, ...], _Watched] = {}
        for module, sequence in inputs.items():
            watched = self._watched[module]
            uncounted = any(call.kind == "uncounted" for call in watched.calls)
            if not self._share or uncounted or watched.linear.weight in self._verdicts:
                continue
            leader = leaders.setdefault(tuple(sequence), watched)
            if leader is not watched:
                watched.leader = leader

    def _count(self, watched: _Watched, x: Tensor) -> None:
        index = watched.called
        watched.called += 1
        if watched.leader is not None:
            seen = watched.leader.seen
            if index >= len(seen) or seen[index]() is not x:
                raise Misjudged(watched.linear.weight, "alone")
            return
        watched.seen.append(weakref.ref(x))
        call = self._call(watched, index)
        # One call that cannot be counted spoils the sums of the layer.
        if any(one.kind == "uncounted" for one in (call, *watched.calls)):
            return
        times = self._axes.batch if call.kind in ("constant", "by length") else 1
        rows = self._rows(watched, call, x.detach())
        if watched.sums is None:
            watched.sums = GramSum(watched.linear.in_features, x.device)
        watched.sums.add(rows, times=times)

    def _call(self, watched: _Watched, index: int) -> Call:
        if index < len(watched.calls):
            return watched.calls[index]
        if len(set(watched.calls)) == 1:
            return watched.calls[0]
        verdict = self._verdicts.get(watched.linear.weight)
        if verdict in ("rows", "uncounted"):
            return Call(verdict)
        # Called more often, or only now: the probe cannot say how.
        raise Misjudged(watched.linear.weight, "rows")

    def _rows(self, watched: _Watched, call: Call, x: Tensor) -> Tensor:
        """The rows of `x` that count: [n, in]. Raises `Misjudged` where `x` is not of the kind that it should be."""
        rows = x.reshape(-1, x.shape[-1])
        count, axes = len(rows), self._axes
        if call.kind in ("encoder", "decoder"):
            if not is_grid(x, axes.batch, getattr(axes, call.kind)):
                raise Misjudged(watched.linear.weight, "rows")
            return rows if self._full[call.kind] else rows[self._masks[call.kind].reshape(-1).to(x.device)]
        if (call.kind == "example" and count != call.rows * axes.batch) or (
            call.kind == "constant" and count != call.rows
        ):
            raise Misjudged(watched.linear.weight, "rows")
        if call.kind in ("rows", "by length"):
            if not all(self._full.values()):
                raise ValueError(f"{watched.linear.weight} can only be counted without padding: use `parts`.")
            if not possible(count, axes):
                raise Misjudged(watched.linear.weight, "uncounted")
        return rows
