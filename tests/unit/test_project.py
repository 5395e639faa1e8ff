"""The project itself: its code is clean, its public names are there, and what it says of itself is true."""

import graphlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import fusehub
from tests.unit.floors import APART, FLOORS, climbing, imports

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fusehub"
MOST_LINES, MOST_FILES = 400, 20


def test_the_code_is_clean() -> None:
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_no_types_are_left_unchecked() -> None:
    """`make lint` checks all there is; a single line that it passes over says by a code what, and then why."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert settings["packages"] == ["fusehub", "space"] and not {"exclude", "ignore_errors"} & set(settings)
    assert all(set(own) == {"module", "ignore_missing_imports"} for own in settings["overrides"])
    lines = [
        f"{path}: {line}"
        for place in (PACKAGE, ROOT / "space")
        for path in place.rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"# *(type: *ignore|mypy:)", line)
    ]
    assert [line for line in lines if not re.search(r"# type: ignore\[[a-z, -]+\]  # \w", line)] == []


def test_every_public_name_is_there_and_stays_what_it_is() -> None:
    """Importing a module of the package must not put the module in the place of a function of that name."""
    probe = (
        "import fusehub, pkgutil, importlib, types\n"
        "for module in pkgutil.walk_packages(fusehub.__path__, 'fusehub.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
        "for name in fusehub.__all__: assert not isinstance(getattr(fusehub, name), types.ModuleType), name\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(fusehub.__all__) == sorted(set(fusehub.__all__))


def test_importing_the_package_imports_nothing_heavy() -> None:
    probe = "import sys, fusehub; print([n for n in ('torch', 'transformers', 'huggingface_hub') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True).stdout.strip() == "[]"


def test_requirements_pin_what_the_package_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {text.split(">")[0].split("=")[0].strip() for text in project["dependencies"]}
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    pinned = {line.split("==")[0]: line for line in lines}
    assert needed <= set(pinned)
    assert all("==" in line for line in lines)


def test_no_modules_import_each_other() -> None:
    """Not even late, inside a function: whatever is imported can be read without what imports it."""
    packages = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in ROOT.rglob("__init__.py")}
    modules = {name: others - packages for name, others in imports().items() if name not in packages}
    graphlib.TopologicalSorter(modules).prepare()


def test_a_floor_imports_only_floors_below_it() -> None:
    assert climbing() == []


def test_every_folder_has_its_floor() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"}
    known = {name for names in FLOORS for name in names}
    assert rooms - {"__init__", "__main__", "__pycache__", "py"} == known | {APART}


def test_what_is_installed_is_every_package() -> None:
    """The app by a name of its own: nothing called `space` is put among everybody's packages."""
    installed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for place in (PACKAGE, ROOT / "space")
        for path in place.rglob("__init__.py")
    }
    assert {re.sub(r"^fusehub_space", "space", name) for name in installed} == folders


def test_the_app_is_imported_by_any_name() -> None:
    absolute = [
        f"{path.name}: {line}"
        for path in (ROOT / "space").rglob("*.py")
        for line in path.read_text().splitlines()
        if re.match(r"\s*(from|import) space\b", line) and "launch" not in line
    ]
    assert absolute == []


def test_a_folder_can_be_looked_through_and_a_file_be_read() -> None:
    for place in (PACKAGE, ROOT / "space"):
        for path in place.rglob("*.py"):
            assert len(path.read_text().splitlines()) <= MOST_LINES, path
            assert len(list(path.parent.glob("*.py"))) <= MOST_FILES, path.parent
