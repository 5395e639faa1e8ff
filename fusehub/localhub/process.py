"""Running the hub: here and blocking (`serve`), or in a process of its own (`running`).

The child of `running` holds the read end of a pipe whose other end only its parent has; when the parent dies, however
suddenly, the pipe closes and the child goes too.
"""

import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from .access import add_org, add_user, token_of
from .app import create_app
from .errors import LocalHubError

START_TIMEOUT = 60


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one. Raises LocalHubError when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(256)
    except (OSError, OverflowError) as error:
        sock.close()
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise LocalHubError(f"Cannot serve on {host}:{port} ({reason}). Choose another port with --port.") from error
    return sock


def _url(host: str, sock: socket.socket) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{sock.getsockname()[1]}"


class _Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # uvicorn keeps the class in a variable.
    """HTTP whose connections the application can end: see `faults`."""

    app_state: dict[str, Any]

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()


def serve(
    root: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8730,
    on_ready: Callable[[str], None] | None = None,
    with_parent: bool = False,
    **options: Any,
) -> None:
    """Serve a folder until interrupted. `on_ready` gets the address once it answers; `options` go to create_app.

    Raises LocalHubError when the port is taken or another hub serves the folder.
    """
    sock = bind(host, port)
    try:
        app = create_app(Path(root), host=host, **options)
        config = uvicorn.Config(
            app, http=_Protocol, log_level="warning", access_log=False, timeout_graceful_shutdown=2, lifespan="on"
        )
        url = _url(host, sock)
        server = _Server(config, lambda: on_ready and on_ready(url))
        if with_parent:
            threading.Thread(target=_watch_parent, args=(server,), daemon=True).start()
        server.run(sockets=[sock])
    finally:
        sock.close()


def _watch_parent(server: uvicorn.Server) -> None:
    """Stop when standard input closes or the parent is another one: the parent is gone."""
    parent = os.getppid()
    while os.getppid() == parent:
        ready, _, _ = select.select([sys.stdin], [], [], 1.0)
        if ready and not os.read(sys.stdin.fileno(), 1):
            break
    server.should_exit = True
    time.sleep(5)
    os._exit(0)


@dataclass
class Running:
    """A hub in its own process."""

    root: Path
    url: str
    process: subprocess.Popen = field(repr=False)

    @property
    def pid(self) -> int:
        return self.process.pid

    def token(self, name: str, role: str = "write") -> str:
        """A token of the user, who is made if not there yet."""
        return token_of(self.root, name, role)

    def add_user(self, name: str, role: str = "write") -> str:
        return add_user(self.root, name, role)

    def add_org(self, name: str, members: dict[str, str]) -> None:
        add_org(self.root, name, members)

    def env(self, name: str | None = None, home: Path | None = None) -> dict[str, str]:
        """The environment of a program that shall use this hub, as this user."""
        env = {**os.environ, "HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        env |= {"HF_HOME": str(home)} if home else {}
        env |= {"HF_TOKEN": self.token(name)} if name else {}
        return env

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()


@contextmanager
def running(root: Path, port: int = 0, *options: str) -> Iterator[Running]:
    """A hub on a folder in a separate process, for as long as the block lasts; `options` are of `__main__`."""
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    package_parent = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "fusehub.localhub", str(root), "--port", str(port), "--with-parent", *options]
    env = {**os.environ, "PYTHONPATH": path}
    pipe = subprocess.PIPE
    with (
        open(root / "server.log", "ab") as log,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, env=env) as process,
    ):
        try:
            hub = Running(root, _read_url(process, root), process)
            yield hub
            hub.stop()
        finally:
            if process.poll() is None:
                process.kill()


def _read_url(process: subprocess.Popen, root: Path) -> str:
    """The first line the child prints, which it does once it answers."""
    assert process.stdout is not None  # It is a pipe.
    ready, _, _ = select.select([process.stdout], [], [], START_TIMEOUT)
    line = process.stdout.readline().decode().strip() if ready else ""
    if not line.startswith("http"):
        process.kill()
        process.wait()
        words = (root / "server.log").read_text(errors="replace").strip().splitlines()
        raise LocalHubError(f"The hub did not start: {words[-1] if words else 'it said nothing'}")
    return line
