"""Processes that find each other as torchrun's do."""

import os
import subprocess
from collections.abc import Sequence
from datetime import timedelta
from typing import Any


class Process(subprocess.Popen[str]):
    """One of several, which keeps the place where they meet."""

    store: Any = None


def start(command: Sequence[object], count: int, **environment: str) -> list[Process]:
    """`count` processes of one command, or one that was started alone."""
    common = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    store = None
    if count > 1:
        store = _store()
        common |= {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
        common |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}
    processes = [
        Process(
            [*map(str, command)],
            env=common | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    for process in processes:
        process.store = store
    return processes


def _store() -> Any:
    """Where they meet. It is this process's, as it is torchrun's: a port that is let go of for one of them to bind can
    be taken by then, and the others would wait there."""
    from torch.distributed import TCPStore

    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(hours=1))


def ends(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of each."""
    said = [process.communicate(timeout=120) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]
