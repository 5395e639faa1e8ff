"""What checking reads of models, brought onto this machine before it is read: of all models side by side.

Whoever reads it then waits for nothing. What cannot be brought is told by whoever needs it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from functools import partial

from fusehub.errors import FuseHubError
from fusehub.models.adapters.ref import CONFIG, adapter_header
from fusehub.models.checkpoints.checkpoint import headers
from fusehub.models.ref import ModelRef
from fusehub.utils.progress import Progress, silent
from fusehub.utils.side_by_side import side_by_side


def read_ahead(refs: Sequence[ModelRef], progress: Progress = silent, *, files_alone: bool = False) -> None:
    """Brings the configs, small files and headers of `refs`; `progress` is called with (done, total, name) of models.

    Of a file that several have, one is enough. `files_alone` leaves out the headers, which this process keeps for
    itself.
    """
    left = [0] * len(refs)
    done = 0
    turn = threading.Lock()
    work: list[tuple[int, Callable[[], object]]] = []
    seen: set[str] = set()
    for place, ref in enumerate(refs):
        reads = [*_files(ref, seen), *([] if files_alone else _headers(ref))]
        work += [(place, read) for read in reads]
        left[place] = len(reads)

    def do(one: tuple[int, Callable[[], object]]) -> None:
        nonlocal done
        place, read = one
        with contextlib.suppress(FuseHubError):
            read()
        with turn:
            left[place] -= 1
            if not left[place]:
                done += 1
                progress(done, len(refs), refs[place].name)

    side_by_side(do, work)


def _parts(ref: ModelRef) -> list[ModelRef]:
    """What lies at the Hub of a model; of a folder, there is nothing to be brought."""
    return [part for part in ref.parts or [ref] if not part.folder]


def _headers(ref: ModelRef) -> list[Callable[[], object]]:
    """How to bring the headers of one model."""
    own = ref.parts.adapter if ref.parts else None
    return [partial(adapter_header if part is own else headers, part) for part in _parts(ref)]


def _files(ref: ModelRef, seen: set[str]) -> list[Callable[[], object]]:
    """How to bring the files of one model; `seen` are the hashes of those that another one brings already."""
    found: list[Callable[[], object]] = []
    for part in _parts(ref):
        for name in ("config.json", CONFIG, *part.side_files()):
            if name not in part.files:
                continue
            claim = part.files[name].sha256 or part.files[name].git_oid
            if claim is None or claim not in seen:
                found.append(partial(part.path, name))
            if claim is not None:
                seen.add(claim)
    return found
