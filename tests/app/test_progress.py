"""How far work is: of the whole, from what is done, in words that are true."""

from __future__ import annotations

import time
from dataclasses import replace

import gradio as gr
import pytest
from huggingface_hub import HfApi

import fusehub
from fusehub.models.checkpoints.downloads import has_weights
from space import dock
from space.render import html
from space.serve import build, close, new_frame
from space.setting import Setting
from space.steps.pick import describe
from space.steps.way import seconds_expected, seconds_of_way
from space.visit import Made, Visit
from space.workers.jobs import DONE, RUNNING, Job, Part
from space.workers.pace import NETWORK, Course, Merging
from space.workers.tasks import carry_out
from tests.app.conftest import SENTIMENT
from tests.unit.experts import relatives, with_statistics


@pytest.fixture(scope="module")
def experts(tmp_path_factory) -> list[str]:
    return [str(path) for path in with_statistics(relatives(tmp_path_factory.mktemp("experts")))]


def test_parts_count_by_how_long_they_take() -> None:
    course = Course([2, 0, 6])
    assert [course.share(0, 0.5), course.share(1, 0), course.share(2, 0.5)] == [0.125, 0.25, 0.625]
    assert Course([0, 0]).share(1, 1) == 0


def test_a_merge_is_as_far_as_its_work_and_not_as_its_bytes(experts) -> None:
    """What is solved takes longer than what is averaged, of as many bytes."""
    plan = fusehub.plan_merge(fusehub.Recipe.of(experts, "regmean"))
    merging, done, seconds = Merging(plan), 0, {}
    for name, tensor in plan.tensors.items():
        at, before = merging.at(done)
        assert at == name
        done += tensor.info.nbytes
        # Almost all of it: the whole of it is the beginning of the next.
        seconds[name] = (merging.at(done)[1] - before) * merging.seconds / tensor.info.nbytes
    solved = {name for name, tensor in plan.tensors.items() if tensor.action == "solve"}
    assert solved and min(seconds[name] for name in solved) > max(
        value for name, value in seconds.items() if name not in solved
    )
    assert merging.at(done)[1] == 1


def test_what_is_here_already_is_told_to_take_seconds(experts, hub, tmp_path) -> None:
    """By what is left to be done, not by how large the models are."""
    assert describe(experts[0], None).missing == 0
    assert not has_weights(SENTIMENT[0], tmp_path)
    HfApi(endpoint=hub.url).hf_hub_download(SENTIMENT[0], "model.safetensors", cache_dir=tmp_path)
    assert has_weights(SENTIMENT[0], tmp_path) and not has_weights(SENTIMENT[1], tmp_path)
    sizes = [90_000_000] * 3
    assert html.roughly(seconds_expected(sizes, 0)) == "a few seconds"
    assert html.roughly(seconds_expected(sizes, sum(sizes))) == "about 20 seconds"
    assert html.roughly(seconds_expected([2_000_000_000] * 3, 6_000_000_000)) == "about 5 minutes"
    picks = [replace(describe(path, None), missing=None, size=900_000_000) for path in experts]
    visit = Visit("key", tmp_path, picks=picks)
    unknown = seconds_of_way(visit)
    visit.picks = [replace(pick, missing=0) for pick in picks]
    assert unknown - seconds_of_way(visit) == pytest.approx(1_800_000_000 / NETWORK)
    # They were downloaded since they were picked, as a merge of them shows.
    visit.picks = picks
    visit.merges["mean"] = Made("mean", tmp_path, "mean", "", (), asked={"models": visit.names()})
    assert unknown - seconds_of_way(visit) == pytest.approx(1_800_000_000 / NETWORK)


def test_scoring_counts_the_examples_of_each_model(experts, tmp_path) -> None:
    data = tmp_path / "texts.csv"
    data.write_text("text,label\n" + "a good film,positive\nan awful plot,negative\n" * 3)
    arguments = {"models": dict(zip("ab", experts, strict=True)), "data": {"x": str(data)}, "ensemble": True}
    events = list(carry_out("evaluate", {**arguments, "limit": None}, None))
    assert events[-1][0] == "result"
    told = [event[1:] for event in events if event[0] == "progress" and event[3]]
    assert {(total, unit) for _, _, total, unit, _ in told} == {(6, "examples")}
    assert told[0][0].endswith("(1 of 2)") and told[-1][0].endswith("(2 of 2)")
    shares = [share for *_, share in told]
    assert shares == sorted(shares) and shares[-1] == 1


def test_what_is_left_is_told_of_the_whole_and_never_as_nothing() -> None:
    now = time.monotonic()
    job = Job("merge", "Merging", RUNNING, started=now - 20)
    assert job.seconds_left is None
    job.heard("Downloading", 0, 0, "", 0.2)
    assert job.seconds_left is None, "there is nothing to tell by yet"
    job.measured = (now - 10, 0.2)
    job.heard("Merging: a layer", 3, 8, "bytes", 0.4)
    assert job.seconds_left == pytest.approx(30, abs=1)
    assert "40 %" in dock.running(job, 0) and "about 30 s left" in dock.running(job, 0)
    # The next step begins anew in its own units, and the whole goes on.
    job.heard("Merging: another", 0, 8, "bytes", 0.3)
    assert job.share == 0.4
    job.heard("Merging: the last", 8, 8, "bytes", 0.999)
    shown = dock.running(job, 0)
    assert "nearly done" in shown and "0.0 s" not in shown and "per second" not in shown


def test_several_parts_have_one_share_that_is_told_anew_as_more_is_known() -> None:
    job = Job("way", "All of it", RUNNING)
    told = []
    for seconds, rest in ((2, 6), (1, 1), (4, 0)):
        job.begin(Part("kind", {}, print, seconds, rest))
        job.heard("half of it", 1, 2, "texts", 0.5)
        told.append(job.share)
        job.complete()
        told.append(job.share)
    assert told == pytest.approx([1 / 8, 1 / 4, 7 / 16, 5 / 8, 13 / 16, 1])
    assert "What was done before stays" in dock.cancelled(job)


def test_what_is_said_can_be_closed_and_nothing_is_said_of_nothing() -> None:
    assert dock.message("") == ""
    assert 'data-act="close"' in dock.message("<p>Told.</p>", "#made") and 'data-shows="#made"' in dock.message(
        "<p>Told.</p>", "#made"
    )


def test_a_paint_that_comes_late_does_not_end_the_ticking() -> None:
    """It may have been made before the press whose work is going on by now: the page would stand still."""
    frame = new_frame(Setting(shared=False))
    visit = frame.visits.open()
    idle = frame.paint(visit, 1)
    visit.job = Job("merge", "Merging", RUNNING, started=time.monotonic())
    busy = frame.paint(visit, 2)
    close(frame)
    # An update of the timer is a timer.
    assert not any(isinstance(shown, gr.Timer) for shown in idle)
    assert [shown.active for shown in busy if isinstance(shown, gr.Timer)] == [True]


def test_work_that_ends_while_a_page_is_painted_is_told_by_the_next_tick(monkeypatch) -> None:
    """Whatever paints: a page that does not tick would wait for ever for how it ended."""
    frame = new_frame(Setting(shared=False))
    build(frame)
    visit = frame.visits.open()
    visit.found = []
    first, show = frame.steps[0], frame.steps[0].show
    timer, message = (frame.everything.index(part) for part in (frame.timer, frame.message))

    def shown(*asked):
        visit.job.state = DONE
        return show(*asked)

    monkeypatch.setattr(first, "show", shown)
    for paint in (lambda: frame.paint_all(visit, None), lambda: frame.paint_step(first, visit, None)):
        visit.job = Job("way", "All of it", RUNNING)
        visit.notices.clear()
        painted = paint()
        assert "All of it" not in painted[message] and painted[timer].active
        painted = paint()
        assert "All of it: done" in painted[message] and not isinstance(painted[timer], gr.Timer)
    close(frame)
