"""The processes that work together: found, kept in step, and left in order.

    processes = Processes.find()
    with processes.together():
        ...                                      # each does its part
        said = processes.agree(my_part)          # what each said; raises in all of them if one has failed
        processes.add_up(tensors)

Started by `torchrun` or `accelerate launch`, on one host or several. Whatever goes wrong in one of them is said by
all, at the next point where they agree, and none waits for one that is gone: one that leaves in the middle of what all
do together leaves the group.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from fusehub.errors import FuseHubError
from fusehub.utils.devices import has_dtype
from fusehub.utils.extras import needs

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState
    from torch import Tensor

logger = logging.getLogger(__name__)

# How long one may be busy with its part, a download included, while the others wait.
PATIENCE = timedelta(hours=1)
# Seconds after which one that waits for the others to join says so: the one that they meet at may have ended.
_SILENCE = 20.0
# Where launchers say how many they started: torchrun and accelerate, Open MPI, MPICH, and a step of Slurm.
_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
# What `accelerate launch` tells a process that it means to start several of, though it starts but one on CPUs.
_LAUNCHED = {"ACCELERATE_MIXED_PRECISION", "MASTER_PORT"}
_START = "Start them with `torchrun --nproc_per_node N -m fusehub ...`."


class Processes:
    """This process among those that were started together; one alone is a group of one."""

    def __init__(self, state: PartialState | None = None) -> None:
        self.count: int = state.num_processes if state else 1
        self.index: int = state.process_index if state else 0
        self._state = state
        self._failed = False

    @property
    def device(self) -> torch.device:
        """Where accelerate runs this process."""
        assert self._state is not None  # Whoever asks has called `find`.
        return self._state.device

    @staticmethod
    def started() -> int:
        """How many were started together with this one, itself among them, by what their launcher says."""
        return max((int(os.environ[name]) for name in _SIZES if os.environ.get(name, "").isdecimal()), default=1)

    @classmethod
    def join(cls) -> Processes:
        """The same as `find`, for work that needs no accelerate: one that was started alone imports nothing."""
        return cls.find() if cls.started() > 1 or os.environ.keys() >= _LAUNCHED else cls()

    @classmethod
    def find(cls) -> Processes:
        """Joins the others. Raises `FuseHubError` where more were started than find each other."""
        import torch
        import torch.distributed as dist

        with needs("collect", "Statistics"):
            from accelerate import PartialState

        joined_before = dist.is_available() and dist.is_initialized()
        started = cls.started()
        try:
            # Without cpu=True, processes on a machine without accelerators each believe that they are alone.
            with _said_to_wait(started):
                state = PartialState(cpu=not torch.accelerator.is_available(), timeout=PATIENCE)
        except (ValueError, RuntimeError) as error:
            raise FuseHubError(
                f"{started} processes were started, but they cannot be joined: {error}.", _START
            ) from error
        if state.num_processes != started:
            raise FuseHubError(f"{started} processes were started, but this one sees {state.num_processes}.", _START)
        if started == 1 and os.environ.keys() >= _LAUNCHED:
            raise FuseHubError(
                "`accelerate launch` was asked for several processes, but started one, as it does without an "
                "accelerator.",
                _START,
            )
        if state.num_processes > 1 and not joined_before:
            # A process that leaves while threads of gloo still talk to the others is aborted by the C++ runtime.
            atexit.register(_leave)
        return cls(state)

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.index == 0

    @property
    def on_this_host(self) -> int:
        """How many of them share this machine, as torchrun tells; 1 where that is not told."""
        told = os.environ.get("LOCAL_WORLD_SIZE", "")
        return min(self.count, int(told)) if told.isdecimal() and int(told) else 1

    @contextmanager
    def together(self) -> Iterator[None]:
        """Work in which a failure of this process is told to the others, where they next agree."""
        try:
            yield
        except BaseException as error:
            if self.count > 1 and not self._failed:
                self._tell(error)
            raise

    def agree(self, said: Any = None) -> list[Any]:
        """What all processes say, in their order. Raises `FuseHubError` if one has failed or is gone."""
        if self.count == 1:
            return [said]
        answers = self._gather({"said": said})
        failures = {index: answer["failed"] for index, answer in enumerate(answers) if "failed" in answer}
        if failures:
            self._failed = True
            index, why = next(iter(failures.items()))
            raise FuseHubError(f"Process {index} of {self.count} stopped: {why}", "Mend that, and start all again.")
        return [answer["said"] for answer in answers]

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replaces each tensor by its sum over all processes, in place; all must give the same shapes. Raises
        `FuseHubError` if one has failed or is gone."""
        import torch.distributed as dist

        if self.count == 1:
            return
        tensors = list(tensors)
        # One that has failed says so where the others agree, and would leave them waiting in a sum.
        self.agree()
        with self._in_step():
            for tensor in tensors:
                if not has_dtype(str(self.device), tensor.dtype):
                    tensor.copy_(sum(self.agree(tensor)))
                elif tensor.device.type == self.device.type:
                    dist.all_reduce(tensor)
                else:
                    # The group's backend may know accelerators only.
                    there = tensor.to(self.device)
                    dist.all_reduce(there)
                    tensor.copy_(there)

    def _gather(self, answer: dict[str, Any]) -> list[dict[str, Any]]:
        from accelerate.utils import gather_object

        with self._in_step():
            return gather_object([answer])

    @contextmanager
    def _in_step(self) -> Iterator[None]:
        """What all do at the same time: whoever does not end it leaves the group, as the others would wait."""
        import torch

        try:
            yield
        except BaseException as error:
            self._failed = True
            _leave()
            if not isinstance(error, RuntimeError) or isinstance(error, torch.OutOfMemoryError):
                raise
            raise FuseHubError(
                f"A process of {self.count} is gone ({str(error).splitlines()[0][:120]}).",
                "See what it said last (was it out of memory?), and start all again.",
            ) from error

    def _tell(self, error: BaseException) -> None:
        what = error.what if isinstance(error, FuseHubError) else (str(error) or type(error).__name__)
        try:
            self._gather({"failed": what})
        except FuseHubError:
            pass  # The others are gone too, and the reason that counts is on its way up.


@contextmanager
def _said_to_wait(count: int) -> Iterator[None]:
    """Joining `count` processes, which is said to go on where it takes long."""
    place = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
    text = "Waiting for the other processes of %d at %s. If one has ended, see what it said last, and start all again."
    timer = threading.Timer(_SILENCE, logger.warning, (text, count, place))
    timer.daemon = True
    if count > 1:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
