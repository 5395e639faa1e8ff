"""Every size that a stranger may state, stated beyond its limit: what is said of it, and what that took.

    python -m tests.reliability.limits [NAME ...]

Each input is read by a command in a process of its own. The table goes into docs/reliability.md.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fusehub.utils.untrusted import limits
from tests.reliability.hostile import HOSTILE, Hostile
from tests.reliability.measured import Run, run_command
from tests.reliability.report import keep
from tests.unit.tiny import tiny_model

_HEAD = ("limit", "value", "hostile input", "before", "outcome", "processor time", "memory", "file")


@contextmanager
def workshop() -> Iterator[Path]:
    """A folder with two sound models, `sound` and `other`; and everything imported that a run will need."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny_model(folder / "sound")
        tiny_model(folder / "other", seed=1)
        _import_all(folder)
        yield folder


def _import_all(folder: Path) -> None:
    from typer.testing import CliRunner

    from fusehub.cli.main import app

    (folder / "texts.csv").write_text("text,label\nFine.,positive\nBad.,negative\n")
    for arguments in (
        ["check", folder / "sound", folder / "other"],
        ["collect", folder / "sound", "--data", folder / "texts.csv", "--out", folder / "statistics"],
    ):
        CliRunner().invoke(app, [str(argument) for argument in arguments])


def attempt(hostile: Hostile, folder: Path) -> tuple[Run, int]:
    """What comes of the input, made in `folder`, and the bytes of what was made."""
    place = folder / "attempt"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    arguments = hostile.make(place, folder / "sound")
    nbytes = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    if arguments[0] == "check":
        arguments = [*arguments, folder / "other"]
    return run_command(arguments, folder / "log"), nbytes


def main(names: list[str]) -> None:
    """Tries all, or those of these names, and keeps the table of all."""
    rows = []
    with workshop() as folder:
        for hostile in HOSTILE:
            if names and hostile.name not in names:
                continue
            run, nbytes = attempt(hostile, folder)
            as_told = hostile.says in " ".join(run.said.split()) and run.code == (0 if hostile.is_cut else 1)
            outcome = ("cut" if hostile.is_cut else "refused") if as_told else f"**exit {run.code}**"
            value = getattr(limits, hostile.limit)
            figures = (f"{run.seconds:.1f} s", f"{run.nbytes / 1e6:,.0f} MB", f"{nbytes / 1e6:,.1f} MB")
            before = hostile.before or "not tried"
            rows.append((f"`{hostile.limit}`", f"{value:,}", hostile.name, before, outcome, *figures))
            print(*rows[-1], "" if as_told else run.said[-2000:], sep=" | ", flush=True)
    if not names:
        keep("limits", "python -m tests.reliability.limits", _HEAD, rows)


if __name__ == "__main__":
    main(sys.argv[1:])
