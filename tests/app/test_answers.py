"""Answers as the page shows them."""

from __future__ import annotations

import re

from space.render.answers import answers_html


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
