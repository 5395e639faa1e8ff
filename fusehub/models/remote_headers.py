"""What safetensors files at the Hub hold, told from their headers by ranged reads: no weights are downloaded."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from fusehub.errors import BadFile, NotFound
from fusehub.hub.client import client, hub_errors
from fusehub.models.ref import ModelRef
from fusehub.models.tensor_files import DTYPES, SafetensorsFile, TensorInfo, require_few, require_room

# Headers that are asked for at once, of a model in shards.
_READERS = 8


def remote_header(ref: ModelRef, filename: str) -> dict[str, TensorInfo]:
    """Names, shapes and dtypes of the tensors in one file of a model at the Hub, at its commit.

    Raises `BadFile` where it is broken, and `NotFound` or `AccessDenied` as the Hub says.
    """
    if filename not in ref.files:
        raise NotFound(f"{ref.name} has no file {filename}.", "Is the upload complete?")
    if ref.access.is_offline:
        with contextlib.closing(SafetensorsFile(ref.path(filename), ref.name)) as file:
            return dict(file.tensors)
    from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

    try:
        with hub_errors(ref.name):
            size = ref.files[filename].size
            return dict(_header(ref.repo_id, ref.inside(filename), ref.commit, ref.access.token, size))
    except (NotASafetensorsRepoError, SafetensorsParsingError) as error:
        raise BadFile(
            f"{ref.name}: the header of {filename} is broken ({error}).", "Is the upload complete?"
        ) from error


def remote_headers(ref: ModelRef, filenames: Sequence[str]) -> dict[str, TensorInfo]:
    """The same of several files at once."""
    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(lambda name: remote_header(ref, name), filenames))
    require_few(sum(map(len, found)), ref.name)
    return {name: info for tensors in found for name, info in tensors.items()}


# A file at a commit never changes, and a plan asks several times.
@lru_cache(maxsize=512)
def _header(
    repo_id: str, path: str, commit: str, token: bool | str | None, size: int
) -> tuple[tuple[str, TensorInfo], ...]:
    from huggingface_hub.errors import SafetensorsParsingError

    found = client(token).parse_safetensors_file_metadata(repo_id, path, revision=commit)
    tensors = {name: TensorInfo(tensor.dtype, tuple(tensor.shape)) for name, tensor in found.tensors.items()}
    require_few(len(tensors), f"{repo_id}: the header of {path}")
    # These bytes are held to no hash, as only the whole file has one: at least they must agree with each other.
    end = 0
    for name, (start, stop) in sorted(((n, t.data_offsets) for n, t in found.tensors.items()), key=lambda one: one[1]):
        info = tensors[name]
        if start != end or (info.dtype in DTYPES and stop - start != info.nbytes):
            raise SafetensorsParsingError(f"{name} is said to be at bytes {start} to {stop}")
        end = stop
    if size and end + 8 > size:
        raise SafetensorsParsingError(f"it tells of {end} bytes of tensors, in a file of {size}")
    # A dtype that is not known is told by whoever wants the tensor.
    if size:
        require_room(
            {name: info for name, info in tensors.items() if info.dtype in DTYPES}, size, f"{repo_id}: {path}"
        )
    return tuple(tensors.items())


def forget_headers() -> None:
    """Has every header asked for again."""
    _header.cache_clear()
