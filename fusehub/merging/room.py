"""Whether there is room for a merge: told from its plan, before any weight is read.

What is refused is what cannot be. Disks are told to the byte. Memory is foreseen, by up to a third more than is taken:
what needs more than three quarters of that is refused, and what may need more than there is left is said.
"""

from __future__ import annotations

import itertools
import logging
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from fusehub.errors import Action, NoMemory, NoSpace
from fusehub.merging.cost import beside_the_process, layers_beside
from fusehub.models.checkpoints.downloads import room_of_downloads
from fusehub.utils.folders.places import Room, require_room
from fusehub.utils.formats import size
from fusehub.utils.memory import memory_errors, memory_of

if TYPE_CHECKING:
    from fusehub.merging.plan import Plan

logger = logging.getLogger(__name__)

# The part of what a plan tells that is needed at the least: measured, RegMean takes four fifths of it.
_AT_LEAST = 0.75
_PIECES = "merge by a method that takes tensors in pieces, as the mean"
_OUT = "Make room there, or write the result to another disk; stored in bfloat16 it takes half of what float32 does."


def require_disk(plan: Plan, target: Path, written: int) -> None:
    """Raises `NoSpace` where the disks do not take what is to be downloaded, and what the `written` bytes that are
    complete leave to be written for the folder `target`; or where no file may be so large."""
    refs = [*plan.experts, *filter(None, [plan.base])]
    result = Room("The merged model", plan.cost["output_bytes"] - written, target, _OUT)
    fisher = plan.method.needs_fisher
    # Experts can have the same statistics.
    statistics = {found.origin: found.room(fisher=fisher) for found in plan.statistics}
    require_room([result, *room_of_downloads(refs), *itertools.chain.from_iterable(statistics.values())])
    largest = 0 if plan.recipe.as_adapter else max((shard.nbytes for shard in plan.shards), default=0)
    if (most := _most_bytes_of_a_file()) is not None and largest > most:
        raise NoSpace(
            f"One file of the merged model has {size(largest)}, and this process may write no more than "
            f"{size(most)} into one (ulimit -f).",
            "Raise that limit, or write smaller files: --max-shard-size.",
        )


def require_memory(plan: Plan, device: str, processes: int = 1) -> None:
    """Raises `NoMemory` where `processes` of this machine, each with a layer on `device`, need more than is left.

    Where they may need it, that is said.
    """
    needed = beside_the_process(plan.cost) * processes
    if needed <= 0 or (there := memory_of(device)) is None or needed <= there:
        return
    where = "memory" if device == "cpu" else f"memory of {device}"
    of = f"{processes} processes" if processes > 1 else plan.method.title
    largest = f"{of}: the largest layer takes about {size(needed)} of {where}, and {size(there)} are left."
    # Of what blocks of a model gave, as much is kept as there is room for; and layers are solved beside each other
    # only where there is room.
    beside = layers_beside(plan.tensors.values(), plan.method, len(plan.experts)).memory * processes
    if plan.method.needs_data or _AT_LEAST * (needed - beside) <= there:
        logger.warning("%s It may not suffice.", largest)
        return
    ways = ["Give it more memory, or end what else takes it"]
    ways += ["start fewer processes"] if processes > 1 else []
    ways += ["say --device cpu"] if device != "cpu" else []
    ways.append(_PIECES)
    raise NoMemory(largest, f"{', '.join(ways[:-1])}, or {ways[-1]}.", actions=[Action("choose-method")])


def memory_errors_of(plan: Plan) -> AbstractContextManager[None]:
    """Carrying out the plan: memory that could not be had after all is a `NoMemory`."""
    fix = f"Give it more memory, or {_PIECES}."
    return memory_errors(plan.method.title, fix, [Action("choose-method")])


def _most_bytes_of_a_file() -> int | None:
    """What the user's limit allows; None where there is none."""
    try:
        import resource
    except ImportError:  # As on Windows.
        return None
    most, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if most == resource.RLIM_INFINITY else most
