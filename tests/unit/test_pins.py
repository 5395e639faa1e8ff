"""What a Space installs is what the tests run with, and no more of it is left open; and what the audit makes of it."""

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LINES = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
PINS = {canonicalize_name(Requirement(line).name): Requirement(line) for line in LINES}


def front_matter() -> dict[str, str]:
    import yaml

    return yaml.safe_load((ROOT / "README.md").read_text().split("---\n")[1])


def needed() -> dict[str, Version]:
    """Every package that the pinned ones need here, however far down, with the version that is installed."""
    found: dict[str, Version] = {}
    seen = set()
    waiting = list(PINS.values())
    while waiting:
        asked = waiting.pop()
        name = canonicalize_name(asked.name)
        if (name, frozenset(asked.extras)) in seen:
            continue
        seen.add((name, frozenset(asked.extras)))
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue  # Of PyTorch for another device than is here.
        found[name] = Version(installed.version)
        for requirement in map(Requirement, installed.requires or ()):
            extras = {"", *asked.extras}
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": one}) for one in extras):
                waiting.append(requirement)
    return found


def test_all_that_a_space_installs_is_pinned_to_what_is_tested() -> None:
    # A build of PyTorch for one kind of device says so behind a plus sign.
    installed = {name: version.public for name, version in needed().items()}
    own = re.compile("nvidia-.*|cuda-.*|triton")
    assert {name for name in installed if not own.fullmatch(name)} <= set(PINS)
    for name, pin in PINS.items():
        assert str(pin.specifier) == f"=={installed.get(name)}", name


def test_the_pins_are_within_the_ranges_that_should_work() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # A Space needs the app too, and what it shows images and scores with.
    extras = project["optional-dependencies"]
    wanted_by = [text for name in ("app", "evaluate", "collect", "images") for text in extras[name]]
    for text in (*project["dependencies"], *wanted_by):
        wanted = Requirement(text)
        if wanted.name == "fusehub":
            continue
        pin = PINS[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(str(pin.specifier).removeprefix("==")), text
        assert wanted.extras <= pin.extras, text


def test_the_space_says_the_versions_that_are_pinned() -> None:
    space = front_matter()
    assert str(PINS["gradio"].specifier) == f"=={space['sdk_version']}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert Requirement(f"python{project['requires-python']}").specifier.contains(space["python_version"])


def test_what_is_tried_as_the_oldest_is_what_is_declared() -> None:
    command = [sys.executable, ROOT / ".ci" / "oldest.py", "torch==2.13.0+cpu"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    tried = {canonicalize_name(name): version for name, version in (line.split("==") for line in told)}
    assert tried.pop("torch") == "2.13.0+cpu"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for wanted in map(Requirement, [*project["dependencies"], *extras["test"], *extras["collect"], *extras["hub"]]):
        if canonicalize_name(wanted.name) in {"torch", "fusehub"}:
            continue
        version = tried[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version), wanted
        assert {one.version for one in wanted.specifier if one.operator in (">=", "==")} == {version}, wanted


@pytest.fixture
def audit():
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GOOD = {"name": "numpy", "version": "2.4.6", "vulns": []}
BAD = {"name": "jinja2", "version": "2.4", "vulns": [{"id": "PYSEC-2014-8", "fix_versions": ["2.7.2"], "aliases": []}]}
UNASKED = {"name": "torch", "skip_reason": "Dependency not found on PyPI and could not be audited: torch (2.13.0)"}


@pytest.mark.parametrize(
    ("packages", "status", "words"),
    [
        ([GOOD, BAD, UNASKED], 1, "jinja2 2.4: PYSEC-2014-8, mended in 2.7.2"),
        ([GOOD, UNASKED], 0, "not asked for: torch"),
        ([UNASKED], 3, "Nobody could be asked"),
        (None, 3, "Nobody could be asked"),
    ],
)
def test_an_audit_that_could_not_ask_is_no_all_clear(audit, packages, status, words) -> None:
    """pip-audit itself ends well where PyPI tells it nothing of any package."""
    written = json.dumps({"dependencies": packages, "fixes": []}) if packages is not None else ""
    found, said = audit.verdict(written)
    assert found == status and words in " ".join(said)
