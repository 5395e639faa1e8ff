"""Real processes of the command line and of the local Hub, cheap enough to be killed by the hundred.

    with Warm(home, port) as warm:
        hub = warm.serve(root)
        run = warm.run("merge", "ann/a", "ann/b", "--out", out)
        run.kill()
        code, said = warm.run("merge", ...).end()

A parent that has imported everything, and has no threads, forks them: each starts within milliseconds with its own
arguments, files and memory, and is killed like any other process.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.warm import python

ROOT = Path(__file__).parents[2]
_PATIENCE = 300.0
"""Seconds after which a run counts as hanging."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Process:
    """One process that the parent has forked, or that was started afresh."""

    pid: int
    log: Path
    warm: Warm

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> tuple[int, str]:
        self.signal(signal.SIGKILL)
        return self.end()

    def end(self) -> tuple[int, str]:
        """Exit code (minus the signal's number, of one that was killed), and all that was printed."""
        code = self.warm.ask(wait=self.pid)["code"]
        return code, self.log.read_text(encoding="utf-8", errors="replace")

    def is_running(self) -> bool:
        return not self.warm.ask(ended=self.pid)["ended"]


class Warm:
    """The parent, whose processes use the Hub at `port` and have their caches, logs and temporary files in `home`."""

    def __init__(self, home: Path, port: int, token: str) -> None:
        self.home, self.port = home, port
        self.temporary, self.cache, self.logs = home / "temporary", home / "hf-home", home / "logs"
        for folder in (self.temporary, self.cache, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        self.env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(self.temporary),
            "HF_HOME": str(self.cache),
            "HF_ENDPOINT": f"http://127.0.0.1:{port}",
            "HF_TOKEN": token,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "COLUMNS": "200",
        }
        self.env.pop("HF_HUB_OFFLINE", None)
        self._count = 0

    def __enter__(self) -> Warm:
        self._parent = subprocess.Popen(
            [*python(), "-m", "tests.reliability.processes"],
            env=self.env,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._parent.stdin.close()
        self._parent.wait()
        self._parent.stdout.close()

    def run(self, *arguments: object, learn: bool = False) -> Process:
        """A command of the command line; with `learn`, what it imports is imported for all that come after it."""
        return self._started(run=[str(argument) for argument in arguments], learn=learn)

    def serve(self, root: Path) -> Process:
        """The Hub on a folder, which answers when this returns."""
        process = self._started(serve=[str(root), self.port])
        for _ in range(6000):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5):
                return process
            time.sleep(0.01)
        raise TimeoutError(f"the Hub did not start: {process.log.read_text()}")

    def fresh(self, *arguments: object) -> subprocess.Popen[str]:
        """The same as `run` with an interpreter of its own."""
        command = [sys.executable, "-m", "fusehub", *map(str, arguments)]
        # Programs that were started to ignore Ctrl-C go on ignoring it.
        return subprocess.Popen(
            command,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def ask(self, **asked: Any) -> dict[str, Any]:
        self._parent.stdin.write(json.dumps(asked) + "\n")
        self._parent.stdin.flush()
        return json.loads(self._parent.stdout.readline())

    def _started(self, **what: Any) -> Process:
        self._count += 1
        log = self.logs / f"{self._count}.txt"
        return Process(self.ask(log=str(log), **what)["pid"], log, self)


def _main() -> None:
    """The parent: what it is asked comes as lines of JSON, and ends with them."""
    _import_all()
    ended: dict[int, int] = {}
    alive: set[int] = set()
    learning: dict[int, Path] = {}
    try:
        for line in sys.stdin:
            asked = json.loads(line)
            if "wait" in asked or "ended" in asked:
                pid = asked.get("wait", asked.get("ended"))
                answer = _waited(pid, ended, block="wait" in asked)
                alive -= set(ended)
                if pid in ended and pid in learning:
                    _import(learning.pop(pid))
            else:
                pid = os.fork()
                if pid == 0:
                    _child(asked)
                alive.add(pid)
                if asked.get("learn"):
                    learning[pid] = Path(_modules(asked["log"]))
                answer = {"pid": pid}
            print(json.dumps(answer), flush=True)
    finally:
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _waited(pid: int, ended: dict[int, int], *, block: bool) -> dict[str, Any]:
    deadline = time.monotonic() + _PATIENCE
    while pid not in ended:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            ended[pid] = os.waitstatus_to_exitcode(status)
        elif not block:
            break
        elif time.monotonic() > deadline:
            os.kill(pid, signal.SIGABRT)
        else:
            time.sleep(0.002)
    return {"ended": pid in ended, "code": ended.get(pid)}


def _child(asked: dict[str, Any]) -> None:
    """Becomes the command or the Hub, and never returns."""
    code = 99
    try:
        log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        if "serve" in asked:
            from fusehub.localhub.process import serve

            root, port = asked["serve"]
            serve(Path(root), port=port)
        else:
            from fusehub.cli.start import main

            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.argv = ["fusehub", *asked["run"]]
            main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        if asked.get("learn"):
            Path(_modules(asked["log"])).write_text("\n".join(sys.modules))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _modules(log: str) -> str:
    return f"{log}.modules"


def _import(names: Path) -> None:
    """Imports what a child had imported, so that no other child has to."""
    for name in names.read_text().split():
        if name not in sys.modules and not name.startswith("__"):
            # Some names are no modules that can be imported by themselves.
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    # What is never collected is not copied for a child that collects.
    gc.freeze()


def _import_all() -> None:
    """What the commands import when they are used, so that no child has to."""
    import pkgutil

    import fusehub
    from fusehub.hub import wire

    for module in pkgutil.walk_packages(fusehub.__path__, "fusehub."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    # The pauses of a person's patience would make hundreds of runs wait as long.
    wire.patience = wire.Patience(pauses=(0.1, 0.2, 0.4))


@contextlib.contextmanager
def warm_hub(home: Path) -> Iterator[tuple[Warm, Process, Path]]:
    """A parent, a Hub that it serves, and the folder of that Hub; the commands are those of the user ann."""
    from fusehub.localhub.access import token_of

    root = home / "hub"
    root.mkdir(parents=True)
    with Warm(home, free_port(), token_of(root, "ann")) as warm:
        yield warm, warm.serve(root), root


if __name__ == "__main__":
    _main()
