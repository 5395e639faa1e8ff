"""Results, folders and files: made under a hidden name, and there under their own when they are complete.

    with output(Path("merged")) as folder:       # .merged.partial, which no other run has
        ...                                      # written into; then it is merged/
    write_text(Path("scores.json"), "...")       # by way of .scores.json.partial/scores.json

A run that was killed leaves the hidden folder, which the next one of the same result clears. Two at once are told
apart by a lock (see `fusehub.utils.folders.holding`): the second is refused. A target that must stay what it is (a
link, a disk of its own, a folder with other files) is filled file by file; a list of the moves says how to undo or to
finish them.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fusehub.errors import BadFile, OutputExists
from fusehub.utils.folders.holding import Held, Own, empty, held
from fusehub.utils.folders.places import made_folder, place_errors, require_ordinary

_MOVES = "moves.json"


@contextmanager
def output(
    target: Path,
    *,
    replaces: Callable[[str], bool] | None = None,
    last: str | None = None,
    record: str | None = None,
) -> Iterator[Path]:
    """A folder to write into, which becomes `target` when the block ends well, and is removed when it does not.

    It is empty, unless a run that was killed left a file `record` in it: then it is as it was left, and stays so if
    the block fails before it has written a `record` of its own.

    Raises `OutputExists` where another run is making it, or it is there and not empty: unless `replaces` tells which
    of its files, by their names, belong to an older result. Those go when the new ones come; all others stay. `last`
    is the file without which a folder is no result.
    """
    with place_errors(target):
        others = _others(target)
        if others and replaces is None and not (target / _hidden(target)).is_dir():
            raise _exists(target)
        home = Path(os.path.abspath(target if others or _must_stay(target) else target.parent))
    with made_folder(home), _own(home, target) as own:
        with place_errors(home, called=target):
            _settle(own.path, target, forward=replaces is not None)
            found = _identity(own.path / record) if record else None
            if record and found:
                own.stays = lambda: _identity(own.path / record) == found
            else:
                empty(own.path)
        if replaces is None and _others(target):
            raise _exists(target)
        try:
            with place_errors(own.path, called=target):
                yield own.path
        except Exception as error:
            if own.is_there:
                raise
            raise _taken_away(own.path, target) from error
        if not own.is_there:
            raise _taken_away(own.path, target)
        with place_errors(home, called=target):
            if home != Path(os.path.abspath(target)) and _take_place(own.path, target, replaces is not None):
                return
            names = sorted(os.listdir(own.path), key=lambda name: (name == last, name))
            gone = [name for name in _others(target) if replaces is not None and replaces(name) and name not in names]
            _move(own.path, target, names, gone)


def write_text(path: Path, text: str) -> None:
    """Writes a file, finished or not at all, into a folder that is made if it must be; a link stays one.

    Raises `OutputExists` where another run is writing it, and `BadFile` for what no file can take the place of.
    """
    require_ordinary(path)
    with place_errors(path.parent, called=path):
        path = path.resolve()
    with made_folder(path.parent), _own(path.parent, path) as own, place_errors(path.parent, called=path):
        empty(own.path)
        partial = own.path / path.name
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)


@contextmanager
def _own(home: Path, target: Path) -> Iterator[Own]:
    """The hidden folder in `home` for `target`, with what a killed run left in it."""
    with ExitStack() as stack:
        try:
            with place_errors(home, called=target):
                own = stack.enter_context(held(home / _hidden(target)))
                if own.lock is None:
                    # Nobody can be kept out, and what is found may be somebody's: a folder of another name.
                    own = stack.enter_context(held(home / f".{_name(target)}.{secrets.token_hex(4)}.partial"))
        except Held:
            raise OutputExists(
                f"Another run is writing {target} at this moment.", "Wait until it is done, or name another place."
            ) from None
        yield own


def _identity(path: Path) -> tuple[int, int] | None:
    """What a file has that no other one in its place has; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _name(target: Path) -> str:
    return target.resolve().name


def _hidden(target: Path) -> str:
    return f".{_name(target)}.partial"


def _others(target: Path) -> list[str]:
    """What is in a folder, but for the hidden one of its own."""
    if not target.is_dir():
        return [target.name] if target.exists() else []
    return [name for name in os.listdir(target) if name != _hidden(target)]


def _exists(target: Path) -> OutputExists:
    return OutputExists(f"{target} exists and is not empty.", "Give a new folder, or empty this one.")


def _taken_away(folder: Path, target: Path) -> BadFile:
    return BadFile(
        f"{folder} was taken away while {target} was made in it.", "Leave such hidden folders alone, and try again."
    )


def _must_stay(folder: Path) -> bool:
    """Whether another folder cannot take the place of this one: where we are, a link, or a disk of its own."""
    return folder.is_dir() and (folder.is_symlink() or folder.is_mount() or folder.samefile(Path.cwd()))


def _take_place(partial: Path, target: Path, replaces: bool) -> bool:
    """Gives a complete folder its name. False where it is to be put into one that has come to be there meanwhile.

    Raises `OutputExists` where that is another's.
    """
    try:
        if target.is_dir():
            # Not every system puts a folder in the place of an empty one.
            target.rmdir()
        os.replace(partial, target)
    except OSError as error:
        if not target.exists():
            raise
        if replaces and target.is_dir():
            return False
        raise OutputExists(
            f"{target} was written by something else while this was made.", "Do it again, into a new folder."
        ) from error
    return True


def _move(partial: Path, target: Path, names: Sequence[str], gone: Sequence[str]) -> None:
    """Puts complete files into a folder, one by one; a run that is killed meanwhile leaves a list of them."""
    write_text(partial / _MOVES, json.dumps({"names": list(names), "gone": list(gone)}))
    for name in names:
        os.replace(partial / name, target / name)
    for name in gone:
        (target / name).unlink(missing_ok=True)
    (partial / _MOVES).unlink()


def _settle(partial: Path, target: Path, *, forward: bool) -> None:
    """Finishes the moves of a run that was killed, or takes them back."""
    if not (partial / _MOVES).is_file():
        return
    moves = json.loads((partial / _MOVES).read_text(encoding="utf-8"))
    # Whoever wrote the list, it leads nowhere else.
    names, gone = ([name for name in moves[key] if Path(name).name == name] for key in ("names", "gone"))
    waiting = [name for name in names if (partial / name).exists()]
    if forward:
        for name in waiting:
            os.replace(partial / name, target / name)
        for name in gone:
            (target / name).unlink(missing_ok=True)
    elif waiting:
        for name in set(names) - set(waiting):
            path = target / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
