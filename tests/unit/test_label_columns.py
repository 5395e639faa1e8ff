"""Columns of 0 and 1 that are called after the model's labels, as sets with several labels a text have them."""

import pytest

from fusehub.comparing.evaluate import evaluate
from fusehub.comparing.prediction import Prediction
from fusehub.comparing.said import MULTI, SINGLE
from fusehub.comparing.tasks import answers_of
from fusehub.data.examples import load_examples
from fusehub.data.label_matching import labels_as_ids
from fusehub.errors import BadData, NotFound
from tests.unit.test_data import write_csv, write_jsonl, write_parquet
from tests.unit.tiny import tiny_model, tiny_texts

TOXIC = ["toxic", "obscene", "insult"]
ROWS = [
    {"id": 1, "comment_text": "one", "toxic": 1, "Obscene": 0, "insult": 1},
    {"id": 2, "comment_text": "two", "toxic": 0, "Obscene": 0, "insult": 0},
    {"id": 3, "comment_text": "three", "toxic": 0, "Obscene": 1, "insult": 0},
]
TRUE = [["toxic", "insult"], [], ["Obscene"]]


def read(path, labels=TOXIC, **options):
    return load_examples(str(path), "text-classification", need_labels=True, labels=labels, **options)


def predicted(labels, rows, problem=MULTI):
    import numpy as np

    return Prediction("model", "text-classification", problem, labels, np.array(rows))


@pytest.mark.parametrize("kind", [int, float, bool])
@pytest.mark.parametrize("write", [write_csv, write_parquet, write_jsonl])
def test_columns_that_are_labels_of_the_model_say_which_a_text_has(tmp_path, write, kind):
    rows = [row | {name: kind(row[name]) for name in ("toxic", "Obscene", "insult")} for row in ROWS]
    name = {write_csv: "a.csv", write_parquet: "a.parquet", write_jsonl: "a.jsonl"}[write]
    write(tmp_path / name, rows)
    examples = read(tmp_path / name)
    assert (examples.texts, examples.labels) == (["one", "two", "three"], TRUE)
    scores = (
        answers_of("text-classification")
        .score(predicted(TOXIC, [[0.9, 0.1, 0.8], [0.1, 0.1, 0.1], [0.1, 0.9, 0.1]]), examples)
        .metrics
    )
    assert scores == {"f1_micro": 1.0, "f1_macro": 1.0, "accuracy": 1.0}


def test_a_named_column_of_zeros_and_ones_is_that_label_and_says_nothing_of_others(tmp_path):
    examples = read(write_csv(tmp_path / "a.csv", ROWS), label_column="insult")
    assert examples.labels == [["insult"], [], []]
    # Right about insults in two of three; what it says of other labels is neither right nor wrong.
    scores = (
        answers_of("text-classification")
        .score(predicted(TOXIC, [[0.9, 0.1, 0.8], [0.9, 0.1, 0.9], [0.9, 0.9, 0.1]]), examples)
        .metrics
    )
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["f1_micro"] == pytest.approx(2 / 3)
    both = read(tmp_path / "a.csv", label_column="insult,toxic")
    assert both.labels == [["insult", "toxic"], [], []]


def test_of_two_labels_one_column_tells_both_whatever_their_order(tmp_path):
    path = write_csv(tmp_path / "a.csv", ROWS)
    for labels in (["toxic", "fine"], ["fine", "toxic"]):
        examples = read(path, labels, label_column="toxic")
        rows = [[labels[0] == "toxic", labels[1] == "toxic"], *[[labels[0] == "fine", labels[1] == "fine"]] * 2]
        assert (
            answers_of("text-classification").score(predicted(labels, rows, SINGLE), examples).metrics["accuracy"]
            == 1.0
        )


def test_what_is_no_column_of_zeros_and_ones_is_not_taken_for_one(tmp_path):
    path = write_csv(tmp_path / "a.csv", [*ROWS, ROWS[0] | {"toxic": 2}])
    with pytest.raises(BadData, match="row 4: the column toxic is called after a label and holds 2, not 0 or 1"):
        read(path)
    named = write_csv(tmp_path / "b.csv", [{"text": "a", "toxic": "insult"}])
    assert read(named, label_column="toxic").labels == ["insult"]
    other = write_csv(tmp_path / "c.csv", [{"text": "a", "label": "toxic", "toxic": 1, "obscene": 0, "insult": 1}])
    assert read(other).labels == ["toxic"], "a column of labels by name comes first"


@pytest.mark.parametrize("words", [("false", "true"), ("FALSE", "TRUE"), ("False", "True"), ("0", "1")])
def test_columns_say_true_and_false_in_any_case(tmp_path, words):
    rows = [row | {name: words[row[name]] for name in ("toxic", "Obscene", "insult")} for row in ROWS]
    assert read(write_csv(tmp_path / "a.csv", rows)).labels == TRUE
    lists = [{"text": "a", "label": [words[0], words[1], words[0]]}]
    assert labels_as_ids(read(write_jsonl(tmp_path / "a.jsonl", lists)), TOXIC) == [[1]]


def test_the_first_row_that_says_something_tells_what_columns_hold(tmp_path):
    blank = {"id": 0, "comment_text": "none", "toxic": "", "Obscene": "", "insult": ""}
    examples = read(write_csv(tmp_path / "a.csv", [blank, blank, *ROWS]))
    assert (examples.texts, examples.labels) == (["one", "two", "three"], TRUE)
    named = [blank | {"toxic": "insult"}]
    assert read(write_csv(tmp_path / "b.csv", [blank, *named]), label_column="toxic").labels == ["insult"]
    with pytest.raises(NotFound, match="no column looks like labels"):
        read(write_csv(tmp_path / "c.csv", [blank, blank]))


def test_labels_and_columns_are_found_however_their_letters_are_encoded(tmp_path):
    model = ["caf\u00e9", "x"]
    by_name = write_csv(tmp_path / "a.csv", [{"text": "a", "label": "cafe\u0301"}, {"text": "b", "label": "x"}])
    assert labels_as_ids(read(by_name, model), model) == [0, 1]
    columns = write_csv(tmp_path / "b.csv", [{"text": "a", "cafe\u0301": 1, "x": 0}])
    assert labels_as_ids(read(columns, model), model) == [[0]]
    named = read(columns, model, label_column="caf\u00e9")
    assert (
        answers_of("text-classification").score(predicted(model, [[0.9, 0.1]], SINGLE), named).metrics["accuracy"]
        == 1.0
    )


def test_evaluation_finds_the_columns_of_the_models_labels(tmp_path):
    model = tiny_model(tmp_path / "m", labels=TOXIC, problem_type="multi_label_classification")
    rows = [row | {"comment_text": text} for row, text in zip(ROWS, tiny_texts(3), strict=True)]
    path = str(write_csv(tmp_path / "a.csv", rows))
    found = evaluate([str(model)], {"comments": path}).scores[0].metrics
    lists = write_jsonl(
        tmp_path / "a.jsonl",
        [{"text": row["comment_text"], "labels": labels} for row, labels in zip(rows, TRUE, strict=True)],
    )
    assert found == evaluate([str(model)], {"comments": str(lists)}).scores[0].metrics
