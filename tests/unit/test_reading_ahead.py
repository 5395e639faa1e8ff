"""What the next layers need is read from the disk while one is solved."""

import ctypes
import mmap
import os
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fusehub.merging.merge import merge
from fusehub.merging.plan import plan_merge
from fusehub.models.tensor_files import SafetensorsFile
from tests.unit.experts import recipe_of, relatives, with_statistics

WAIT = 60


def in_memory(path: Path) -> list[bool]:
    """Of each page of a file whether the system has it in memory; asking reads nothing."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        found = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        first = ctypes.c_char.from_buffer(mapped)
        place = ctypes.c_void_p(ctypes.addressof(first))
        failed = ctypes.CDLL(None, use_errno=True).mincore(place, ctypes.c_size_t(len(mapped)), found)
        del first  # As long as it is there the file stays mapped.
    assert not failed
    return [bool(page & 1) for page in found]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell in other ways what they have in memory")
def test_the_system_reads_all_of_a_tensor(tmp_path):
    path = tmp_path / "model.safetensors"
    # More than is read at once, and around it more than is read along with it.
    sizes = {"a": 2**23, "b": 2**22, "c": 2**23}
    save_file({name: torch.ones(size) for name, size in sizes.items()}, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if any(in_memory(path)):
        pytest.skip("this file system keeps its files in memory")
    file = SafetensorsFile(path, "a model")
    wanted = slice(-(-file._offsets["b"] // mmap.PAGESIZE), file._offsets["c"] // mmap.PAGESIZE)
    file.read_ahead("b")
    until = time.monotonic() + WAIT
    while not all(in_memory(path)[wanted]) and time.monotonic() < until:
        time.sleep(0.01)
    there = in_memory(path)
    assert all(there[wanted])
    assert not there[len(there) // 5] and not there[-1]
    file.close()


def test_all_that_is_solved_is_read_ahead_but_what_comes_first(tmp_path, monkeypatch):
    plan = plan_merge(recipe_of(with_statistics(relatives(tmp_path / "models", layers=2))))
    asked: dict[str, set[str]] = {}
    ask = SafetensorsFile.read_ahead

    def spy(file: SafetensorsFile, name: str) -> None:
        asked.setdefault(name, set()).add(file._file.name)
        ask(file, name)

    monkeypatch.setattr(SafetensorsFile, "read_ahead", spy)
    merge(plan, tmp_path / "merged")
    solved = [name for name, tensor in plan.tensors.items() if tensor.action == "solve"]
    weights = {name for name in asked if name in plan.tensors}
    assert len(solved) > 2
    assert len(set(solved) - weights) == 1 and weights < set(solved)
    assert all(len(asked[name]) == 2 for name in asked)
    # Statistics by their codes and by what scales them.
    parts = {name.rpartition(".")[2] for name in asked.keys() - weights}
    assert parts and parts <= {"C", "d", "e", "S"}
