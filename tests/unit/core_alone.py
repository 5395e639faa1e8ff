"""Runs a program with the packages alone that FuseHub's core asks for, however far down: all others are not there.

    python -m tests.unit.core_alone program.py

What the core asks for is what the metadata of the installed package say.
"""

from __future__ import annotations

import runpy
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def closure() -> set[str]:
    """The distributions that `pip install fusehub` brings."""
    waiting = [Requirement(text) for text in _project()["dependencies"]]
    found: set[str] = set()
    while waiting:
        asked = waiting.pop()
        name = canonicalize_name(asked.name)
        if name in found:
            continue
        try:
            requires = distribution(name).requires or ()
        except PackageNotFoundError:
            continue  # Of PyTorch for another device than is here.
        found.add(name)
        extras = {"", *asked.extras}
        for requirement in map(Requirement, requires):
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": one}) for one in extras):
                waiting.append(requirement)
    return found


def blocked() -> set[str]:
    """The top-level modules that are installed here, and are of other distributions."""
    own = closure() | {"fusehub", "setuptools", "pip"}
    return {
        module
        for module, owners in packages_distributions().items()
        if not own & {canonicalize_name(owner) for owner in owners} and module not in sys.stdlib_module_names
    }


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


class _Without:
    """A finder of modules that does not find those of some names."""

    def __init__(self, finder: Any, names: set[str]) -> None:
        self._finder, self._names = finder, names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name.partition(".")[0] in self._names else self._finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


if __name__ == "__main__":
    program = sys.argv[1]
    sys.argv = sys.argv[1:]
    names = blocked()
    for name in [name for name in sys.modules if name.partition(".")[0] in names]:
        del sys.modules[name]
    sys.meta_path[:] = [_Without(finder, names) for finder in sys.meta_path]
    runpy.run_path(program, run_name="__main__")
