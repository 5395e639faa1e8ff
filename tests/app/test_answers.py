"""Answers as the page shows them."""

from __future__ import annotations

import re
from pathlib import Path

from space.render.answers import answers_html
from space.render.scores import scores_html, table_of
from space.visits import Visit


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
    return {"task": "token-classification", "models": [model for model, _ in answers], "texts": [row]}


def test_every_kind_of_entity_has_a_colour_of_its_own() -> None:
    shown = answers_html(_found(("one", [(0, 6, "PER"), (11, 18, "ORG"), (22, 28, "LOC")]), ("two", [(0, 6, "PER")])))
    colours = {kind: colour for colour, kind in re.findall(r'<mark class="(fh-c\d)">\w+<span>(\w+)', shown)}
    assert len(colours) == 3 and len(set(colours.values())) == 3


def test_what_most_models_do_not_say_stands_out_in_the_table() -> None:
    same = [(0, 6, "PER")]
    shown = answers_html(_found(("one", same), ("two", same), ("three", [])))
    assert re.findall(r"<strong>≠ ([^<]*)</strong>", shown) == ["none"]


def _scored(task: str, metric: str, values: dict[str, float]) -> dict:
    """Two experts and what was made of them, on one set of data."""
    scores = [
        {"model": model, "model_id": model, "data": "texts", "examples": 20, "metrics": {metric: value}}
        for model, value in values.items()
    ]
    told = {"task": task, "models": list(values), "data": ["texts"], "scores": scores, "mean": values}
    return told | {"warnings": ["labels were guessed"]}


def test_of_perplexity_less_is_better_and_it_is_no_percentage(tmp_path: Path) -> None:
    scored = _scored("text-generation", "perplexity", {"one": 12.5, "two": 9.25, "merged": 8.0})
    assert [row["gain"] for row in table_of(scored | {"merges": ["merged"]})] == [-3.25, 0.0, 1.25]
    shown = scores_html(scored, Visit("a key", tmp_path))
    assert shown.index("labels were guessed") < shown.index("<table"), "what to know stands above the numbers"
    assert "Perplexity, less is better" in shown and re.findall(r"<strong>([^<]*)</strong>", shown) == ["8.0"]
    assert "12.5" in shown and "1250" not in shown and "fh-bar" not in shown


def test_what_f1_is_of_depends_on_the_task(tmp_path: Path) -> None:
    for task, told in (("token-classification", "F1 of entities"), ("question-answering", "F1 of words")):
        shown = scores_html(_scored(task, "f1", {"one": 0.5, "merged": 0.625}), Visit("a key", tmp_path))
        assert f"{told}, in percent" in shown and re.findall(r"<strong>([^<]*)</strong>", shown) == ["62.5"]
