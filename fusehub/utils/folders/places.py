"""Folders and files that results are written into: whether they can be, found out first, and said in words.

require_place(Path("out"))           # raises `BadFile` or `NoSpace`; leaves nothing behind
require_room([Room("The merged model", 10**9, Path("out"), "Make room there.")])
with place_errors(Path("out")):
    ...                              # what goes wrong with that place is a FuseHubError
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fusehub.errors import BadFile, FuseHubError, NoSpace
from fusehub.utils.formats import size

# A file can also be too large for its file system, or for what its user may have.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# So often a folder is made that another process removes in that moment.
_TRIES = 100
_OF_A_PATH = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
    *(errno.ELOOP, errno.EINVAL),
)


def described(
    error: OSError, place: Path | None = None, *, called: Path | None = None, fix: str | None = None
) -> FuseHubError | None:
    """What the user can mend about a path; None for an `OSError` that is a bug, or somebody else's.

    At a `place` that is written into, something that is not there is of that kind too: some folders take no files.
    The error says `called` for it, and how to `fix` it, where that is not to name another place.
    """
    # A file that is written to has no name in the error, one that could not even be opened has.
    elsewhere = place is not None and error.filename is not None and not is_within(str(error.filename), place)
    shown = error.filename if place is None or elsewhere else called or place
    if error.errno in _FULL:
        at = f"The disk of {shown}" if shown else "The disk"
        room = fix if fix and not elsewhere else "Make room there, or name a place on another disk."
        full = NoSpace(f"{at} takes no more ({error.strerror}).", room)
        full.place = Path(shown) if shown else None
        return full
    kinds = _OF_A_PATH if place is None else (*_OF_A_PATH, errno.ENOENT)
    if error.filename is None or elsewhere or error.errno not in kinds:
        return None
    # mkdir finds that a file "exists" where a folder is wanted.
    said = os.strerror(errno.ENOTDIR) if error.errno == errno.EEXIST else error.strerror
    return BadFile(f"{shown}: {said}.", fix or "Name a place that can be used.")


def is_within(path: str | Path, place: Path) -> bool:
    """Whether `path` is `place`, or lies in it."""
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(place))


@contextmanager
def place_errors(place: Path | None = None, *, called: Path | None = None, fix: str | None = None) -> Iterator[None]:
    """Turns `OSError`s that the user can mend into `BadFile` and `NoSpace` (see `described`)."""
    try:
        yield
    except OSError as error:
        found = described(error, place, called=called, fix=fix)
        if found is None:
            raise
        raise found from error


def require_place(folder: Path) -> None:
    """Raises `BadFile` or `NoSpace` where `folder` cannot be made, or takes no files. Leaves no folder behind."""
    with made_folder(folder) as made:
        for path in made:
            # Another process of the same work, which tries the same, has removed it or is about to.
            with suppress(OSError):
                path.rmdir()


@dataclass(frozen=True)
class Room:
    """Bytes that are to be written to a place: of what, and what to do where there is no room for them."""

    what: str
    """As a sentence begins with it: `The merged model`."""
    nbytes: int
    place: Path
    fix: str


def require_room(wanted: Iterable[Room]) -> None:
    """Raises `NoSpace` where a disk has less left than all that is to be written to it, before any of it is.

    Places that are on one file system share what it has left.
    """
    disks: dict[int, list[Room]] = {}
    for room in wanted:
        if room.nbytes > 0:
            disks.setdefault(folder_above(room.place).stat().st_dev, []).append(room)
    lacking = [rooms for rooms in disks.values() if sum(room.nbytes for room in rooms) > _free(rooms[0].place)]
    if not lacking:
        return
    told = [
        " ".join(f"{room.what} needs {size(room.nbytes)} at {room.place}." for room in rooms)
        + (" It is one disk, which" if len(rooms) > 1 else " The disk there")
        + f" has {size(_free(rooms[0].place))} left."
        for rooms in lacking
    ]
    fixes = dict.fromkeys(room.fix for rooms in lacking for room in rooms)
    error = NoSpace("\n".join(told), " ".join(fixes))
    error.place = lacking[0][0].place
    raise error


def folder_above(place: Path) -> Path:
    """The folder that is there already, at `place` or above it."""
    place = Path(os.path.abspath(place))
    return next(folder for folder in (place, *place.parents) if folder.exists())


def _free(place: Path) -> int:
    return shutil.disk_usage(folder_above(place)).free


@contextmanager
def made_folder(folder: Path) -> Iterator[list[Path]]:
    """`folder` for what is written into it within: made if it must be, and removed again where that fails.

    Gives the folders that were made, the innermost first.
    """
    with place_errors(folder):
        # Of new/../out, neither is made before the other is gone.
        folder = Path(os.path.abspath(folder))
        made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with place_errors(made[-1].parent if made else folder):
            _make_and_try(folder)
        yield made
    except BaseException:
        for path in made:
            # Unlike the path's own, this asks nothing of a name that is too long.
            if os.path.isdir(path):
                with suppress(OSError):  # Something is in it.
                    path.rmdir()
        raise


def _make_and_try(folder: Path) -> None:
    """As root, and on some file systems, nothing but trying tells whether a folder takes files."""
    for left in reversed(range(_TRIES)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except (FileNotFoundError, FileExistsError):
            # It takes none, is none, or another process that tries the same has just removed it.
            if not left or (os.path.lexists(folder) and not folder.is_dir()):
                raise
        else:
            return


def special(path: Path) -> str | None:
    """What there is at `path` where that is neither a file nor a folder: "a pipe", "a device", "a socket"."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # Nothing, or a name that nothing can have.
        return None
    kinds = {stat.S_ISFIFO: "a pipe", stat.S_ISCHR: "a device", stat.S_ISBLK: "a device", stat.S_ISSOCK: "a socket"}
    return next((kind for is_kind, kind in kinds.items() if is_kind(mode)), None)


def require_ordinary(path: Path) -> None:
    """Raises `BadFile` for a pipe, a device or a socket: what reads one may wait for ever, or never come to its end,
    and what is put in its place takes it from the system."""
    kind = special(path)
    if kind:
        raise BadFile(f"{path} is {kind}, and not a file.", "Name a file: what comes from elsewhere is saved first.")
