"""What every test starts from, and that it leaves no trace for the tests after it."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from unittest import mock

import pytest


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """The command line sets the signals, the environment and the warnings of its process, which here goes on."""
    logger = logging.getLogger("fusehub")
    level, handlers = logger.level, logger.handlers[:]
    handlers_of = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    torch = sys.modules.get("torch")
    before = (torch.get_num_threads(), torch.get_default_dtype()) if torch else None
    with mock.patch.dict(os.environ):
        yield
    logger.setLevel(level)
    logger.handlers[:] = handlers
    for number, handler in handlers_of.items():
        signal.signal(number, handler)
    sys.unraisablehook = sys.__unraisablehook__
    assert not torch or (torch.get_num_threads(), torch.get_default_dtype()) == before, "torch was left changed"
