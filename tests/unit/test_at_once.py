"""Commands that are killed, interrupted, or started twice at once, as real processes: nothing is ever half.

A few of each; `python -m tests.reliability.kills` has hundreds.
"""

import pytest

from tests.reliability.kills import at_once, interrupt, kill, kill_hub, workshop
from tests.reliability.subjects import MOMENTS


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    with workshop(tmp_path_factory.mktemp("shop")) as made:
        yield made


@pytest.mark.parametrize("name", ["merge", "collect", "publish"])
def test_a_killed_command_leaves_nothing_half_and_the_next_one_succeeds(shop, name):
    _, subjects, _, _ = shop
    found = kill(subjects[name], 5)
    assert found.wrong == []
    assert sum(found.counts[moment, "kills"] for moment in MOMENTS) == 5


def test_a_hub_that_is_killed_under_commands_goes_on_where_it_was(shop):
    warm, subjects, root, hubs = shop
    assert kill_hub([subjects["publish"], subjects["collect"]], warm, root, hubs, 4).wrong == []


@pytest.mark.parametrize("name", ["merge", "collect", "publish"])
def test_an_interrupt_is_one_line_and_leaves_nothing(shop, name):
    _, subjects, _, _ = shop
    assert interrupt(subjects[name], 3, seed=1).wrong == []


@pytest.mark.parametrize("name", ["merge", "collect", "publish"])
def test_of_two_at_once_one_wins_and_the_other_says_so(shop, name):
    _, subjects, _, _ = shop
    assert at_once(subjects[name], subjects[name], 2).wrong == []
