"""The files of a merge, written: by one process as a stream, or by several at once, each its share of the tensors.

    writing = Writing(folder, begun, processes, solver, progress)
    done = writing.run(files, share, pieces)     # path -> what is known of each file, those that were complete too

Reading ahead and arithmetic go on in `pieces` while a thread writes. Every file is completed in its turn, noted for a
run that goes on with this one, and in several processes hashed by the main one while the next is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fusehub.hub.verified import file_hash
from fusehub.merging.engine.begun import Begun, File
from fusehub.merging.engine.layer_solver import LayerSolver
from fusehub.merging.engine.weight_files import WeightFile, make_folders
from fusehub.models.checkpoints.checkpoint import ShardWriter, SharedShard
from fusehub.models.quantised.float8 import FLOAT8
from fusehub.utils.processes import Processes
from fusehub.utils.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
Pieces = Callable[[WeightFile, Iterable[str]], Iterator[tuple[str, "Tensor"]]]
"""The pieces of the tensors of a file that are named, in this order, each with its tensor's name."""

# Pieces that may wait for the disk.
_WAITING = 2


class Writing:
    """One run of it, in this process; `solver` is asked what was said of the layers in a file."""

    def __init__(
        self, folder: Path, begun: Begun, processes: Processes, solver: LayerSolver, progress: Progress
    ) -> None:
        self._folder, self._begun, self._processes, self._solver = folder, begun, processes, solver
        self._progress = progress
        self._done = self._total = 0

    def run(self, files: Sequence[WeightFile], share: Mapping[str, frozenset[str]], pieces: Pieces) -> dict[str, File]:
        """Makes the files that are not complete: this process the tensors of each that `share` names, by its path."""
        done = {name: own for name, own in self._begun.files.items() if name in {file.path for file in files}}
        todo = [file for file in files if file.path not in done]
        self._done = sum(file.shard.nbytes for file in files if file.path in done)
        self._total = self._done + sum(
            info.nbytes for file in todo for name, info in file.shard.tensors.items() if name in share[file.path]
        )
        if self._done:
            self._progress(self._done, self._total, "bytes")
        if self._processes.is_main:
            make_folders(files, self._folder)
        if self._processes.count == 1:
            done |= {file.path: self._write(file, pieces) for file in todo}
        else:
            self._write_together(todo, share, pieces)
            done |= self._begun.files
        return done

    def _write(self, file: WeightFile, pieces: Pieces) -> File:
        """Writes a whole file: in the order of its bytes, but for scales, which lie before what they are of."""
        folder = (self._folder / file.path).parent
        if any(info.dtype == FLOAT8 for info in file.shard.tensors.values()):
            SharedShard.lay(folder, file.shard)
            with closing(SharedShard(folder, file.shard)) as shard:
                self._put(pieces(file, file.shard.tensors), shard.append)
            sha256 = file_hash(folder / file.shard.filename)
        else:
            writer = ShardWriter(folder, file.shard)
            try:
                self._put(pieces(file, file.shard.tensors), lambda _, piece: writer.append(piece))
                sha256 = writer.close()
            finally:
                writer.abandon()
        own = File(sha256, _within(self._solver.notes, file), _within(self._solver.precision, file))
        self._begun.complete(file.path, own)
        return own

    def _write_together(
        self, files: Sequence[WeightFile], share: Mapping[str, frozenset[str]], pieces: Pieces
    ) -> None:
        """Writes this process's part of all files, the main one completes them."""
        if self._processes.is_main:
            for file in files:
                SharedShard.lay((self._folder / file.path).parent, file.shard)
        self._processes.agree()
        with ExitStack() as within:
            hashing = within.enter_context(ThreadPoolExecutor(1))
            waiting: tuple[WeightFile, Future[str], list[Any]] | None = None
            for file in files:
                names = [name for name in file.shard.tensors if name in share[file.path]]
                with closing(SharedShard((self._folder / file.path).parent, file.shard)) as shard:
                    self._put(pieces(file, names), shard.append)
                said = self._processes.agree(
                    (_within(self._solver.notes, file), _within(self._solver.precision, file))
                )
                self._complete(waiting)
                waiting = file, hashing.submit(self._hash, file), said
            self._complete(waiting)

    def _hash(self, file: WeightFile) -> str:
        return file_hash(self._folder / file.path) if self._processes.is_main else ""

    def _complete(self, made: tuple[WeightFile, Future[str], list[Any]] | None) -> None:
        if made is None or not self._processes.is_main:
            return
        file, sha256, said = made
        notes = {name: own for one, _ in said for name, own in one.items()}
        precision = {name: own for _, one in said for name, own in one.items()}
        self._begun.complete(file.path, File(sha256.result(), notes, precision))

    def _put(self, pieces: Iterator[tuple[str, Tensor]], append: Callable[[str, Tensor], None]) -> None:
        with ThreadPoolExecutor(1) as writing:
            pending: list[Future] = []
            for name, piece in pieces:
                pending.append(writing.submit(append, name, piece))
                if len(pending) > _WAITING:
                    pending.pop(0).result()
                self._done += piece.nbytes
                self._progress(self._done, self._total, "bytes")
            for future in pending:
                future.result()


def _within(said: Mapping[str, T], file: WeightFile) -> dict[str, T]:
    """What of it is said of tensors in the file."""
    return {name: own for name, own in said.items() if name in file.shard.tensors}
