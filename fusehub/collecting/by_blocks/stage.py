"""One part of a model with gradients: a block, or what comes after all of them, from what the block before gave.

stage = Stage(number, blocks)                       # in the order in which the model calls them
forward = StageForward(skeleton, kept, stage, spared)
with StageCollector(forward, task, asked) as collector:
    batch = given_to(batch, value, gradients)       # what the block before gave, and what came back to this one
    collector.probe(batch), collector.run(batch, indices)
    collector.handed_on()                           # what goes back to the block before
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fusehub.collecting.by_blocks.forward import BlockForward, Reached
from fusehub.collecting.by_blocks.kept_outputs import KeptOutputs, filled, tensors_in
from fusehub.collecting.by_blocks.shared_table import Words, add_looked_up, rows_of, taken_out
from fusehub.collecting.finite import require_finite
from fusehub.collecting.fisher.collector import FisherCollector
from fusehub.collecting.fisher.gradient_rules import Product, Rows
from fusehub.models.piecewise.skeleton import Skeleton, indivisible

if TYPE_CHECKING:
    from torch import Tensor

    from fusehub.collecting.fisher.gradient_rules import Piece
    from fusehub.collecting.fisher.scores import Asked
    from fusehub.collecting.probes import Batch

# Names in a batch that are none of the model's inputs. So their examples are chosen, and their padding is cut, as
# those of its inputs are.
_GIVEN, _CAME, _ROWS = "given:", "came:", "rows:"

TWICE = "{} is used in several of its parts, and its gradients of all of them must be added before they are squared"
"""What keeps gradients from coming back block by block, of a parameter."""

# One list a backward pass, of the gradient of each tensor; None where it has none.
Gradients = list[list["Tensor | None"]]


@dataclass(frozen=True)
class Stage:
    """The block of that number, with all that comes before it if it is the first; or what comes after the last."""

    number: int
    blocks: Sequence[str]
    """In the order in which the model calls them."""

    @property
    def block(self) -> str | None:
        """None where all have been run."""
        return self.blocks[self.number] if self.number < len(self.blocks) else None


def given_to(batch: Batch, value: Any, came: Gradients, rows: Sequence[Tensor] = ()) -> dict[str, Tensor]:
    """The batch, with what the block before gave for it, and the gradients of what this one gives.

    `rows` are what `StageCollector.rows` gave at the model's end.

    Raises `Indivisible` where examples cannot be told apart in what the block before gave.
    """
    count = len(next(iter(batch.values())))
    given = {f"{_GIVEN}{number}": own for number, own in enumerate(tensors_in(value))}
    if any(not own.dim() or len(own) != count for own in given.values()):
        raise indivisible(
            "gradients of single texts are asked for, and its blocks give more than numbers of each text"
        )
    gradients = {
        f"{_CAME}{number}:{place}": own
        for number, found in enumerate(came)
        for place, own in enumerate(found)
        if own is not None
    }
    taken = {f"{_ROWS}{number}": own for number, own in enumerate(rows)}
    return {**batch, **given, **gradients, **taken}


class StageForward(BlockForward):
    """A model of which one stage is run. Everything that it needs is in memory until it is closed."""

    def __init__(
        self, skeleton: Skeleton, kept: KeptOutputs, blocks: Sequence[str], stage: Stage, spared: list[str]
    ) -> None:
        self.stage = stage
        self.form: Any = None
        """That of what the block before gives (`form_of`)."""
        self._value: Any = None
        self._made: Any = None
        # Embeddings are spared once a block has run.
        super().__init__(skeleton, kept, blocks, list(stage.blocks[: stage.number]), spared if stage.number else [])
        if stage.block is not None:
            require_finite(skeleton.load(skeleton.inside(stage.block)), skeleton.name)
        self._current = stage.block

    def close(self) -> None:
        """Gives all memory back."""
        super().close()
        self._skeleton.drop(list(self._skeleton.loaded))

    def stage_output(self, batch: Batch, given: Sequence[Tensor]) -> Any:
        """What the stage gives for `batch`, where the tensors of what the block before gave are `given`."""
        self._called, self._again, self._value = set(), {}, filled(self.form, given)
        self.live = not self.done
        try:
            return self._network(**batch)
        except Reached:
            return self._made
        finally:
            self.live = False
            self._again, self._value, self._made = {}, None, None

    def _read(self, stage: int) -> Any:
        return self._value

    def _keep(self, output: Any) -> None:
        self._made = output

    def _head(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        return forward

    def _unneeded(self) -> list[str]:
        return [] if self.stage.block is None else super()._unneeded()


class StageCollector(FisherCollector):
    """Squares of the parameters of a stage; batches are what `given_to` makes.

    `table` names the parameter that looks tokens up and tells them, if one does both (`shared_table.py`).
    """

    def __init__(
        self, forward: StageForward, network: Any, task: str, asked: Asked, *, table: str | None = None
    ) -> None:
        super().__init__(network, task, **asdict(asked))
        self._forward, self._table = forward, table
        self._leaves: list[Tensor] = []
        self._handed: Gradients = []
        self._rows: dict[int, Tensor] = {}
        self._ran: Mapping[str, Tensor] = {}
        self._pass: tuple[int, int | None] = 0, None

    def handed_on(self) -> Gradients:
        """The gradients of what the stage was given, of all examples of the last batch."""
        handed, self._handed = self._handed, []
        return handed

    def rows(self) -> list[Tensor]:
        """Of each backward pass of the last batch, what was taken out of the squares of the table."""
        rows, self._rows = self._rows, {}
        return list(rows.values())

    def _is_taken(self, parameter: Tensor) -> bool:
        return super()._is_taken(parameter) and not parameter.is_meta

    def _run(self, **batch: Tensor) -> Any:
        self._ran = batch
        own = {name: value for name, value in batch.items() if not name.startswith((_GIVEN, _CAME, _ROWS))}
        given = [value for name, value in batch.items() if name.startswith(_GIVEN)]
        self._leaves = [value.detach().requires_grad_(value.is_floating_point()) for value in given]
        return self._forward.stage_output(own, self._leaves)

    def _told(self, outputs: Any) -> list[Tensor]:
        return super()._told(outputs) if self._at_end else list(tensors_in(outputs))

    def _vectors(
        self, outputs: Any, batch: Mapping[str, Tensor], indices: Sequence[int]
    ) -> Iterator[tuple[list[Tensor], list[Tensor], bool]]:
        if self._at_end:
            yield from super()._vectors(outputs, batch, indices)
            return
        passes: dict[int, list[tuple[Tensor, Tensor]]] = {}
        tensors = list(tensors_in(outputs))
        for name, gradient in batch.items():
            if name.startswith(_CAME):
                number, place = map(int, name.removeprefix(_CAME).split(":"))
                passes.setdefault(number, []).append((tensors[place], gradient))
        for number, pairs in passes.items():
            yield [own for own, _ in pairs], [own for _, own in pairs], number < len(passes) - 1

    def _pass_back(
        self, number: int, outputs: list[Tensor], inputs: list[Tensor], vectors: list[Tensor], more: bool
    ) -> None:
        import torch

        self._pass = number, None
        places = self._differentiable()
        leaves = [*inputs, *(self._leaves[place] for place in places)]
        found = torch.autograd.grad(outputs, leaves, vectors, retain_graph=more, allow_unused=True)
        for place, own in zip(places, found[len(inputs) :], strict=True):
            self._hand_on(number, None, place, own)

    def _pass_one_back(self, number: int, row: int, outputs: list[Tensor], vectors: list[Tensor], more: bool) -> None:
        import torch

        self._pass = number, row
        places = self._differentiable()
        leaves = [*self._parameters.values(), *(self._leaves[place] for place in places)]
        torch.autograd.backward(outputs, vectors, retain_graph=more, inputs=leaves)
        for place in places:
            leaf = self._leaves[place]
            self._hand_on(number, row, place, leaf.grad)
            leaf.grad = None

    def _differentiable(self) -> list[int]:
        return [place for place, own in enumerate(self._leaves) if own.requires_grad]

    def _hand_on(self, number: int, row: int | None, place: int, gradient: Tensor | None) -> None:
        if gradient is None:
            return
        while len(self._handed) <= number:
            self._handed.append([None] * len(self._leaves))
        shape = self._batch[f"{_GIVEN}{place}"].shape
        self._handed[number][place] = _placed(self._handed[number][place], row, gradient, shape)

    def _settle(self, key: int, pieces: list[Piece]) -> None:
        name = self._names[key]
        if name != self._table:
            super()._settle(key, pieces)
        elif not self._at_end:
            self._look_up(name, pieces)
        elif len(pieces) == 1 and isinstance(piece := pieces[0], Product):
            product, rows = taken_out(piece, Words.of(self._ran))
            self._keep_rows(rows)
            super()._settle(key, [product])
        else:
            raise indivisible(TWICE.format(name))

    def _settle_one(self, name: str, gradient: Tensor) -> None:
        if name != self._table:
            super()._settle_one(name, gradient)
        elif not self._at_end:
            self._look_up(name, [rows_of(gradient, Words.of(self._ran))])
        else:
            places = Words.of(self._ran).places
            self._keep_rows(gradient[places])
            super()._settle_one(name, gradient.index_fill_(0, places[0], 0))

    @property
    def _at_end(self) -> bool:
        return self._forward.stage.block is None

    def _look_up(self, name: str, pieces: Sequence[Piece]) -> None:
        import torch

        words, number = Words.of(self._ran), self._pass[0]
        looked_up = [own for own in pieces if isinstance(own, Rows) and torch.equal(own.ids, words.ids)]
        if len(looked_up) < len(pieces):
            raise indivisible(TWICE.format(name))
        self.used.add(name)
        add_looked_up(self.sums[name], looked_up, words, self._ran[f"{_ROWS}{number}"])

    def _keep_rows(self, rows: Tensor) -> None:
        number, row = self._pass
        shape = (*self._batch["input_ids"].shape, rows.shape[-1])
        self._rows[number] = _placed(self._rows.get(number), row, rows, shape)

    def _clear(self) -> None:
        super()._clear()
        self._handed, self._rows = [], {}


def _placed(whole: Tensor | None, row: int | None, value: Tensor, shape: Sequence[int]) -> Tensor:
    """`value` of all examples; or that of one, perhaps without its padding, which is zero, in its `row` of all."""
    if row is None:
        return value
    if whole is None:
        whole = value.new_zeros(shape)
    length = value.shape[1] if value.dim() > 1 else None
    whole[row, :length] = value[0]
    return whole
