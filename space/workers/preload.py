"""Imports what processes of work need, in the server that they are forked from, so that each starts at once."""

import gc
import os

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# One process works at a time beside the one that answers: neither takes all cores from the other.
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2)))

import sklearn.metrics  # noqa: F401
import torch  # noqa: F401
import transformers.modeling_utils
import transformers.models.auto.modeling_auto
import transformers.models.auto.tokenization_auto  # noqa: F401

import fusehub

from . import tasks  # noqa: F401

# Whatever is imported only when it is used would be imported by each process anew, for seconds.
for name in fusehub.__all__:
    getattr(fusehub, name)

# What is imported stays: no process has to look through it for garbage, nor to copy it for that.
gc.freeze()
