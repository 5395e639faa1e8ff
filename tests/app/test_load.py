"""A minute of visitors and programs, which leaves nothing behind; for hours of them see `tests.reliability.load`."""

from __future__ import annotations

from tests.reliability.load import carry


def test_visits_and_merges_leave_nothing_behind(hub, chromium, tmp_path) -> None:
    """That memory holds is for hours to show: in the first minute all is loaded that is loaded once.

    Processes and files are as many as before. Handles may be more by the connections to the Hub that the client keeps
    open for its next question, at most the twenty of its pool: which of them are open is a matter of the moment.
    """
    load = carry(hub, chromium, tmp_path, seconds=40, visits=2, merges=8)
    assert load.failed == [] and load.visits and load.merges
    assert load.left_over() == []
