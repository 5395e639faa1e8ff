"""A limit draws from the whole of the data, the same rows for the same seed whatever the format."""

import csv
import logging

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from fusehub.data.examples import load_examples

NAMES = [f"class {letter}" for letter in "abcdefghijklmn"]
MANY = [{"text": f"{number:06}", "label": NAMES[number // 3000]} for number in range(3000 * len(NAMES))]


@pytest.fixture(scope="module")
def sorted_files(tmp_path_factory):
    """42,000 rows sorted by their 14 labels, as CSV and as Parquet, which names the labels."""
    folder = tmp_path_factory.mktemp("sorted")
    with (folder / "all.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(MANY)
    features = Features(text=Value("string"), label=ClassLabel(names=NAMES))
    Dataset.from_list(MANY, features=features).to_parquet(folder / "all.parquet")
    return folder


def draw(path, limit, seed=0):
    return load_examples(str(path), "text-classification", limit=limit, seed=seed, need_labels=True)


def test_a_set_sorted_by_label_gives_rows_of_every_label_the_same_from_every_format(sorted_files):
    first, second = (draw(sorted_files / name, 140) for name in ("all.csv", "all.parquet"))
    assert (first.texts, first.labels) == (second.texts, second.labels)
    assert first.texts == sorted(first.texts), "in their order"
    assert set(first.labels) == set(NAMES)
    # Of 42,000 rows the last 12,000 are as likely as the first.
    assert 20 < sum(int(text) >= 30_000 for text in first.texts) < 60
    assert draw(sorted_files / "all.csv", 140, seed=1).texts != first.texts


@pytest.mark.parametrize("name", ["all.csv", "all.parquet"])
def test_labels_that_no_drawn_example_has_are_named(sorted_files, name, caplog):
    with caplog.at_level(logging.WARNING):
        drawn = draw(sorted_files / name, 5)
    present = set(drawn.labels)
    assert f"the 5 examples that were drawn have {len(present)} of 14 labels" in caplog.text
    assert next(label for label in NAMES if label not in present) in caplog.text
    caplog.clear()
    draw(sorted_files / name, 140)
    assert not caplog.records
