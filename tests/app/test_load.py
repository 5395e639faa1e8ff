"""A minute of visitors and programs, which leaves nothing behind; for hours of them see `tests.reliability.load`."""

from __future__ import annotations

from tests.reliability.load import carry


def test_visits_and_merges_leave_nothing_behind(hub, chromium, tmp_path) -> None:
    """That memory holds is for hours to show: in the first minute all is loaded that is loaded once."""
    load = carry(hub, chromium, tmp_path, seconds=40, visits=2, merges=8)
    assert load.failed == [] and load.visits and load.merges
    assert load.left_over() == []
