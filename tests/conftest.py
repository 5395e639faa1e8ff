"""What every test starts from, and that it leaves no trace for the tests after it."""

import atexit
import functools
import gc
import logging
import os
import shutil
import signal
import ssl
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from tests import warm

if "HF_ASSETS_CACHE" not in os.environ:
    # What is remembered from run to run is shared by the tests and their processes, and by nothing else.
    os.environ["HF_ASSETS_CACHE"] = tempfile.mkdtemp(prefix="fusehub-tests-")
    atexit.register(shutil.rmtree, os.environ["HF_ASSETS_CACHE"], ignore_errors=True)

# Each client of HTTP, of which gradio's makes two a question, reads the certificates of the world's authorities anew,
# for 20 ms of the processor; here nobody is asked over TLS.
ssl.create_default_context = functools.cache(ssl.create_default_context)

# What takes minutes, and what waits more than it works, comes first: no worker is left with it at the end.
FIRST = (
    "app/test_visits.py",
    "app/test_choices.py",
    "demo/test_demo.py",
    "app/test_reach.py",
    "unit/test_fuzz.py",
    "app/test_load.py",
    "app/test_way.py",
    "app/test_every_kind.py",
    "unit/test_every_task.py",
    "app/test_space.py",
    "unit/test_collect_resume.py",
    "app/test_programs.py",
    "unit/test_verified.py",
    "app/test_worker.py",
    "app/test_limits.py",
    "unit/test_publish.py",
    "unit/test_remembered.py",
    "unit/test_tokens.py",
    "unit/test_rewording.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Where several workers run tests, all of them have one parent of interpreters."""
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        warm.share()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(tests).as_posix()
        return FIRST.index(name) if name in FIRST else len(FIRST)

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """A million objects of libraries stay to the end; looking through them for garbage takes long, each time."""
    gc.collect()
    gc.freeze()


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
