"""The weights of a model: read tensor by tensor from its files, written as a stream of shards.

An adapter on a base is read as a whole model. Writing lays the header down first, since the plan knows every shape,
then appends; the bytes equal those of `safetensors.torch.save_file`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fusehub.adapters import AdaptedRef
from fusehub.errors import BadFile, FuseHubError, NotFound
from fusehub.hub import client, hub_errors
from fusehub.lora import Updates
from fusehub.model_ref import ModelRef
from fusehub.tensor_files import DTYPES, PickleFile, SafetensorsFile, TensorInfo, open_tensors, sha256_of

if TYPE_CHECKING:
    import torch

_RANK = {dtype: rank for rank, dtype in enumerate(DTYPES)}


def headers(ref: ModelRef) -> dict[str, TensorInfo] | None:
    """Names, shapes and dtypes of a model's tensors without downloading its weights (ranged reads).

    None for a repo whose weights are a .bin that is not on this machine: it has no header to read.
    """
    if isinstance(ref, AdaptedRef):
        known = headers(ref.base)
        if known is None:
            return None
        updates = Updates(ref, known)
        updates.reader.close()
        return dict(sorted({**known, **updates.added}.items()))
    if ref.folder is not None:
        with Checkpoint(ref) as checkpoint:
            return checkpoint.tensors
    if not ref.weight_files()[0].endswith(".safetensors"):
        return None
    from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

    try:
        with hub_errors(ref.name):
            meta = client(ref.token).get_safetensors_metadata(ref.repo_id, revision=ref.commit)
    except (NotASafetensorsRepoError, SafetensorsParsingError) as error:
        raise BadFile(f"{ref.name}: the safetensors header is broken ({error}).", "Is the upload complete?") from error
    return {
        name: TensorInfo(tensor.dtype, tuple(tensor.shape))
        for file in meta.files_metadata.values()
        for name, tensor in file.tensors.items()
    }


class Checkpoint(Mapping):
    """The weights of one model, open for reading: a mapping of tensor names to tensors, each read when asked for.

    `tensors` has the shapes and dtypes of all. Close it, or use it as a context manager.
    """

    def __init__(self, ref: ModelRef) -> None:
        self.name = ref.name
        self.files = [ref.path(filename) for filename in ref.weight_files()]
        self._readers: dict[str, SafetensorsFile | PickleFile] = {}
        self._open: list[SafetensorsFile | PickleFile] = []
        try:
            for path in self.files:
                reader = open_tensors(path, ref.name)
                self._open.append(reader)
                self._readers.update(dict.fromkeys(reader.tensors, reader))
        except FuseHubError:
            self.close()
            raise
        infos = {name: reader.tensors[name] for name, reader in self._readers.items()}
        self._updates: Updates | None = None
        if isinstance(ref, AdaptedRef):
            try:
                self._updates = Updates(ref, infos)
            except FuseHubError:
                self.close()
                raise
            self._open.append(self._updates.reader)
            infos |= self._updates.added
        self.tensors: dict[str, TensorInfo] = dict(sorted(infos.items()))

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """The tensor called `name`, or its rows `start:stop` along the first axis. Raises `NotFound`."""
        if self._updates is not None and name in self._updates:
            return self._updates.read(name, lambda a, b: self._readers[name].read(name, a, b), start, stop)
        if name not in self._readers:
            raise NotFound(f"{self.name} has no tensor {name}.", "Are the models of one architecture?")
        return self._readers[name].read(name, start, stop)

    def close(self) -> None:
        """Closes the files."""
        for reader in self._open:
            reader.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def fetch_weights(refs: Iterable[ModelRef]) -> None:
    """Brings the weights of all models onto this machine, several files at a time, and holds them to their hashes.

    Opening them does so too, one after the other. Raises what `ModelRef.path` raises.
    """
    wanted = [(ref, name) for ref in refs for name in ref.hashed_files()]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        list(pool.map(lambda one: one[0].path(one[1]), wanted))


def weight_hashes(ref: ModelRef) -> dict[str, str]:
    """sha256 of each weight file: as the Hub tells it, computed only for files of a local folder."""
    return {name: ref.files[name].sha256 or sha256_of(ref.path(name)) for name in ref.hashed_files()}


@dataclass(frozen=True)
class Shard:
    """One file to be written: its name, and its tensors in the order in which their bytes follow."""

    filename: str
    tensors: dict[str, TensorInfo]

    @property
    def nbytes(self) -> int:
        return sum(info.nbytes for info in self.tensors.values())


def plan_shards(tensors: Mapping[str, TensorInfo], max_shard_size: int, prefix: str = "model") -> list[Shard]:
    """How `tensors` are spread over files of at most `max_shard_size` bytes (a larger tensor gets its own)."""
    ordered = sorted(tensors.items(), key=lambda item: (_RANK[item[1].dtype], item[0]))
    groups: list[dict[str, TensorInfo]] = [{}]
    size = 0
    for name, info in ordered:
        if groups[-1] and size + info.nbytes > max_shard_size:
            groups.append({})
            size = 0
        groups[-1][name] = info
        size += info.nbytes
    if len(groups) == 1:
        return [Shard(f"{prefix}.safetensors", groups[0])]
    count = len(groups)
    return [Shard(f"{prefix}-{i:05d}-of-{count:05d}.safetensors", group) for i, group in enumerate(groups, 1)]


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
        self._put(safetensors_header(shard, {"format": "pt", **(metadata or {})}))

    def append(self, piece: torch.Tensor) -> None:
        """Writes the next bytes: a whole tensor or its next rows."""
        import torch

        if piece.numel():
            data = memoryview(piece.contiguous().reshape(-1).view(torch.uint8).numpy())
            self._left -= len(data)
            self._put(data)

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
