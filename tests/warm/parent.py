"""The parent that forks: `python -m tests.warm.parent DESCRIPTOR_OF_A_LISTENING_SOCKET`, until its input ends."""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

# What reads the environment when it is imported.
_READERS = ("huggingface_hub.constants", "datasets.config")
_USED = (
    "accelerate",
    "datasets.packaged_modules",
    "peft",
    "scipy.stats",
    "sklearn.metrics",
    "torch.distributed",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.bert.modeling_bert",
    "transformers.models.bert.tokenization_bert",
)


def import_all() -> None:
    """What the library and the command line import when they are used, so that no process has to."""
    import fusehub

    for name in _USED:
        importlib.import_module(name)
    for module in pkgutil.walk_packages(fusehub.__path__, "fusehub."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def serve(listening: socket.socket) -> dict[str, Any] | None:
    """Forks for whoever asks; gives back in the child what it was asked, and in the parent None at the end."""
    waiting = selectors.DefaultSelector()
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    waiting.register(listening, selectors.EVENT_READ)
    waiting.register(sys.stdin.fileno(), selectors.EVENT_READ)
    waiting.register(read, selectors.EVENT_READ)
    clients: dict[socket.socket, int] = {}
    while True:
        for key, _ in waiting.select():
            if key.fileobj is listening:
                client, _ = listening.accept()
                asked, files = _asked(client)
                if asked is None:
                    client.close()
                    continue
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for number, file in enumerate(files):
                        os.dup2(file, number)
                    for left in (*clients, client, listening, waiting):
                        left.close()
                    for descriptor in (*files, read, write):
                        os.close(descriptor)
                    return asked
                for file in files:
                    os.close(file)
                clients[client] = pid
                waiting.register(client, selectors.EVENT_READ)
                _tell(client, pid)
            elif key.fileobj in clients:
                # The client tells nothing more: it was killed.
                waiting.unregister(key.fileobj)
                os.kill(clients[key.fileobj], signal.SIGKILL)
            elif key.fileobj == read:
                os.read(read, 4096)
                _reap(clients, waiting)
            elif key.fileobj == sys.stdin.fileno():
                for pid in clients.values():
                    os.kill(pid, signal.SIGKILL)
                return None


def _asked(client: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    length, files, _, _ = socket.recv_fds(client, 4, 3)
    if len(files) < 3:
        return None, files
    with client.makefile("rb") as sent:
        return json.loads(sent.read(int.from_bytes(length, "big"))), files


def _tell(client: socket.socket, number: int) -> None:
    try:
        client.sendall(f"{number}\n".encode())
    except BrokenPipeError:
        pass


def _reap(clients: dict[socket.socket, int], waiting: selectors.BaseSelector) -> None:
    """Tells the clients of processes that have ended how."""
    for client, pid in list(clients.items()):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            if client in waiting.get_map():
                waiting.unregister(client)
            _tell(client, os.waitstatus_to_exitcode(status))
            client.close()
            del clients[client]


def become(asked: dict[str, Any]) -> None:
    """Runs what was asked as an interpreter would that was started with it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    tempfile.tempdir = None
    sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    read_environment_again()
    [first, *arguments] = asked["arguments"]
    if first == "-m":
        [module, *arguments] = arguments
        sys.argv = [module, *arguments]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    elif first == "-c":
        [code, *arguments] = arguments
        sys.argv = ["-c", *arguments]
        sys.path.insert(0, "")
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), main.__dict__)
    else:
        sys.argv = [first, *arguments]
        sys.path.insert(0, os.path.dirname(os.path.abspath(first)))
        runpy.run_path(first, run_name="__main__")


def read_environment_again() -> None:
    """Has the environment's settings read anew, and put wherever they were copied to."""
    changed = {}
    for name in _READERS:
        module = sys.modules[name]
        before = dict(vars(module))
        importlib.reload(module)
        changed |= {
            key: (before[key], value)
            for key, value in vars(module).items()
            if key[0] != "_" and key.isupper() and key in before and before[key] != value
        }
    for module in list(sys.modules.values()):
        for key, (old, new) in changed.items():
            # A folder is a path in one library and a string in another.
            if key in vars(module) and str(own := vars(module)[key]) == str(old):
                setattr(module, key, type(own)(new) if isinstance(own, str | Path) else new)
    import huggingface_hub
    import torch
    from huggingface_hub import constants, hf_api

    import fusehub.utils.logging

    hf_api.api.endpoint = constants.ENDPOINT
    huggingface_hub.logging.set_verbosity(huggingface_hub.utils.logging._get_default_logging_level())
    fusehub.utils.logging.from_environment()
    if threads := os.environ.get("OMP_NUM_THREADS"):  # Which torch read when it was imported.
        torch.set_num_threads(int(threads))


if __name__ == "__main__":
    import_all()
    # What is never collected is not copied for a process that collects.
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as listening:
        asked = serve(listening)
    if asked is not None:
        become(asked)
