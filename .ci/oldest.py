"""The lowest versions that pyproject.toml allows, as constraints for an installer: `make test-oldest`.

    python .ci/oldest.py                       # datasets==4.0, huggingface_hub==2.4, ...
    python .ci/oldest.py torch==2.13.0+cpu     # the same, with another version of one package

Bounds that exclude each other are an error of the installer, and so are told. What the packages need themselves is
left to it.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from packaging.requirements import Requirement

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
# Tools with an environment of their own, or none: they are no part of what is tried.
APART = ("audit", "docs", "oldest")


def lowest(requirements: Iterable[str]) -> dict[str, str]:
    """Package -> the lower bound, or the pin, of those that have one."""
    return {
        one.name: part.version
        for one in map(Requirement, requirements)
        for part in one.specifier
        if part.operator in (">=", "==")
    }


def requirements_of(project: Mapping[str, object]) -> list[str]:
    """All dependencies, those of the extras included."""
    extras: Mapping[str, list[str]] = project["optional-dependencies"]
    return [*project["dependencies"], *(text for name, own in extras.items() if name not in APART for text in own)]


if __name__ == "__main__":
    told = lowest(requirements_of(tomllib.loads(PYPROJECT.read_text())["project"])) | lowest(sys.argv[1:])
    sys.stdout.writelines(f"{name}=={version}\n" for name, version in sorted(told.items()))
