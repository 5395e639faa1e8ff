"""The command line: one command a step, each a thin layer over the function of the package that does it.

Heavy libraries are imported inside the commands, so that help and wrong usage answer at once.
"""

from __future__ import annotations

# Importing a file of commands puts them into the program, in this order.
from fusehub.commands import models, statistics, merging, predictions, publishing, browser, local  # noqa: F401  # isort: skip
from fusehub.commands.program import app

__all__ = ["app"]
