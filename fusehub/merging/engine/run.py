"""Carries out the plan of a merge: tensors stream from the experts' files into the merged model's.

No model is ever held as a whole. Tensors that are combined element by element pass in pieces of a few megabytes;
one that a method must see as a whole is held for itself, and a linear layer that is solved with its grams. Reading
ahead, arithmetic and writing overlap.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.merging.cost import is_surveyed
from fusehub.merging.engine.begun import Begun
from fusehub.merging.engine.elementwise import Survey, Work, combine, cut
from fusehub.merging.engine.finite import require_finite
from fusehub.merging.engine.lanes import Lanes, lanes_of
from fusehub.merging.engine.layer_solver import LayerSolver
from fusehub.merging.engine.reading_ahead import ReadAhead
from fusehub.merging.engine.relatives import require_relatives
from fusehub.merging.engine.settling import settled
from fusehub.merging.engine.shares import shares
from fusehub.merging.engine.weight_files import WeightFile, complete, weight_files
from fusehub.merging.engine.writing import Writing
from fusehub.merging.plan import Plan
from fusehub.merging.planner import TensorPlan, weights_of_biases
from fusehub.merging.result import MergeResult
from fusehub.models.checkpoints.checkpoint import Checkpoint, fetch_weights
from fusehub.models.quantised.float8 import FLOAT8, as_float8, as_stored, scales_of
from fusehub.models.tensor_files import torch_dtype
from fusehub.utils.on_demand import OnDemand
from fusehub.utils.processes import Processes
from fusehub.utils.progress import Progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor


_WORKERS = min(4, os.cpu_count() or 1)
# Layers solved beside each other: what waits for its turn in the file has as many numbers as so many of the largest
# for each of them. With fewer, whoever solves the small ones waits for the large one beside.
_BLOCKS = 3


def carry_out(
    plan: Plan, folder: Path, begun: Begun, processes: Processes, device: str, progress: Progress
) -> MergeResult:
    """Writes the merged weights of `plan` into `folder`, in which there is nothing but what was `begun`.

    Layers are solved on `device`. What is combined element by element stays on the CPU: each number is read and
    written once, and would travel for that.

    Of several processes that are called with the same, each writes its share; all return the same.
    """
    remarks = (*plan.notes, *_questioned(plan)) if processes.is_main else ()
    return _Engine(plan, folder, begun, processes, device, progress).run(remarks)


def _questioned(plan: Plan) -> Iterator[str]:
    """What has to be said of statistics once they were held against the models. Raises `BadStatistics`."""
    model_bytes = sum(tensor.info.numel * 4 for tensor in plan.tensors.values())
    for ref, found in zip(plan.experts, () if plan.method.needs_fisher else plan.statistics, strict=False):
        yield from found.question(ref, model_bytes)


class _Engine:
    """One run: open files, the pieces on their way, and what was found out."""

    def __init__(
        self, plan: Plan, folder: Path, begun: Begun, processes: Processes, device: str, progress: Progress
    ) -> None:
        self.plan, self.folder, self.begun, self.processes, self.device = plan, folder, begun, processes, device
        self.progress = progress
        self._files = contextlib.ExitStack()
        self._ahead = max((tensor.info.numel for tensor in plan.tensors.values()), default=0)
        self._lanes = lanes_of(plan, device) if self._solves else 1
        self._surveys: dict[str, list[Future]] = {}
        """What is found out of whole tensors, of each model, while these pass in pieces."""
        self._ready: dict[tuple[str, int], Tensor] = {}
        """What was solved before its turn, with another or while the model was run: by name and first row."""

    def run(self, remarks: tuple[str, ...]) -> MergeResult:
        with self._files, _threads(self._lanes if self._solves else None):
            fetch_weights([*self.plan.experts, *filter(None, [self.plan.base])], self.processes)
            self.experts = [self._files.enter_context(Checkpoint(ref)) for ref in self.plan.experts]
            self.base = self._files.enter_context(Checkpoint(self.plan.base)) if self.plan.base else None
            for checkpoint, told in zip([*self.experts, *filter(None, [self.base])], self.plan.headers, strict=True):
                checkpoint.require(told)
            settlement = settled(self.plan, self.experts, self.base)
            self.tensors = dict(settlement.tensors)
            self._weights = weights_of_biases(self.tensors, self.plan.method)
            self.fishers = [
                self._files.enter_context(contextlib.closing(found.open_fisher()))
                for found in (self.plan.statistics if self.plan.method.needs_fisher else ())
            ]
            sources = [] if self.fishers else self.plan.statistics
            statistics = [self._files.enter_context(found.open()) for found in sources]
            self._solver = LayerSolver(self.plan, statistics, self.device)
            if self.processes.is_main and not self.plan.allowed.unrelated:
                require_relatives(self.plan, list(self.tensors.values()), self.experts, self.base)
            files = weight_files(self.plan, settlement, self.experts)
            todo = [file for file in files if file.path not in self.begun.files]
            share = self._share(todo)
            named = [name for file in todo for name in file.shard.tensors if name in share[file.path]]
            mine = [self.tensors[name] for name in named if name in self.tensors]
            solved = [] if self.plan.method.needs_data else [tensor for tensor in mine if tensor.action == "solve"]
            self._reading = self._files.enter_context(ReadAhead(solved, self._solver, self.experts, self._lanes))
            if self.plan.method.needs_data:
                self._solve_by_blocks(statistics)
            else:
                self._solver.expect(solved)
            writing = Writing(self.folder, self.begun, self.processes, self._solver, self.progress)
            done = writing.run(files, share, self._pieces)
            hashes: dict[str, str] = {}
            if self.processes.is_main:
                hashes = complete(self.plan, files, self.folder, {path: own.sha256 for path, own in done.items()})
        # Solved with its weight, a bias may be in another file than what is said of the two.
        notes = {name: said for own in done.values() for name, said in own.notes.items()} | self._solver.notes
        precision = {name: said for own in done.values() for name, said in own.precision.items()}
        precision |= self._solver.precision
        result = MergeResult(
            self.folder,
            self.plan,
            self.tensors,
            settlement.kept,
            remarks,
            {name: notes[name] for name in self.tensors if name in notes},
            {name: precision[name] for name in self.tensors if name in precision},
            hashes,
        )
        return self._as_main_has_it(result)

    @property
    def _solves(self) -> bool:
        return any(tensor.action == "solve" for tensor in self.plan.tensors.values())

    def _share(self, files: Sequence[WeightFile]) -> dict[str, frozenset[str]]:
        """The tensors of each file that this process makes."""
        if self.processes.count == 1:
            return {file.path: frozenset(file.shard.tensors) for file in files}
        return shares(files, self.tensors, self._solver.systems, self._weights, self.processes.count)[
            self.processes.index
        ]

    def _as_main_has_it(self, result: MergeResult) -> MergeResult:
        """What came of the merge, which only the main process knows of all parts."""
        known = {name: dict(getattr(result, name)) for name in ("notes", "precision", "hashes")}
        return replace(result, **self.processes.agree({"remarks": result.remarks, **known})[0])

    def _solve_by_blocks(self, statistics: Sequence[dict[str, Any]]) -> None:
        """Solves all layers before anything is written, in the order of the model and not of the file."""
        from fusehub.merging.engine.blockwise import BlockByBlock

        solved: dict[tuple[str, int], Tensor] = {}

        def make(tensor: TensorPlan) -> Tensor:
            merged = self._whole(tensor)
            if self._is_solved(Work(tensor)):
                for work in cut(self.plan, tensor):
                    solved[tensor.name, work.start] = merged[work.start : work.stop] if merged.ndim else merged
            return merged

        expect = self._solver.expect
        BlockByBlock(self.plan, self.tensors, self.experts, statistics, expect, make, self.device, self.progress).run()
        self._ready |= solved

    def _whole(self, tensor: TensorPlan) -> Tensor:
        """A merged tensor, as it is stored."""
        import torch

        pieces = [self._make(work) for work in cut(self.plan, tensor)]
        whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        return as_stored(whole) if tensor.info.dtype == FLOAT8 else whole

    def _pieces(self, file: WeightFile, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """The bytes of tensors of a file, in pieces, the next one read while one is worked on."""
        if file.expert is not None:
            for name in names:
                yield name, self.experts[file.expert].read(name).to(torch_dtype(file.shard.tensors[name].dtype))
            return
        # Scales are made with what they are of.
        work = self._steps([self.tensors[name] for name in names if name in self.tensors])
        with ThreadPoolExecutor(_WORKERS) as workers, Lanes(self._lanes) as lanes:
            ahead: deque[tuple[Work, Future]] = deque()

            def finished() -> Iterator[tuple[str, Tensor]]:
                done, future = ahead.popleft()
                made = future.result()
                return _written(done, self._make(done) if made is None else made)

            for item in work:
                if isinstance(item, Survey):
                    # Begun before the pieces that wait for it.
                    self._surveys.setdefault(item.tensor.name, []).append(workers.submit(self._survey, item))
                    continue
                while self._is_enough([item for item, _ in ahead], item):
                    yield from finished()
                if self._lanes > 1 and self._is_solved(item):
                    ahead.append((item, lanes.submit(self._system(item), partial(self._make, item))))
                else:
                    ahead.append((item, workers.submit(self._prepare, item)))
            while ahead:
                yield from finished()

    def _is_enough(self, ahead: Sequence[Work], item: Work) -> bool:
        """Whether something is to be written before `item` is begun: tensors can be large, and what is ahead has no
        more numbers than the largest of them, or than a few of the layers that are solved beside each other."""
        numbers = sum(work.numel for work in ahead) + item.numel
        layers = [work.numel for work in (*ahead, item) if self._is_solved(work)] if self._lanes > 1 else []
        if layers:
            return bool(ahead) and numbers > _BLOCKS * self._lanes * max(layers)
        return len(ahead) > _WORKERS or (bool(ahead) and numbers > self._ahead)

    def _system(self, work: Work) -> Hashable:
        """What tells the layers that are solved one after the other: those of one system."""
        weight = self._weights.get(work.tensor.name, work.tensor.name)
        return next(self._solver.systems(self.tensors[weight]))

    def _steps(self, tensors: Sequence[TensorPlan]) -> Iterator[Work | Survey]:
        """The pieces of tensors, and what is surveyed: of each tensor before the pieces of the one before it."""
        method, same_labels = self.plan.method, self.plan.labels.is_identity
        surveys = [
            [Survey(tensor, index) for index in range(len(self.experts))]
            if is_surveyed(tensor, method, same_labels=same_labels)
            else []
            for tensor in tensors
        ]
        yield from surveys[0] if surveys else ()
        for number, tensor in enumerate(tensors, 1):
            yield from surveys[number] if number < len(surveys) else ()
            yield from cut(self.plan, tensor)

    def _survey(self, survey: Survey) -> Any:
        """What the method must know of one model's task vector."""
        tensor, index = survey.tensor, survey.index
        method = self.plan.method
        assert (
            method.survey is not None and self.base is not None and tensor.base is not None
        )  # As `is_surveyed` says.
        expert, base, own, of_base = self.experts[index], self.base, tensor.sources[index], tensor.base
        dtype = _arithmetic(self._read(Work(tensor, 0, 1)))

        def vector() -> Iterator[Tensor]:
            for work in cut(self.plan, tensor):
                values = expert.read(own, work.start, work.stop).to(dtype, copy=True)
                yield values.sub_(base.read(of_base, work.start, work.stop).to(dtype)).reshape(-1)

        return method.survey(vector, tensor.info.numel, tensor.own[index], tensor.options)

    def _prepare(self, work: Work) -> Tensor | None:
        """What can be done ahead: the finished piece; nothing of a layer that is solved, which looks at one model's
        weight after the other."""
        return None if self._is_solved(work) else self._make(work)

    def _read(self, work: Work) -> list[Tensor]:
        """The experts' tensors (only the first's where it is copied), and the base's last where it has it."""
        tensor = work.tensor
        sources = tensor.sources[:1] if tensor.action == "copy" else tensor.sources
        files = zip(self.experts, sources, strict=False)
        read = [file.read(name, work.start, work.stop) for index, (file, name) in enumerate(files) if work.has(index)]
        if self._uses_base(work):
            assert self.base is not None and tensor.base is not None  # As `has_base` says.
            read.append(self.base.read(tensor.base, work.start, work.stop))
        return read

    def _uses_base(self, work: Work) -> bool:
        tensor = work.tensor
        if not work.has_base or tensor.action == "copy":
            return False
        # A mean that is not scaled has nothing to ask the base.
        return tensor.action != "mean" or self.plan.recipe.scale != 1

    def _make(self, work: Work) -> Tensor:
        """The merged piece, in the dtype that it is stored in; for float8 in float32."""
        tensor = work.tensor
        if tensor.action == "copy":
            return self._read(work)[0]
        if (tensor.name, work.start) in self._ready:
            return self._ready.pop((tensor.name, work.start))
        if self._is_solved(work):
            return self._solve_layer(work)
        inputs = self._read(work)
        dtype = _arithmetic(inputs)
        # One after the other, as a tensor can be large; copies, as methods may overwrite them.
        values = []
        while inputs:
            values.append(inputs.pop(0).to(dtype, copy=True))
        base = values.pop() if self._uses_base(work) else None
        surveyed = [future.result() for future in self._surveys.get(tensor.name, ())]
        merged = combine(self.plan, work, values, base, self._read_fishers(work), surveyed)
        values.clear()  # They are in the way of the result in another dtype.
        return self._finish(merged, base, work)

    def _one_by_one(self, work: Work, dtype: torch.dtype) -> tuple[OnDemand, Tensor | None]:
        """The experts' tensors, each read when it is asked for, and the base's where it has it."""
        tensor = work.tensor

        def read(index: int, rows: slice) -> Tensor:
            start = work.start + (rows.start or 0)
            stop = work.stop if rows.stop is None else work.start + rows.stop
            return self.experts[index].read(tensor.sources[index], start, stop).to(dtype, copy=True)

        base = None
        if self._uses_base(work):
            assert self.base is not None and tensor.base is not None  # As `has_base` says.
            base = self.base.read(tensor.base, work.start, work.stop).to(dtype, copy=True)
        return OnDemand(len(tensor.sources), read), base

    def _finish(self, merged: Tensor, base: Tensor | None, work: Work) -> Tensor:
        scale = self.plan.recipe.scale
        if scale != 1 and base is not None:
            merged = base + scale * (merged - base)
        dtype = work.tensor.info.dtype
        stored = merged.float() if dtype == FLOAT8 else merged.to(torch_dtype(dtype))
        # bfloat16 reaches as far as the arithmetic does, so the faster sum of the two tells the same.
        require_finite(self.plan, work, merged if dtype == "BF16" else stored, self._read)
        return stored

    def _read_fishers(self, work: Work) -> list[Tensor]:
        """Each expert's Fisher values of the piece, for a method that takes them."""
        if work.tensor.action != "combine":
            return []
        sources = enumerate(zip(self.fishers, work.tensor.sources, strict=False))
        return [file.read(name, work.start, work.stop) for index, (file, name) in sources if work.has(index)]

    def _is_solved(self, work: Work) -> bool:
        """Whether the piece is of a weight that is solved, or of a bias that is solved together with one.

        Rows of tokens that not all models have are not.
        """
        weight = self._weights.get(work.tensor.name, work.tensor.name)
        return self.tensors[weight].action == "solve" and work.is_shared

    def _solve_layer(self, work: Work) -> Tensor:
        """The merged weight; where biases are solved too, both at once, whichever comes first in the file."""
        import torch

        tensor = work.tensor
        weight_plan = self.tensors[self._weights.get(tensor.name, tensor.name)]
        bias = next((bias for bias, weight in self._weights.items() if weight == weight_plan.name), None)
        self._reading.begins(weight_plan)
        # A system's own arithmetic is as fine as it must be; what is stored as float32 need not be wider before.
        first = self._read(replace(work, start=0, stop=1))
        finest = torch.float64 if any(value.dtype == torch.float64 for value in first) else torch.float32
        values, base = self._one_by_one(work, finest)
        if bias is None:
            return self._finish(self._solver.solve(tensor, values, base, None, None).tensor, base, work)
        other = self.tensors[bias] if tensor is weight_plan else weight_plan
        beside = replace(work, tensor=other)
        others, other_base = self._one_by_one(beside, torch.float64)
        if is_weight := tensor is weight_plan:
            merged = self._solver.solve(weight_plan, values, base, others, other_base)
        else:
            merged = self._solver.solve(weight_plan, others, other_base, values, base)
        assert merged.bias is not None  # It was asked for.
        mine, theirs = (merged.tensor, merged.bias) if is_weight else (merged.bias, merged.tensor)
        self._ready[other.name, work.start] = self._finish(theirs, other_base, beside)
        return self._finish(mine, base, work)


def _written(work: Work, merged: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What of a merged piece goes into the file, each with the name of its tensor there."""
    name = work.tensor.name
    if work.tensor.info.dtype == FLOAT8:
        merged, scales = as_float8(merged)
        yield scales_of(name), scales
    yield name, merged


def _arithmetic(inputs: Sequence[Tensor]) -> torch.dtype:
    """float64, or float32 where the inputs have at most 11 significant bits."""
    import torch

    narrow = all(value.dtype in (torch.bfloat16, torch.float16) for value in inputs)
    return torch.float32 if narrow else torch.float64


@contextlib.contextmanager
def _threads(lanes: int | None) -> Iterator[None]:
    """Has torch share its threads between so many layers; None where nothing but pieces run beside each other, each of
    which is best worked on by one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1 if lanes is None else max(1, before // lanes))
    try:
        yield
    finally:
        torch.set_num_threads(before)
