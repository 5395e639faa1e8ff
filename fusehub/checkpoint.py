"""Weights on disk: read tensor by tensor (or some rows of one), written as a stream of shards.

Reading goes through `pread` into memory of our own rather than a memory map, so that a merge's resident
memory is what it works on and not every page it has ever touched. Writing lays the header down first,
since the plan knows every shape, then appends; the bytes equal those of `safetensors.torch.save_file`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fusehub.adapters import AdaptedRef, Updates
from fusehub.errors import BadFile, FuseHubError, NotFound, UnsafeFile
from fusehub.hub import client, hub_errors

if TYPE_CHECKING:
    import torch

    from fusehub.refs import ModelRef

# safetensors' name, torch's name and bytes per element, in the order in which `save_file` lays tensors out.
DTYPES: dict[str, tuple[str, int]] = {
    "U64": ("uint64", 8),
    "I64": ("int64", 8),
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "U32": ("uint32", 4),
    "I32": ("int32", 4),
    "BF16": ("bfloat16", 2),
    "F16": ("float16", 2),
    "U16": ("uint16", 2),
    "I16": ("int16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}
FLOATS = ("F64", "F32", "BF16", "F16")
_RANK = {dtype: rank for rank, dtype in enumerate(DTYPES)}


@dataclass(frozen=True)
class TensorInfo:
    """Shape and safetensors dtype name of one stored tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * DTYPES[self.dtype][1]

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS

    @property
    def row_bytes(self) -> int:
        """Bytes of one step along the first axis; of the whole for a scalar."""
        return self.nbytes // self.shape[0] if self.shape and self.shape[0] else self.nbytes


def torch_dtype(name: str) -> torch.dtype:
    """`F32` -> `torch.float32`."""
    import torch

    return getattr(torch, DTYPES[name][0])


def dtype_name(dtype: torch.dtype) -> str:
    """`torch.float32` -> `F32`."""
    plain = str(dtype).removeprefix("torch.")
    return next(name for name, (torch_name, _) in DTYPES.items() if torch_name == plain)


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
                reader = (SafetensorsFile if path.suffix == ".safetensors" else PickleFile)(path, ref.name)
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


class SafetensorsFile:
    """One .safetensors file, its layout checked by the safetensors library, its bytes read with `pread`."""

    def __init__(self, path: Path, owner: str) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                views = {name: file.get_slice(name) for name in file.offset_keys()}
                self.tensors = {
                    name: TensorInfo(view.get_dtype(), tuple(view.get_shape())) for name, view in views.items()
                }
                self.metadata = file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise BadFile(
                f"{owner}: {path.name} is truncated or corrupt ({error}).", "Download or copy the file again."
            ) from error
        odd = sorted({info.dtype for info in self.tensors.values()} - set(DTYPES))
        if odd:
            raise BadFile(f"{owner}: {path.name} has tensors of dtype {odd[0]}.", "Use the repo with float weights.")
        self._file = path.open("rb", buffering=0)
        offset = 8 + int.from_bytes(self._file.read(8), "little")
        self._offsets = {}
        # The library has refused holes and overlaps, so offsets follow from the order and the sizes.
        for name, info in self.tensors.items():
            self._offsets[name] = offset
            offset += info.nbytes

    def read(self, name: str, start: int, stop: int | None) -> torch.Tensor:
        import torch

        info = self.tensors[name]
        shape = info.shape
        if start or stop is not None:
            shape = (min(shape[0], shape[0] if stop is None else stop) - start, *shape[1:])
        size = math.prod(shape) * DTYPES[info.dtype][1]
        raw = torch.empty(size, dtype=torch.uint8)
        if size:
            view = memoryview(raw.numpy())
            position = self._offsets[name] + start * info.row_bytes
            while view:
                got = os.preadv(self._file.fileno(), [view], position)
                if not got:
                    raise BadFile(f"{self._file.name} ended in the middle of {name}.", "Download it again.")
                view, position = view[got:], position + got
        return raw.view(torch_dtype(info.dtype)).reshape(shape)

    def close(self) -> None:
        self._file.close()


class PickleFile:
    """One pytorch_model*.bin, read with `weights_only=True`: plain tensors or nothing."""

    def __init__(self, path: Path, owner: str) -> None:
        import pickle

        import torch

        try:
            try:
                loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:
                # Files older than PyTorch 1.6 are no zip archives and cannot be mapped.
                loaded = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # A damaged pickle raises whatever its bytes happen to lead to.
            if isinstance(error, pickle.UnpicklingError) and "Unsupported operand" not in str(error):
                raise UnsafeFile(
                    f"{owner}: {path.name} is a pickle with more than plain weights in it; reading it would run code.",
                    "Ask the owner for safetensors, or convert it yourself if you trust it.",
                ) from error
            said = (str(error).split("\n")[0] if type(error) is RuntimeError else "") or type(error).__name__
            raise BadFile(
                f"{owner}: {path.name} is truncated or corrupt ({said}).",
                "Download or copy the file again.",
            ) from error
        if not isinstance(loaded, Mapping) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
            raise BadFile(f"{owner}: {path.name} is not a dictionary of tensors.", "Save the model's state_dict.")
        self._loaded = loaded
        self.tensors = {
            name: TensorInfo(dtype_name(value.dtype), tuple(value.shape)) for name, value in loaded.items()
        }

    def read(self, name: str, start: int, stop: int | None) -> torch.Tensor:
        value = self._loaded[name]
        return (value if value.ndim == 0 else value[start:stop]).contiguous()

    def close(self) -> None:
        self._loaded = {}


def sha256_of(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
