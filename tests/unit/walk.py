"""One thing changed at a time, in a file that a stranger wrote: what the walk of `test_walk.py` takes its steps from.

A change is plain data, so that a failing one can be read: `Change("config.json", ("hidden_size",), "x")`. It puts a
value of any kind into the place of one value, takes that away (`GONE`), or does something to the file as a whole.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GONE = "(taken away)"
# Values of every kind that JSON has, in the place of any other.
ODD = (
    None, True, False, 0, -1, 3, 0.5, -1e300, float("nan"), 10**400, "", "x", "0", "a/b", "\x00", "\ud800",
    [], [None], ["x"], [[]], [0, 1], {}, {"": None}, {"a": {"b": [{}]}}, {"0": "x"}, {"x": 0},
)  # fmt: skip
# What is done to a file as a whole.
WHOLE = ("gone", "folder", "empty", "cut", "not UTF-8", "null", "list", "text", "number", "{}", "deep")


@dataclass(frozen=True)
class Change:
    """`value` at `place` of a JSON file; of the whole file where the place is empty."""

    file: str
    place: tuple[str | int, ...]
    value: Any

    def apply(self, folder: Path) -> None:
        """Changes the file in `folder`."""
        path = folder / self.file
        if not self.place:
            _whole(path, self.value)
            return
        content = json.loads(path.read_text(encoding="utf-8"))
        inside = content
        for key in self.place[:-1]:
            inside = inside[key]
        if self.value == GONE:
            del inside[self.place[-1]]
        else:
            inside[self.place[-1]] = self.value
        path.write_text(json.dumps(content), encoding="utf-8")


def _whole(path: Path, what: str) -> None:
    content = path.read_bytes()
    if what in ("gone", "folder"):
        path.unlink()
        if what == "folder":
            path.mkdir()
        return
    made = {
        "empty": b"", "cut": content[: len(content) // 2], "not UTF-8": b"\xff\xfe" + content, "null": b"null",
        "list": b"[1]", "text": b'"x"', "number": b"7", "{}": b"{}", "deep": b"[" * 100_000 + b"]" * 100_000,
    }  # fmt: skip
    path.write_bytes(made[what])


def places(content: Any, depth: int = 3) -> list[tuple[str | int, ...]]:
    """Where the values of JSON content are, those inside others among them; of long lists and tables the first."""
    if depth == 0 or not isinstance(content, dict | list):
        return []
    items = list(content.items() if isinstance(content, dict) else enumerate(content))[:40]
    return [
        place for key, value in items for place in ((key,), *((key, *inner) for inner in places(value, depth - 1)))
    ]


def copy_of(folder: Path, to: Path) -> Path:
    """A copy that may be changed."""
    shutil.copytree(folder, to)
    return to
