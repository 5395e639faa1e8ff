"""Watches the inputs of a model's linear layers while it runs, and sums their grams.

    with GramCollector(model, linears_of(model)) as collector:
        collector.probe(inputs.probe())
        for _, batch in inputs.batches():
            for _, part in collector.parts(batch):
                with collector.counting(part):
                    model(**part)

Three things are easy to get wrong, and are decided per call, not per layer:

- *Which rows count.* Padding never does, and which mask tells it depends on the call: see
  `fusehub.collecting.call_kinds`.
- *Who shares an input.* q, k and v read the same tensor; its gram is computed once. Shared means the same live
  tensor object in every call of every forward: names and memory addresses both give false pairs.
- *How often it counts.* An input without a batch dimension counts once an example, as if each ran alone, so that
  the sums do not depend on how examples are put into batches.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fusehub.collecting.call_kinds import Axes, Call, Recorded, is_grid, judge, plain, possible
from fusehub.collecting.mixture_experts import find_experts, hidden_weights
from fusehub.collecting.noise import BoundedSum
from fusehub.collecting.probes import changed, masks_of, repeated, unpadded
from fusehub.collecting.ways import Whole
from fusehub.errors import FuseHubError
from fusehub.models.loading import running
from fusehub.statistics.grams import GramSum

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fusehub.collecting.mixture_experts import FusedExperts
    from fusehub.collecting.probes import Batch
    from fusehub.collecting.ways import Way
    from fusehub.models.layout import Linear, Part


class Misjudged(Exception):
    """A forward showed that a layer is not what the probe made of it: `weight` names it, `verdict` says what it is."""

    def __init__(self, weight: str, verdict: str) -> None:
        super().__init__(f"{weight}: {verdict}")
        self.weight = weight
        self.verdict = verdict


@dataclass
class _Watched:
    """What is known of one module: its sums (none for a follower), and this forward's calls.

    A module of fused experts has no weight of its own, is told by its name, and leaves its sums to the collector.
    """

    module: str
    weight: str
    size: int
    experts: FusedExperts | None = None
    calls: list[Call] = field(default_factory=list)
    leader: _Watched | None = None
    sums: GramSum | None = None
    reserved: GramSum | None = None
    called: int = 0
    seen: list[weakref.ref] = field(default_factory=list)


class GramCollector:
    """Hooks on all linear layers of `model` for as long as the context lasts; then everything is as before.

    `parts` are the matrices of fused experts (see `Layout.parts`). `share=False` computes each layer's gram on its
    own. `verdicts` says what earlier runs found of single layers, by weight: `alone` (shares its input with no
    other), `rows` or `uncounted` (the kinds of its calls). `bounds` are how long rows may be,
    by weight: then an example counts once (see `fusehub.collecting.noise`). `way` runs the model where it is not run
    as a whole. Errors call the model `name`.
    """

    def __init__(
        self,
        model: nn.Module,
        linears: Mapping[str, Linear],
        *,
        parts: Mapping[str, Part] | None = None,
        share: bool = True,
        verdicts: Mapping[str, str] | None = None,
        bounds: Mapping[str, float] | None = None,
        name: str = "The model",
        way: Way | None = None,
    ) -> None:
        self._model, self._name = model, name
        self._way = way or Whole(model)
        self._share = share
        self._verdicts = dict(verdicts or {})
        experts = find_experts(model, parts or {})
        self._watched = {one.module: _Watched(one.module, one.weight, one.in_features) for one in linears.values()}
        self._watched |= {name: _Watched(name, name, 0, own) for name, own in experts.items()}
        self._unseen = hidden_weights(model, experts, parts or {})
        self._of_experts: dict[str, GramSum] = {}
        self._bounds = bounds
        self._handles: list = []
        self._masks: dict[str, Tensor] | None = None
        self._halves: Tensor | None = None
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

    def probe(self, batch: Batch, *, reserve: bool = False) -> None:
        """Runs the model on small batches made from `batch` (see `Inputs.probe`), and learns the kinds of its calls.

        Nothing is counted; with `reserve`, sums have their memory afterwards.
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
        self._reserve(recorded if reserve else [])

    def parts(self, batch: Batch) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """`batch`, or the batches without padding into which it must be split for the layers of this model; each with
        the rows of `batch` that are in it."""
        everything = list(range(len(next(iter(batch.values())))))
        return unpadded(batch) if self.needs_unpadded else iter([(everything, dict(batch))])

    @property
    def needs_unpadded(self) -> bool:
        """Whether some layer can only be counted where a batch has no padding."""
        kinds = {call.kind for watched in self._watched.values() for call in watched.calls}
        return bool(kinds & {"rows", "by length"}) or "rows" in self._verdicts.values()

    @contextmanager
    def counting(self, batch: Batch, halves: Tensor | None = None) -> Iterator[None]:
        """Counts the inputs of the forward inside, which is one on `batch`; `halves` are those of its examples, 0 or
        1, if they are to be told apart: [batch]. May raise `Misjudged`."""
        self._halves = halves
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
    def device(self) -> torch.device:
        """Where a batch must be: where the model begins."""
        return self._way.device

    @property
    def weights(self) -> list[str]:
        """Names of all the weights of linear layers, those that cannot be watched among them."""
        names = [watched.weight for watched in self._watched.values() if watched.experts is None]
        names += [name for one in self._watched.values() if one.experts is not None for name in one.experts.weights]
        return [*names, *(name for name in self._unseen if name not in names)]

    @property
    def sums(self) -> dict[str, GramSum]:
        """The sums by weight name, for the layers that have been called and own theirs."""
        return {one.weight: one.sums for one in self._watched.values() if one.sums is not None} | self._of_experts

    def sums_of(self, weight: str, size: int, device: torch.device | str | None = None) -> GramSum:
        """The sums of one layer of `size` inputs; empty ones where it has seen no row here."""
        watched = next((one for one in self._watched.values() if one.weight == weight), None)
        if watched is None:
            return self._of_experts.setdefault(weight, GramSum(size, device or self.device))
        if watched.sums is None:
            watched.sums = self._new_sums(watched, size, device or self.device)
        return watched.sums

    def _new_sums(self, watched: _Watched, size: int, device: torch.device | str) -> GramSum:
        reserved, watched.reserved = watched.reserved, None
        if reserved is not None:
            return reserved
        if self._bounds is None:
            return GramSum(size, device)
        if watched.weight not in self._bounds:
            raise FuseHubError(
                f"{watched.weight} is not used for every text: what one adds cannot be bounded.", "Leave out --noise."
            )
        return BoundedSum(size, self._bounds[watched.weight], device)

    @property
    def aliases(self) -> dict[str, str]:
        """Weight name -> the weight whose sums it shares."""
        own = {one.weight: one.leader.weight for one in self._watched.values() if one.leader is not None}
        for watched in self._watched.values():
            if watched.experts is not None:
                own |= {name: to for name, to in watched.experts.aliases.items() if to in self._of_experts}
        return own

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All sums as tensors, and what else `restore` needs, as JSON has it."""
        sums = self.sums
        tensors = {f"{name}:{at}": value for name, own in sums.items() for at, value in enumerate(own.tensors())}
        return tensors, {name: [own.size, own.rows, str(own.device)] for name, own in sums.items()}

    def restore(self, tensors: Mapping[str, Tensor], layers: Mapping[str, Any]) -> None:
        """Puts sums back to what `state` said that they were."""
        for name, (size, rows, device) in layers.items():
            sums = self.sums_of(name, size, device)
            sums.rows = rows
            for at, value in enumerate(sums.tensors()):
                value.copy_(tensors[f"{name}:{at}"])

    def _hook(self, watched: _Watched) -> Callable[..., None]:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not self._way.live or (self._recording is None and self._masks is None):
                return
            given = [*args, *kwargs.values()]
            if self._recording is not None:
                self._recording.append((watched, given[0]))
            elif watched.experts is not None:
                self._count_experts(watched, watched.experts, module, given[0], given[1])
            else:
                self._count(watched, given[0])

        return before

    def _record(self, batch: Batch) -> tuple[dict[str, list[Recorded]], list[tuple[_Watched, Tensor]]]:
        """What each module is given in one forward, in the order of its calls; and all of it, in the order of all."""
        import torch

        batch = {name: value.to(self.device) for name, value in batch.items()}
        axes = Axes.of(batch)
        recorded: list[tuple[_Watched, Tensor]] = []
        self._recording = recorded
        try:
            with torch.inference_mode(), running(self._name):
                self._way.run(batch)
        finally:
            self._recording = None
        calls: dict[str, list[Recorded]] = {}
        for watched, x in recorded:
            calls.setdefault(watched.module, []).append(Recorded(x, axes))
        return calls, recorded

    def _apply_verdict(self, watched: _Watched) -> None:
        verdict = self._verdicts.get(watched.weight)
        if verdict in ("rows", "uncounted"):
            watched.calls = [Call(verdict)] * len(watched.calls)

    def _share_inputs(self, recorded: list[tuple[_Watched, Tensor]]) -> None:
        # `recorded` holds every input, so an id is one tensor; a leader is the first of its group to be called.
        inputs: dict[str, list[int]] = {}
        for watched, x in recorded:
            inputs.setdefault(watched.module, []).append(id(x))
        leaders: dict[tuple[int, ...], _Watched] = {}
        for module, sequence in inputs.items():
            watched = self._watched[module]
            uncounted = any(call.kind == "uncounted" for call in watched.calls)
            if not self._share or uncounted or watched.experts is not None or watched.weight in self._verdicts:
                continue
            leader = leaders.setdefault(tuple(sequence), watched)
            if leader is not watched:
                watched.leader = leader

    def _reserve(self, recorded: list[tuple[_Watched, Tensor]]) -> None:
        """Has room for the sums of layers that were called. What each took at its first call would lie amid what that
        forward gives back, of which a heap could then use little again."""
        for watched, x in recorded:
            is_owner = watched.leader is None and watched.experts is None and watched.reserved is None
            bounded = self._bounds is None or watched.weight in self._bounds
            if is_owner and bounded and x.device.type == "cpu" and Call("uncounted") not in watched.calls:
                watched.reserved = self._new_sums(watched, watched.size, x.device)

    def _count(self, watched: _Watched, x: Tensor) -> None:
        index = watched.called
        watched.called += 1
        if watched.leader is not None:
            seen = watched.leader.seen
            if index >= len(seen) or seen[index]() is not x:
                raise Misjudged(watched.weight, "alone")
            return
        watched.seen.append(weakref.ref(x))
        call = self._call(watched, index)
        # One call that cannot be counted spoils the sums of the layer.
        if any(one.kind == "uncounted" for one in (call, *watched.calls)):
            return
        times = self._axes.batch if call.kind in ("constant", "by length") else 1
        rows = self._rows(watched, call, x.detach())
        if watched.sums is None:
            watched.sums = self._new_sums(watched, watched.size, x.device)
        if isinstance(watched.sums, BoundedSum):
            owners = self._owners(watched, call, x.device)
            watched.sums.count(rows, owners, self._axes.batch, index, len(watched.calls))
            return
        watched.sums.add(rows, times=times, half=self._half(watched, call, x.device))

    def _half(self, watched: _Watched, call: Call | None, device: torch.device) -> int | Tensor | None:
        """Which half of all examples each counted row is in; that of the first where they are not told apart."""
        if self._halves is None:
            return None
        if call is None or call.kind not in ("encoder", "decoder", "example"):
            return int(self._halves[0])
        owners = self._owners(watched, call, device)
        return None if owners is None else self._halves.to(device)[owners]

    def _mask(self, side: str) -> Tensor:
        """Which tokens of the batch that is being counted are real: [batch, length]."""
        assert self._masks is not None
        return self._masks[side]

    def _owners(self, watched: _Watched, call: Call, device: torch.device) -> Tensor | None:
        """Which example each counted row is of; None where all rows are every example's."""
        import torch

        if call.kind in ("encoder", "decoder"):
            return self._mask(call.kind).nonzero()[:, 0].to(device)
        if call.kind == "example":
            return torch.arange(self._axes.batch, device=device).repeat_interleave(call.rows)
        if call.kind in ("constant", "by length"):
            return None
        raise FuseHubError(
            f"It cannot be told which text the rows of {watched.weight} are of: they cannot be bounded.",
            "Leave out --noise.",
        )

    def _count_experts(
        self, watched: _Watched, experts: FusedExperts, module: nn.Module, hidden: Tensor, chosen: Tensor
    ) -> None:
        if self._bounds is not None:
            raise FuseHubError(
                f"{watched.weight} sends words to different experts: what a text adds cannot be bounded.",
                "Leave out --noise.",
            )
        call = self._call(watched, watched.called)
        watched.called += 1
        if any(one.kind == "uncounted" for one in (call, *watched.calls)):
            return
        if call.kind not in ("encoder", "decoder"):
            raise Misjudged(watched.weight, "uncounted")
        self._rows(watched, call, hidden)  # Raises where it is no grid.
        counted = None if self._full[call.kind] else self._mask(call.kind).reshape(-1).to(hidden.device)
        hidden = hidden.detach().reshape(-1, hidden.shape[-1])
        for weight, rows in experts.inputs(module, hidden, chosen.reshape(len(hidden), -1), counted):
            self.sums_of(weight, rows.shape[-1], rows.device).add(rows, half=self._half(watched, None, rows.device))

    def _call(self, watched: _Watched, index: int) -> Call:
        if index < len(watched.calls):
            return watched.calls[index]
        if len(set(watched.calls)) == 1:
            return watched.calls[0]
        verdict = self._verdicts.get(watched.weight)
        if verdict in ("rows", "uncounted"):
            return Call(verdict)
        if not watched.calls and all(self._full.values()):
            return Call("rows")  # The probe's tokens were not routed to it.
        # Called more often, or only now: the probe cannot say how.
        raise Misjudged(watched.weight, "rows")

    def _rows(self, watched: _Watched, call: Call, x: Tensor) -> Tensor:
        """The rows of `x` that count: [n, in]. Raises `Misjudged` where `x` is not of the kind that it should be."""
        rows = x.reshape(-1, x.shape[-1])
        count, axes = len(rows), self._axes
        if call.kind in ("encoder", "decoder"):
            if not is_grid(x, axes.batch, getattr(axes, call.kind)):
                raise Misjudged(watched.weight, "rows")
            return rows if self._full[call.kind] else rows[self._mask(call.kind).reshape(-1).to(x.device)]
        if (call.kind == "example" and count != call.rows * axes.batch) or (
            call.kind == "constant" and count != call.rows
        ):
            raise Misjudged(watched.weight, "rows")
        if call.kind in ("rows", "by length"):
            if not all(self._full.values()):
                raise ValueError(f"{watched.weight} can only be counted without padding: use `parts`.")
            if not possible(count, axes):
                raise Misjudged(watched.weight, "uncounted")
        return rows
