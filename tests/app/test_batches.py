"""Several merges at once, and scores after others: what fails takes nothing along, and nothing old stays behind it."""

from __future__ import annotations

import re

import gradio as gr
import pytest

from fusehub.methods import METHODS
from space.render import html
from space.serve import close, new_frame
from space.setting import Setting
from space.steps.compare import start_scores
from space.steps.merge import offered, option_input, start_merges
from space.steps.options import options_of
from space.steps.pick import describe
from space.visit import MERGE
from tests.app.conftest import ROOT
from tests.unit.experts import relatives, with_statistics


@pytest.fixture(scope="module")
def frame():
    made = new_frame(Setting(shared=False))
    yield made
    close(made)


def test_a_method_that_cannot_run_leaves_the_others_alone_and_scores_of_other_data_go(frame, tmp_path) -> None:
    visit = frame.visits.open()
    visit.picks = [describe(str(path), None) for path in with_statistics(relatives(tmp_path))]
    start_merges(frame, visit, {"fisher": {}, "mean": {}}, {}, None)
    frame.jobs.wait(visit.job, 300)
    assert visit.job.error is None and set(visit.merges) == {"mean"}
    assert "Fisher-weighted averaging was left out" in visit.notices[MERGE]

    def score(rows: str) -> None:
        data = tmp_path / "texts.csv"
        data.write_text(f"text,label\n{rows}")
        start_scores(frame, visit, {"texts": str(data)}, None, None)
        assert visit.evaluation is None, "what stood there is of other data"
        frame.jobs.wait(visit.job, 300)

    score("a good film,positive\nan awful plot,negative\n")
    assert visit.evaluation["models"] == ["expert-0", "expert-1", "ensemble", "mean"] and visit.job.error is None
    score("a good film,7\n")
    assert visit.job.error is not None and visit.evaluation is None
    frame.visits.end(visit)


def test_every_option_has_a_title_for_people_beside_its_name() -> None:
    options = [own for method in offered() for own in options_of(METHODS[method]).items()]
    titles = [field.title or name for name, field in options]
    assert (
        titles and [title for title in titles if not title[:1].isupper() and title != "mergekit's small masks"] == []
    )
    with gr.Blocks():
        shown = [(name, option_input(name, field)) for name, field in options]
    assert all(box.info and f"({name})" in box.label for name, box in shown), "a sentence, and what code calls it"


def test_what_has_no_measure_moves_and_is_no_full_block() -> None:
    style = (ROOT / "space" / "style.css").read_text()
    moving, measured = html.progress(None, "Reading"), html.progress(0.25, "Merging")
    assert "fh-moving" in moving and "aria-valuenow" not in moving and "width: 25.0%" in measured
    [rule] = re.findall(r"\.fh-moving span \{([^}]*)\}", style)
    assert "animation:" in rule and "width: 30%" in rule
