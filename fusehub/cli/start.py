"""Where `fusehub` starts, as a program: an interrupt is answered before the libraries are there."""

from __future__ import annotations

import atexit
import gc
import signal
from typing import Final

from fusehub.utils import interrupts

# How many objects more than before, and how many collections of the younger ones, make Python look for cycles. Imports
# make hundreds of thousands of objects, all of which stay: looking at them, and once more at the end, was a tenth and
# more of the time of a small merge.
_COLLECTING: Final = (50_000, 20, 50)


def main() -> None:
    """Entry point of `fusehub`, `hf-fusehub` and `python -m fusehub`."""
    before = gc.get_threshold()
    gc.set_threshold(*_COLLECTING)
    # When the process ends, what is still there goes with it, and need not be looked at once more.
    atexit.register(gc.freeze)
    interrupts.listen(at_once=True)
    # Imports libraries, which takes a while.
    from fusehub.cli.main import app

    try:
        app()
    finally:
        if interrupts.is_ending():
            # What threads still do for a command that was interrupted is not waited for.
            interrupts.end_now()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        gc.set_threshold(*before)
