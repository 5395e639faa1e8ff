"""What every test starts from."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def warnings_as_they_were() -> Iterator[None]:
    """The command line sets how the package's warnings are shown; a test that calls it leaves no trace for others."""
    logger = logging.getLogger("fusehub")
    level, handlers = logger.level, logger.handlers[:]
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers
