"""What blocks gave for batches, in files of one folder: tensors, or tuples and lists of them.

kept = KeptOutputs(folder)
kept.write(3, "9f86d0", output)       # of the fourth stage, for the batch of that key
kept.read(3, "9f86d0", device)
kept.remove(3)
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.errors import BadFile
from fusehub.models.checkpoints.checkpoint import write_tensors
from fusehub.models.tensor_files import SafetensorsFile
from fusehub.utils.folders.places import place_errors

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class KeptOutputs:
    """The files of one process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, stage: int, key: str, value: Any) -> None:
        """Keeps `value`, which `is_plain`; finished or not at all."""
        path = self._path(stage, key)
        tensors = {str(number): tensor for number, tensor in enumerate(tensors_in(value))}
        numbers = iter(tensors)
        partial = path.with_suffix(".partial")
        with place_errors(self._folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                write_tensors(partial, tensors, {"form": json.dumps(_form(value, numbers))})
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)

    def read(self, stage: int, key: str, device: torch.device) -> Any:
        """What was kept, on the device. Raises `BadFile` where it is not there, or not whole."""
        try:
            file = SafetensorsFile(self._path(stage, key), str(self._folder))
        except BadFile as error:
            raise error.retold(error.what, f"Remove {self._folder.parent}, and start again.") from error
        try:
            tensors = {name: file.read(name, 0, None).to(device) for name in file.tensors}
            return _filled(json.loads(file.metadata["form"]), tensors)
        finally:
            file.close()

    def remove(self, stage: int) -> None:
        """Removes what was kept of a stage."""
        shutil.rmtree(self._stage(stage), ignore_errors=True)

    def _stage(self, stage: int) -> Path:
        return self._folder / f"stage-{stage}"

    def _path(self, stage: int, key: str) -> Path:
        return self._stage(stage) / f"{key}.safetensors"


def is_plain(value: Any) -> bool:
    """Whether it is tensors, or tuples and lists of them; None may be among them."""
    import torch

    if type(value) in (tuple, list):
        return all(map(is_plain, value))
    return value is None or isinstance(value, torch.Tensor)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in tuples, lists and mappings, in their order."""
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)


def form_of(value: Any) -> Any:
    """Which tuples and lists its tensors are in: `filled` makes it of others."""
    return _form(value, map(str, itertools.count()))


def filled(form: Any, tensors: Iterable[Tensor]) -> Any:
    """A value of that form, of `tensors`."""
    return _filled(form, {str(number): own for number, own in enumerate(tensors)})


def _form(value: Any, numbers: Iterator[str]) -> Any:
    """The value as JSON has it, with names for its tensors."""
    if isinstance(value, tuple | list):
        return {type(value).__name__: [_form(item, numbers) for item in value]}
    return None if value is None else next(numbers)


def _filled(form: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(form, dict):
        [(kind, items)] = form.items()
        filled = [_filled(item, tensors) for item in items]
        return tuple(filled) if kind == "tuple" else filled
    return None if form is None else tensors[form]
