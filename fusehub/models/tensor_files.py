"""Files of tensors, read tensor by tensor, or some rows of one: .safetensors, and .bin that hold plain weights alone.

Reading goes through `pread` (or where the system has none, one read after the other) into memory of our own rather
than a memory map, so that a merge's resident memory is what it works on and not every page it has ever touched.
"""

from __future__ import annotations

import math
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fusehub.errors import BadFile, NoMemory, UnsafeFile, first_line, shortly
from fusehub.utils.untrusted.limits import HEADER_BYTES, PICKLE_BYTES, SHARED, TENSORS

if TYPE_CHECKING:
    import torch

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
# How much of two tensors that seem to be the same is compared at a time.
_COPY_BYTES = 2**25
# However much Linux is asked to read ahead, it reads as much as suits the device: 128 kilobytes on most, or more.
_AHEAD_BYTES = 2**17
FLOATS = ("F64", "F32", "BF16", "F16")


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


def open_tensors(path: Path, owner: str) -> TensorFile:
    """A file of tensors, open for reading; `owner` is whose it is, for errors."""
    return (SafetensorsFile if path.suffix == ".safetensors" else PickleFile)(path, owner)


class TensorFile(ABC):
    """One file of tensors, open for reading. Whoever opens it closes it."""

    tensors: dict[str, TensorInfo]
    """All that it holds."""

    @abstractmethod
    def read(self, name: str, start: int, stop: int | None) -> torch.Tensor:
        """The rows `start:stop` along the first axis of the tensor called `name`."""

    def read_ahead(self, name: str) -> None:  # noqa: B027  # For whoever can.
        """Has the system bring the bytes of the tensor into memory that it may take back, where it can be asked to."""

    @abstractmethod
    def close(self) -> None:
        """Closes the file."""


class Header(TensorFile):
    """What a file of tensors holds, without the numbers."""

    def __init__(self, tensors: dict[str, TensorInfo]) -> None:
        self.tensors = tensors

    def read(self, name: str, start: int, stop: int | None) -> torch.Tensor:
        """Raises `TypeError`: the numbers are not there."""
        raise TypeError(f"of {name} only the header was read")

    def close(self) -> None:
        """Nothing is open."""


class SafetensorsFile(TensorFile):
    """One .safetensors file, its layout checked by the safetensors library, its bytes read with `pread`."""

    def __init__(self, path: Path, owner: str) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            _require_small_header(path, owner)
            with safe_open(path, framework="numpy") as file:
                views = {name: file.get_slice(name) for name in file.offset_keys()}
                self.tensors = {
                    name: TensorInfo(view.get_dtype(), tuple(view.get_shape())) for name, view in views.items()
                }
                self.metadata = file.metadata() or {}
        except MemoryError as error:
            # The library maps the file to look at it, which takes addresses and no memory.
            raise NoMemory(
                f"{owner}: {path.name} cannot be mapped: a limit on addresses (ulimit -v) is below its size.",
                "Limit memory by a control group or `ulimit -d` instead, or save the model in smaller shards.",
            ) from error
        except (SafetensorError, OSError) as error:
            raise BadFile(
                f"{owner}: {path.name} is truncated or corrupt ({first_line(error)}).",
                "Download or copy the file again.",
            ) from error
        odd = sorted({info.dtype for info in self.tensors.values()} - set(DTYPES))
        if odd:
            raise BadFile(f"{owner}: {path.name} has tensors of dtype {odd[0]}.", "Use the repo with float weights.")
        require_room(self.tensors, path.stat().st_size, f"{owner}: {path.name}")
        self._file = path.open("rb", buffering=0)
        self._turn = threading.Lock()
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
            view = raw.numpy().data
            position = self._offsets[name] + start * info.row_bytes
            while view:
                got = self._read_at(position, view)
                if not got:
                    raise BadFile(f"{self._file.name} ended in the middle of {name}.", "Download it again.")
                view, position = view[got:], position + got
        return raw.view(torch_dtype(info.dtype)).reshape(shape)

    def read_ahead(self, name: str) -> None:
        start = self._offsets[name]
        stop = start + self.tensors[name].nbytes
        if hasattr(os, "posix_fadvise"):
            with suppress(OSError):  # Where a file system has no such thing.
                for position in range(start, stop, _AHEAD_BYTES):
                    length = min(_AHEAD_BYTES, stop - position)
                    os.posix_fadvise(self._file.fileno(), position, length, os.POSIX_FADV_WILLNEED)

    def _read_at(self, position: int, view: memoryview) -> int:
        """Reads as much as comes at once, and says how much that was; for several threads at a time."""
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [view], position)
        with self._turn:
            self._file.seek(position)
            return self._file.readinto(view)

    def close(self) -> None:
        self._file.close()


class PickleFile(TensorFile):
    """One pytorch_model*.bin, read with `weights_only=True`: plain tensors or nothing."""

    def __init__(self, path: Path, owner: str) -> None:
        import torch

        try:
            require_small_pickle(path, owner)
            try:
                loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:
                # Files older than PyTorch 1.6 are no zip archives and cannot be mapped.
                loaded = torch.load(path, map_location="cpu", weights_only=True)
        except BadFile:
            raise
        except Exception as error:  # A damaged pickle raises whatever its bytes happen to lead to.
            if would_run_code(error):
                raise UnsafeFile(
                    f"{owner}: {path.name} is a pickle with more than plain weights in it; reading it would run code.",
                    "Ask the owner for safetensors, or convert it yourself if you trust it.",
                ) from error
            said = first_line(error) if type(error) is RuntimeError else type(error).__name__
            raise BadFile(
                f"{owner}: {path.name} is truncated or corrupt ({said}).",
                "Download or copy the file again.",
            ) from error
        if not isinstance(loaded, Mapping) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
            raise BadFile(f"{owner}: {path.name} is not a dictionary of tensors.", "Save the model's state_dict.")
        for name, value in loaded.items():
            if (odd := _oddness(name, value)) is not None:
                raise BadFile(
                    f"{owner}: {path.name} holds {odd}.", "Save the state_dict of the model in plain tensors, by name."
                )
        self._loaded = loaded
        self.tensors = {
            name: TensorInfo(dtype_name(value.dtype), tuple(value.shape)) for name, value in loaded.items()
        }
        require_room(self.tensors, path.stat().st_size, f"{owner}: {path.name}")

    def read(self, name: str, start: int, stop: int | None) -> torch.Tensor:
        value = self._loaded[name]
        return (value if value.ndim == 0 else value[start:stop]).contiguous()

    def close(self) -> None:
        self._loaded = {}


def require_few(count: int, where: str) -> None:
    """Raises `BadFile` for more tensors than any model has."""
    if count > TENSORS:
        raise BadFile(
            f"{where} lists {count:,} tensors or more, and no more than {TENSORS:,} are read.",
            "No model has so many: is it the right file?",
        )


def require_room(tensors: Mapping[str, TensorInfo], size: int, where: str) -> None:
    """Raises `BadFile` where a file of `size` bytes says that it has larger tensors than it can hold.

    An axis may be long in a tensor without numbers, and rows of a .bin may be one row that is said to be many.
    """
    for name, info in tensors.items():
        if info.nbytes > size or max(info.shape, default=0) > size:
            raise BadFile(
                f"{where}: {name} is said to be {list(info.shape)} ({info.dtype}), in a file of {size:,} bytes.",
                "Download or copy the file again; of a .bin, save the model's state_dict anew.",
            )
    if (total := sum(info.nbytes for info in tensors.values())) > SHARED * size:
        raise BadFile(
            f"{where} has {size:,} bytes and is said to hold tensors of {total:,}.",
            "Save the model's state_dict anew.",
        )


def _require_small_header(path: Path, owner: str) -> None:
    """Raises `BadFile` for a header of more bytes or more tensors than any model has, before it is parsed."""
    with path.open("rb") as file:
        said = int.from_bytes(file.read(8), "little")
        if said > path.stat().st_size:
            return  # The file is broken, and whoever parses it says how.
        if said > HEADER_BYTES:
            raise BadFile(
                f"{owner}: the header of {path.name} has {said:,} bytes, and no more than {HEADER_BYTES:,} are read.",
                "Download or copy the file again.",
            )
        # Each tensor is an object of its own.
        require_few(file.read(said).count(b"{"), f"{owner}: the header of {path.name}")


def would_run_code(error: Exception) -> bool:
    """Whether PyTorch refuses a pickle for what it would call, and not for bytes that are no pickle.

    Both are of one kind, and told apart by their text alone.
    """
    import pickle

    return isinstance(error, pickle.UnpicklingError) and "Unsupported operand" not in str(error)


def require_small_pickle(path: Path, owner: str) -> None:
    """Raises `BadFile` for a file of `torch.save` that would unpack to more than it is, before any of it is read."""
    import zipfile

    import torch

    if not zipfile.is_zipfile(path):
        _require_small_old(path, owner)
        return
    # Python's own reader takes an object for each entry, so that those are counted first.
    require_few(len(torch._C.PyTorchFileReader(str(path)).get_all_records()), f"{owner}: the archive {path.name}")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    size, unpacked = path.stat().st_size, sum(entry.file_size for entry in entries)
    if unpacked > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise BadFile(
            f"{owner}: {path.name} has {size:,} bytes and unpacks to {unpacked:,}: PyTorch compresses nothing in it.",
            "Save the model's state_dict with torch.save.",
        )
    pickled = max((entry.file_size for entry in entries if entry.filename.endswith("data.pkl")), default=0)
    _require_short(pickled, path, owner)


def _require_small_old(path: Path, owner: str) -> None:
    """The same of a file older than PyTorch 1.6: five pickles one after the other, and then the numbers."""
    import pickletools

    with path.open("rb") as file:
        for _ in range(5):
            start = file.tell()
            try:
                for _, _, position in pickletools.genops(file):
                    assert position is not None  # A file tells where it is.
                    _require_short(position - start, path, owner)
            except (ValueError, IndexError, EOFError):
                return  # Broken, which torch says better.


def _require_short(nbytes: int, path: Path, owner: str) -> None:
    if nbytes > PICKLE_BYTES:
        raise BadFile(
            f"{owner}: the names in {path.name} take {nbytes:,} bytes or more, and no more than {PICKLE_BYTES:,} are "
            "read.",
            "Save it as safetensors.",
        )


def _oddness(name: object, value: torch.Tensor) -> str | None:
    """What keeps an entry of a pickle from being a plain tensor with a name; None where nothing does."""
    import torch

    if not isinstance(name, str) or not name.isprintable():
        return f"a tensor under the key {shortly(name)}, which is no name"
    if value.is_nested or value.layout != torch.strided or value.is_quantized or value.is_meta:
        return f"{name}, which is no plain tensor: sparse, nested, quantised, or without numbers"
    if str(value.dtype).removeprefix("torch.") not in (own for own, _ in DTYPES.values()):
        return f"{name} of dtype {str(value.dtype).removeprefix('torch.')}"
    return None


def is_copy(one: Callable[[int, int | None], torch.Tensor], other: Callable[[int, int | None], torch.Tensor]) -> bool:
    """Whether two tensors, read by rows, hold the same numbers; ends at the first rows that differ."""
    import torch

    rows, start = 64, 0
    while True:
        a, b = one(start, start + rows), other(start, start + rows)
        if a.shape != b.shape or not torch.equal(a, b.to(a.dtype)):
            return False
        if len(a) < rows:
            return True
        # Most that differ do so at once; what is left to read is read in larger pieces.
        start, rows = start + rows, max(rows, _COPY_BYTES // max(1, a[:1].nbytes))


def sha256_of(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
