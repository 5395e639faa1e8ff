"""What a visitor changes while something goes on, or after it: nothing is shown or pushed for something else."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fusehub.errors import FuseHubError
from space.serve import build, close, new_frame
from space.setting import Setting
from space.steps.compare import compare_texts, start_scores
from space.steps.merge import start_merges
from space.steps.pick import describe
from space.visit import CHECK, COMPARE, MERGE, PICK, PUSH, Visit
from tests.unit.experts import relatives, with_statistics


@pytest.fixture(scope="module")
def frame():
    made = new_frame(Setting(shared=True))
    build(made)
    yield made
    close(made)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[str]:
    labels = (("negative", "positive"),) * 3
    return [str(path) for path in with_statistics(relatives(tmp_path_factory.mktemp("experts"), labels=labels))]


@pytest.fixture
def visit(frame, models):
    visit = frame.visits.open(page="the page")
    visit.picks = [describe(name, None) for name in models[:2]]
    yield visit
    frame.visits.end(visit)


def merged(frame: Any, visit: Visit, *methods: str) -> None:
    start_merges(frame, visit, {name: {} for name in methods}, {}, None)
    frame.jobs.wait(visit.job, 300)
    assert set(visit.merges) == set(methods)


def rows(folder: Path) -> str:
    path = folder / "rows.csv"
    path.write_text("text,label\na good film,positive\nan awful plot,negative\n")
    return str(path)


def test_a_merge_that_was_brought_back_after_the_others_were_scored_can_be_pushed(frame, visit, tmp_path) -> None:
    merged(frame, visit, "mean", "regmean")
    visit.delete("mean")
    start_scores(frame, visit, {"rows": rows(tmp_path)}, None, None)
    frame.jobs.wait(visit.job, 300)
    visit.restore("mean")
    push = frame.steps[PUSH]
    for name in ("mean", "regmean"):
        visit.pushing = name
        push.show(visit, None)
        assert ("## Results" in visit.cards[name].text) == (name == "regmean")


def test_what_is_said_of_other_models_than_are_picked_now_is_not_shown(frame, visit, models, tmp_path) -> None:
    merged(frame, visit, "mean")
    third, asked = describe(models[2], None), frame.worker.ask
    for change in (lambda: visit.picks.append(third), lambda: visit.delete("mean")):

        def ask(*said: Any, change: Any = change) -> Any:
            found = asked(*said)
            change()
            return found

        frame.worker.ask = ask
        try:
            with pytest.raises(FuseHubError, match="changed meanwhile"):
                compare_texts(frame, visit, ["fine"], None)
        finally:
            frame.worker.ask = asked
        visit.picks = visit.picks[:2]
    visit.restore("mean")
    assert set(compare_texts(frame, visit, ["fine"], None)["asked"]) == {*visit.names(), "mean"}
    start_scores(frame, visit, {"rows": rows(tmp_path)}, None, None)
    visit.picks.append(third)
    visit.changed_models()
    frame.jobs.wait(visit.job, 300)
    assert visit.evaluation is None and "changed meanwhile" in str(visit.job.error)


def test_what_is_being_scored_is_said_where_its_table_comes(frame, visit, tmp_path) -> None:
    compare = frame.steps[COMPARE]
    place = compare.painted.index(compare.scores)
    assert "press Score" in compare.show(visit, None)[place]
    start_scores(frame, visit, {"rows": rows(tmp_path)}, None, None)
    assert "being scored: their table comes here" in compare.show(visit, None)[place]
    frame.jobs.wait(visit.job, 300)
    assert "<table" in compare.show(visit, None)[place]


def test_an_example_that_cannot_be_had_takes_nothing_away(frame, visit, models, monkeypatch) -> None:
    pick, before = frame.steps[PICK], list(visit.picks)
    for examples in (["nobody/at-all@" + "0" * 40], []):
        monkeypatch.setattr(pick.frame, "setting", Setting(shared=True, examples=tuple(examples)))
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(FuseHubError):
            pick._fill(visit, None, SimpleNamespace())
        assert visit.picks == before


def test_a_merge_that_another_tab_has_taken_the_models_from_is_not_called_one_without_a_method(frame, visit) -> None:
    visit.advice = None
    with pytest.raises(FuseHubError, match="changed meanwhile"):
        frame.steps[MERGE]._merge(visit, None, None, *[True] * 200)


def test_two_pages_of_a_visit_begin_one_work(frame, visit, monkeypatch) -> None:
    submit, both_asked, began = frame.jobs.submit_parts, threading.Event(), []

    def slowly(*work):
        time.sleep(0.3)  # The other has asked by then whether something goes on.
        return submit(*work)

    def parts(job):
        both_asked.wait(30)
        began.append(job.title)
        yield from ()

    def begin(title: str) -> bool:
        try:
            frame.start_parts(visit, "merge", title, parts, None)
        except FuseHubError:
            return False
        return True

    monkeypatch.setattr(frame.jobs, "submit_parts", slowly)
    with ThreadPoolExecutor(2) as pages:
        assert sorted(pages.map(begin, ["First", "Second"])) == [False, True]
    both_asked.set()
    frame.jobs.wait(visit.job, 30)
    assert began == [visit.job.title]


def test_a_page_shows_where_it_went_last(visit) -> None:
    stays = visit.go_to(CHECK)
    assert stays()
    visit.page = "another page"
    there = visit.go_to(CHECK)
    # What another page of the visit asks for is that page's.
    assert stays() and there()
    visit.go_to(COMPARE)
    assert not there()
    again = visit.go_to(CHECK)
    assert again() and not there() and stays()
