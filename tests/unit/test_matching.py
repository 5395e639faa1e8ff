"""Which labels of the data are which of the model: by name first, by number only if the numbering is certain."""

import pytest

from fusehub.data.examples import Examples
from fusehub.data.label_matching import match_labels
from fusehub.errors import BadData

STARS = ["1 star", "2 stars", "3 stars", "4 stars", "5 stars"]
FIVE = ["awful", "bad", "fair", "good", "great"]


def of(labels, names=None, seen=()):
    return Examples("text-classification", ["x"] * len(labels), labels, "data", None, names=names, seen=seen)


@pytest.mark.parametrize(
    ("labels", "model", "indices"),
    [
        (["1", "2", "3", "4", "5"], STARS, [0, 1, 2, 3, 4]),
        (["5", "1"], STARS, [4, 0]),
        (["0", "1", "2", "3", "4"], STARS, [0, 1, 2, 3, 4]),
        ([1.0, 5.0], STARS, [0, 4]),
        (["1 star", "2 star", "5 star"], STARS, [0, 1, 4]),
        (["5", "1"], STARS[::-1], [0, 4]),
        (["4", "0", "1"], FIVE, [4, 0, 1]),
        (["True", "False"], ["no", "yes"], [1, 0]),
        (["1", "3"], ["1", "2", "3"], [0, 2]),
        ([1.0, 0.0], ["0.0", "1.0"], [1, 0]),
    ],
)
def test_numbers_that_are_certain_are_matched(labels, model, indices):
    assert list(match_labels(of(labels), model).values()) == indices


@pytest.mark.parametrize(
    ("labels", "model"),
    [
        (["1", "2", "3", "4"], STARS),
        (["0", "4"], STARS),
        (["0", "1", "2", "3", "4", "5"], STARS),
        (["0", "1", "2"], FIVE),
        (["1", "2", "3", "4", "5"], FIVE),
        (["1", "2", "3", "4", "5"], [f"LABEL_{number}" for number in range(5)]),
        (["0", "1", "2"], ["1", "2", "3"]),
        (["topic 1", "topic 2"], ["class 1", "class 2"]),
    ],
)
def test_numbers_that_may_be_counted_from_elsewhere_are_refused(labels, model):
    with pytest.raises(BadData, match="are not those of the model"):
        match_labels(of(labels), model)


def test_a_sample_is_matched_by_the_numbers_of_all_rows():
    assert match_labels(of(["2", "3"], seen=("1", "2", "3", "4", "5")), STARS) == {"2": 1, "3": 2}
    assert match_labels(of(["2", "3"], seen=("0", "1", "2", "3", "4")), STARS) == {"2": 2, "3": 3}
    assert match_labels(of(["1"], names=("0", "1")), ["no", "yes"]) == {"1": 1}
