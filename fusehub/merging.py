"""Carries out the plan of a merge: tensors stream from the experts' files into the merged model's.

No model is ever held as a whole. Tensors that are combined element by element pass in pieces of a few megabytes;
a linear layer that is solved is held with its grams. Reading ahead, arithmetic and writing overlap. Everything goes
into a temporary folder beside the target, which takes the target's name when it is complete.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import math
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.checkpoint import Checkpoint, Shard, ShardWriter, dtype_name, index_of, plan_shards, torch_dtype
from fusehub.errors import BadRecipe, Incompatible, NonFinite, NoSpace, OutputExists
from fusehub.methods.mean import weighted_mean
from fusehub.methods.registry import Layer
from fusehub.plan import MAX_SHARD_SIZE, Plan, TensorPlan, plan_merge
from fusehub.progress import Progress, silent
from fusehub.provenance import write_side_files
from fusehub.recipe import Recipe
from fusehub.solving import LayerSolver
from fusehub.statistics.datafree import DataFree

if TYPE_CHECKING:
    import torch
    from torch import Tensor


# Small enough that a piece of every expert stays in the processor's cache, large enough that calls cost nothing.
_PIECE_ELEMENTS = 2**18
_WORKERS = min(4, os.cpu_count() or 1)
# Cosine of two models' weights below which they are strangers: experts of one base lie above 0.9, others near 0.
_RELATED = 0.3


@dataclass
class MergeResult:
    """A merge that was carried out: where it is, what it was made by, and what is worth knowing about it."""

    folder: Path
    plan: Plan
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)


def merge(
    models: Sequence[str] | Recipe | Plan | Path,
    out: str | Path,
    *,
    method: str | None = None,
    force: bool = False,
    max_shard_size: int = MAX_SHARD_SIZE,
    token: str | None = None,
    progress: Progress = silent,
    **changes: Any,
) -> MergeResult:
    """Merges `models` (or what a recipe, a recipe's file or a plan says) into the folder `out`, new or empty.

    `method` is one of `fusehub.METHODS`, RegMean unless said; `changes` are those of `Recipe.changed`: weights,
    statistics and labels by model, parameters of the method, base_model, heads, scale, dtype, seed.

    The folder appears when it is complete: weights, config, tokenizer, the recipe with everything resolved, and a
    report. Raises a `FuseHubError` and leaves nothing behind where it cannot be done.
    """
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OutputExists(f"{target} exists and is not empty.", "Give a new folder, or empty this one.")
    if isinstance(models, Plan):
        if method or changes:
            raise BadRecipe("A plan is carried out as it is.", "Change the recipe, and plan it again.")
        plan = models
    else:
        recipe = recipe_of(models, method, **changes)
        plan = plan_merge(recipe, force=force, max_shard_size=max_shard_size, token=token)
    target.parent.mkdir(parents=True, exist_ok=True)
    fixed = target.is_dir() and _must_stay(target)
    home = target if fixed else target.parent
    partial = Path(tempfile.mkdtemp(prefix=f".{target.resolve().name}.", suffix=".partial", dir=home))
    try:
        _require_space(partial, plan)
        result = _Engine(plan, partial, progress).run()
        write_side_files(plan, partial, result.notes, result.hashes)
        if fixed:
            # Without its config, which comes last, the folder is no model yet.
            for path in sorted(partial.iterdir(), key=lambda path: path.name == "config.json"):
                os.replace(path, target / path.name)
        else:
            # mkdtemp makes the folder private; the result gets the permissions that any new folder would.
            partial.chmod(0o777 & ~_umask())
            os.replace(partial, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NoSpace(
                f"The disk takes no more ({error.strerror}): {target} needs {plan.cost['output_bytes'] / 1e9:.1f} GB.",
                "Make room, or give an output folder on another disk.",
            ) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    result.folder = target
    return result


def recipe_of(models: Sequence[str] | Recipe | Path, method: str | None = None, **changes: Any) -> Recipe:
    """The recipe that `models`, a recipe or a recipe's file mean, with `changes` (see `Recipe.changed`)."""
    if isinstance(models, str):
        raise BadRecipe("One model is no merge.", "Give a list of two or more, or Path('recipe.yaml').")
    if isinstance(models, Path):
        models = Recipe.read(models)
    if isinstance(models, Recipe):
        return models.changed(merge_method=method, **changes)
    return Recipe.of(models, method or "regmean", **changes)


class _Engine:
    """One run: open files, the pieces on their way, and what was noted."""

    def __init__(self, plan: Plan, folder: Path, progress: Progress) -> None:
        self.plan, self.folder, self.progress = plan, folder, progress
        self.result = MergeResult(folder, plan)
        self._files = contextlib.ExitStack()
        self._weights_of_biases = _weights_of_biases(plan)
        self._ready: dict[str, Tensor] = {}
        """Tensors that were solved together with one that came before them."""

    def run(self) -> MergeResult:
        with self._files, _threads(None if any(map(self._is_solved, self.plan.tensors.values())) else 1):
            self.experts = [self._files.enter_context(Checkpoint(ref)) for ref in self.plan.experts]
            self.base = self._files.enter_context(Checkpoint(self.plan.base)) if self.plan.base else None
            statistics = [
                None
                if isinstance(found, DataFree)
                else self._files.enter_context(contextlib.closing(found.open())).layers
                for found in self.plan.statistics
            ]
            self._solver = LayerSolver(self.plan, statistics)
            self.result.notes = self._solver.notes
            if not self.plan.force:
                self._require_relatives()
            self._total = sum(tensor.info.nbytes for tensor in self.plan.tensors.values())
            self._done = 0
            if self.plan.labels.policy == "keep":
                self._write_kept()
            else:
                self._write(self.plan.shards, self.folder)
        return self.result

    def _write(self, shards: Sequence[Shard], folder: Path, expert: int | None = None) -> None:
        """Writes `shards`; `expert` names the one whose own head is written."""
        for shard in shards:
            writer = ShardWriter(folder, shard)
            try:
                with ThreadPoolExecutor(1) as writing:
                    pending: list[Future] = []
                    for piece in self._pieces(shard, expert):
                        pending.append(writing.submit(writer.append, piece))
                        if len(pending) > 2:
                            pending.pop(0).result()
                        self._done += piece.nbytes
                        self.progress(self._done, self._total, "bytes")
                    for future in pending:
                        future.result()
                self.result.hashes[str((folder / shard.filename).relative_to(self.folder))] = writer.close()
            finally:
                writer.abandon()
        if len(shards) > 1:
            index = json.dumps(index_of(list(shards)), indent=2) + "\n"
            (folder / "model.safetensors.index.json").write_text(index, encoding="utf-8")

    def _write_kept(self) -> None:
        """One subfolder an expert: the merged body in the same shards (one file on disk), and its own head."""
        body = {name: plan.info for name, plan in self.plan.tensors.items() if not plan.is_head}
        shards = [Shard(f"body-{shard.filename}", shard.tensors) for shard in plan_shards(body, MAX_SHARD_SIZE)]
        bodies = self.folder / self.plan.names[0]
        bodies.mkdir()
        self._write(shards, bodies)
        for index, name in enumerate(self.plan.names):
            folder = self.folder / name
            folder.mkdir(exist_ok=True)
            for shard in shards if folder != bodies else ():
                _link(bodies / shard.filename, folder / shard.filename)
                self.result.hashes[f"{name}/{shard.filename}"] = self.result.hashes[f"{bodies.name}/{shard.filename}"]
            head = {
                plan.sources[index]: self.experts[index].tensors[plan.sources[index]]
                for plan in self.plan.tensors.values()
                if plan.is_head
            }
            own = [Shard("head.safetensors", head)]
            self._write(own, folder, expert=index)
            index_file = folder / "model.safetensors.index.json"
            index_file.write_text(json.dumps(index_of([*shards, *own]), indent=2) + "\n", encoding="utf-8")

    def _pieces(self, shard: Shard, expert: int | None) -> Iterator[Tensor]:
        """The bytes of the shard's tensors in order, in pieces, the next one read while one is worked on."""
        if expert is not None:
            for name in shard.tensors:
                yield self.experts[expert].read(name)
            return
        work = (item for name in shard.tensors for item in self._cut(self.plan.tensors[name]))
        with ThreadPoolExecutor(_WORKERS) as workers:
            ahead: deque[tuple[_Work, Future]] = deque()
            for item in itertools.chain(work, itertools.repeat(None, _WORKERS + 1)):
                if item is not None:
                    ahead.append((item, workers.submit(self._prepare, item)))
                if ahead and (item is None or len(ahead) > _WORKERS):
                    done, future = ahead.popleft()
                    inputs = future.result()
                    yield self._make(done, inputs) if isinstance(inputs, list) else inputs

    def _prepare(self, work: _Work) -> Tensor | list[Tensor]:
        """What can be done ahead: the finished piece, or only its inputs where layers depend on each other."""
        inputs = self._read(work)
        return inputs if self._is_solved(work.tensor) else self._make(work, inputs)

    def _cut(self, tensor: TensorPlan) -> Iterator[_Work]:
        """The pieces in which a tensor can be worked on: rows of it, or the whole."""
        rows = tensor.info.shape[0] if tensor.info.shape else 1
        matched = tensor.label_axis is not None and not self.plan.labels.is_identity
        if tensor.action == "solve" or matched or tensor.info.numel <= _PIECE_ELEMENTS:
            yield _Work(tensor)
            return
        step = max(1, _PIECE_ELEMENTS * rows // tensor.info.numel)
        for start in range(0, rows, step):
            yield _Work(tensor, start, min(rows, start + step))

    def _read(self, work: _Work) -> list[Tensor]:
        """The experts' tensors (only the first's where it is copied), and the base's last where it has it."""
        tensor = work.tensor
        sources = tensor.sources[:1] if tensor.action == "copy" else tensor.sources
        read = [file.read(name, work.start, work.stop) for file, name in zip(self.experts, sources, strict=False)]
        if self._uses_base(tensor):
            read.append(self.base.read(tensor.base, work.start, work.stop))
        return read

    def _uses_base(self, tensor: TensorPlan) -> bool:
        if self.base is None or tensor.base is None or tensor.action == "copy":
            return False
        return self.base.tensors[tensor.base].shape == tensor.info.shape

    def _make(self, work: _Work, inputs: list[Tensor]) -> Tensor:
        """The merged piece, in the dtype that it is stored in."""
        tensor = work.tensor
        if tensor.action == "copy":
            return inputs[0]
        if tensor.name in self._ready:
            return self._ready.pop(tensor.name)
        dtype = _arithmetic(tensor, inputs)
        originals = inputs
        values = [value.to(dtype) for value in inputs]
        base = values.pop() if self._uses_base(tensor) else None
        if self._is_solved(tensor):
            merged = self._solve_layer(tensor, values, base)
        else:
            merged = self._by_label(tensor, values, lambda experts, rows: self._combine(tensor, experts, rows, base))
        return self._finish(tensor, merged, base, originals, work)

    def _finish(
        self, tensor: TensorPlan, merged: Tensor, base: Tensor | None, originals: Sequence[Tensor], work: _Work
    ) -> Tensor:
        scale = self.plan.recipe.scale
        if scale != 1 and base is not None:
            merged = base + scale * (merged - base)
        stored = merged.to(torch_dtype(tensor.info.dtype))
        # bfloat16 reaches as far as the arithmetic does, so the faster sum of the two tells the same.
        self._require_finite(tensor, merged if tensor.info.dtype == "BF16" else stored, originals)
        return stored

    def _combine(
        self, tensor: TensorPlan, values: list[Tensor], experts: Sequence[int], base: Tensor | None
    ) -> Tensor:
        coefficients = [self.plan.coefficients[index] for index in experts]
        if not any(coefficients):
            coefficients = [1.0] * len(coefficients)
        if tensor.action == "combine":
            layer = Layer(tensor.name, values, coefficients, base)
            return self.plan.method.merge(layer, self.plan.options).tensor
        return weighted_mean(values, coefficients)

    def _by_label(self, tensor: TensorPlan, values: list[Tensor], make: Any) -> Tensor:
        """`make` on the tensors as they are, or on the rows of each group of labels that the same experts know."""
        import torch

        everyone = range(len(self.plan.experts))
        if tensor.label_axis is None or self.plan.labels.is_identity:
            return make(values, everyone)
        axis, labels = tensor.label_axis, self.plan.labels
        merged = torch.empty(tensor.info.shape, dtype=values[0].dtype)
        for experts, rows in labels.groups():
            own = [values[i].index_select(axis, torch.tensor([labels.rows[i][row] for row in rows])) for i in experts]
            merged.index_copy_(axis, torch.tensor(rows), make(own, experts))
        return merged

    def _is_solved(self, tensor: TensorPlan) -> bool:
        """Whether the tensor is a weight that is solved, or a bias that is solved together with one."""
        return tensor.action == "solve" or tensor.parameter in self._weights_of_biases

    def _solve_layer(self, tensor: TensorPlan, values: list[Tensor], base: Tensor | None) -> Tensor:
        """The merged weight; in affine mode weight and bias at once, whichever comes first in the file."""
        affine = getattr(self.plan.options, "affine", False)
        weight_plan = self._weights_of_biases.get(tensor.parameter, tensor)
        by_parameter = {plan.parameter: plan for plan in self.plan.tensors.values()} if affine else {}
        bias_plan = by_parameter.get(weight_plan.linear.bias)
        if not affine or bias_plan is None:
            return self._solver.solve(tensor, values, base, None, None).tensor
        other = bias_plan if tensor is weight_plan else weight_plan
        read = self._read(_Work(other))
        others = [value.double() for value in read]
        other_base = others.pop() if self._uses_base(other) else None
        if tensor is weight_plan:
            merged = self._solver.solve(weight_plan, values, base, others, other_base)
            mine, theirs = merged.tensor, merged.bias
        else:
            merged = self._solver.solve(weight_plan, others, other_base, values, base)
            mine, theirs = merged.bias, merged.tensor
        self._ready[other.name] = self._finish(other, theirs, other_base, read, _Work(other))
        return mine

    def _require_finite(self, tensor: TensorPlan, merged: Tensor, inputs: Sequence[Tensor]) -> None:
        """NaN and infinity survive a sum, so one sum tells whether to look closer."""
        import torch

        if math.isfinite(merged.sum(dtype=torch.float32 if merged.dtype == torch.float16 else None)):
            return
        names = [ref.name for ref in self.plan.experts] + ([self.plan.base.name] if self.plan.base else [])
        for name, value in zip(names, inputs, strict=False):
            if not bool(torch.isfinite(value).all()):
                raise NonFinite(
                    f"{name}: {tensor.name} holds NaN or infinity.", "Use a checkpoint that is not broken."
                )
        if not bool(torch.isfinite(merged).all()):
            raise NonFinite(
                f"{tensor.name}: the merged values do not fit into {dtype_name(merged.dtype)}.",
                "Store the result in a wider dtype: --dtype float32.",
            )

    def _require_relatives(self) -> None:
        """Experts of different bases give garbage even where all shapes agree; their weights tell them apart."""
        body = [plan for plan in self.plan.tensors.values() if plan.is_body_matrix]
        chosen = body[:: max(1, len(body) // 3)][:3]
        names = [ref.name for ref in self.plan.experts]
        for index in range(1, len(names)):
            cosines = {tensor.name: self._cosine(tensor, index) for tensor in chosen}
            # A layer can have been started anew in one of them; that all were means another base.
            if cosines and max(cosines.values()) < _RELATED:
                name, cosine = max(cosines.items(), key=lambda item: item[1])
                raise Incompatible(
                    f"{names[0]} and {names[index]} have unrelated weights: the cosine of their {name} is "
                    f"{cosine:.2f}, where experts of one base have more than 0.9.",
                    "They were trained from different bases, and a merge of them is garbage. "
                    "Choose experts of one base, or say --force.",
                )

    def _cosine(self, tensor: TensorPlan, index: int) -> float:
        """Cosine of a tensor of the first expert and of another one, by at most a million of its elements."""
        rows = max(1, 2**20 * tensor.info.shape[0] // max(1, tensor.info.numel))
        a, b = (self.experts[i].read(tensor.sources[i], 0, rows).double().flatten() for i in (0, index))
        norms = float(a.norm() * b.norm())
        return float(a @ b) / norms if norms else 1.0


@dataclass(frozen=True)
class _Work:
    """One step of the stream: a tensor, or some of its rows."""

    tensor: TensorPlan
    start: int = 0
    stop: int | None = None


def _weights_of_biases(plan: Plan) -> dict[str, TensorPlan]:
    """The biases that are solved together with a weight: the bias's parameter -> the plan of that weight."""
    if not getattr(plan.options, "affine", False):
        return {}
    solved = (tensor for tensor in plan.tensors.values() if tensor.action == "solve")
    return {tensor.linear.bias: tensor for tensor in solved if tensor.linear.bias}


def _arithmetic(tensor: TensorPlan, inputs: Sequence[Tensor]) -> torch.dtype:
    """float64, or float32 where the inputs have at most 11 significant bits and nothing is solved."""
    import torch

    narrow = all(value.dtype in (torch.bfloat16, torch.float16) for value in inputs)
    return torch.float32 if narrow and tensor.action != "solve" else torch.float64


def _require_space(folder: Path, plan: Plan) -> None:
    needed, free = plan.cost["output_bytes"], shutil.disk_usage(folder).free
    if needed > free:
        raise NoSpace(
            f"The merged model needs {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB left.",
            "Make room, or give an output folder on another disk.",
        )


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Has torch use `count` threads: pieces run beside each other, so each is best worked on by one."""
    import torch

    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _must_stay(folder: Path) -> bool:
    """Whether another folder cannot take the place of this one: where we are, a link, or a disk of its own."""
    return folder.is_symlink() or folder.is_mount() or folder.samefile(Path.cwd())


def _link(source: Path, target: Path) -> None:
    """The same file under a second name; a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
