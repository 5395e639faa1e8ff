"""Interpreters that have all imported already, for tests that start many processes.

    subprocess.run([*python(), "-c", "import fusehub; ..."], env=..., cwd=..., capture_output=True)

What starts is a small client; it hands its files, its arguments, its environment and its folder to a parent that lives
as long as the tests do, which forks a process with them. Importing torch and transformers takes seconds, a fork takes
none. Signals, the exit code and the end by a signal are passed on; who kills the client kills the process.

Not for tests of what a start itself does: what is imported when, which memory is needed, how long it takes.
"""

import atexit
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
_SHARED = "FUSEHUB_TESTS_WARM"


def python() -> list[str]:
    """What to write in place of `sys.executable`; where forks are not safe, that is what it is."""
    if sys.platform != "linux":
        return [sys.executable]
    return [sys.executable, "-S", "-E", str(Path(__file__).with_name("client.py")), _parent()]


def command(folder: Path) -> str:
    """A folder for PATH, made in `folder`, whose `fusehub` is the command line."""
    place = folder / "bin"
    place.mkdir()
    (place / "fusehub").write_text(f'#!/bin/sh\nexec {shlex.join(python())} -m fusehub "$@"\n')
    (place / "fusehub").chmod(0o755)
    return str(place)


def share() -> None:
    """Starts the parent that the processes which this one starts from now on share."""
    if sys.platform == "linux":
        os.environ[_SHARED] = _parent()


@cache
def _parent() -> str:
    """The socket that the parent answers at, which it does once it has imported all."""
    if shared := os.environ.get(_SHARED):
        return shared
    # A socket's path must be short, and a test may have set another place for temporary files.
    folder = tempfile.mkdtemp(prefix="fusehub-warm-", dir="/tmp")
    path = f"{folder}/socket"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(64)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm.parent", str(listening.fileno())],
            cwd=ROOT,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
            },
            stdin=subprocess.PIPE,
            pass_fds=[listening.fileno()],
        )

    def end() -> None:
        # It ends when nobody can ask it anything any more.
        process.stdin.close()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    return path
