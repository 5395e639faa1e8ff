"""What `make battery` makes of recorded results: who is compared with whom."""

import re
from xml.etree import ElementTree

import pytest

from fusehub.demo.training import Settings
from tests.battery.families import Family
from tests.battery.report import _of_the_same_seeds, write_report
from tests.battery.store import Store, fusehub
from tests.battery.verdict import Runs, costs, verdict

DOMAINS = ("a", "b", "c", "d")


def result(part, row, experts, seed, *scores, **more):
    found = dict(zip(DOMAINS, scores, strict=True))
    return {"part": part, "row": row, "experts": experts, "seed": seed, "scores": found, **more}


RESULTS = [
    result("experts", "a", ["a"], 0, 0.9, 0.3, 0.3, 0.2),
    result("experts", "b", ["b"], 0, 0.6, 0.6, 0.6, 0.1),
    result("experts", "d", ["d"], 0, 1.0, 1.0, 1.0, 1.0),
    result("main", "mean", ["a", "b", "c"], 0, 0.5, 0.5, 0.5, 0.5),
    result("main", "mean", ["a", "b", "c"], 1, 0.1, 0.1, 0.1, 0.1),
    result("main", "mean", ["a", "b"], 0, 0.0, 0.0, 0.0, 0.0),
    result("main", "RegMean, alpha 0.9", ["a", "b", "c"], 0, 0.7, 0.7, 0.7, 0.4),
    result("main", "TIES", ["a", "b", "c"], 0, 0.4, 0.4, 0.4, 0.8),
]


def test_ways_are_compared_in_the_runs_that_both_have():
    runs = Runs(RESULTS, DOMAINS)
    assert runs.gains("RegMean, alpha 0.9", "mean", 0) == pytest.approx([20])
    assert runs.gains("RegMean, alpha 0.9", "mean", 1) == pytest.approx([-10])
    # The best expert is one of those that were merged, by its mean over their domains.
    assert runs.of("best expert") == {(("a", "b", "c"), 0): pytest.approx((0.6, 0.1))}


def test_the_sentences_tell_where_regmean_loses():
    told = verdict(Runs(RESULTS, DOMAINS))
    assert "against the plain mean: +20.0 points in domain (above in 1 of 1 runs), -10.0 points out of domain" in told
    assert "the highest out of domain is TIES (80.0)" in told
    # In the run that both have: over all of its own, the mean has less than TIES.
    assert "Below the plain mean in domain: TIES." in told


def test_the_whole_cost_counts_the_statistics_of_all_three():
    def cost(part, row, seconds):
        return result(part, row, ["a"], 0, 0, 0, 0, 0, processor_seconds=seconds)

    own = [cost("experts", "a", 200), cost("main", "RegMean, alpha 0.9", 10)]
    assert "Whoever" not in costs(own, " | ".join)
    told = costs([*own, cost("collect", "its statistics", 20), cost("main", "multi-task learning", 700)], " | ".join)
    assert "its statistics | 20 | 0.1 | " in told
    assert "takes 70 processor seconds, 0.35 of training one expert and 0.1 of training one model on the texts" in told


def test_a_curve_has_the_same_seeds_at_all_points():
    groups = [RESULTS[3:5], RESULTS[6:7]]
    assert [[own["seed"] for own in group] for group in _of_the_same_seeds(groups)] == [[0], [0]]


def test_the_document_tells_all_that_was_recorded(tmp_path):
    """Of one choice of experts, with a curve and experts of different tasks; and the same again, to the byte."""
    store = Store(tmp_path / "docs" / "results" / "small.jsonl")
    curve = [result("alpha", f"alpha {x:g}", ["a", "b", "c"], 0, x, x, x, 0.25) for x in (0.0, 0.3)]
    costly = {"processor_seconds": 20.0, "peak_bytes": 5e8}
    for number, own in enumerate([*RESULTS, *curve]):
        store.done(f"{number}", lambda own=own: own | costly)
    store.done("pair", lambda: result("main", "RegMean, alpha 0.9", ["a", "b"], 0, -0.1, -0.3, 0.0, 0.0))
    both = {"part": "tasks", "row": "mean", "experts": ["a", "x"], "seed": 0, "scores": {"small: a": 0.7, "y: x": 0.2}}
    better = {"small: a": 0.75, "y: x": 0.1}
    tasks = Store(tmp_path / "docs" / "results" / "tasks.jsonl")
    tasks.done("one", lambda: both | {"own": both["scores"]})
    tasks.done("two", lambda: both | {"row": "RegMean, alpha 0.9", "own": both["scores"], "scores": better})
    for domain in DOMAINS:
        (tmp_path / f"{domain}.jsonl").write_text("{}\n" * 1500)
    family = Small("small", "Small", DOMAINS, ("no",), "Accuracy", "", Settings(), 64, tmp_path, "Texts of ours.")
    written = [write_report([family], tmp_path / "docs").read_text() for _ in range(2)]
    assert written[0] == written[1]
    text = written[0]
    assert "### Over 1 of 4 choices of three experts" in text and "Texts of ours." in text
    assert "| RegMean, alpha 0.9 | 70.0 | 70.0 | 70.0 | **70.0** | 40.0 | 20 | 500 MB |" in text
    assert "| 0.3 | 30.0 | 25.0 | 1 |" in text and "| 0.9 | 70.0 | 40.0 | 1 |" in text
    assert "the plain mean: -20.0 points on average, above in 0 of 1 runs. It is below the mean for a + b." in text
    assert "mean: +5.0 points on small (above in 1 of 1 runs), -10.0 points on y (above in 0 of 1 runs)." in text
    assert "| a + x | mean | 70.0 | 70.0 | 20.0 | 20.0 |" in text
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert pictures == ["images/small-methods.svg", "images/small-alpha.svg"]
    for picture in pictures:
        drawn = ElementTree.parse(tmp_path / "docs" / picture).getroot()
        assert drawn.tag.endswith("svg") and len(list(drawn.iter())) > 50


class Small(Family):
    """Texts in one file a domain."""

    def file(self, domain, split):
        return self.data / f"{domain}.jsonl"


def test_results_that_are_there_are_not_made_again(tmp_path):
    store = Store(tmp_path / "results.jsonl")
    assert store.done("one", lambda: {"scores": {"a": 0.5}})["scores"] == {"a": 0.5}
    again = Store(tmp_path / "results.jsonl")
    assert again.done("one", lambda: pytest.fail("made again"))["scores"] == {"a": 0.5}


def test_a_command_has_a_peak_of_its_own():
    held = bytearray(400 * 2**20)
    assert fusehub("methods")["peak_bytes"] < 200 * 2**20 < len(held)
    with pytest.raises(RuntimeError, match="say where the merged model goes"):
        fusehub("merge", "nothing")
