"""Processes that work together, of which one fails where the others do not expect it to speak."""

import pytest

from tests.unit import together
from tests.warm import python

# `sys.argv`: where the second of two fails.
RUN = """
import sys, torch
from fusehub.errors import FuseHubError
from fusehub.utils.processes import Processes

processes = Processes.find()
fails = sys.argv[1] if processes.index else ""

class Broken:
    @property
    def dtype(self):
        raise MemoryError("no room")

def tensors():
    yield torch.ones(3)
    if fails == "while they are made":
        raise MemoryError("no room")
    yield Broken() if fails == "between two sums" else torch.ones(3)

try:
    with processes.together():
        processes.agree()
        if fails == "before":
            raise MemoryError("no room")
        processes.add_up(tensors())
except (FuseHubError, MemoryError) as error:
    print(str(error).splitlines()[0])
    sys.exit(1)
"""


@pytest.mark.parametrize("fails", ["before", "while they are made", "between two sums"])
def test_none_waits_in_a_sum_for_one_that_has_failed(fails):
    first, second = together.ends(together.start([*python(), "-c", RUN, fails], 2))
    assert second[:2] == (1, "no room\n"), second
    assert first[0] == 1, first
    gone = fails == "between two sums"
    assert first[1].startswith("A process of 2 is gone" if gone else "Process 1 of 2 stopped: no room"), first


def test_one_that_waits_for_others_that_never_come_says_so():
    """As where the first of them cannot take the port, and has ended."""
    run = """
import os, threading
from fusehub.utils import processes
processes._SILENCE = 0.5
if os.environ["RANK"] == "1":
    threading.Timer(60, os._exit, [1]).start()
    processes.Processes.find()
"""
    first, second = together.start([*python(), "-c", run], 2)
    assert together.ends([first])[0][0] == 0
    try:
        said = second.stderr.readline()
        assert said.startswith("Waiting for the other processes of 2 at 127.0.0.1:"), said
    finally:
        second.kill()
        second.communicate()
