"""What the visitor says once of all merges: a base goes to the methods that are made of differences to it and to no
others; heads are kept in all.
"""

from __future__ import annotations

import pytest

from space.render.reproduce import merge_command, python_lines
from space.serve import new_frame
from space.setting import Setting
from space.steps.made import same_as
from space.steps.merge import start_merges
from space.steps.pick import describe
from tests.unit.experts import relatives, with_statistics


@pytest.fixture(scope="module")
def frame():
    made = new_frame(Setting(shared=False))
    yield made
    made.jobs.close()
    made.visits.close()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experts")
    return [str(path) for path in with_statistics(relatives(folder))], str(folder / "base")


def with_base(frame, models, parameters) -> dict[str, bool]:
    """Method -> whether the recipe that its merge wrote has a base."""
    experts, base = models
    visit = frame.visits.open()
    visit.picks, visit.base = [describe(name, None) for name in experts], base
    start_merges(frame, visit, parameters, {}, None)
    frame.jobs.wait(visit.job, 300)
    assert visit.job.error is None, visit.job.error
    said = {name: "base_model:" in made.recipe for name, made in visit.merges.items()}
    frame.visits.end(visit)
    return said


def test_what_needs_no_base_is_merged_as_if_none_had_been_named(frame, models) -> None:
    chosen = {"nuslerp": {}, "slerp": {}, "mean": {}, "regmean": {}, "ties": {"density": 0.5}}
    assert with_base(frame, models, chosen) == dict.fromkeys(chosen, False) | {"ties": True}


def test_an_option_that_asks_for_the_base_gets_it(frame, models) -> None:
    assert with_base(frame, models, {"regmean": {"anchor": "base"}}) == {"regmean": True}


def test_heads_are_kept_where_the_visitor_wants_it_and_so_they_are_by_the_command_that_is_shown(frame, models) -> None:
    visit = frame.visits.open()
    visit.picks, visit.heads = [describe(name, None) for name in models[0]], "keep"
    start_merges(frame, visit, {"mean": {}}, {}, None)
    frame.jobs.wait(visit.job, 300)
    made = visit.merges["mean"]
    assert set(made.parts) == {pick.short for pick in visit.picks} and "heads: keep" in made.recipe
    assert "--heads keep" in merge_command(made.asked) and "heads='keep'" in python_lines(
        made.asked, "a/b", public=False, pull_request=False
    )
    # The same with merged heads is another merge.
    visit.heads = "auto"
    assert same_as(visit, visit.merges["mean"].asked | {"heads": "auto"}) is None
    frame.visits.end(visit)
