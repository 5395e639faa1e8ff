"""The weights of a model: read tensor by tensor from its files, written as a stream of shards.

An adapter on a base is read as a whole model. Writing lays the header down first, since the plan knows every shape,
then appends; the bytes equal those of `safetensors.torch.save_file`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fusehub.errors import OtherHeader
from fusehub.hub.verified import file_hash, known_hashes, learn_hashes
from fusehub.models.checkpoints import kind_of
from fusehub.models.checkpoints.downloads import room_of_downloads
from fusehub.models.checkpoints.kind import Tensors
from fusehub.models.quantised.float8 import with_scales
from fusehub.models.ref import ModelRef
from fusehub.models.tensor_files import DTYPES, TensorInfo, dtype_name
from fusehub.utils.folders.places import require_room
from fusehub.utils.frozen import freeze
from fusehub.utils.processes import Processes

if TYPE_CHECKING:
    import torch

_METADATA = {"format": "pt"}
_RANK = {dtype: rank for rank, dtype in enumerate(DTYPES)}


def headers(ref: ModelRef) -> Tensors | None:
    """Names, shapes and dtypes of a model's tensors without downloading its weights (ranged reads).

    None for a repo whose weights are a .bin that is not on this machine: it has no header to read.
    """
    return kind_of(ref).headers(ref)


class Checkpoint(Mapping):
    """The weights of one model, open for reading: a mapping of tensor names to tensors, each read when asked for.

    `tensors` has the shapes and dtypes of all, and names are without what wrappers put around them. Close it, or use
    it as a context manager. How they are stored is `fusehub.models.checkpoints`.
    """

    def __init__(self, ref: ModelRef) -> None:
        self.name = ref.name
        require_room(room_of_downloads([ref]))
        self._weights = kind_of(ref)(ref)
        self.tensors = self._weights.tensors

    @property
    def read_by_transformers(self) -> bool:
        """Whether the files are what transformers itself loads, by the names and in the numbers that they have."""
        tensors = self.tensors
        return self._weights.read_by_transformers and not tensors.wrapping.names and not tensors.scaled

    def require(self, told: Mapping[str, TensorInfo]) -> None:
        """Raises `OtherHeader` where this holds other tensors than those that its header told from afar.

        The file was held to its hash; what was read of it by ranges alone could not be.
        """
        differing = [name for name in sorted({*told, *self.tensors}) if told.get(name) != self.tensors.get(name)]
        if differing:
            raise OtherHeader(
                f"{self.name}: {differing[0]} is not in the file what the header told before it was downloaded"
                + (f" (nor are {len(differing) - 1} more)." if len(differing) > 1 else "."),
                "The answer of the Hub came with wrong bytes: plan the merge again.",
            )

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """The tensor called `name`, or its rows `start:stop` along the first axis. Raises `NotFound`."""
        return self._weights.read(name, start, stop)

    def read_ahead(self, name: str) -> None:
        """Has the system read the tensor, where it can: `read` comes soon."""
        self._weights.read_ahead(name)

    def close(self) -> None:
        """Closes the files."""
        self._weights.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def fetch_weights(refs: Iterable[ModelRef], processes: Processes | None = None) -> None:
    """Brings the weights of all models onto this machine, several files at a time, and holds them to their hashes.

    Of several processes on one machine, each does so with its share of the files. Opening them does it too, one after
    the other. Raises what `ModelRef.path` raises.
    """
    processes = processes or Processes()
    refs = list(refs)
    if processes.is_main:  # Once others have begun, what is to come is partly there.
        require_room(room_of_downloads(refs))
    wanted = [(ref, name) for ref in refs for name in ref.hashed_files()]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        list(pool.map(lambda one: one[0].path(one[1]), wanted[processes.index :: processes.count]))
        if processes.count > 1:
            share_hashes(processes)
            list(pool.map(lambda one: one[0].path(one[1]), wanted))


def weight_hashes(ref: ModelRef, hashed: Callable[[Path], str] = file_hash) -> dict[str, str]:
    """sha256 of each weight file: as the Hub tells it, computed only for files of a local folder."""
    return {name: ref.files[name].sha256 or hashed(ref.path(name)) for name in ref.hashed_files()}


def hash_share(refs: Sequence[ModelRef], processes: Processes) -> None:
    """Hashes this process's share of the weight files that the Hub tells no hash of."""
    names = [(ref, name) for ref in refs for name in ref.hashed_files() if ref.files[name].sha256 is None]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        list(pool.map(lambda one: file_hash(one[0].path(one[1])), names[processes.index :: processes.count]))


def share_hashes(processes: Processes) -> None:
    """Has all processes know what each has hashed; what lies on another machine they have to hash themselves."""
    for told in processes.agree(known_hashes()):
        learn_hashes(told)


@dataclass(frozen=True)
class Shard:
    """One file to be written: its name, and its tensors in the order in which their bytes follow."""

    filename: str
    tensors: Mapping[str, TensorInfo]

    def __post_init__(self) -> None:
        freeze(self, "tensors")

    @property
    def nbytes(self) -> int:
        return sum(info.nbytes for info in self.tensors.values())


def plan_shards(
    tensors: Mapping[str, TensorInfo], max_shard_size: int, prefix: str = "model", *, scaled: bool = False
) -> list[Shard]:
    """How `tensors` are spread over files of at most `max_shard_size` bytes (a larger tensor gets its own).

    `scaled` puts scales beside those in float8, in the same file.
    """
    groups: list[dict[str, TensorInfo]] = [{}]
    size = 0
    for name, info in _in_order(tensors):
        own = with_scales({name: info}) if scaled else {name: info}
        nbytes = sum(one.nbytes for one in own.values())
        if groups[-1] and size + nbytes > max_shard_size:
            groups.append({})
            size = 0
        groups[-1] |= own
        size += nbytes
    groups = [dict(_in_order(group)) for group in groups]
    if len(groups) == 1:
        return [Shard(f"{prefix}.safetensors", groups[0])]
    count = len(groups)
    return [Shard(f"{prefix}-{i:05d}-of-{count:05d}.safetensors", group) for i, group in enumerate(groups, 1)]


def _in_order(tensors: Mapping[str, TensorInfo]) -> list[tuple[str, TensorInfo]]:
    return sorted(tensors.items(), key=lambda item: (_RANK[item[1].dtype], item[0]))


def index_of(shards: list[Shard]) -> dict:
    """The `model.safetensors.index.json` of several shards."""
    return {
        "metadata": {
            "total_parameters": sum(info.numel for shard in shards for info in shard.tensors.values()),
            "total_size": sum(shard.nbytes for shard in shards),
        },
        "weight_map": {name: shard.filename for shard in shards for name in sorted(shard.tensors)},
    }


class ShardWriter:
    """Writes the tensors of one shard in order, piece by piece, and hashes what it writes.

    Give `append` the pieces of the first tensor, then of the second, and so on. `close` checks that all bytes
    came and returns the sha256 of the file.
    """

    def __init__(self, folder: Path, shard: Shard, metadata: Mapping[str, str] | None = None) -> None:
        import hashlib

        self.shard = shard
        self._file = (folder / shard.filename).open("wb")
        self._hash = hashlib.sha256()
        self._left = shard.nbytes
        self._put(safetensors_header(shard, {**_METADATA, **(metadata or {})}))

    def append(self, piece: torch.Tensor) -> None:
        """Writes the next bytes: a whole tensor or its next rows."""
        if piece.numel():
            data = _bytes_of(piece)
            self._left -= len(data)
            self._put(data)

    def sync(self) -> None:
        """Returns when what was written is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> str:
        """Ends the file; its sha256. Raises `ValueError` if bytes are missing or too many."""
        if self._left:
            self.abandon()
            raise ValueError(f"{self.shard.filename}: {self._left} bytes were not written")
        self._file.close()
        return self._hash.hexdigest()

    def abandon(self) -> None:
        """Closes the file as it is."""
        self._file.close()

    def _put(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        self._file.write(data)


class SharedShard:
    """One shard that several processes write at once, each some of its tensors; one of them has laid it down before.

    Give `append` the pieces of a tensor in order; the tensors come in any.
    """

    def __init__(self, folder: Path, shard: Shard) -> None:
        offset = len(safetensors_header(shard, _METADATA))
        self._places: dict[str, int] = {}
        for name, info in shard.tensors.items():
            self._places[name] = offset
            offset += info.nbytes
        self._file = (folder / shard.filename).open("r+b", buffering=0)

    @staticmethod
    def lay(folder: Path, shard: Shard) -> None:
        """Makes the file, as long as it will be, with its header."""
        header = safetensors_header(shard, _METADATA)
        with (folder / shard.filename).open("wb") as file:
            file.write(header)
            file.truncate(len(header) + shard.nbytes)

    def append(self, name: str, piece: torch.Tensor) -> None:
        """Writes the next rows of the tensor `name`, or the whole."""
        if not piece.numel():
            return
        data = _bytes_of(piece)
        self._file.seek(self._places[name])
        self._places[name] += len(data)
        while data:
            data = data[self._file.write(data) :]

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def write_tensors(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    infos: Mapping[str, TensorInfo] | None = None,
) -> None:
    """One file of tensors, whole on the disk. What the disk says against it is an `OSError`, unlike of `save_file`.

    `infos` tells of tensors that are made one by one, when they are asked for.
    """
    if infos is None:
        infos = {name: TensorInfo(dtype_name(value.dtype), tuple(value.shape)) for name, value in tensors.items()}
    [shard] = plan_shards(infos, sum(info.nbytes for info in infos.values()))
    writer = ShardWriter(path.parent, replace(shard, filename=path.name), metadata)
    try:
        for name in shard.tensors:
            writer.append(tensors[name].detach().cpu())
        writer.sync()
        writer.close()
    finally:
        writer.abandon()


def safetensors_header(shard: Shard, metadata: Mapping[str, str]) -> bytes:
    """The safetensors header: length, JSON padded with spaces to a multiple of 8 bytes."""
    entries: dict = {"__metadata__": dict(metadata)}
    offset = 0
    for name, info in shard.tensors.items():
        entries[name] = {
            "dtype": info.dtype,
            "shape": list(info.shape),
            "data_offsets": [offset, offset + info.nbytes],
        }
        offset += info.nbytes
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
