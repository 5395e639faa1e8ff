"""Folders and files that results are written into: whether they can be, found out first, and said in words.

require_place(Path("out"))           # raises `BadFile` or `NoSpace`; leaves nothing behind
with place_errors(Path("out")):
    ...                              # what goes wrong with that place is a FuseHubError
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fusehub.errors import BadFile, FuseHubError, NoSpace

_FULL = (errno.ENOSPC, errno.EDQUOT)
_OF_A_PATH = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
    *(errno.ELOOP, errno.EINVAL),
)


def described(error: OSError, place: Path | None = None) -> FuseHubError | None:
    """What the user can mend about a path; None for an `OSError` that is a bug, or somebody else's.

    At a `place` that is written into, something that is not there is of that kind too: some folders take no files.
    """
    if error.errno in _FULL:
        return NoSpace(f"The disk takes no more ({error.strerror}).", "Make room, or name another disk.")
    kinds = _OF_A_PATH if place is None else (*_OF_A_PATH, errno.ENOENT)
    elsewhere = place is not None and not str(error.filename).startswith(str(place))
    if error.filename is None or elsewhere or error.errno not in kinds:
        return None
    # mkdir finds that a file "exists" where a folder is wanted.
    said = os.strerror(errno.ENOTDIR) if error.errno == errno.EEXIST else error.strerror
    return BadFile(f"{place or error.filename}: {said}.", "Name a place that can be used.")


@contextmanager
def place_errors(place: Path | None = None) -> Iterator[None]:
    """Turns `OSError`s that the user can mend into `BadFile` and `NoSpace`."""
    try:
        yield
    except OSError as error:
        found = described(error, place)
        if found is None:
            raise
        raise found from error


def require_place(folder: Path) -> None:
    """Raises `BadFile` or `NoSpace` where `folder` cannot be made, or takes no files. Leaves no folder behind."""
    with made_folder(folder) as made:
        for path in made:
            path.rmdir()


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
            folder.mkdir(parents=True, exist_ok=True)
            # As root, and on some file systems, nothing but trying tells whether a folder takes files.
            tempfile.TemporaryFile(dir=folder).close()
        with place_errors(folder):
            yield made
    except BaseException:
        for path in made:
            # Unlike the path's own, this asks nothing of a name that is too long.
            if os.path.isdir(path) and not any(path.iterdir()):
                path.rmdir()
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a file, finished or not at all, into a folder that is made if it must be."""
    with made_folder(path.parent), place_errors(path):
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
