"""Commands and code against a local Hub, in a process of their own: the client reads only once which Hub is its own.

with session(hub, "ann", tmp_path) as fusehub:
    out = fusehub("find", "--json")                      # what it prints; it must end with 0
    kind, what, fix = fusehub.fails("merge", ...)        # the one error that it must end with
    fusehub.python("print(1)")
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from tests.warm import python

# For what a test itself puts onto the Hub: the client reads the environment once.
constants.HF_HUB_DISABLE_XET = True
ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import contextlib, functools, io, json, os, signal, sys, traceback
import typer.testing
from typer.testing import CliRunner
from fusehub.cli.main import app
# The tree of commands is built once.
typer.testing._get_command = functools.cache(typer.testing._get_command)
replies, sys.stdout = sys.stdout, sys.stderr
is_forked, longest = "forked" in sys.argv, 180
for line in sys.stdin:
    asked = json.loads(line)
    if is_forked and not asked.get("here") and (child := os.fork()):
        _, ended = os.waitpid(child, 0)
        if ended:
            print(json.dumps({"code": -ended, "out": "", "err": "it was ended"}), file=replies, flush=True)
        continue
    signal.alarm(longest if is_forked and not asked.get("here") else 0)
    told = {"code": 0, "out": "", "err": ""}
    try:
        if "python" in asked:
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(asked["python"], {})
            told["out"] = out.getvalue()
        else:
            result = CliRunner().invoke(app, asked["arguments"])
            told = {"code": result.exit_code, "out": result.stdout, "err": result.stderr}
            if result.exception and not isinstance(result.exception, SystemExit):
                raise result.exception
    except BaseException:
        told |= {"code": 99, "err": told["err"] + traceback.format_exc()}
    print(json.dumps(told), file=replies, flush=True)
    if is_forked and not asked.get("here"):
        os._exit(0)
"""


class Session:
    """What is asked of the process, and what it answers."""

    def __init__(self, process: subprocess.Popen) -> None:
        self._process = process

    def __call__(self, *arguments: object) -> str:
        """The command's standard output."""
        told = self._ask(arguments=[str(argument) for argument in arguments])
        assert told["code"] == 0, (arguments, told["err"])
        return told["out"]

    def json(self, *arguments: object) -> dict[str, Any]:
        return json.loads(self(*arguments, "--json"))

    def outcome(self, *arguments: object) -> tuple[int, str]:
        """(exit code, all that was said) of a command, whatever came of it; 99 for a traceback."""
        told = self._ask(arguments=[str(argument) for argument in arguments])
        return told["code"], told["err"] if told["code"] == 99 else told["out"] + told["err"]

    def fails(self, *arguments: object) -> tuple[str, str]:
        """(what is wrong, what to do) of a command that must end with 1, saying both once and nothing else."""
        told = self._ask(arguments=[str(argument) for argument in (*arguments, "--json")])
        assert told["code"] == 1 and "Traceback" not in told["err"], (arguments, told)
        error = json.loads(told["out"])["error"]
        return error["what"], error["fix"]

    def python(self, code: str) -> str:
        """What the code prints."""
        told = self._ask(python=code)
        assert told["code"] == 0, told["err"]
        return told["out"]

    def told(self, *arguments: object) -> dict[str, Any]:
        """Whatever comes of it: `code`, `out` and `err`."""
        return self._ask(arguments=[str(argument) for argument in arguments])

    def warm(self, *arguments: object) -> None:
        """Has a command run in the very process that others are forked from."""
        self._ask(arguments=[str(argument) for argument in arguments], here=True)

    def warm_python(self, code: str) -> None:
        """The same with code."""
        self._ask(python=code, here=True)

    def _ask(self, **asked: Any) -> dict[str, Any]:
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextmanager
def session(hub: Any, user: str, home: Path, *, forked: bool = False, **variables: str) -> Iterator[Session]:
    """A process whose Hub is `hub` and whose token is that of `user`; it works in the folder `home`.

    `forked` has every command run in a process of its own, which costs little once `warm` had all imported, and ends
    it after three minutes; `variables` are set in its environment.
    """
    home.mkdir(exist_ok=True)
    environment = hub.env(user, home=home / ".home") | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables
    # What the client logs goes to the standard error of the first command, which is closed when another one runs.
    environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "COLUMNS": "200", "HF_HUB_VERBOSITY": "error"}
    environment.pop("HF_HUB_OFFLINE", None)
    with subprocess.Popen(
        [*python(), "-c", SCRIPT, *(["forked"] if forked else [])],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=home,
    ) as process:
        yield Session(process)
        process.stdin.close()
