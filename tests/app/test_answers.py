"""Answers as the page shows them."""

from __future__ import annotations

import re

import pytest

from fusehub.comparing.evaluation import Difference, Evaluation, LabelScore, Score
from fusehub.comparing.intervals import Interval, Resampling
from space.render.answers import answers_html
from space.render.layers import layers_html
from space.render.scores import scores_html, table_of


def _found(*answers: tuple[str, list[tuple[int, int, str]]]) -> dict:
    text = "Angela met Siemens in Munich."
    told = [
        {
            "model": model, "label": None, "probability": None, "probabilities": {}, "marked": "",
            "entities": [{"start": s, "end": e, "label": label, "text": text[s:e]} for s, e, label in entities],
        }
        for model, entities in answers
    ]  # fmt: skip
    row = {"text": text, "answers": told, "differs": True}
    models = [model for model, _ in answers]
    return {"task": "token-classification", "models": models, "texts": [row], "experts": models}


def test_every_kind_of_entity_has_a_colour_of_its_own() -> None:
    shown = answers_html(_found(("one", [(0, 6, "PER"), (11, 18, "ORG"), (22, 28, "LOC")]), ("two", [(0, 6, "PER")])))
    colours = {
        kind: colour for colour, kind in re.findall(r'<mark class="(fh-c\d)[^"]*">(?:≠ )?\w+<span>(\w+)', shown)
    }
    assert len(colours) == 3 and len(set(colours.values())) == 3


def test_what_most_models_do_not_say_stands_out_in_the_table() -> None:
    told = [("one", "good"), ("two", "good"), ("three", "bad")]
    answers = [
        {"model": model, "label": label, "probability": 0.9, "probabilities": {label: 0.9}, "entities": []}
        for model, label in told
    ]
    text = {"text": "fine", "answers": answers, "differs": True}
    models = [model for model, _ in told]
    found = {"task": "text-classification", "models": models, "texts": [text], "experts": models}
    assert re.findall(r"<strong>≠ ([^<]*)</strong>", answers_html(found)) == ["bad"]
    same = text | {"text": "poor", "answers": [answers[0]] * 3, "differs": False}
    both = found | {"texts": [text, same]}
    assert "poor" in answers_html(both) and "poor" not in answers_html(both | {"only": True})
    assert "They all agree on every text" in answers_html(found | {"texts": [same], "only": True})
    # Of two answers that are given as often, none is the odd one.
    text["answers"] = [*answers, {**answers[2], "model": "four"}]
    assert "<strong>≠" not in answers_html(found | {"models": [*models, "four"]})


def _scored(task: str, metric: str, values: dict[str, float], **more: object) -> dict:
    """Two experts and what was made of them, on one set of data."""
    scores = [
        Score(model, model, "texts", "texts.csv", None, None, 20, 1.0, {metric: value},
              {metric: Interval(value - 0.1, value + 0.1)}, [LabelScore("<b>", 0.5, 0.25, 0.375, 12, None)])
        for model, value in values.items()
    ]  # fmt: skip
    experts = [model for model in values if model != "merged"]
    sign = -1 if metric == "perplexity" else 1
    best = max(experts, key=lambda model: sign * values[model])
    differences = [
        Difference(model, best, "texts", metric, sign * (value - values[best]), Interval(-1.0, 2.0), "best")
        for model, value in values.items()
        if model != best
    ]
    found = Evaluation(
        task, list(values), ["texts"], scores, [], ["labels were guessed"], experts, Resampling(0.95, 1000, 0), {},
        differences,
    )  # fmt: skip
    return found.to_dict() | more


def test_of_perplexity_less_is_better_and_it_is_no_percentage() -> None:
    scored = _scored("text-generation", "perplexity", {"one": 12.5, "two": 9.25, "merged": 8.0})
    rows = table_of(scored)
    assert [row["gain"] for row in rows] == [-3.25, 0.0, 1.25]
    assert [row["kind"] for row in rows] == ["expert", "expert", "merge"]
    assert rows[2]["gain_low"] == -1.0 and rows[1]["gain_low"] is None
    shown = scores_html(scored)
    assert shown.index("labels were guessed") < shown.index("<table"), "what to know stands above the numbers"
    assert "Perplexity, less is better" in shown and re.findall(r"<strong>([\d.]*)</strong>", shown) == ["8.0"]
    assert "12.5" in shown and "1250" not in shown and "fh-bar" not in shown


def test_what_f1_is_of_depends_on_the_task() -> None:
    for task, told in (("token-classification", "F1 of entities"), ("question-answering", "F1 of words")):
        shown = scores_html(_scored(task, "f1", {"one": 0.5, "merged": 0.625}))
        assert f"{told}, in percent; in brackets 95 % intervals" in shown
        assert re.findall(r"<strong>([\d.]*)</strong> <small>([^<]*)<", shown) == [("62.5", "[52.5, 72.5]")]


def test_scores_say_how_sure_they_are_and_bars_and_labels_come_on_demand() -> None:
    shown = scores_html(_scored("text-classification", "accuracy", {"one": 0.5, "two": 0.6, "merged": 0.625}))
    assert "+2.5 points <small>[−100.0, +200.0]</small>" in shown
    assert "Too few examples to rely on: texts (20)" in shown
    assert "these examples do not tell a difference" in shown
    # The merge is marked off from the experts, in words too.
    assert shown.count('<tr class="fh-merge"><th scope="row"><span class="fh-name">merged</span> <span') == 1
    folded = re.findall(r"<details[^>]*><summary>([^<]*)</summary>", shown)
    assert folded == ["The same as bars", "Label by label"]
    assert "fh-bar" not in shown.partition("<details")[0]
    labels = shown.partition("Label by label")[2]
    assert "&lt;b&gt;" in labels and ">25.0<" in labels and ">few<" in labels


def test_on_several_datasets_each_difference_is_against_its_expert() -> None:
    scored = _scored("text-classification", "accuracy", {"one": 0.5, "merged": 0.25})
    [own] = scored["differences"]
    lost = own | {"interval": {"low": -0.3, "high": -0.2}}
    two = [score | {"data": "more"} for score in scored["scores"]]
    scored |= {"data": ["texts", "more"], "scores": [*scored["scores"], *two]}
    scored["differences"] = [lost, own | {"data": "more"}, own | {"data": None}]
    shown = scores_html(scored).partition("Gains on each dataset")[2]
    assert "texts against one" in shown and "more against one" in shown
    assert re.findall(r"<strong>([^<]*)</strong>", shown.partition("</table>")[0]) == [
        "−25.0 points [−30.0, −20.0]"
    ], "bold is what these examples can tell"


def test_a_long_text_folds_and_bars_come_on_demand() -> None:
    answer = {"model": "one", "label": "good", "probability": 0.9, "probabilities": {"good": 0.9, "bad": 0.1}}
    answer |= {"entities": [], "marked": ""}
    text = {"text": "<i>" + "word " * 100, "answers": [answer], "differs": False}
    found = {"task": "text-classification", "models": ["one"], "texts": [text], "experts": ["one"]}
    shown = answers_html(found)
    overview = shown.partition("Bars of all answers")[0]
    assert "fh-long" in overview and overview.count("word") > 100, "nothing of it is lost"
    assert "fh-fill" not in overview and "fh-fill" in shown and "<i>" not in shown
    heading = re.search(r"<h3>(.*?)</h3>", shown)
    assert heading and len(heading[1]) < 250 and "The whole text" in shown


def test_what_entities_only_some_models_mark_stands_out() -> None:
    same, other = [(0, 6, "PER"), (11, 18, "ORG")], [(0, 6, "PER"), (22, 28, "LOC")]
    shown = answers_html(_found(("one", same), ("two", same), ("three", other)))
    table, _, texts = shown.partition("</table>")
    assert "Angela (PER), Siemens (ORG)" in table and table.count(">the same<") == 2
    assert re.findall(r"<strong>([^<]*)</strong><br><del>([^<]*)</del>", table) == [
        ("+ Munich (LOC)", "− Siemens (ORG)")
    ]
    assert re.findall(r'fh-odd">≠ (\w+)', texts) == ["Munich"]


def test_experts_ensemble_and_merges_look_like_what_they_are() -> None:
    found = _found(("one", []), ("two", []), ("ensemble", []), ("merged", []))
    shown = answers_html(found | {"experts": ["one", "two"]})
    assert re.findall(r'<th scope="col" class="(fh-\w+)">', shown) == [
        "fh-expert", "fh-expert", "fh-ensemble", "fh-merge"
    ]  # fmt: skip
    assert shown.count(">merge<") == 2, "in the table and beside its own answer"


def test_what_layers_kept_is_a_line_an_expert_with_a_table_beside_it() -> None:
    rows = [{"layer": "first", "one": 0.0, "<b>": 0.5}, {"layer": "second", "one": 0.25, "<b>": 0.25}]
    told = {"experts": ["one", "<b>"], "layers": ["first", "second"], "rows": rows, "of_outputs": True}
    shown = layers_html({"merged": told})
    one, other = re.findall(r'points="([^"]*)"', shown)
    places = [tuple(map(float, point.split(","))) for point in (*one.split(), *other.split())]
    assert [x for x, _ in places[:2]] == [x for x, _ in places[2:]], "layers stand below each other"
    (_, nothing), (_, quarter), (_, half), (_, same) = places
    assert quarter == same and nothing - quarter == pytest.approx(quarter - half), "less is lower, in proportion"
    assert quarter - half > 50
    assert "one: 0.0 % to 25.0 %, on average 12.5 %; &lt;b&gt;: 25.0 % to 50.0 %" in shown
    dashes = re.findall(r'<polyline[^>]*stroke-dasharray="([^"]*)"', shown)
    assert len(set(dashes)) == 2, "not by colour alone"
    assert "expert&#x27;s texts" in shown and re.findall(r"<td[^>]*>([^<]*)</td>", shown) == [
        "0.0 %", "50.0 %", "25.0 %", "25.0 %"
    ]  # fmt: skip
    assert "<b>" not in shown and "cannot be compared" not in shown
    assert "cannot be compared" in layers_html({"merged": told, "mean": told | {"of_outputs": False}})
