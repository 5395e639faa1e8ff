"""What safetensors files at the Hub hold, told from their headers by ranged reads: no weights are downloaded."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from fusehub.errors import BadFile, NotFound
from fusehub.hub.answers import Answers, Question
from fusehub.hub.client import client, hub_errors
from fusehub.models.ref import ModelRef
from fusehub.models.tensor_files import DTYPES, SafetensorsFile, TensorInfo, require_few, require_room
from fusehub.utils.side_by_side import side_by_side

# A file at a commit never changes. Who may read it was settled when its model was resolved.
_known = Answers(most=512)


def remote_header(ref: ModelRef, filename: str) -> dict[str, TensorInfo]:
    """Names, shapes and dtypes of the tensors in one file of a model at the Hub, at its commit.

    Raises `BadFile` where it is broken, and `NotFound` or `AccessDenied` as the Hub says.
    """
    if filename not in ref.files:
        raise NotFound(f"{ref.name} has no file {filename}.", "Is the upload complete?")
    if ref.access.is_offline:
        with contextlib.closing(SafetensorsFile(ref.path(filename), ref.name)) as file:
            return dict(file.tensors)
    assert ref.repo_id is not None and ref.commit is not None  # What is at the Hub is in a repo.
    from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

    question = Question(ref.inside(filename), ref.repo_id, ref.commit)
    try:
        with hub_errors(ref.name):
            return dict(_known.once(question, lambda: _of_cached(ref, filename) or _asked(ref, filename)))
    except (NotASafetensorsRepoError, SafetensorsParsingError) as error:
        raise BadFile(
            f"{ref.name}: the header of {filename} is broken ({error}).", "Is the upload complete?"
        ) from error


def remote_headers(ref: ModelRef, filenames: Sequence[str]) -> dict[str, TensorInfo]:
    """The same of several files at once."""
    found = side_by_side(lambda name: remote_header(ref, name), filenames)
    require_few(sum(map(len, found)), ref.name)
    return {name: info for tensors in found for name, info in tensors.items()}


def _of_cached(ref: ModelRef, filename: str) -> tuple[tuple[str, TensorInfo], ...] | None:
    """The header of a file that was downloaded already, which is not held to its hash for that, as it is whole when
    weights are read; None where it was not, or is broken."""
    from huggingface_hub import try_to_load_from_cache

    assert ref.repo_id is not None
    cached = try_to_load_from_cache(ref.repo_id, ref.inside(filename), ref.access.cache, ref.commit)
    if not isinstance(cached, str):
        return None
    try:
        with contextlib.closing(SafetensorsFile(Path(cached), ref.name)) as file:
            return tuple(file.tensors.items())
    except BadFile:
        return None


def _asked(ref: ModelRef, filename: str) -> tuple[tuple[str, TensorInfo], ...]:
    """The header as the Hub sends it."""
    from huggingface_hub.errors import SafetensorsParsingError

    assert ref.repo_id is not None
    repo_id, path, size = ref.repo_id, ref.inside(filename), ref.files[filename].size
    found = client(ref.access.token).parse_safetensors_file_metadata(repo_id, path, revision=ref.commit)
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
    _known.forget()
