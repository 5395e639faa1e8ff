"""What a run has done so far, kept in files, so that the same command goes on where a killed one was.

    saves = Saves(folder, facts, processes, every=60)
    saved = saves.read()                                  # None at first
    ...
    if saves.due:
        saves.write(Saved(tensors, state))
    saves.remove()                                        # after success nothing is left

Each process has a file of its own: the sums and where it was. `facts` is all that the result depends on (weights,
data, options, number of processes); what was saved under other facts is not used, and said to be so.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.errors import BadFile
from fusehub.models.checkpoints.checkpoint import write_tensors
from fusehub.utils.folders.places import place_errors

if TYPE_CHECKING:
    from torch import Tensor

    from fusehub.utils.processes import Processes

logger = logging.getLogger(__name__)

EVERY = 60.0
"""Seconds between two saves."""


def kept_work(model: str) -> Path:
    """Where work on a model is kept if its result goes nowhere on this machine: beside the Hub's cache."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "fusehub" / "collecting" / re.sub(r"[^\w.@-]+", "--", model)


@dataclass(frozen=True)
class Saved:
    """Sums by name, and whatever else says where the run was, as JSON has it."""

    tensors: Mapping[str, Tensor]
    state: dict[str, Any]


class Saves:
    """The file in `folder` of one of several processes, written at most every so many seconds."""

    def __init__(self, folder: Path, facts: Mapping[str, Any], processes: Processes, *, every: float = EVERY) -> None:
        self._folder = folder
        self._facts = json.loads(json.dumps(facts))
        self._path = folder / f"process-{processes.index}.safetensors"
        self._every = every
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._last >= self._every

    def read(self) -> Saved | None:
        """What an earlier run with the same facts saved; a file of other facts is removed, with a warning."""
        from fusehub.models.tensor_files import SafetensorsFile

        if not self._path.exists():
            return None
        try:
            file = SafetensorsFile(self._path, "sums")
        except BadFile:
            logger.warning("%s cannot be read; starting anew.", self._path)
            self.remove()
            return None
        try:
            content = json.loads(file.metadata["fusehub"])
            differing = sorted(
                key for key in {*self._facts, *content["facts"]} if self._facts.get(key) != content["facts"].get(key)
            )
            if not differing:
                logger.warning("Going on where an earlier run of the same was stopped.")
                return Saved({name: file.read(name, 0, None) for name in file.tensors}, content["state"])
        finally:
            file.close()
        logger.warning(
            "An earlier run was stopped, but not of the same (%s): starting anew.",
            ", ".join(differing),
        )
        self.remove()
        return None

    def write(self, saved: Saved) -> None:
        """Saves, finished or not at all."""
        partial = self._path.with_suffix(".partial")
        text = json.dumps({"facts": self._facts, "state": saved.state})
        with place_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                write_tensors(partial, saved.tensors, {"fusehub": text})
                os.replace(partial, self._path)
            finally:
                partial.unlink(missing_ok=True)
        self._last = time.monotonic()

    def remove(self) -> None:
        """Removes what was saved, and the folder with the last of it."""
        self._remove(self._path.stem)

    def remove_all(self) -> None:
        """Removes what all processes saved, also those of an earlier run that had more of them."""
        self._remove("process-*")

    def _remove(self, stem: str) -> None:
        for path in [*self._folder.glob(f"{stem}.safetensors"), *self._folder.glob(f"{stem}.partial")]:
            path.unlink(missing_ok=True)
        try:
            self._folder.rmdir()
        except OSError:
            pass  # Others still have theirs there, or nothing was ever saved.
