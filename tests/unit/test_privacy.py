"""What statistics give away, and when they are too few to be published."""

import pytest

from fusehub.errors import BadStatistics
from fusehub.statistics.privacy import count_labels, require_enough


def metadata(labels=None, **rows):
    layers = {name: {"rows": own, "size": 300 if name == "wide" else 16} for name, own in rows.items()}
    return {"layers": layers, "labels": labels, "examples": 10**6}


def test_layers_of_too_few_rows_are_named_the_fewest_first():
    with pytest.raises(BadStatistics) as caught:
        require_enough(metadata(wide=299, b=7, a=99, c=100), "here")
    assert "(b: 7 rows, a: 99, wide: 299; a layer needs 100, as many as it has inputs, and" in caught.value.what
    assert "c:" not in caught.value.what and "--noise" in caught.value.fix
    require_enough(metadata(wide=300, b=100), "here")


def test_layers_that_see_tokens_need_more():
    tokens = metadata(wide=1199) | {"examples": 100}
    with pytest.raises(BadStatistics, match="wide: 1199 rows"):
        require_enough(tokens, "here")
    require_enough(metadata(wide=1200) | {"examples": 100}, "here")


def test_many_are_counted():
    with pytest.raises(BadStatistics, match="l0: 1 rows, l1: 1, l2: 1, l3: 1, l4: 1, and 3 more;"):
        require_enough(metadata(**{f"l{number}": 1 for number in range(8)}), "here")


def test_labels_of_too_few_examples_are_named_and_absent_ones_are_not():
    with pytest.raises(BadStatistics) as caught:
        require_enough(metadata({"spam": 19, "ham": 5000, "eggs": 0}, b=5019), "here")
    assert "labels with few examples (spam: 19 examples; a label needs 20)" in caught.value.what
    assert "eggs" not in caught.value.what and "rows" not in caught.value.what
    require_enough(metadata({"spam": 20, "ham": 5000}, b=5019), "here")


def test_labels_of_parts_are_added():
    parts = {"parts": [{"labels": {"spam": 12}}, {"labels": {"spam": 9, "ham": 30}}, {}]}
    require_enough(metadata(b=500) | parts, "here")


def test_noise_is_enough():
    require_enough(metadata({"spam": 1}, b=1) | {"noise": {"epsilon": 1.0}}, "here")


@pytest.mark.parametrize(
    ("labels", "counts"),
    [
        (["b", "a", "b"], {"a": 1, "b": 2}),
        ([["a", "b"], ["b"], []], {"a": 1, "b": 2}),
        ([["O", "O", "PER"], ["O"]], {"O": 2, "PER": 1}),
        ([0.5, 1.5], None),
        (None, None),
    ],
)
def test_labels_are_counted_by_example(labels, counts):
    assert count_labels(labels) == counts
