"""How the command line speaks: data on stdout, words on stderr, errors without tracebacks, bars for long work."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from fusehub.errors import FuseHubError, Incompatible
from fusehub.utils import interrupts
from fusehub.utils.folders.places import place_errors
from fusehub.utils.logging import speak
from fusehub.utils.processes import Processes
from fusehub.utils.progress import Progress, silent

_WIDE = 1000
# Into a file or a pipe, a table's lines are as long as they need to be; a terminal has a width.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _WIDE)
err = Console(stderr=True, highlight=False, soft_wrap=True)

_BAR_AFTER_SECONDS = 0.5
# Work whose speed is of interest.
_WITH_SPEED = ("tokens", "images")


def command(function: Callable[..., None]) -> Callable[..., None]:
    """A command's function with its errors turned into words and exit codes; `--json` turns them into JSON."""

    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> None:
        as_json = options.get("as_json", False)
        try:
            _prepare(as_json)
            with place_errors():
                function(*args, **options)
        except FuseHubError as error:
            if as_json:
                told = {"kind": type(error).__name__, "what": error.what, "fix": error.fix}
                print_json({"error": told | ({"codes": error.codes} if isinstance(error, Incompatible) else {})})
            else:
                _print_error(error)
            raise typer.Exit(1) from None
        except KeyboardInterrupt as error:
            err.print(interrupts.last_words(error), style="yellow", markup=False)
            raise typer.Exit(interrupts.exit_code()) from None
        finally:
            interrupts.rest()

    return run


def leave_it_to_the_main_process() -> Processes:
    """Of several processes that do one thing together, only the main one speaks; of errors, all do."""
    processes = Processes.join()
    if not processes.is_main:
        out.quiet = err.quiet = True
    return processes


def print_json(content: Any) -> None:
    """One JSON object on stdout."""
    if out.quiet:
        return
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")


def say(text: str, style: str | None = None) -> None:
    """Words for a person, on stderr."""
    err.print(text, style=style, markup=False)


def table(
    title: str | None, columns: Sequence[str], rows: Sequence[Sequence[Any]], numbers: Sequence[str] = ()
) -> None:
    """A table on stdout; columns in `numbers` are aligned to the right."""
    grid = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(_plain(cell) for cell in row))
    out.print(grid)


@contextmanager
def bar(what: str, *, quiet: bool = False) -> Iterator[Progress]:
    """A progress bar on stderr, for work that turns out to take longer than half a second."""
    if quiet or err.quiet or not err.is_terminal:
        yield silent
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as RichProgress

    class Speed(ProgressColumn):
        """How many a second."""

        def __init__(self, unit: str) -> None:
            super().__init__()
            self.unit = unit

        def render(self, task: Task) -> str:
            speed = task.finished_speed or task.speed
            return f"{speed:,.0f} {self.unit}/s" if speed else ""

    started = time.monotonic()
    state: dict[str, Any] = {}

    def advance(done: int, total: int, unit: str) -> None:
        if "bars" in state and state["unit"] != unit:
            # Other work, which is counted in other units.
            state.pop("bars").stop()
        if "bars" not in state:
            if time.monotonic() - started < _BAR_AFTER_SECONDS:
                return
            counts: tuple[ProgressColumn, ...] = (DownloadColumn(), TransferSpeedColumn())
            if unit != "bytes":
                counts = (MofNCompleteColumn(), Speed(unit)) if unit in _WITH_SPEED else (MofNCompleteColumn(),)
            columns = (TextColumn("{task.description}"), BarColumn(), *counts, TimeRemainingColumn())
            state["bars"] = RichProgress(*columns, console=err, transient=True)
            state["bars"].start()
            state["unit"] = unit
            state["task"] = state["bars"].add_task(what if unit == "bytes" else f"{what} ({unit})", total=total)
        state["bars"].update(state["task"], completed=done, total=total)

    try:
        yield advance
    finally:
        if "bars" in state:
            state["bars"].stop()


def pairs(given: Sequence[str] | None, option: str, known: Sequence[str] = ()) -> dict[str, str]:
    """`["A=1", "B=2"]` -> `{"A": "1", "B": "2"}`; anything else is wrong usage.

    A name may hold "=" itself (a folder `lr=2e-5`) if it is one of those `known`; the longest that fits is meant.
    """
    result = {}
    for item in given or ():
        fitting = [name for name in known if item.startswith(f"{name}=")]
        at = max(map(len, fitting)) if fitting else item.find("=")
        key, value = item[: max(at, 0)], item[at + 1 :]
        if at < 0 or not key or not value:
            raise typer.BadParameter(f"'{item}' is not of the form NAME=VALUE", param_hint=option)
        result[key] = value
    return result


def scalar(text: str) -> Any:
    """A value as YAML would read it: 0.9 is a number, true a truth value."""
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return text


def parse_size(text: str, option: str) -> int:
    """`5GB` -> 5000000000; anything that is no size is wrong usage."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", text.strip(), re.IGNORECASE)
    if not match or not float(match[1]):
        raise typer.BadParameter(f"'{text}' is not a size such as 5GB", param_hint=option)
    return int(float(match[1]) * 1000 ** " KMGT".index(match[2].upper() or " "))


def _prepare(quiet: bool) -> None:
    """Once a command: warnings of ours on stderr, other libraries silent, SIGTERM ends like Ctrl-C."""
    interrupts.listen()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if quiet or not err.is_terminal:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    speak(logging.ERROR if quiet else logging.WARNING)


def _print_error(error: FuseHubError) -> None:
    err.quiet = False
    err.print("Error: ", style="bold red", end="")
    err.print(error.what, markup=False)
    err.print(f"  -> {error.fix}", markup=False)


def _plain(cell: Any) -> str:
    """A cell's text, with what rich would take for markup escaped."""
    from rich.markup import escape

    if cell is None:
        return "-"
    return escape(f"{cell:.4f}" if isinstance(cell, float) else str(cell))
