"""Imports what processes of work need, in the server that they are forked from, so that each starts at once."""

import gc
import os

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# One process works at a time beside the one that answers: neither takes all cores from the other.
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2)))

import torch  # noqa: F401
import transformers
import transformers.models.auto  # noqa: F401

from . import tasks  # noqa: F401

# What is imported stays: no process has to look through it for garbage, nor to copy it for that.
gc.freeze()
