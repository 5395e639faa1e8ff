"""What is done to one file of a sound repo: as a whole, to its bytes, to the values in it, or to its tensors.

    said = change(random, folder, "config.json", others)      # "values: hidden_size = -1"

`random` decides everything, so that a case can be had again. The first word is the kind of change.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.reliability.fuzzing.json_changes import change_json, change_json_text
from tests.reliability.fuzzing.tensor_changes import change_header, change_pickle, change_tensors
from tests.reliability.fuzzing.text_changes import change_front_matter, change_table, change_text, change_yaml

KINDS = ("whole", "bytes", "values", "structure", "tensors")
_JUNK = (b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\n", b"}", b"{", b'"', b"[", b"\xed\xa0\x80", b"<html>", b"\x80\x04.")
# All that a file says, where it should say an object with keys.
_JSON = ("null", "[]", "[1]", '"x"', "7", "true", "{}", "[" * 100_000 + "]" * 100_000)


def change(random: Random, folder: Path, name: str, others: list[Path]) -> str:
    """Does one thing to the file `name` in `folder`; `others` are files that may stand in for it. What was done."""
    path = folder / name
    if path.is_symlink() or not path.is_file():
        return "whole: gone already"
    kind = random.choices(("whole", "bytes", "inside"), (12, 25, 63))[0]
    if kind == "whole":
        return f"whole: {_whole(random, path, others)}"
    ways = _ways(path)
    if kind == "bytes" or not ways or not path.stat().st_size:
        return f"bytes: {_bytes(random, path)}"
    own, how = random.choice(ways)
    try:
        said = how(random, path)
    except Exception:  # What an earlier change has broken cannot be read to be changed once more.
        return f"bytes: {_bytes(random, path)}"
    return f"{own}: {said}"


def _ways(path: Path) -> list[tuple[str, Callable[[Random, Path], str]]]:
    """What can be done inside a file of this name."""
    values, structure = ("values", change_json), ("structure", change_json_text)
    suffix = path.suffix
    if suffix == ".json":
        return [values, values, structure]
    if suffix == ".safetensors":
        return [("tensors", change_tensors), ("tensors", change_tensors), ("structure", change_header)]
    if suffix == ".bin":
        return [("tensors", change_pickle)]
    if suffix in (".yaml", ".yml"):
        return [("values", change_yaml), ("values", change_yaml), ("structure", change_text)]
    if suffix == ".md":
        return [("values", change_front_matter), ("structure", change_text)]
    if suffix == ".parquet":
        return [("values", change_table)]
    return [("values", change_text)] if suffix in (".txt", ".jinja", ".csv", ".tsv", ".jsonl", ".conll") else []


def _whole(random: Random, path: Path, others: list[Path]) -> str:
    what = random.choice(
        ("gone", "a folder", "empty", "a link to nothing", "a link to itself", "a link to a folder", "another file",
         "another file", "another file", "a pipe", "a link to another file", "zeros", "JSON", "JSON")
    )  # fmt: skip
    other = random.choice([own for own in others if own != path] or [path])
    size = path.stat().st_size
    content = other.read_bytes() if other.is_file() else b""
    path.unlink()
    if what == "a folder":
        path.mkdir()
    elif what == "empty":
        path.touch()
    elif what == "a link to nothing":
        path.symlink_to("nowhere")
    elif what == "a link to itself":
        path.symlink_to(path.name)
    elif what == "a link to a folder":
        path.symlink_to(".")
    elif what == "another file":
        path.write_bytes(content)
        return f"the bytes of {other.name}"
    elif what == "a link to another file":
        path.symlink_to(other)
        return f"a link to {other.name}"
    elif what == "a pipe":
        os.mkfifo(path)
    elif what == "zeros":
        path.write_bytes(bytes(size))
    elif what == "JSON":
        what = random.choice(_JSON)
        path.write_text(what)
        return f"JSON {what[:10]}"
    return what


def _bytes(random: Random, path: Path) -> str:
    content = bytearray(path.read_bytes())
    size = len(content)
    what = random.choice(
        ("flip", "flip", "flip", "cut", "cut", "insert", "append", "repeat", "swap", "utf-16", "latin-1", "crlf")
    )
    at = random.randrange(size) if size else 0
    if what == "flip":
        # The beginning tells what the rest is.
        places = (
            [random.randrange(min(size, 200) if random.random() < 0.4 else size) for _ in range(3)] if size else []
        )
        places = places[: random.choice((1, 1, 3))]
        for place in places:
            content[place] ^= 1 << random.randrange(8)
        what = f"bits of bytes {places}"
    elif what == "cut":
        at = random.choice((at, size - 1, 1, 8)) if size else 0
        del content[at:]
        what = f"cut after {at} of {size}"
    elif what == "insert":
        junk = random.choice(_JUNK)
        content[at:at] = junk
        what = f"{junk!r} at {at}"
    elif what == "append":
        junk = random.choice((*_JUNK, bytes(64), bytes(content[:100])))
        content += junk
        what = f"{junk[:20]!r} at the end"
    elif what == "repeat":
        content += content[at : at + 500]
        what = f"bytes from {at} again at the end"
    elif what == "swap":
        one, two = content[:at], content[at:]
        content = two + one
        what = f"cut at {at}, the halves swapped"
    else:
        text = bytes(content).decode("utf-8", errors="replace")
        if what == "crlf":
            content = bytearray(text.replace("\n", "\r\n").encode())
        else:
            content = bytearray((text + "é").encode(what, errors="replace"))
    path.write_bytes(content)
    return what


def copy_of(folder: Path, to: Path) -> Path:
    """A copy of a sound repo, to be changed."""
    return Path(shutil.copytree(folder, to, symlinks=True))
