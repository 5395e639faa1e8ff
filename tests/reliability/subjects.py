"""What is killed: commands whose results can be told absent, complete or half, and what else they may leave behind.

subject = Folder("merge", warm, out, ["merge", *models], reference)
subject.clear()                    # as if nothing had ever run
subject.outcome()                  # "absent", "complete", or what is wrong
subject.left()                     # what should not be there after a run has ended well
"""

from __future__ import annotations

import hashlib
import json
import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from tests.reliability.processes import Process, Warm
from tests.unit.experts import files_of

ABSENT, COMPLETE = "absent", "complete"
READING, COMPUTING, WRITING, AFTER = "reading", "computing", "writing", "afterwards"
MOMENTS = (READING, COMPUTING, WRITING, AFTER)


@dataclass
class Subject(ABC):
    """A command, as `run` starts it, with the Hub that it works against."""

    name: str
    warm: Warm
    arguments: list[object]
    reference: object = None
    """What a complete result is, of a run that nobody disturbed."""

    def run(self, *, learn: bool = False) -> Process:
        return self.warm.run(*self.arguments, learn=learn)

    def clear(self) -> None:
        """Removes the result and what runs left of it, and empties the Hub's cache, so that it is downloaded again."""
        shutil.rmtree(self.warm.cache, ignore_errors=True)
        for path in self.warm.temporary.iterdir():
            shutil.rmtree(path)
        self.remove_result()

    @abstractmethod
    def remove_result(self) -> None:
        """Removes the result, and only that."""

    @abstractmethod
    def found(self) -> object:
        """The result that is there, to be compared with the `reference`; None where there is none."""

    @abstractmethod
    def is_written(self) -> bool:
        """Whether bytes of the result are on the disk, under whatever name."""

    def outcome(self) -> str:
        found = self.found()
        if found is None:
            return ABSENT
        return COMPLETE if found == self.reference else f"half: {found}"

    def moment(self) -> str:
        """What a process that was just killed had been doing."""
        if self.outcome() != ABSENT:
            return AFTER
        if self.is_written():
            return WRITING
        return READING if self._incomplete() or not self._cached() else COMPUTING

    def left(self) -> list[str]:
        """Temporary files of whatever kind: of this machine's temporary folder, of the cache, of the work on hand."""
        work = self.warm.cache / "fusehub" / "collecting"
        kept = list(work.iterdir()) if work.exists() else []
        return [str(path) for path in [*self.warm.temporary.iterdir(), *self._incomplete(), *kept]]

    def _cached(self) -> bool:
        return any(self.warm.cache.rglob("*.safetensors"))

    def _incomplete(self) -> list[Path]:
        return list(self.warm.cache.rglob("*.incomplete"))


@dataclass
class Folder(Subject):
    """A command whose result is a folder, the last of its arguments."""

    @property
    def out(self) -> Path:
        return Path(str(self.arguments[-1]))

    def remove_result(self) -> None:
        shutil.rmtree(self.out.parent)
        self.out.parent.mkdir()

    def found(self) -> dict[str, str] | None:
        return files_of(self.out) if self.out.exists() else None

    def is_written(self) -> bool:
        # The same at every version: a hidden folder beside the result, or hidden files in it.
        try:
            return any(path.is_file() for path in self.out.parent.glob(f".{self.out.name}.*partial/**/*")) or any(
                self.out.glob(".*.partial")
            )
        except FileNotFoundError:  # The command has just removed the folder that is looked through.
            return False

    def left(self) -> list[str]:
        beside = [str(path) for path in self.out.parent.iterdir() if path != self.out]
        return super().left() + beside


@dataclass
class Repo(Subject):
    """A command whose result is a repo of the local Hub in `root`, the last of its arguments.

    The repo is looked at on the disk, which can be done whether the Hub runs or not.
    """

    root: Path = field(default_factory=Path)

    @property
    def folder(self) -> Path:
        return self.root / "repos" / "models" / "ann" / str(self.arguments[-1])

    def remove_result(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def found(self) -> dict[str, str] | None:
        """The files of the newest commit with their hashes; None for a repo that nothing was put into."""
        if not (self.folder / "repo.json").exists():
            return None
        head = json.loads((self.folder / "repo.json").read_text())["heads"]["main"]
        files = json.loads((self.folder / "commits" / f"{head}.json").read_text())["files"]
        del files[".gitattributes"]
        return {path: entry.get("lfs") or entry["oid"] for path, entry in files.items()} or None

    def is_written(self) -> bool:
        return self.folder.exists() or any((self.root / "tmp").iterdir())

    def moment(self) -> str:
        found = super().moment()
        return COMPUTING if found == READING else found

    def left(self) -> list[str]:
        return super().left() + [str(path) for path in (self.root / "tmp").iterdir()] + broken_blobs(self.root)


def broken_blobs(root: Path) -> list[str]:
    """Files of a local Hub's store that do not have the bytes of their names."""
    broken = []
    for path in root.glob("repos/*/*/*/blobs/*"):
        content = path.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        if path.name not in (git, hashlib.sha256(content).hexdigest()):
            broken.append(str(path))
    return broken
