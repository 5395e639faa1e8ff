"""A merge that was killed goes on: files of weights that it had completed are held to their hashes, and kept.

    with output(target, record=RECORD) as folder:
        begun = Begun.of(folder, plan, target, "cpu")    # what another run of the same left; all else is removed
        begun.files                              # those that need not be made again
        begun.complete("model-00001-of-00003.safetensors", File(sha256, notes, precision))
        begun.close()

That two runs do the same is told by all that decides about the bytes: the recipe with every model at its commit, the
hashes of weights, files of folders, what is done with each tensor, the kind of device, and the versions of FuseHub and
torch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fusehub.errors import BadFile, OutputExists
from fusehub.hub.client import fusehub_version
from fusehub.hub.verified import file_hash
from fusehub.merging.plan import Plan
from fusehub.merging.plan_file import DECISIVE
from fusehub.methods import Note
from fusehub.utils.folders.unfinished import write_text
from fusehub.utils.logging import get_logger
from fusehub.utils.untrusted.documents import read_object

RECORD: Final = "begun.json"

logger = get_logger(__name__)


@dataclass(frozen=True)
class File:
    """A complete file of weights: its sha256, and what was said of the layers in it (see `MergeResult`)."""

    sha256: str
    notes: Mapping[str, tuple[Note, ...]] = field(default_factory=dict)
    precision: Mapping[str, str] = field(default_factory=dict)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Note(_Strict):
    kind: str
    text: str


class _File(_Strict):
    sha256: str
    notes: dict[str, list[_Note]]
    precision: dict[str, str]


class Record(_Strict):
    """What the file says: the plan that was begun, what it is in words, and what of it is complete."""

    format: Literal["fusehub-begun"] = "fusehub-begun"
    plan: str
    what: str
    files: dict[str, _File] = {}


class Begun:
    """The files of weights in `folder` that are complete; `what` says in words which merge they are of."""

    def __init__(self, folder: Path, record: Record) -> None:
        self._folder, self.record = folder, record

    @classmethod
    def of(cls, folder: Path, plan: Plan, target: Path, device: str) -> Begun:
        """What a run of the same plan, killed before it was done, left in `folder`; everything else in it is removed.

        Raises `OutputExists` where files of another merge are complete there: they may be hours of work.
        """
        mine = Record(plan=fingerprint(plan, device), what=_words(plan))
        found = _read(folder)
        if found is not None and found.files and found.plan != mine.plan:
            raise OutputExists(
                f"{folder} has {len(found.files)} complete files of another merge, which was stopped: {found.what}.",
                f"Start that one again to go on with it, remove {folder}, or merge into another folder than {target}.",
            )
        # Layers that are solved before anything is written would be solved again all the same.
        if found is not None and not plan.method.needs_data:
            mine.files.update({name: own for name, own in found.files.items() if _is_whole(folder / name, own)})
        begun = cls(folder, mine)
        if found is not None:
            begun._write()  # From here on it is this run's.
        _remove_others(folder, {folder / name for name in (RECORD, *mine.files)})
        if mine.files:
            logger.info("Going on with %s: %d files of weights are complete.", target, len(mine.files))
        return begun

    @property
    def nbytes(self) -> int:
        """Bytes of the files that are there."""
        return sum((self._folder / name).stat().st_size for name in self.record.files)

    @property
    def files(self) -> dict[str, File]:
        """The files that are complete, by their paths in the folder."""
        return {
            name: File(
                own.sha256,
                {layer: tuple(Note(**note.model_dump()) for note in said) for layer, said in own.notes.items()},
                own.precision,
            )
            for name, own in self.record.files.items()
        }

    def complete(self, name: str, file: File) -> None:
        """Keeps for a later run that this file is complete."""
        self.record.files[name] = _File.model_validate(
            {
                "sha256": file.sha256,
                "notes": {layer: [asdict(note) for note in said] for layer, said in file.notes.items()},
                "precision": dict(file.precision),
            }
        )
        self._write()

    def close(self) -> None:
        """All are complete: nothing of this belongs to the result."""
        (self._folder / RECORD).unlink(missing_ok=True)

    def _write(self) -> None:
        write_text(self._folder / RECORD, self.record.model_dump_json())


def _read(folder: Path) -> Record | None:
    """What the record in a folder says; None where there is none that could be gone on with."""
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = Record.model_validate(read_object(path, str(path)))
    except (BadFile, ValidationError):
        return None
    # Whoever wrote it, it leads nowhere else.
    return record if all((folder / name).resolve().is_relative_to(folder.resolve()) for name in record.files) else None


def _is_whole(path: Path, file: _File) -> bool:
    return path.is_file() and file_hash(path) == file.sha256


def _remove_others(folder: Path, kept: set[Path]) -> None:
    """Removes all but these files; folders stay where one of them is inside."""
    for path in folder.iterdir():
        if path in kept:
            continue
        if path.is_dir() and not path.is_symlink():
            if any(own.is_relative_to(path) for own in kept):
                _remove_others(path, kept)
            else:
                shutil.rmtree(path)
        else:
            path.unlink()


def _words(plan: Plan) -> str:
    return f"{plan.method.name} of {', '.join(ref.id for ref in plan.experts)}"


def fingerprint(plan: Plan, device: str) -> str:
    """What tells whether two plans give the same bytes, carried out on such a device."""
    told = plan.to_dict()
    decides: dict[str, Any] = {
        "fusehub": fusehub_version(),
        "torch": version("torch"),
        "device": device.partition(":")[0],
        "recipe": plan.recipe.to_dict(),
        "planned": {key: told[key] for key in (*DECISIVE, "tensors")},
        "max_shard_size": plan.max_shard_size,
        "weights": [dict(own) for own in plan.hashes],
        "files": [[str(file.path), file.size, file.written, file.inode] for file in plan.files],
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
