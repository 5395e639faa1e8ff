"""The statistics file: format version 1, written and read.

Safetensors, one file or shards. For each linear layer, named as in the model's checkpoint (`NAME` ends in
`.weight`), it has the number of rows `NAME.n`, their sum `NAME.s`, and their gram in one of the encodings of
`encodings.py`. `docs/statistics-format.md` specifies all of it.

Layers that read the same input are stored once: `aliases` in the metadata maps the others to the one that is
stored, and `layers` lists the stored ones with their rows, size and encoding. The metadata is JSON in the header,
under `fusehub`; the same JSON lies beside the file, so that a merge can be planned without the matrices. Fisher
diagonals lie beside in a file of their own (`fisher_file.py`), which a merge by grams need not download.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from fusehub.errors import BadStatistics
from fusehub.models.tensor_files import TensorInfo
from fusehub.statistics.encodings import (
    DEFAULT_SIZE,
    Encoding,
    LayerSums,
    check_size,
    decode,
    encode,
    encoding_of,
)
from fusehub.statistics.grams import packed_diagonal
from fusehub.statistics.metadata import FORMAT, REMAKE, VERSION, check_metadata, require_weights
from fusehub.statistics.shards import MAX_SHARD_SIZE, ShardedFile, index_name, is_part, write_shards
from fusehub.utils.folders.unfinished import output
from fusehub.utils.symmetric import pack_into, whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fusehub.hub.upload import Published, PushOptions
    from fusehub.models.ref import ModelRef
    from fusehub.utils.symmetric import Strip

__all__ = [
    "FILENAME",
    "INDEX_FILENAME",
    "METADATA_FILENAME",
    "REMAKE",
    "Statistics",
    "StoredLayer",
    "check_metadata",
    "require_weights",
    "stored_bytes",
    "write_statistics",
]

STEM = "statistics"
FILENAME = f"{STEM}.safetensors"
INDEX_FILENAME = index_name(STEM)
METADATA_FILENAME = f"{STEM}.json"


def write_statistics(
    folder: Path,
    sums: Mapping[str, LayerSums],
    aliases: Mapping[str, str],
    metadata: Mapping[str, Any],
    *,
    size: str = DEFAULT_SIZE,
    max_shard_size: int = MAX_SHARD_SIZE,
    beside: Callable[[Path], object] | None = None,
) -> Path:
    """Writes `statistics.safetensors` (or shards and their index) and `statistics.json` into `folder`.

    They are finished or absent, together with what `beside` writes into the folder that it is given, and take the
    place of older statistics there. `sums` are by the weight's name in the checkpoint, summed just now or read from
    another file, and are encoded one after the other; `size` is one of `SIZES`. The path that `Statistics` opens.
    """
    import torch

    check_size(size)
    names = sorted(sums)
    encodings = {name: encoding_of(name, sums[name], size) for name in names}
    described = {
        "format": FORMAT,
        "version": VERSION,
        **metadata,
        "size": size,
        "layers": {
            name: {"rows": sums[name].rows, "size": sums[name].size, **encodings[name].told()} for name in names
        },
        "aliases": dict(sorted(aliases.items())),
    }
    text = json.dumps(described, indent=2, ensure_ascii=False, sort_keys=False)
    check_metadata(described, str(folder))

    def layer(number: int) -> dict[str, Tensor]:
        name = names[number]
        one = sums[name]
        stored = {"n": torch.tensor(one.rows, dtype=torch.int64), "s": one.total.float().cpu()}
        stored |= encode(one, encodings[name])
        return {f"{name}.{part}": value for part, value in stored.items()}

    groups = [
        {f"{name}.{part}": info for part, info in _parts(encodings[name], sums[name].size).items()} for name in names
    ]
    with output(folder, replaces=is_part, last=METADATA_FILENAME) as unfinished:
        if beside is not None:
            beside(unfinished)
        texts = {METADATA_FILENAME: text + "\n"}
        path = write_shards(unfinished, STEM, groups, layer, {"fusehub": text}, texts, max_shard_size)
    return folder / path.name


def stored_bytes(encoding: Encoding, size: int) -> int:
    """Bytes of all the tensors of a layer of `size` inputs."""
    return sum(info.nbytes for info in _parts(encoding, size).values())


def _parts(encoding: Encoding, size: int) -> dict[str, TensorInfo]:
    return {"n": TensorInfo("I64", ()), "s": TensorInfo("F32", (size,)), **encoding.tensors(size)}


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

    def strips(self, dtype: torch.dtype, device: str = "cpu") -> Iterator[Strip]:
        """The strips of `S` (see `fusehub.utils.symmetric`), in float32 or float64, each computed when its turn comes.

        On another device than the CPU, what is stored is what travels.

        Raises `BadStatistics` where a number is not finite, a square is negative, or `S`, `s` and `n` cannot be of the
        same rows.
        """
        read = functools.cache(self._read)
        self._require_of_one(self._diagonal(read))
        there = functools.cache(lambda part: read(part).to(device))
        yield from decode(self.encoding, there, self.size, dtype)

    def gram(self) -> Tensor:
        """`S`: [in, in], float64. Raises `BadStatistics` as `strips` does."""
        import torch

        return whole(self.strips(torch.float64), self.size, torch.float64)

    def diagonal(self) -> Tensor:
        """The sums of squares of each input: [in], float64; read without the rest where it is stored by itself."""
        return self._diagonal(self._read)

    def _diagonal(self, read: Callable[[str], Tensor]) -> Tensor:
        if self.encoding.name == "triangle":
            return read("S")[packed_diagonal(self.size)].double()
        return read("d").double()

    def packed(self) -> Tensor:
        """The upper triangle of `S`, checked: [in * (in + 1) / 2], float32."""
        import torch

        if self.encoding.name == "triangle":
            return self._read("S")
        packed = torch.empty(self.size * (self.size + 1) // 2)
        for start, rows in self.strips(torch.float64):
            pack_into(packed, start, rows)
        return packed

    @property
    def total(self) -> Tensor:
        """`s`: [in], float64."""
        return self._read("s").double()

    @property
    def shift(self) -> float:
        """What the diagonal of `S` must grow by, relative to itself, to make up for the rounding of the rest."""
        return float(self._read("e")) if self.encoding.name == "correlations" else 0.0

    def read_ahead(self) -> None:
        """Has the system read the matrices, where it can: `strips` comes soon."""
        for part in self.encoding.tensors(self.size):
            self._statistics.read_ahead(f"{self.stored_as}.{part}")

    def _require_of_one(self, squares: Tensor) -> None:
        """By Cauchy and Schwarz, the square of a sum of `n` numbers is at most `n` times the sum of their squares."""
        if self._statistics.metadata.get("noise"):
            return  # Noise is added to each by itself.
        # What float32 and the encodings round away.
        most = self.rows * squares * 1.01
        if bool((self.total.square() > most + 1e-6 * most.max()).any()) or (not self.rows and bool(squares.any())):
            raise BadStatistics(
                f"{self._statistics.origin}: the sums and the sums of squares of {self.stored_as} cannot be of the "
                f"same {self.rows} rows.",
                f"The file is broken. {REMAKE}",
            )

    def _read(self, part: str) -> Tensor:
        name = f"{self.stored_as}.{part}"
        value = self._statistics.tensor(name)
        squares = value[packed_diagonal(self.size)] if part == "S" else value if part in ("d", "e") else None
        if squares is not None and (squares < 0).any():
            raise BadStatistics(
                f"{self._statistics.origin}: {name} has a negative sum of squares on its diagonal.",
                f"The file is broken. {REMAKE}",
            )
        return value


class Statistics:
    """A statistics file or the index of its shards, open for reading: metadata at once, matrices when asked for.

    Args:
        path: The file or the index.
        origin: What it is called in messages; its path where it is not said.

    Attributes:
        metadata: What the file tells of itself: see the format.
        aliases: Layers that are given the same inputs as another -> the one whose matrices are stored.

    Raises:
        BadStatistics: The file is truncated, is not statistics, or is of an unknown version.

    Examples:
        >>> fusehub.collect("user/expert-1", "user/texts", "statistics", limit=20).close()
        >>> statistics = fusehub.Statistics(Path("statistics/statistics.safetensors"))
        >>> statistics.metadata["examples"], "classifier.weight" in statistics.layers
        (20, True)
        >>> statistics.close()
    """

    def __init__(self, path: Path, origin: str | None = None) -> None:
        self.path = path
        self.origin = origin or str(path)
        self._file = ShardedFile(path, "statistics")
        try:
            self.metadata = _metadata_in(self._file, self.origin)
            layers = {name: self._layer(name) for name in sorted(self.metadata["layers"])}
            self.aliases: dict[str, str] = self.metadata["aliases"]
            self._layers = layers | {name: replace(layers[target], name=name) for name, target in self.aliases.items()}
        except BadStatistics:
            self.close()
            raise

    @property
    def layers(self) -> dict[str, StoredLayer]:
        """Statistics by the name of the weight in the model's checkpoint, aliases included."""
        return self._layers

    @property
    def nbytes(self) -> int:
        """Size of the file, or of all its shards, in bytes."""
        return self._file.nbytes

    def tensor(self, name: str) -> Tensor:
        """A tensor as it is stored.

        Args:
            name: Its name in the file, such as `LAYER.codes`.

        Returns:
            The tensor, on the CPU.

        Raises:
            BadStatistics: It holds NaN or infinity.
        """
        import torch

        value = self._file.read(name)
        if value.is_floating_point() and not bool(torch.isfinite(value.sum(dtype=torch.float64))):
            raise BadStatistics(
                f"{self.origin}: {name} holds NaN or infinity.",
                f"The file is broken, or the model was. {REMAKE} That stops where the model's numbers are not finite.",
            )
        return value

    def read_ahead(self, name: str) -> None:
        """Has the system read a tensor, where it can.

        Args:
            name: Its name in the file.
        """
        self._file.read_ahead(name)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def push_to_hub(
        self, repo_id: str | None = None, *, model: str | ModelRef | None = None, **options: Unpack[PushOptions]
    ) -> Published:
        """Pushes the folder that they lie in to the Hub, as `fusehub.publish_statistics` does.

        Args:
            repo_id: A companion repo; the model's own where nothing is said.
            model: The one that they were made for, where they do not say so themselves.
            **options: The other arguments of `fusehub.publish_statistics`.

        Returns:
            Where they are.

        Raises:
            FuseHubError: What `fusehub.publish_statistics` raises.
        """
        import fusehub  # As a user would: publishing is floors above.

        return fusehub.publish_statistics(
            self.path.parent, repo_id, model=model or self.metadata["model"]["id"], **options
        )

    def _layer(self, name: str) -> StoredLayer:
        told = self.metadata["layers"][name]
        size, encoding = told["size"], Encoding(told["encoding"], told.get("bits"), told.get("rank"))
        for part, info in _parts(encoding, size).items():
            found = self._file.tensors.get(f"{name}.{part}")
            if found is None:
                raise BadStatistics(f"{self.path.name}: {name}.{part} is missing.", REMAKE)
            if found != info:
                raise BadStatistics(
                    f"{self.path.name}: {name}.{part} is {found.dtype} {list(found.shape)}, but {info.dtype} "
                    f"{list(info.shape)} in the encoding ({encoding}) of {size} inputs.",
                    f"The file is broken. {REMAKE}",
                )
        rows = int(self._file.read(f"{name}.n"))
        if rows != told["rows"]:
            raise BadStatistics(
                f"{self.path.name}: {name}.n counts {rows} rows, the metadata {told['rows']}.",
                f"The file is broken. {REMAKE}",
            )
        return StoredLayer(name, name, rows, size, encoding, self)


def _metadata_in(file: ShardedFile, origin: str) -> dict[str, Any]:
    try:
        metadata = json.loads(file.metadata["fusehub"])
    except (KeyError, ValueError, RecursionError) as error:
        raise BadStatistics(
            f"{origin} is a safetensors file, but not one of statistics.",
            "Give a file made by `fusehub collect`.",
        ) from error
    return check_metadata(metadata, origin)
