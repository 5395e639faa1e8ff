"""Tensors written group by group into one safetensors file, or into shards with an index where they are large.

    write_shards(folder, "statistics", groups, make, {"fusehub": text}, 5 * 2**30)

Shapes are known before anything is computed, so the header goes first and each group's tensors to their place in
the file: memory holds one group at a time. A group is never spread over two files. Every shard carries the same
metadata, which tells shards that do not belong together.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fusehub.errors import BadFile, BadStatistics
from fusehub.models.checkpoints.checkpoint import Shard, index_of, plan_shards, safetensors_header
from fusehub.models.tensor_files import SafetensorsFile, TensorInfo
from fusehub.statistics.metadata import REMAKE
from fusehub.utils.untrusted.documents import read_object

if TYPE_CHECKING:
    from torch import Tensor

MAX_SHARD_SIZE = 5 * 2**30
_PART = re.compile(r"(?:statistics|fisher)(?:-\d{5}-of-\d{5})?\.(?:safetensors(?:\.index\.json)?|json)")


def index_name(stem: str) -> str:
    """`statistics` -> `statistics.safetensors.index.json`."""
    return f"{stem}.safetensors.index.json"


def write_shards(
    folder: Path,
    stem: str,
    groups: Sequence[Mapping[str, TensorInfo]],
    make: Callable[[int], Mapping[str, Tensor]],
    metadata: Mapping[str, str],
    beside: Mapping[str, str],
    max_shard_size: int = MAX_SHARD_SIZE,
) -> Path:
    """Writes the tensors that `make(i)` gives for each of `groups`, and the texts `beside` (by file name), into a
    folder that is not finished yet.

    The path of the file that a reader opens: `<stem>.safetensors`, or the index of its shards.
    """
    shards, members = _planned(stem, groups, max_shard_size)
    texts = dict(beside)
    if len(shards) > 1:
        texts[index_name(stem)] = json.dumps(index_of(shards), indent=2) + "\n"
    for shard, numbers in zip(shards, members, strict=True):
        with (folder / shard.filename).open("wb") as file:
            header = safetensors_header(shard, metadata)
            file.write(header)
            file.truncate(len(header) + shard.nbytes)
            places = _places(shard, len(header))
            for number in numbers:
                _put(file, make(number), shard, places)
            file.flush()
            os.fsync(file.fileno())
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder / (index_name(stem) if len(shards) > 1 else shards[0].filename)


def is_part(name: str) -> bool:
    """Whether a file is one of statistics: the JSON, or tensors in one file or in shards with their index."""
    return _PART.fullmatch(name) is not None


def shards_in(index: Path) -> list[str]:
    """Names of the shards that an index lists. Raises `BadStatistics` where it is no index."""
    try:
        names = sorted(set(read_object(index, index.parent.name)["weight_map"].values()))
    except (BadFile, KeyError, TypeError, AttributeError) as error:
        raise BadStatistics(f"{index.name} is no index of shards ({type(error).__name__}).", REMAKE) from error
    # A name with a folder in it could lead anywhere on the disk.
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise BadStatistics(f"{index.name} lists files that are not beside it.", REMAKE)
    return names


class ShardedFile:
    """A safetensors file, or all the shards of an index, open for reading as if they were one."""

    def __init__(self, path: Path, origin: str) -> None:
        self.paths = [path.with_name(name) for name in shards_in(path)] if path.suffix == ".json" else [path]
        self._files: list[SafetensorsFile] = []
        self._of: dict[str, SafetensorsFile] = {}
        self.tensors: dict[str, TensorInfo] = {}
        try:
            for shard in self.paths:
                if not shard.is_file():
                    raise BadStatistics(f"{origin}: {shard.name} is missing.", "Download or copy all the shards.")
                file = SafetensorsFile(shard, origin)
                self._files.append(file)
                self.tensors |= file.tensors
                self._of |= dict.fromkeys(file.tensors, file)
            self.metadata = self._files[0].metadata
            for file, shard in zip(self._files, self.paths, strict=True):
                if file.metadata != self.metadata:
                    raise BadStatistics(
                        f"{origin}: {shard.name} and {self.paths[0].name} belong to different statistics.",
                        "Download or copy all the shards again.",
                    )
        except BadFile as error:
            self.close()
            raise BadStatistics(error.what, REMAKE) from error
        except BadStatistics:
            self.close()
            raise

    @property
    def nbytes(self) -> int:
        """Bytes of all the files."""
        return sum(path.stat().st_size for path in self.paths)

    def read(self, name: str) -> Tensor:
        """The tensor called `name`."""
        return self._of[name].read(name, 0, None)

    def read_ahead(self, name: str) -> None:
        """Has the system read the tensor called `name`, where it can."""
        self._of[name].read_ahead(name)

    def close(self) -> None:
        """Closes the files."""
        for file in self._files:
            file.close()


def _planned(
    stem: str, groups: Sequence[Mapping[str, TensorInfo]], max_shard_size: int
) -> tuple[list[Shard], list[list[int]]]:
    """The files, and which groups go into each."""
    members: list[list[int]] = [[]]
    size = 0
    for number, group in enumerate(groups):
        nbytes = sum(info.nbytes for info in group.values())
        if members[-1] and size + nbytes > max_shard_size:
            members.append([])
            size = 0
        members[-1].append(number)
        size += nbytes
    shards = []
    for number, own in enumerate(members, 1):
        tensors = {name: info for index in own for name, info in groups[index].items()}
        [shard] = plan_shards(tensors, sum(info.nbytes for info in tensors.values()), stem)
        if len(members) > 1:
            shard = replace(shard, filename=f"{stem}-{number:05d}-of-{len(members):05d}.safetensors")
        shards.append(shard)
    return shards, members


def _places(shard: Shard, start: int) -> dict[str, int]:
    places = {}
    for name, info in shard.tensors.items():
        places[name] = start
        start += info.nbytes
    return places


def _put(file: BinaryIO, tensors: Mapping[str, Tensor], shard: Shard, places: Mapping[str, int]) -> None:
    import torch

    for name, tensor in tensors.items():
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        if len(data) != shard.tensors[name].nbytes:
            raise ValueError(f"{name} has {len(data)} bytes, {shard.tensors[name].nbytes} were planned")
        file.seek(places[name])
        file.write(data.data)
