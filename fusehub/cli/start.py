"""Where `fusehub` starts, as a program: an interrupt is answered before the libraries are there."""

from __future__ import annotations

import signal

from fusehub.utils import interrupts


def main() -> None:
    """Entry point of `fusehub`, `hf-fusehub` and `python -m fusehub`."""
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
