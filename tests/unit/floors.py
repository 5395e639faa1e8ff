"""The floors of the house are its folders: what each imports, read from the code itself.

python -m tests.unit.floors            # the picture of docs/architecture.md, as a Mermaid graph
"""

from __future__ import annotations

import ast
from collections import Counter
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
    ("merging",),
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
    """The floors as a Mermaid graph, the highest above, with how many imports go down from each to each."""
    edges = Counter(
        (own, theirs)
        for name, imported in imports().items()
        for other in imported
        if (own := room(name)) and (theirs := room(other)) and own != theirs and "__main__" not in (own, theirs)
    )
    lines = ["graph TD"]
    for number, names in reversed(list(enumerate(FLOORS))):
        lines += [f'  subgraph floor{number}[" "]', *(f"    {name}" for name in names), "  end"]
    lines += [f"  {APART}"]
    lines += [f"  {own} -->|{count}| {theirs}" for (own, theirs), count in sorted(edges.items())]
    return "\n".join(lines) + "\n"


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


if __name__ == "__main__":
    print(picture())
