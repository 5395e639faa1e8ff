"""llama.cpp's importance matrices: for each weight, the sum of squares of each of its inputs.

Two forms of file. GGUF, with tensors `NAME.in_sum2` [experts, in] and `NAME.counts` [experts], the rows. Before that,
binary: the number of entries; for each the length of its name, the name, calls, the number of values, and the values,
which are the mean of squares times the calls; at the end the number of chunks and the name of the data. Numbers are
little-endian int32 and float32.

This is the diagonal of a gram, and enters RegMean as that: at any alpha, as others do at alpha 0. The names of the
weights are GGUF's; the `gguf` package knows what they are called in a checkpoint.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.errors import BadFile, BadStatistics
from fusehub.models.layout import Linear
from fusehub.statistics.importers.found import DiagonalSums, Imported
from fusehub.utils.extras import needs

if TYPE_CHECKING:
    import numpy as np
    from transformers import PretrainedConfig

_MAGIC = b"GGUF"
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_AGAIN = "Make it again with llama-imatrix."


def read_imatrix(path: Path, linears: Mapping[str, Linear], config: PretrainedConfig) -> Imported:
    """The sums of squares in the file, for the model with these linear layers."""
    with path.open("rb") as file:
        modern = file.read(4) == _MAGIC
    entries, facts = _read_gguf(path) if modern else _read_legacy(path)
    import torch

    sums: dict[str, DiagonalSums] = {}
    aliases: dict[str, str] = {}
    used = set()
    for name, (entry, expert) in _entries_of(linears, config).items():
        if entry not in entries:
            continue
        used.add(entry)
        squares, counts = entries[entry]
        if expert >= len(squares) or counts[expert] < 1:
            continue
        own = DiagonalSums(torch.from_numpy(squares[expert].copy()), int(counts[expert]))
        if not bool(torch.isfinite(own.squares).all()) or bool((own.squares < 0).any()):
            raise BadStatistics(f"{path}: {entry} holds NaN, infinity or a negative sum of squares.", _AGAIN)
        # q, k and v of a block read the same input, and were summed one by one.
        same = next((other for other in sums if _are_equal(sums[other], own)), None)
        if same is None:
            sums[name] = own
        else:
            aliases[name] = same
    ignored = sorted(entries.keys() - used)
    return Imported("llama.cpp imatrix", sums, aliases, False, ignored, **facts)


def _are_equal(a: DiagonalSums, b: DiagonalSums) -> bool:
    import torch

    return a.rows == b.rows and torch.equal(a.squares, b.squares)


# Entry -> sums of squares [experts, in], and rows [experts].
_Entries = dict[str, "tuple[np.ndarray, np.ndarray]"]


def _read_gguf(path: Path) -> tuple[_Entries, dict[str, Any]]:
    gguf = _gguf()
    try:
        reader = gguf.GGUFReader(path)
        tensors = {tensor.name: tensor.data for tensor in reader.tensors}
        values = {name: field.contents() for name, field in reader.fields.items() if name.startswith("imatrix.")}
    except Exception as error:  # A damaged file raises whatever its bytes happen to lead to.
        raise BadFile(f"{path} is truncated or corrupt ({type(error).__name__}).", _AGAIN) from error
    entries: _Entries = {}
    for name in [name.removesuffix(".in_sum2") for name in tensors if name.endswith(".in_sum2")]:
        counts = tensors.get(f"{name}.counts")
        if counts is None:
            raise BadFile(f"{path}: {name} has sums, but no counts.", _AGAIN)
        squares = tensors[f"{name}.in_sum2"]
        entries[name] = squares.reshape(counts.size, -1), counts.reshape(-1)
    if not entries:
        raise BadFile(f"{path} is a GGUF file, but not an importance matrix.", "Give what llama-imatrix wrote.")
    chunks, length = values.get("imatrix.chunk_count"), values.get("imatrix.chunk_size")
    data = values.get("imatrix.datasets") or []
    return entries, {
        "data": " + ".join(Path(str(name)).name for name in data) or None,
        "examples": int(chunks) if chunks is not None else None,
        "tokens": int(chunks * length) if chunks is not None and length is not None else None,
        "max_length": int(length) if length is not None else None,
    }


def _read_legacy(path: Path) -> tuple[_Entries, dict[str, Any]]:
    import numpy as np

    content = path.read_bytes()
    position = 0

    def number(least: int = 0) -> int:
        nonlocal position
        (value,) = struct.unpack_from("<i", content, position)
        position += 4
        if not least <= value <= len(content):
            raise ValueError(value)
        return value

    def text() -> str:
        nonlocal position
        length = number()
        position += length
        return content[position - length : position].decode("utf-8")

    entries: _Entries = {}
    try:
        for _ in range(number(1)):
            name, calls, count = text(), number(1), number(1)
            squares = np.frombuffer(content, "<f4", count, position)
            position += 4 * count
            entries[name] = squares.reshape(1, -1), np.array([calls])
        trailer = position < len(content)
        if trailer:
            chunks, data = number(), text()
    except (struct.error, ValueError) as error:
        raise BadFile(
            f"{path} is neither an importance matrix of llama.cpp nor GGUF, or it is truncated.", _AGAIN
        ) from error
    if not trailer:
        # Files from before April 2024 hold sums over the rows of a call, and do not say how many there were.
        raise BadFile(f"{path} is of a form that does not tell how many rows were summed.", _AGAIN)
    return entries, {"data": Path(data.replace("\\", "/")).name or None, "examples": chunks}


def _entries_of(linears: Mapping[str, Linear], config: PretrainedConfig) -> dict[str, tuple[str, int]]:
    """For each linear layer, what its weight is called in GGUF, and which of the experts in it it is."""
    gguf = _gguf()
    blocks = 1 + max((int(part) for name in linears for part in name.split(".") if part.isdigit()), default=0)
    own = next(
        (arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if _plain(name) == _plain(config.model_type)), None
    )
    best: dict[str, tuple[str, int]] = {}
    # Families that llama.cpp runs as another's (Mistral as Llama) are told from whose names fit most layers.
    for arch in [own] if own is not None else gguf.MODEL_ARCH_NAMES:
        names = gguf.get_tensor_name_map(arch, blocks)
        found = {name: entry for name, linear in linears.items() if (entry := _entry(names, name, linear))}
        if len(found) > len(best):
            best = found
    return best


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _entry(names: Any, name: str, linear: Linear) -> tuple[str, int] | None:
    """The entry of one weight, by its name in the file or the model, with or without the body's prefix."""
    for candidate in _names(name, linear.weight):
        expert = _EXPERT.search(candidate)
        whole = _EXPERT.sub(".experts.", candidate)
        if (found := names.get_name(whole, try_suffixes=(".weight",))) is not None:
            return found, int(expert[1]) if expert else 0
    return None


def _names(*names: str) -> Iterable[str]:
    for name in names:
        yield name
        yield name.partition(".")[2]


def _gguf() -> Any:
    with needs("import", "llama.cpp's statistics"):
        import gguf
    return gguf
