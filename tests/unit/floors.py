"""The floors of the house are its folders: what each imports, read from the code itself.

python -m tests.unit.floors            # what stands between the marks of docs/architecture.md
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("utils",),
    ("hub",),
    ("models",),
    ("data",),
    ("statistics", "methods"),
    ("finding", "checking", "collecting"),
    ("merging", "recommending"),
    ("comparing",),
    ("publishing",),
    ("demo",),
    ("cli",),
)
"""From the ground up. The rooms of one floor do not know each other."""
APART = "localhub"
"""It imports nothing of the rest, and is imported by `ENTRY` alone."""
ENTRY = ("demo", "cli")
"""Where one comes in: these may import everything, and each other."""
APP = "space"
"""The app, which is a package of its own above all floors but those where one comes in."""


def imports() -> dict[str, set[str]]:
    """The files of package and app -> those that each imports, anywhere in it, as modules or as names in them."""
    places = (ROOT / "fusehub", ROOT / "space")
    paths = [path for place in places for path in place.rglob("*.py")]
    modules = {_module(path): path for path in paths}
    found: dict[str, set[str]] = {}
    for name, path in modules.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        named: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                module = ".".join([*above, *([node.module] if node.module else [])])
                named |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
        found[name] = {other for other in named if other in modules} - {name}
    return found


def room(module: str) -> str | None:
    """The folder (or file) of `fusehub` that a module is in; None for the package itself and for the app."""
    parts = module.split(".")
    return parts[1] if parts[0] == "fusehub" and len(parts) > 1 else None


def climbing() -> list[str]:
    """Every import that goes up, or beside: `fusehub.hub.client imports fusehub.models.ref`."""
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    wrong = []
    for name, imported in imports().items():
        own = room(name)
        for other in sorted(imported):
            theirs = room(other)
            if theirs is None or own in (None, "__main__") or own == theirs or own in ENTRY:
                # The app is built on all floors but those where one comes in.
                if name.startswith("space") and theirs in ENTRY:
                    wrong.append(f"{name} imports {other}")
                continue
            if own == APART or theirs == APART or floor[theirs] >= floor[own]:
                wrong.append(f"{name} imports {other}")
    return wrong


def picture() -> str:
    """The floors as a Mermaid graph, the highest above. An arrow that others already imply is left out."""
    below = _imported()
    drawn = {
        (own, theirs)
        for own, others in below.items()
        for theirs in others
        if not any(theirs in below.get(other, ()) for other in others)
    }
    lines = ["graph TD"]
    for number, names in reversed(list(enumerate(FLOORS, 1))):
        beside = len(names) > 1
        lines += [f'  subgraph floor{number}[" "]'] * beside + [f"  {name}" for name in names] + ["  end"] * beside
    lines += [f"  {own} --> {theirs}" for own, theirs in sorted(drawn)]
    return "\n".join(lines) + "\n"


def rooms() -> str:
    """What each folder (or file) is for, and the folders in it, in their own words, from the ground up: a table in
    Markdown."""
    lines = ["| floor | folder | what it is for |", "| ---: | --- | --- |"]
    paths = {path.stem: path for path in (ROOT / "fusehub").iterdir() if path.is_dir() or path.suffix == ".py"}
    floors = [*enumerate(FLOORS, 1), ("apart", (APART,))]
    for number, name in ((number, name) for number, names in floors for name in names):
        path = paths[name]
        lines.append(f"| {number} | `{path.relative_to(ROOT).as_posix()}` | {_purpose(path)} |")
        for inner in sorted(path.rglob("__init__.py")):
            if inner.parent != path:
                lines.append(f"| | `{inner.parent.relative_to(ROOT).as_posix()}` | {_purpose(inner.parent)} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """What docs/architecture.md has of this."""
    return f"\n```mermaid\n{picture()}```\n\n{rooms()}\n"


def _imported() -> dict[str, set[str]]:
    """The rooms, and the app -> the rooms that each imports, itself or by others; of those where one comes in, which
    import each other, the lower one as if it did not."""
    floor = {name: number for number, names in enumerate(FLOORS) for name in names} | {APART: -1, APP: len(FLOORS)}
    found: dict[str, set[str]] = {name: set() for name in floor}
    for name, imported in imports().items():
        own = APP if name.partition(".")[0] == APP else room(name)
        found.get(own, set()).update(
            theirs for other in imported if (theirs := room(other)) in floor and floor[theirs] < floor.get(own, 0)
        )
    for own in sorted(found, key=floor.__getitem__):
        found[own] |= {far for near in found[own] for far in found[near]}
    return found


def _purpose(path: Path) -> str:
    """The first paragraph of what a folder (or file) says of itself."""
    code = (path / "__init__.py" if path.is_dir() else path).read_text()
    return " ".join(ast.get_docstring(ast.parse(code)).partition("\n\n")[0].split())


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


if __name__ == "__main__":
    print(page(), end="")
