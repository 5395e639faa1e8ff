"""Every operation of a forward that uses a parameter, and what becomes of the gradient of its output.

A function mode of torch sees operations wherever they are, in modules or between them, so no use is overlooked. How
an operation's output holds the examples of a batch is learned by comparing a forward of two with one of three: an
axis that grows is theirs. What does not fit any rule is named, by the parameter and the operation.

    calls = learn(model, names, two, three)      # raises Unruly
    now = Watch(calls, names, batch, settle)
    with now: outputs = model(**batch)           # settle(parameter, pieces) is called in each backward pass
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from fusehub.collecting.fisher.gradient_rules import Piece, Uses, flat_rules, rules

if TYPE_CHECKING:
    from torch import Tensor


class Unruly(Exception):
    """Gradients of single examples cannot be told by rules: `reasons` names parameters and operations."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__(", ".join(reasons))
        self.reasons = sorted(set(reasons))


@dataclass(frozen=True)
class Call:
    """One operation on parameters; the same must come at the same place of every forward."""

    function: Any
    used: tuple[int, ...]
    """Ids of the parameters."""
    shape: tuple[int, ...]
    """Of the output, as the probe saw it."""
    shared: bool = False
    """It looks up positions that are the same for all examples; they are looked up for each of them instead."""
    length: str | None = None
    """The input whose length, times the batch, is the output's first axis; None where that axis is the batch."""


def learn(
    model: Callable[..., Any], names: Mapping[int, str], two: Mapping[str, Tensor], three: Mapping[str, Tensor]
) -> tuple[list[Call], frozenset[Any]]:
    """The calls of a forward of two examples, by comparison with one of three; and the functions without gradient.

    The parameters, whose ids `names` has, must require gradients. Raises `Unruly` where a call has no rule.
    """
    seen, idle = _record(model, names, two)
    again, _ = _record(model, names, three)
    if [(call.function, call.used) for call in seen] != [(call.function, call.used) for call in again]:
        raise Unruly(["a forward that differs with the number of examples"])
    calls: list[Call] = []
    reasons: list[str] = []
    for one, other in zip(seen, again, strict=True):
        call = _classified(one, other, two) if one.function in rules() else None
        if call is None:
            reasons.append(described(one.function, one.used, names))
        else:
            calls.append(call)
    if reasons:
        raise Unruly(reasons)
    return calls, frozenset(idle - {call.function for call in calls})


def _record(
    model: Callable[..., Any], names: Mapping[int, str], batch: Mapping[str, Tensor]
) -> tuple[list[Call], set[Any]]:
    calls: list[Call] = []
    idle: set[Any] = set()

    def note(function: Any, used: tuple[int, ...], args: tuple, kwargs: dict[str, Any]) -> Any:
        import torch

        out = function(*args, **kwargs)
        tensors = [value for value in _flat([out]) if isinstance(value, torch.Tensor)]
        if any(value.requires_grad for value in tensors if id(value) not in names):
            shape = tuple(out.shape) if isinstance(out, torch.Tensor) else ()
            ids = next((value for value in _flat([*args, *kwargs.values()]) if id(value) not in names), None)
            calls.append(Call(function, used, shape, shared=getattr(ids, "shape", (0,))[:1] == (1,)))
        elif tensors and all(id(value) not in names for value in tensors):
            idle.add(function)
        return out

    with _seeing(names, note):
        model(**batch)
    return calls, idle


def _classified(two: Call, three: Call, batch: Mapping[str, Tensor]) -> Call | None:
    """The call with what its output's first axis is; None where that is nothing that a rule knows."""
    if not two.shape:
        return None
    if two.shape == three.shape:
        # Only where it is alone on an axis that stands for the batch can it be made one for each example.
        shared = _is_lookup(two.function) and two.shared and two.shape[0] == 1
        return Call(two.function, two.used, two.shape, shared=True) if shared else None
    if two.shape[1:] != three.shape[1:] or two.shape[0] * 3 != three.shape[0] * 2:
        return None
    rows = two.shape[0] // 2
    if rows == 1:
        return Call(two.function, two.used, two.shape)
    # Rows of tokens: as many as some input has, so that what a router picks is not taken for them.
    length = next((name for name, value in batch.items() if value.dim() == 2 and value.shape[1] == rows), None)
    if length is None or two.function not in flat_rules():
        return None
    return Call(two.function, two.used, two.shape, length=length)


class Watch:
    """One forward, watched as long as the context lasts; its gradients, whenever a backward pass makes them.

    `settle` gets a parameter's id and all its pieces, as soon as its last use has a gradient.
    """

    def __init__(
        self,
        learned: tuple[Sequence[Call], frozenset[Any]],
        names: Mapping[int, str],
        batch: Mapping[str, Tensor],
        settle: Callable[[int, list[Piece]], None],
    ) -> None:
        self._calls, self._idle = learned
        self._names, self._batch, self._settle = names, batch, settle
        self._count = len(next(iter(batch.values())))
        self._position = 0
        self._expected: dict[int, int] = {}
        self._pieces: dict[int, list[Piece]] = {}
        self._handles: list[Any] = []
        self.leaves: list[Tensor] = []
        """Where the graph of this forward begins: what a backward pass has to reach."""
        self.strange: str | None = None
        """The first operation that did not come as it did in the probe; nothing can be told of this forward then."""

    def __enter__(self) -> Watch:
        self._seeing = _seeing(self._names, self._see)
        self._seeing.__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._seeing.__exit__(*exc_info)
        if self._position != len(self._calls) and self.strange is None:
            self.strange = "operations that were only in the probe"

    def flush(self) -> None:
        """Ends a backward pass: parameters of which some uses got no gradient are settled with those that did."""
        for key in list(self._pieces):
            self._settle(key, self._pieces.pop(key))

    def close(self) -> None:
        """Lets go of the graph."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._pieces.clear()
        self.leaves.clear()

    def _see(self, function: Any, used: tuple[int, ...], args: tuple, kwargs: dict[str, Any]) -> Any:
        import torch

        call = self._calls[self._position] if self._position < len(self._calls) else None
        if function in self._idle or self.strange:
            return function(*args, **kwargs)
        if call is not None and call.shared and call.function is function:
            args, kwargs = _for_each(self._count, args, kwargs)
        out = function(*args, **kwargs)
        tensors = [value for value in _flat([out]) if isinstance(value, torch.Tensor)]
        if not tensors or all(id(value) in self._names for value in tensors):
            return out
        self._position += 1
        if call is None or (call.function, call.used) != (function, used) or not self._fits(call, out):
            self.strange = described(function, used, self._names)
            return out
        uses = [use for use in rules()[function](self._count, out, *args, **kwargs) if id(use[0]) in self._names]
        if {id(own) for own, _ in uses} != set(used):
            self.strange = described(function, used, self._names)
            return out
        watched = out
        if not out.requires_grad:
            watched = out.detach().requires_grad_()
            self.leaves.append(watched)
            # A copy, because models may write into what they get, and into a leaf of the graph they may not.
            out = watched.clone()
        for own, _ in uses:
            self._expected[id(own)] = self._expected.get(id(own), 0) + 1
        self._handles.append(watched.register_hook(lambda gradient: self._arrive(uses, gradient)))
        return out

    def _fits(self, call: Call, out: Tensor) -> bool:
        rows = self._count * (self._batch[call.length].shape[1] if call.length else 1)
        return out.dim() == len(call.shape) and out.shape[0] == rows

    def _arrive(self, uses: Uses, gradient: Tensor) -> None:
        for own, make in uses:
            pieces = self._pieces.setdefault(id(own), [])
            pieces.append(make(gradient))
            if len(pieces) == self._expected[id(own)]:
                self._settle(id(own), self._pieces.pop(id(own)))


def described(function: Any, used: Sequence[int], names: Mapping[int, str]) -> str:
    """`parameter (operation)`, for a person."""
    return f"{', '.join(names[key] for key in used)} ({getattr(function, '__name__', function)})"


@contextmanager
def _seeing(names: Mapping[int, str], see: Callable[[Any, tuple[int, ...], tuple, dict[str, Any]], Any]) -> Iterator:
    """Has every function of torch that is given a parameter go through `see`."""
    with _mode()(names, see):
        yield


@cache
def _mode() -> Any:
    # A class of each forward's own would be in a circle, and keep what the forward was given until that is found.
    from torch.overrides import TorchFunctionMode

    class Mode(TorchFunctionMode):
        def __init__(self, names: Mapping[int, str], see: Callable[..., Any]) -> None:
            super().__init__()
            self._names, self._see = names, see

        def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            used = tuple(id(value) for value in _flat([*args, *kwargs.values()]) if id(value) in self._names)
            return self._see(function, used, args, kwargs) if used else function(*args, **kwargs)

    return Mode


def _flat(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


@cache
def _lookup() -> Any:
    from torch.nn import functional

    return functional.embedding


def _is_lookup(function: Any) -> bool:
    return function is _lookup()


def _for_each(count: int, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """The arguments of a lookup of [1, ...] ids, with the same ids for each of `count` examples."""
    ids, *rest = args if args else (kwargs["input"],)
    kwargs = {name: value for name, value in kwargs.items() if name != "input"}
    return (ids.expand(count, *ids.shape[1:]), *rest), kwargs
