"""Folders that one process has for itself, and that tell the next one whether it still lives.

    with held(folder) as own:                    # raises `Held` where another has it
        ...
    with scratch() as folder:                    # a temporary folder; those of killed processes are removed
        ...

The folder itself is locked (flock), and the system takes the lock back with the process: that tells what is made now
from what a killed run left, as neither an age nor the number of a process does. Windows and some network file systems
have no such lock: there nobody is kept out, and nothing that is found is removed.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fusehub.errors import NoSpace
from fusehub.utils.folders.places import is_within, place_errors
from fusehub.utils.interrupts import cleared

SCRATCH = "fusehub-scratch-"
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF, errno.EINVAL)


class Held(Exception):
    """Another process, or another thread, has the folder."""


@dataclass
class Own:
    """A folder that this process has until it is released; without a `lock`, others may have it too."""

    path: Path
    lock: int | None
    is_new: bool
    """Whether this process has made it."""
    is_released: bool = False
    stays: Callable[[], bool] = lambda: False
    """Whether what is in it is not this process's to remove."""

    @property
    def is_there(self) -> bool:
        """Whether the folder is this process's, and has not been given another name."""
        return not self.is_released and (self.is_new if self.lock is None else _is_at(self.lock, self.path))

    def remove(self) -> None:
        """Removes the folder, unless it stays or has another name by now, and lets go of it."""
        if self.is_there and not self.stays():
            shutil.rmtree(self.path, ignore_errors=True)
        self.release()

    def remove_empty(self) -> None:
        """Removes the folder if nothing is in it, and lets go of it."""
        if self.is_there:
            # What is kept in it is for the next run.
            with suppress(OSError):
                self.path.rmdir()
        self.release()

    def release(self) -> None:
        """Lets go of the folder; also of one that was let go before."""
        if self.lock is not None and not self.is_released:
            os.close(self.lock)
        self.is_released = True


def empty(folder: Path) -> None:
    """Removes what is in it."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def hold(folder: Path) -> Own:
    """`folder`, made if it is not there, held until it is released. Raises `Held` where another has it."""
    while True:
        try:
            folder.mkdir()
            is_new = True
        except FileExistsError:
            if not folder.is_dir():
                raise
            is_new = False
        try:
            lock = try_lock(folder)
        except FileNotFoundError:
            continue  # Removed in this moment.
        if lock is None or _is_at(lock, folder):
            return Own(folder, lock, is_new)
        os.close(lock)  # It was removed, or given another name, before it was locked.


@contextmanager
def held(folder: Path, *, keep: bool = False) -> Iterator[Own]:
    """The same for a block, after which it is removed; with `keep` only if nothing is in it."""
    end: Callable[[Own], None] = Own.remove_empty if keep else Own.remove
    with cleared(lambda: hold(folder), end) as own:
        yield own


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in the system's temporary one. Those that killed processes of this user left there are removed.

    Raises `NoSpace` saying that it is the temporary folder that is full.
    """
    home = Path(tempfile.gettempdir())
    fix = "Make room there, or set TMPDIR to a folder on another disk."
    _sweep(home)

    def make() -> Own:
        with place_errors(home, fix=fix):
            return _new_scratch(home)

    # What is wrong elsewhere in the temporary folder is not its own fault.
    with cleared(make, Own.remove) as own, place_errors(own.path, called=home, fix=fix):
        # Not the locked folder itself: a result would take its place, and with it the lock.
        folder = own.path / "scratch"
        folder.mkdir()
        try:
            yield folder
        except NoSpace as error:
            if error.place is None or not is_within(error.place, own.path):
                raise
            raise error.retold(error.what, fix) from error


def _new_scratch(home: Path) -> Own:
    while True:
        path = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=home))
        try:
            lock = try_lock(path)
        except (Held, FileNotFoundError):
            continue  # Whoever sweeps took it for one that was left.
        if lock is None or _is_at(lock, path):
            return Own(path, lock, is_new=True)
        os.close(lock)


def _sweep(home: Path) -> None:
    for path in home.glob(f"{SCRATCH}*"):
        try:
            lock = try_lock(path)
        except (Held, OSError):
            continue
        if lock is not None:
            # What strangers put into a shared folder under such a name is theirs.
            if os.fstat(lock).st_uid == os.geteuid():
                shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def try_lock(path: Path) -> int | None:
    """The descriptor of a folder or file that is locked until it is closed; None where the file system has no locks
    that others heed. Raises `Held` where another has it."""
    if importlib.util.find_spec("fcntl") is None:  # As on Windows.
        return None
    first = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        if not _flock(first):
            raise Held(str(path))
        second = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            # Some file systems grant a lock to everybody.
            is_heeded = not _flock(second)
        finally:
            os.close(second)
    except OSError as error:
        os.close(first)
        if error.errno in _NO_LOCKS:
            return None
        raise
    except Held:
        os.close(first)
        raise
    if is_heeded:
        return first
    os.close(first)
    return None


def _flock(descriptor: int) -> bool:
    """Whether the lock was free."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, folder: Path) -> bool:
    try:
        there = os.stat(folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    own = os.fstat(descriptor)
    return stat.S_ISDIR(there.st_mode) and (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)
