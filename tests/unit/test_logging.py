"""How much is said: by functions, by the environment, and on the command line."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fusehub

ROOT = Path(__file__).resolve().parents[2]
SAY = """
import logging
said = logging.getLogger("fusehub.somewhere")
said.debug("a detail"), said.info("a step"), said.warning("a doubt"), said.error("a fault")
"""


def said(code: str, verbosity: str | None = None) -> list[str]:
    """The lines that a process says on stderr, where something is said of each level."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FUSEHUB_VERBOSITY": verbosity or ""}
    done = subprocess.run([sys.executable, "-c", code + SAY], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout, done.stderr
    return done.stderr.splitlines()


def test_warnings_are_said_once_where_nothing_is_set() -> None:
    assert said("import fusehub") == ["a doubt", "a fault"]


@pytest.mark.parametrize(("verbosity", "lines"), [("debug", 4), ("INFO", 3), ("warning", 2), ("error", 1)])
def test_the_environment_says_how_much_is_said(verbosity: str, lines: int) -> None:
    found = said("import fusehub", verbosity)
    assert len(found) == lines and found[-1] == "ERROR: a fault"


def test_a_level_that_there_is_not_is_told() -> None:
    assert (
        said("import fusehub", "loud")[0] == "FUSEHUB_VERBOSITY=loud is none of debug, info, warning, error, critical."
    )


def test_a_programs_own_handler_is_the_only_one() -> None:
    own = "import logging, fusehub; logging.basicConfig(format='mine: %(message)s')"
    assert said(f"{own}; fusehub.logging.set_verbosity_info()") == ["mine: a step", "mine: a doubt", "mine: a fault"]


def test_the_command_line_warns_unless_the_environment_says_otherwise() -> None:
    prepare = "from fusehub.cli import console; console._prepare({quiet})"
    assert said(prepare.format(quiet=False)) == ["WARNING: a doubt", "ERROR: a fault"]
    assert said(prepare.format(quiet=True)) == ["ERROR: a fault"]
    assert len(said(prepare.format(quiet=True), "info")) == 3


def test_verbosity_is_set_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("fusehub")
    monkeypatch.setattr(logger, "handlers", [*logger.handlers])
    before = logger.level
    try:
        for name in ("debug", "info", "warning", "error"):
            getattr(fusehub.logging, f"set_verbosity_{name}")()
            assert fusehub.logging.get_verbosity() == getattr(logging, name.upper())
    finally:
        logger.setLevel(before)
