"""Fisher diagonals: how much each parameter matters to what a model predicts on given inputs.

    F = mean over examples x of  E_{y ~ p(y|x)} (∂ log p(y|x) / ∂θ)²

    with FisherCollector(model, task) as fisher:
        fisher.probe(batch)
        for indices, batch in batches:
            fisher.run(batch, indices)
    fisher.sums["classifier.weight"]     # Σ over the examples; `fisher.examples` of them

Squared for each example, then summed; never the square of a batch's mean. All examples of a batch pass at once, and
`gradient_watch.py` and `gradient_rules.py` tell their gradients apart. What no rule covers is found, not guessed: the
probe compares two examples with autograd, and where anything differs or has no rule (tables of relative positions,
fused experts), `one_by_one` names it and examples go through autograd one at a time: slower, and the same numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from fusehub.collecting.fisher.alone import Seen
from fusehub.collecting.fisher.gradient_rules import Piece, add_squares
from fusehub.collecting.fisher.gradient_watch import Unruly, Watch, learn
from fusehub.collecting.fisher.means import Means
from fusehub.collecting.fisher.scores import Asked, Scores

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fusehub.models.layout import Layout

logger = logging.getLogger(__name__)

# How far a parameter's squares may be off in the probe, relative to its largest one: float32 has far less noise, a
# wrong rule far more. Below the second number, relative to the largest of the model, all is noise.
_TOLERANCE, _NOISE = 1e-2, 1e-10


class FisherCollector:
    """Sums of squared gradients of `model` (float32 or float64) for as long as the context lasts.

    The model is in eval mode and its parameters are frozen inside the context; afterwards modes, flags and gradients
    are as before. `task` is the Hub's pipeline tag. `samples` None sums over all labels where they are few, and draws
    one for each example (for each token, of models that label tokens) where they are many; a number draws that many.
    For masked language models, `mask_token_id` says which tokens are predicted; without, all are.
    Errors call the model `name`.
    """

    def __init__(
        self,
        model: nn.Module,
        task: str,
        *,
        seed: int = 0,
        samples: int | None = None,
        mask_token_id: int | None = None,
        name: str = "The model",
    ) -> None:
        self._model = model
        self._scores = Scores.of(model.config, task, Asked(samples, seed, mask_token_id, name))
        self._parameters = {name: own for name, own in model.named_parameters() if self._is_taken(own)}
        self._names = {id(own): name for name, own in self._parameters.items()}
        self._learned: Any = None
        self._probed = False
        self._watch: Watch | None = None
        self._batch: Mapping[str, Tensor] = {}
        self._outputs: Any = None
        self.one_by_one: list[str] = []
        """What made examples go one at a time: names of parameters, with the operation where it is known."""
        self.differs_alone = False
        """Whether an example that went alone was given other numbers than in its batch."""
        self._seen: Seen | None = None
        self.examples = 0
        self.used: set[str] = set()
        """The parameters that some gradient reached."""
        self.sums: dict[str, Tensor] = {}
        """Parameter name -> Σ of squares, in the parameter's shape; a tied parameter once, by its first name."""

    def __enter__(self) -> FisherCollector:
        import torch

        for name, own in self._parameters.items():
            if own.is_meta:
                raise ValueError(f"{name} is not in memory: gradients need the whole model on its devices")
            if own.dtype not in (torch.float32, torch.float64):
                raise ValueError(f"{name} is {own.dtype}: squares of its gradients need float32")
        self._modes = [(module, module.training) for module in self._model.modules()]
        self._flags = [(own, own.requires_grad) for own in self._parameters.values()]
        self._model.eval()
        self._require_gradients(False)
        self._learned, self._probed, self.one_by_one, self.examples = None, False, [], 0
        self.sums = {name: torch.zeros_like(own, requires_grad=False) for name, own in self._parameters.items()}
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._forget()
        for module, training in self._modes:
            module.training = training
        for own, flag in self._flags:
            own.requires_grad_(flag)

    @property
    def kind(self) -> str:
        """`exact` (summed over all labels) or `sampled`."""
        kind: str = self._scores.description["kind"]
        return kind

    @property
    def description(self) -> dict[str, Any]:
        """What a file says of the sums: their kind, draws an example, the seed of these, the number of examples."""
        return self._scores.description | {"examples": self.examples}

    @property
    def aliases(self) -> dict[str, str]:
        """Every other name of a tied parameter -> the name that `sums` has it under."""
        every = self._model.named_parameters(remove_duplicate=False)
        return {name: self._names[id(own)] for name, own in every if self._names.get(id(own), name) != name}

    def means(self, layout: Layout, stored: Iterable[str]) -> Mapping[str, Tensor]:
        """The diagonal of each of the `stored` tensors of a checkpoint that has one: the mean over the examples."""
        count = max(1, self.examples)

        def mean(own: str, row: int | None) -> Tensor:
            return (self.sums[own] if row is None else self.sums[own][row]) / count

        return Means(layout, stored, self.aliases, self.sums.__contains__, mean)

    def state(self) -> tuple[dict[str, Tensor], int]:
        """The sums as tensors under names of their own, and the number of examples: what `restore` needs."""
        return {f"fisher:{name}": own for name, own in self.sums.items()}, self.examples

    def restore(self, tensors: Mapping[str, Tensor], examples: int) -> None:
        """Puts sums back to what `state` said that they were."""
        for name, own in self.sums.items():
            own.copy_(tensors[f"fisher:{name}"])
        self.examples = examples

    def probe(self, batch: Mapping[str, Tensor]) -> None:
        """Learns from two examples of `batch`, the first and the last, how gradients can be told apart.

        Counts nothing. Must come before the first forward.
        """
        last = _size(batch) - 1
        two = _chosen(batch, [0, last])
        self._probed = True
        try:
            with self._all_requiring_gradients():
                self._learned = learn(self._run, self._names, two, _chosen(batch, [0, last, 0]))
            if wrong := self._disagreements(two):
                raise Unruly(wrong)
        except Unruly as unruly:
            self._learned, self.one_by_one = None, unruly.reasons
        finally:
            self._clear()

    def run(self, batch: Mapping[str, Tensor], indices: Sequence[int]) -> None:
        """Adds the squares of the examples in `batch`; `indices` are their numbers in the whole data."""
        self.forward(batch)
        self.add(indices)

    def forward(self, batch: Mapping[str, Tensor]) -> None:
        """The one forward of `batch`, which others may watch. `add` must follow."""
        import torch

        if not self._probed:
            raise RuntimeError("probe comes before the first forward")
        self._forget()
        self._batch = batch
        if self._learned is None:
            with torch.no_grad():
                self._seen = Seen.of(batch, self._told(self._run(**batch)))
            return
        self._watch = Watch(self._learned, self._names, batch, self._settle)
        with _gradients(), self._watch:
            self._outputs = self._run(**batch)

    def add(self, indices: Sequence[int]) -> None:
        """The backward passes of the last forward; `indices` are its examples' numbers in the whole data."""
        watch = self._watch
        strange = watch.strange if watch is not None else None
        try:
            if watch is not None and strange is None:
                self._add_together(watch, indices)
            else:
                if strange is not None:
                    self._seen = Seen.of(self._batch, self._told(self._outputs))
                    if strange not in self.one_by_one:
                        self.one_by_one.append(strange)
                self._add_one_by_one(self._batch, indices)
            self.examples += len(indices)
        finally:
            self._forget()

    def _is_taken(self, parameter: Tensor) -> bool:
        """Whether its squares are summed."""
        return parameter.is_floating_point()

    def _run(self, **batch: Tensor) -> Any:
        """The forward that gradients are taken of."""
        return self._model(**batch)

    def _told(self, outputs: Any) -> list[Tensor]:
        """The tensors in what a forward gave, of all its examples."""
        return self._scores.logits(outputs)

    def _vectors(
        self, outputs: Any, batch: Mapping[str, Tensor], indices: Sequence[int]
    ) -> Iterator[tuple[list[Tensor], list[Tensor], bool]]:
        """What each backward pass begins with, as `Scores.vectors` tells it."""
        return self._scores.vectors(outputs, batch, indices)

    def _pass_back(
        self, number: int, outputs: list[Tensor], inputs: list[Tensor], vectors: list[Tensor], more: bool
    ) -> None:
        """The backward pass of that number, as far as `inputs`; their gradients are of no use."""
        import torch

        torch.autograd.grad(outputs, inputs, vectors, retain_graph=more, allow_unused=True)

    def _pass_one_back(self, number: int, row: int, outputs: list[Tensor], vectors: list[Tensor], more: bool) -> None:
        """That of one example, the one in this `row` of the batch, as far as the parameters."""
        import torch

        torch.autograd.backward(outputs, vectors, retain_graph=more, inputs=list(self._parameters.values()))

    def _add_together(self, watch: Watch, indices: Sequence[int]) -> None:
        with _gradients():
            passes = self._vectors(self._outputs, self._batch, indices)
            for number, (outputs, vectors, more) in enumerate(passes):
                self._pass_back(number, outputs, watch.leaves, vectors, more)
                watch.flush()

    def _add_one_by_one(self, batch: Mapping[str, Tensor], indices: Sequence[int]) -> None:
        self._forget()
        with self._all_requiring_gradients(), self._settling():
            for row, index in enumerate(indices):
                one = _without_padding(_chosen(batch, [row]))
                outputs = self._run(**one)
                if self._seen is not None and self._seen.row == row:
                    self.differs_alone |= self._seen.differs(self._told(outputs))
                passes = self._vectors(outputs, one, [index])
                for number, (outputs, vectors, more) in enumerate(passes):
                    self._pass_one_back(number, row, outputs, vectors, more)

    def _settle(self, key: int, pieces: list[Piece]) -> None:
        name = self._names[key]
        self.used.add(name)
        add_squares(self.sums[name], pieces)

    @contextmanager
    def _settling(self) -> Iterator[None]:
        """Each parameter's gradient is settled when it is there, and let go of: never all are in memory at once."""

        def settle(name: str, parameter: Tensor) -> None:
            gradient, parameter.grad = parameter.grad, None
            if gradient is not None:
                self._settle_one(name, gradient)

        others = {name: own.grad for name, own in self._parameters.items()}
        handles = []
        try:
            for name, own in self._parameters.items():
                own.grad = None
                handles.append(own.register_post_accumulate_grad_hook(partial(settle, name)))
            yield
        finally:
            for handle in handles:
                handle.remove()
            for name, own in self._parameters.items():
                own.grad = others[name]

    def _settle_one(self, name: str, gradient: Tensor) -> None:
        self.used.add(name)
        self.sums[name].addcmul_(gradient, gradient)

    def _disagreements(self, batch: Mapping[str, Tensor]) -> list[str]:
        """The parameters whose squares the rules and autograd do not agree on, for the examples of `batch`."""
        indices = range(_size(batch))
        self.run(batch, indices)
        if self.one_by_one:
            return self.one_by_one
        # Taken away from each other in place: a copy would be as large as all parameters.
        largest = {name: float(own.max()) for name, own in self.sums.items() if own.numel()}
        for own in self.sums.values():
            own.neg_()
        self._add_one_by_one(batch, indices)
        noise = _NOISE * max(largest.values())
        return [name for name, own in largest.items() if not self.sums[name].abs().max() <= _TOLERANCE * own + noise]

    def _clear(self) -> None:
        self.examples = 0
        self.used.clear()
        for own in self.sums.values():
            own.zero_()

    def _forget(self) -> None:
        """Lets go of the last forward and its graph."""
        if self._watch is not None:
            self._watch.close()
        self._watch = self._outputs = None

    def _require_gradients(self, flag: bool) -> None:
        for own in self._parameters.values():
            own.requires_grad_(flag)

    @contextmanager
    def _all_requiring_gradients(self) -> Iterator[None]:
        self._require_gradients(True)
        try:
            with _gradients():
                yield
        finally:
            self._require_gradients(False)


def warn_of_one_by_one(fisher: FisherCollector) -> None:
    """Says that it is slow, and why."""
    logger.warning(
        "Gradients are taken one example at a time, which is slower: no rule for %s.",
        ", ".join(fisher.one_by_one[:3]) + (", ..." if len(fisher.one_by_one) > 3 else ""),
    )


@contextmanager
def _gradients() -> Iterator[None]:
    import torch

    with torch.inference_mode(False), torch.enable_grad():
        yield


def _size(batch: Mapping[str, Tensor]) -> int:
    return len(next(iter(batch.values())))


def _chosen(batch: Mapping[str, Tensor], rows: Sequence[int]) -> dict[str, Tensor]:
    return {name: value[list(rows)] for name, value in batch.items()}


def _without_padding(one: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One example without the padding at its end, which only takes time."""
    trimmed = dict(one)
    for side in ("", "decoder_"):
        mask = one.get(f"{side}attention_mask")
        if mask is None or not mask.any():
            continue
        length = int(mask[0].nonzero().max()) + 1
        for name, value in one.items():
            if name.startswith("decoder_") == bool(side) and value.shape[:2] == mask.shape:
                trimmed[name] = value[:, :length]
    return trimmed
