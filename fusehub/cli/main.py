"""The command line: one command a step, each a thin layer over the function of the package that does it.

Heavy libraries are imported inside the commands, so that help and wrong usage answer at once.
"""

from __future__ import annotations

# Importing a file of commands puts them into the program, in this order.
from fusehub.cli import models  # noqa: F401  # isort: skip
from fusehub.cli import statistics  # noqa: F401  # isort: skip
from fusehub.cli import merge  # noqa: F401  # isort: skip
from fusehub.cli import methods  # noqa: F401  # isort: skip
from fusehub.cli import compare  # noqa: F401  # isort: skip
from fusehub.cli import layers  # noqa: F401  # isort: skip
from fusehub.cli import publish  # noqa: F401  # isort: skip
from fusehub.cli import browser  # noqa: F401  # isort: skip
from fusehub.cli import local  # noqa: F401  # isort: skip
from fusehub.cli.program import app

__all__ = ["app"]
