"""How much memory this process can still take, whoever limits it: the machine, a container, or the user.

available_memory()      # bytes
with memory_errors("Merging", "Close other programs."):
    ...                 # memory that cannot be had is a `NoMemory`
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from fusehub.errors import Action, NoMemory
from fusehub.utils.extras import needs

# Where control groups are found, of the first version and the second: limit, what is used, and what of that is cache
# that the system gives back when it is asked for memory.
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")
_GROUPS = Path("/sys/fs/cgroup")
# As malloc.h says it.
_M_ARENA_MAX, _M_MMAP_THRESHOLD = -8, -3
# Of what lies in the heap, at the most.
_SMALL = 65_536
# What the first version says where there is no limit is a little below 2 ** 63.
_UNLIMITED = 2**62


def available_memory(*, swap: bool = False) -> int:
    """Bytes: what the machine has free, or less where a control group (as of a container) or a limit of the process
    (`ulimit -v`, `ulimit -d`) allows less; with what is free of its `swap`, which is slow."""
    with needs("collect", "Models larger than memory"):
        import psutil

    free = psutil.virtual_memory().available + (psutil.swap_memory().free if swap else 0)
    return max(0, min([free, *_limits_of_process(), *_limits_of_groups()]))


def memory_of(device: str) -> int | None:
    """The same of an accelerator, or of the CPU with its swap; None where it is not told: of other accelerators than
    CUDA's, or without psutil."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    return available_memory(swap=True) if device.startswith("cpu") and find_spec("psutil") else None


@contextmanager
def memory_errors(what: str, fix: str, actions: Iterable[Action] = ()) -> Iterator[None]:
    """Turns memory that could not be had into a `NoMemory` that says `what` was being done, and how to `fix` it."""
    try:
        yield
    except Exception as error:
        if not is_of_memory(error):
            raise
        raise NoMemory(f"{what} took more memory than could be had.", fix, actions=actions) from error


def use_one_heap() -> None:
    """Has the C library give memory to all threads of this process from one heap, where it is glibc.

    Each thread gets one of its own otherwise, and every heap keeps what was freed: of a merge with two threads at
    work, some 100 MB. Layers and pieces ask for so much at a time that threads do not wait for each other.
    """
    import ctypes
    import platform

    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def give_back_at_once() -> None:
    """Has the C library take memory for all but small things from the system, and give it back when it is freed, where
    it is glibc: from now on, as it cannot be told otherwise again.

    It moves the size from which on it does so up to 32 MB as larger things are freed. What lies in its heap then
    leaves holes, of which more or less can be used again: a run within a limit may find no room that another found.
    """
    import ctypes
    import platform

    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _SMALL)


def is_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had.

    torch has a kind of its own for memory of accelerators, and tells of the CPU's by the name of what gives it, or in
    the system's words.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    words = ("DefaultCPUAllocator", os.strerror(errno.ENOMEM))
    return isinstance(error, RuntimeError | OSError) and any(word in str(error) for word in words)


def _limits_of_process() -> Iterator[int]:
    import psutil

    try:
        import resource
    except ImportError:  # As on Windows.
        return
    taken = psutil.Process().memory_info()
    for kind, used in ((resource.RLIMIT_AS, taken.vms), (resource.RLIMIT_DATA, getattr(taken, "data", 0))):
        most, _ = resource.getrlimit(kind)
        if most != resource.RLIM_INFINITY:
            yield most - used


def _limits_of_groups() -> Iterator[int]:
    """What is left in each control group that this process is in, and in those around them."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        home, names = (_GROUPS / "memory", _V1) if kinds else (_GROUPS, _V2)
        # In a container, the path may be that of the host, which is not there: its own group is the root then.
        own = home / path.lstrip("/")
        for folder in (own, *own.parents):
            if (left := _left_in(folder, names)) is not None:
                yield left
            if folder == home:
                break


def _left_in(folder: Path, names: tuple[str, str, str]) -> int | None:
    limit, used, cache = names
    try:
        most, taken = (folder / limit).read_text().strip(), int((folder / used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if not most.isdecimal() or int(most) >= _UNLIMITED:
        return None
    return int(most) - taken + int(stat.get(cache, 0))
