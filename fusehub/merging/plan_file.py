"""A plan as a file, and what of this machine a plan was made from.

    {"format": "fusehub-plan", "version": 1, "recipe": {...}, "models": {"user/expert": {"id": "user/expert@1a2b"}},
     "weights": [...], "files": {"expert/config.json": "<sha256>"}, "planned": {...}}

The file has the recipe as it was given, the commit that each repo was at, hashes of all that lies in folders, and what
was planned. It is read by planning the same again: what is gone, was written since, or would be done otherwise is
refused by name. No token is in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, PositiveInt, ValidationError

from fusehub.errors import BadFile, NotFound, Outdated
from fusehub.hub.client import fusehub_version
from fusehub.hub.verified import file_hash
from fusehub.merging.report import Tuning
from fusehub.merging.sources.source import StatisticsSource
from fusehub.models.ref import ModelRef
from fusehub.models.side_files import legal_files
from fusehub.utils.folders.places import require_ordinary
from fusehub.utils.folders.unfinished import write_text
from fusehub.utils.untrusted.documents import read_object

FORMAT: Final = "fusehub-plan"
VERSION: Final = 1
_AGAIN = "Plan the merge again."
# What must come out as it was planned; findings, notes and the cost may be told otherwise.
DECISIVE = ("method", "options", "model_options", "models", "base", "files", "heads", "labels", "statistics")


@dataclass(frozen=True)
class LocalFile:
    """A file of this machine as it was when a plan was made: its size in bytes, when it was written, its inode."""

    path: Path
    size: int
    written: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> LocalFile:
        stat = path.stat()
        return cls(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


def local_files(refs: Iterable[ModelRef], statistics: Iterable[StatisticsSource]) -> tuple[LocalFile, ...]:
    """The files of folders that a merge of these models reads. Those of repos are named by their commit."""
    paths = [path for ref in refs for path in _files_of(ref)]
    paths += [path for found in statistics for path in found.files()]
    return tuple(map(LocalFile.of, dict.fromkeys(paths)))


def _files_of(ref: ModelRef) -> list[Path]:
    if ref.parts:
        return [*_files_of(ref.parts.base), *_inside(ref.parts.adapter, ref.adapter_files())]
    return _inside(ref, ref.weight_files())


def _inside(ref: ModelRef, weights: Sequence[str]) -> list[Path]:
    if ref.repo_id is not None:
        return []
    assert ref.folder is not None  # What is in no repo is in a folder.
    wanted = {"config.json", "README.md", *weights, *ref.side_files(), *legal_files(ref.files)}
    return [ref.folder / name for name in ref.files if name in wanted or name.endswith(".index.json")]


def require_unwritten(files: Iterable[LocalFile]) -> None:
    """Raises `Outdated` naming the first that is gone, or was written since its plan was made."""
    for file in files:
        if not file.path.is_file():
            raise Outdated(f"{file.path} is gone since the plan was made.", _AGAIN)
        if LocalFile.of(file.path) != file:
            raise Outdated(f"{file.path} was written after the plan was made.", _AGAIN)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Pinned(_Strict):
    """What a model's name in the recipe stood for: the commit or the folder, and how tables call it."""

    id: str
    name: str


class _Allowed(_Strict):
    unrelated: bool
    other_weights: bool
    ignored: list[str]


class _Tensor(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    name: str
    shape: list[int]
    dtype: str
    action: str


def _tuning(said: dict[str, Any]) -> dict[str, Any]:
    """What a report says of a search, checked, and as it stands: in the same order."""
    Tuning.model_validate(said)
    return said


class _Planned(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    notes: list[str]
    tuning: Annotated[dict[str, Any], AfterValidator(_tuning)] | None
    tensors: list[_Tensor]


class PlanRecord(_Strict):
    """What the file of a plan says."""

    format: Literal["fusehub-plan"] = FORMAT
    version: Literal[1] = VERSION
    fusehub: str
    recipe: dict[str, Any]
    models: dict[str, Pinned]
    allowed: _Allowed
    max_shard_size: PositiveInt
    weights: list[dict[str, str]]
    files: dict[str, str]
    planned: _Planned

    @classmethod
    def of(
        cls,
        recipe: Mapping[str, Any],
        models: Mapping[str, ModelRef],
        allowed: Mapping[str, Any],
        max_shard_size: int,
        hashes: Sequence[Mapping[str, str]],
        files: Sequence[LocalFile],
        planned: Mapping[str, Any],
    ) -> PlanRecord:
        """The record of a plan. Raises `Outdated` where a file was written since it was made."""
        require_unwritten(files)
        return cls.model_validate(
            {
                "fusehub": fusehub_version(),
                "recipe": recipe,
                "models": {said: {"id": ref.id, "name": ref.name} for said, ref in models.items()},
                "allowed": allowed,
                "max_shard_size": max_shard_size,
                "weights": [dict(own) for own in hashes],
                "files": {str(file.path): file_hash(file.path) for file in files},
                "planned": planned,
            }
        )

    @classmethod
    def read(cls, path: Path) -> PlanRecord:
        """The record in a file. Raises `NotFound` where there is none, and `BadFile` for a file of another kind."""
        require_ordinary(path)
        if not path.is_file():
            raise NotFound(f"There is no plan {path}.", "Make one: fusehub merge MODEL MODEL... --save-plan PLAN.json")
        content = read_object(path, str(path))
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "all of it"
            raise BadFile(f"{path} is no plan that this FuseHub reads: {where}: {first['msg']}.", _AGAIN) from error

    def write(self, path: Path) -> None:
        """Writes the record as JSON. Raises `BadFile` or `NoSpace` where it cannot be."""
        write_text(path, json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n")

    def require_files(self) -> None:
        """Raises `Outdated` naming the first file of a folder that is gone, or holds something else now."""
        for name, said in self.files.items():
            path = Path(name)
            if not path.is_file():
                raise Outdated(f"{name} is gone since the plan was made.", _AGAIN)
            if file_hash(path) != said:
                raise Outdated(f"{name} is not what it was when the plan was made.", _AGAIN)

    def require_same(self, planned: Mapping[str, Any], hashes: Sequence[Mapping[str, str]]) -> None:
        """Raises `Outdated` naming the first thing that would be done otherwise than it was planned."""
        before, now = self.planned.model_dump(mode="json"), json.loads(json.dumps(planned))
        for found, said, name in zip(hashes, self.weights, now["models"], strict=True):
            if dict(found) != said:
                raise Outdated(f"{name} has other weights than when the plan was made.", _AGAIN)
        tensors = {tensor["name"]: tensor for tensor in before["tensors"]}
        others = [tensor for tensor in now["tensors"] if tensors.pop(tensor["name"], None) != tensor]
        for name in [tensor["name"] for tensor in others] + list(tensors):
            raise self._otherwise(f"the tensor {name}")
        for key in DECISIVE:
            if before.get(key) != now[key]:
                raise self._otherwise(f"{key} ({before.get(key)})")

    def _otherwise(self, what: str) -> Outdated:
        by = "" if self.fusehub == fusehub_version() else f" by FuseHub {self.fusehub}"
        return Outdated(f"{what[0].upper()}{what[1:]} would not be what was planned{by}.", _AGAIN)
