"""The statistics file: format version 1, written and read.

A safetensors file. For each linear layer, named as in the model's checkpoint (`NAME` ends in `.weight`), it has the
number of rows `NAME.n`, their sum `NAME.s`, and their gram in one of the encodings of `encodings.py`.

Layers that read the same input are stored once: `aliases` in the metadata maps the others to the one that is
stored, and `layers` lists the stored ones with their rows, size and encoding. The metadata is JSON in the header,
under `fusehub`; the same JSON lies beside the file, so that a merge can be planned without the matrices.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.checkpoint import SafetensorsFile, TensorInfo
from fusehub.errors import BadStatistics
from fusehub.statistics.encodings import (
    DEFAULT_SIZE,
    Encoding,
    LayerSums,
    check_size,
    decode,
    encode,
    encoding_for,
)
from fusehub.statistics.grams import pack, packed_diagonal

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "fusehub-statistics"
VERSION = 1
FILENAME = "statistics.safetensors"
METADATA_FILENAME = "statistics.json"
REMAKE = "Make them again with `fusehub collect`."


def write_statistics(
    folder: Path,
    sums: Mapping[str, LayerSums],
    aliases: Mapping[str, str],
    metadata: Mapping[str, Any],
    *,
    size: str = DEFAULT_SIZE,
) -> Path:
    """Writes `statistics.safetensors` and `statistics.json`, finished or absent, into `folder`; the first's path.

    `sums` are by the weight's name in the checkpoint, summed just now or read from another file; `size` is one of
    `SIZES`.
    """
    import torch
    from safetensors.torch import save_file

    check_size(size)
    encodings = {name: encoding_for(name, total, size) for name, total in sums.items()}
    tensors = {}
    for name, total in sums.items():
        tensors |= {f"{name}.{part}": value for part, value in encode(total, encodings[name]).items()}
        tensors[f"{name}.s"] = total.total.float().cpu()
        tensors[f"{name}.n"] = torch.tensor(total.rows, dtype=torch.int64)
    described = {
        "format": FORMAT,
        "version": VERSION,
        **metadata,
        "size": size,
        "layers": {
            name: {"rows": sums[name].rows, "size": sums[name].size, **_told(encodings[name])} for name in sorted(sums)
        },
        "aliases": dict(sorted(aliases.items())),
    }
    text = json.dumps(described, indent=2, ensure_ascii=False, sort_keys=False)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{FILENAME}.{os.getpid()}.partial"
    try:
        save_file(tensors, partial, metadata={"fusehub": text})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial_json = partial.with_suffix(".json")
        partial_json.write_text(text + "\n", encoding="utf-8")
        os.replace(partial_json, folder / METADATA_FILENAME)
        os.replace(partial, folder / FILENAME)
    finally:
        partial.unlink(missing_ok=True)
        partial.with_suffix(".json").unlink(missing_ok=True)
    return folder / FILENAME


def _told(encoding: Encoding) -> dict[str, Any]:
    return {"encoding": encoding.name, **({"rank": encoding.rank} if encoding.rank is not None else {})}


@dataclass(frozen=True)
class StoredLayer:
    """One layer's statistics in a file; the matrices are read when they are asked for."""

    name: str
    stored_as: str
    rows: int
    size: int
    encoding: Encoding
    _statistics: Statistics

    @property
    def is_diagonal(self) -> bool:
        """Whether only the diagonal of `S` is known, as of imported importance matrices."""
        return self.encoding.name == "diagonal"

    def gram(self) -> Tensor:
        """`S`: [in, in], float64. Raises `BadStatistics` where a number is not finite or a square is negative."""
        return decode(self.encoding, self._read, self.size)

    def packed(self) -> Tensor:
        """The upper triangle of `S`, checked: [in * (in + 1) / 2], float32."""
        return self._read("S") if self.encoding.name == "triangle" else pack(self.gram().float())

    @property
    def total(self) -> Tensor:
        """`s`: [in], float64."""
        return self._read("s").double()

    @property
    def shift(self) -> float:
        """What the diagonal of `S` must grow by, relative to itself, to make up for the rounding of the rest."""
        return float(self._read("e")) if self.encoding.name == "correlations" else 0.0

    def _read(self, part: str) -> Tensor:
        name = f"{self.stored_as}.{part}"
        value = self._statistics.tensor(name)
        squares = value[packed_diagonal(self.size)] if part == "S" else value if part == "d" else None
        if squares is not None and (squares < 0).any():
            raise BadStatistics(
                f"{self._statistics.origin}: {name} has a negative sum of squares on its diagonal.",
                f"The file is broken. {REMAKE}",
            )
        return value


class Statistics:
    """A statistics file, open for reading: metadata at once, matrices when asked for.

    Raises `BadStatistics` for a file that is truncated, is not statistics, or is of an unknown version.
    """

    def __init__(self, path: Path, origin: str | None = None) -> None:
        from fusehub.errors import BadFile

        self.path = path
        self.origin = origin or str(path)
        try:
            self._file = SafetensorsFile(path, "statistics")
        except BadFile as error:
            raise BadStatistics(error.what, REMAKE) from error
        try:
            self.metadata = self._read_metadata()
            self._layers = self._read_layers()
        except BadStatistics:
            self.close()
            raise

    def _read_layers(self) -> dict[str, StoredLayer]:
        self.aliases: dict[str, str] = self.metadata["aliases"]
        layers = {name: self._layer(name) for name in sorted(self.metadata["layers"])}
        for name, target in self.aliases.items():
            if target not in layers:
                raise BadStatistics(f"{self.path.name}: {name} refers to {target}, which is not in the file.", REMAKE)
            layers[name] = replace(layers[target], name=name)
        return layers

    @property
    def layers(self) -> dict[str, StoredLayer]:
        """Statistics by the name of the weight in the model's checkpoint, aliases included."""
        return self._layers

    @property
    def nbytes(self) -> int:
        """Size of the file in bytes."""
        return self.path.stat().st_size

    def tensor(self, name: str) -> Tensor:
        """A stored tensor. Raises `BadStatistics` naming it if it holds NaN or infinity."""
        import torch

        value = self._file.read(name, 0, None)
        if not bool(torch.isfinite(value.sum(dtype=torch.float64))):
            raise BadStatistics(f"{self.origin}: {name} holds NaN or infinity.", REMAKE)
        return value

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _layer(self, name: str) -> StoredLayer:
        told = self.metadata["layers"][name]
        size, encoding = told["size"], Encoding(told["encoding"], told.get("rank"))
        wanted = {"n": TensorInfo("I64", ()), "s": TensorInfo("F32", (size,)), **encoding.tensors(size)}
        for part, info in wanted.items():
            found = self._file.tensors.get(f"{name}.{part}")
            if found is None:
                raise BadStatistics(f"{self.path.name}: {name}.{part} is missing.", REMAKE)
            if found != info:
                raise BadStatistics(
                    f"{self.path.name}: {name}.{part} is {found.dtype} {list(found.shape)}, but {info.dtype} "
                    f"{list(info.shape)} in the {encoding.name} of {size} inputs.",
                    f"The file is broken. {REMAKE}",
                )
        rows = int(self._file.read(f"{name}.n", 0, None))
        return StoredLayer(name, name, rows, size, encoding, self)

    def _read_metadata(self) -> dict[str, Any]:
        try:
            metadata = json.loads(self._file.metadata["fusehub"])
        except (KeyError, ValueError) as error:
            raise BadStatistics(
                f"{self.origin} is a safetensors file, but not one of statistics.",
                "Give a file made by `fusehub collect`.",
            ) from error
        return check_metadata(metadata, self.origin)


def check_metadata(metadata: Any, origin: str) -> dict[str, Any]:
    """`metadata` if it is the metadata of statistics of a version that we know; else raises `BadStatistics`."""
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise BadStatistics(f"{origin} does not hold statistics.", "Give a file made by `fusehub collect`.")
    if metadata.get("version") != VERSION:
        raise BadStatistics(
            f"{origin} has version {metadata.get('version')} of the format; this FuseHub reads version {VERSION}.",
            "Update FuseHub.",
        )
    try:
        metadata["model"]["id"], metadata["model"]["weights"].values(), metadata["layers"], metadata["aliases"]
    except (KeyError, TypeError, AttributeError) as error:
        raise BadStatistics(f"{origin}: its metadata lacks {error}.", REMAKE) from error
    return metadata


def require_weights(metadata: Mapping[str, Any], origin: str, model: str, hashes: Mapping[str, str]) -> None:
    """Raises `BadStatistics` unless the statistics were made with exactly the weights `hashes` of `model`."""
    made_for = metadata["model"]
    if sorted(made_for["weights"].values()) != sorted(hashes.values()):
        named = made_for["id"] + (f" at {made_for['commit'][:8]}" if made_for.get("commit") else "")
        raise BadStatistics(
            f"The statistics {origin} were made for other weights ({named}) than those of {model}.",
            "Give the statistics of these weights, make them with `fusehub collect`, or say --force.",
        )
