"""Lists that were written into a file as text, by whatever wrote them."""

import json

import numpy as np
import pytest

from fusehub.data.literals import read_list, read_literal
from fusehub.errors import BadData

WORDS = ["anna", "it's", 'says "no"', "# 1", "..."]
LONG = [f"word{number}" for number in range(60)]


@pytest.mark.parametrize(
    "values", [WORDS, LONG, ["one"], [1, 0, 0], [1, -1, -20], [0.5, 1.0, -2e-9], [True, False], []]
)
@pytest.mark.parametrize(
    "write",
    [
        json.dumps,
        str,
        lambda values: str(np.array(values)),
        lambda values: repr(np.array(values)),
        lambda values: repr(np.array(values, dtype=object)),
        lambda values: str(list(np.array(values))),
        lambda values: f" {values} ",
    ],
    ids=["json", "python", "numpy", "array", "objects", "scalars", "spaces"],
)
def test_lists_are_read_as_they_were_written(write, values):
    assert read_list(write(values)) == values


def test_lists_in_lists_and_objects_are_read():
    assert read_list(str(np.array([["a", "b"], ["c", "d"]]))) == [["a", "b"], ["c", "d"]]
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    assert read_list(str(np.array(turns, dtype=object))) == turns
    answers = {"text": np.array(["Denver"], dtype=object), "answer_start": np.array([177], dtype=np.int32)}
    assert read_literal(str(answers)) == {"text": ["Denver"], "answer_start": [177]}


@pytest.mark.parametrize(
    "text",
    [
        "a text",
        "[Reuters]",
        "[anna, likes]",
        "['a', 'b' 'c']",
        "[1 - 1]",
        "[print('x')]",
        "[open]",
        "['a'",
        "[]]",
        "[" * 400 + "]" * 400,
    ],
)
def test_what_is_no_list_for_certain_is_text(text):
    assert read_list(text) is None


def test_a_list_of_which_a_part_was_not_printed_is_refused():
    with pytest.raises(BadData, match="part left out"):
        read_list(str(np.arange(2000)))
