"""Scores against numbers worked out by hand, and against what the models are known to say."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from fusehub.comparing.evaluate import evaluate
from fusehub.comparing.prediction import Prediction
from fusehub.comparing.predictor import predict
from fusehub.comparing.said import MULTI, REGRESSION, SINGLE
from fusehub.comparing.tasks import answers_of
from fusehub.data.examples import Examples
from fusehub.errors import BadData, Incompatible, NotFound
from tests.unit.tiny import tiny_model, tiny_texts

TOKENS = "token-classification"
TAGS = ["O", "B-PER", "I-PER", "B-LOC"]
TEXTS = tiny_texts(12, seed=4)


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [str(tiny_model(folder / name, seed=seed)) for name, seed in (("films", 1), ("news", 2))]


@pytest.fixture(scope="module")
def said(experts):
    """What each expert says about the texts."""
    return [[label for label, _ in predict(path, TEXTS).answers()] for path in experts]


def write(path, labels, texts=TEXTS, column="text"):
    rows = [{column: text, "label": label} for text, label in zip(texts, labels, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def score(labels, said, names, task="text-classification", problem=SINGLE, classes=None):
    """The metrics of a model that says `said`, as rows of probabilities, where `labels` are true."""
    probabilities = [np.array(rows, float) for rows in said] if task == TOKENS else np.array(said, float)
    examples = Examples(task, ["x"] * len(labels), labels, "data", None, names=classes)
    return answers_of(task).score(Prediction("m", task, problem, names, probabilities), examples).metrics


def hot(names, labels):
    """Probabilities of a model that is sure of `labels`."""
    return [[float(name == label) for name in names] for label in labels]


def test_a_model_is_right_about_what_it_says_and_wrong_where_it_is_not(experts, said, tmp_path):
    other = {"negative": "positive", "positive": "negative"}
    right = write(tmp_path / "right.jsonl", said[0])
    wrong = write(tmp_path / "wrong.jsonl", [other[x] for x in said[0][:3]] + said[0][3:])
    found = evaluate(experts, {"right": right, "wrong": wrong})
    own, of_other = found.scores[:2], found.scores[2:]
    assert [score.metrics["accuracy"] for score in own] == [1.0, 0.75]
    assert own[0].metrics["f1_macro"] == 1.0 > own[1].metrics["f1_macro"]
    agree = np.mean([a == b for a, b in zip(*said, strict=True)])
    assert of_other[0].metrics["accuracy"] == pytest.approx(agree)
    assert agree < 1, "or the models could be mixed up"
    assert found.mean() == pytest.approx({"films": 0.875, "news": np.mean([x.main for x in of_other])})
    assert found.rows()[0] == {"model": "films", "right": 1.0, "wrong": 0.75, "mean": 0.875}


def test_macro_f1_is_over_the_labels_that_occur():
    names = ["a", "b", "c"]
    # True a a b b, said a c b b: a has precision 1, recall 1/2, F1 2/3; b has F1 1; c never occurs.
    metrics = score(["a", "a", "b", "b"], hot(names, "acbb"), names)
    assert metrics == pytest.approx({"accuracy": 0.75, "f1_macro": (2 / 3 + 1) / 2})
    # A label that is never said has F1 0.
    assert score(["a", "b"], hot(names, "aa"), names)["f1_macro"] == pytest.approx((2 / 3 + 0) / 2)


def test_labels_count_by_name_and_not_by_number(experts, said, tmp_path):
    """A head with its rows in another order is as good as before."""
    path = shutil.copytree(experts[0], tmp_path / "permuted")
    weights = load_file(path / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name].flip(0).contiguous()
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    config |= {"id2label": {"0": "Positive", "1": "Negative"}, "label2id": {"Positive": 0, "Negative": 1}}
    (path / "config.json").write_text(json.dumps(config))
    found = evaluate([str(path)], {"d": write(tmp_path / "d.jsonl", said[0])})
    assert found.scores[0].metrics == {"accuracy": 1.0, "f1_macro": 1.0}


def test_labels_that_differ_in_case_alone_are_one():
    assert score(["good", "Good", "bad"], hot(["GOOD", "BAD"], ["GOOD", "GOOD", "BAD"]), ["GOOD", "BAD"]) == {
        "accuracy": 1.0,
        "f1_macro": 1.0,
    }


def test_numbers_and_unnamed_labels(caplog):
    names = ["LABEL_0", "LABEL_1"]
    with caplog.at_level(logging.WARNING):
        assert score(["1", "0"], [[0, 1], [1, 0]], names)["accuracy"] == 1.0
        assert score(["pos", "pos"], [[0, 1], [1, 0]], names, classes=("neg", "pos"))["accuracy"] == 0.5
    assert "by number" in caplog.text


def test_a_label_that_the_model_does_not_know_is_wrong_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        assert score(["a", "z"], hot(["a", "b"], "aa"), ["a", "b"])["accuracy"] == 0.5
    assert "does not know z" in caplog.text


@pytest.mark.parametrize("verbosity", [logging.WARNING, logging.ERROR])
def test_what_was_warned_of_is_told_with_the_scores_however_little_is_said(tmp_path, caplog, verbosity):
    names = [f"LABEL_{number}" for number in range(2)]
    path = tiny_model(tmp_path / "model", labels=names)
    data = write(tmp_path / "d.jsonl", ["0", "1"] * 6)
    with caplog.at_level(verbosity, "fusehub"):
        found = evaluate([str(path)] * 2, {"d": data})
    assert ["matched by number" in told for told in found.to_dict()["warnings"]] == [True]
    assert ("matched by number" in caplog.text) == (verbosity == logging.WARNING)


def words(names, *texts):
    return [hot(names, tags) for tags in texts]


def test_entities_count_whole():
    true = [["B-PER", "I-PER", "O", "B-LOC"], ["B-LOC", "O"]]
    # The first person is found in half, which is no person; one place of two; one place that is none.
    said = words(TAGS, ["B-PER", "O", "O", "B-LOC"], ["O", "B-LOC"])
    metrics = score(true, said, TAGS, TOKENS)
    # 3 true, 3 said, 1 right.
    assert metrics == pytest.approx({"f1": 1 / 3, "precision": 1 / 3, "recall": 1 / 3, "accuracy": 3 / 6})
    assert next(iter(metrics)) == "f1"
    assert score(true, words(TAGS, *true), TAGS, TOKENS)["f1"] == 1.0


def test_entities_of_unnamed_labels_keep_the_prefixes_of_the_data(caplog):
    names = [f"LABEL_{i}" for i in range(4)]
    said = words(names, ["LABEL_1", "LABEL_2", "LABEL_0"])
    assert score([["B-PER", "I-PER", "O"]], said, names, TOKENS, classes=tuple(TAGS))["f1"] == 1.0


def test_words_that_were_cut_count_as_outside():
    nan = [float("nan")] * 4
    said = [[*hot(TAGS, ["B-PER"]), nan, nan]]
    assert score([["B-PER", "O", "B-LOC"]], said, TAGS, TOKENS) == pytest.approx(
        {"f1": 2 / 3, "precision": 1.0, "recall": 0.5, "accuracy": 2 / 3}
    )


def test_words_without_entities_have_accuracy_and_f1():
    names = ["NOUN", "VERB"]
    metrics = score([["NOUN", "VERB"], ["NOUN"]], words(names, ["NOUN", "NOUN"], ["NOUN"]), names, TOKENS)
    assert metrics == pytest.approx({"accuracy": 2 / 3, "f1_macro": 0.4})


def test_several_labels_a_text():
    names = ["a", "b", "c"]
    said = [[0.9, 0.1, 0.2], [0.6, 0.7, 0.1]]
    # True {a, b}, {a, b}: said {a}, {a, b}: three of four found, none wrong.
    expected = {"f1_micro": 6 / 7, "f1_macro": (1 + 2 / 3) / 2, "accuracy": 0.5}
    assert score([["a", "b"], ["A", "b"]], said, names, problem=MULTI) == pytest.approx(expected)
    assert score([["1", "1", "0"], ["1", "1", "0"]], said, names, problem=MULTI) == pytest.approx(expected)


def test_numbers_as_labels():
    metrics = score([1.0, 2.0, 4.0], [[1.0], [3.0], [3.5]], ["score"], problem=REGRESSION)
    assert metrics["mse"] == pytest.approx((0 + 1 + 0.25) / 3)
    assert metrics["spearman"] == pytest.approx(1.0)
    assert metrics["pearson"] == pytest.approx(np.corrcoef([1, 2, 4], [1, 3, 3.5])[0, 1])
    assert next(iter(metrics)) == "pearson"
    with pytest.raises(BadData, match="needs numbers"):
        score(["good"], [[1.0]], ["score"], problem=REGRESSION)


def test_a_correlation_that_does_not_exist_is_null_in_json(tmp_path):
    path = str(tiny_model(tmp_path / "m", labels=["score"]))
    data = write(tmp_path / "d.jsonl", [1.0] * len(TEXTS))
    found = evaluate([path], {"d": data}).to_dict()
    assert found["scores"][0]["metrics"]["pearson"] is None and found["mean"] == {"m": None}
    json.loads(json.dumps(found, allow_nan=False))


def test_the_ensemble_is_scored_like_a_model(experts, said, tmp_path):
    merged = shutil.copytree(experts[0], tmp_path / "merged")
    (merged / "README.md").write_text("---\ntags: [merge]\n---\n")
    data = write(tmp_path / "d.jsonl", said[0])
    found = evaluate([*experts, str(merged)], {"d": data}, ensemble=True)
    assert (found.models, found.ensemble_of) == (["films", "news", "ensemble", "merged"], ["films", "news"])
    mean = sum(predict(path, TEXTS).probabilities for path in experts)
    expected = np.mean(
        [["negative", "positive"][row.argmax()] == label for row, label in zip(mean, said[0], strict=True)]
    )
    assert found.scores[2].metrics["accuracy"] == pytest.approx(expected)
    assert found.scores[2].model_id is None and found.scores[3].main == 1.0


def test_an_evaluation_tells_what_was_measured_on_what(experts, said, tmp_path):
    data = write(tmp_path / "d.jsonl", said[0])
    steps = []
    found = evaluate(experts[:1], {"films": data}, progress=lambda *step: steps.append(step))
    one = found.results()[0]
    assert (one.model, one.task, one.data, one.source) == ("films", "text-classification", "films", "d.jsonl")
    assert (one.metric, one.value, len(one.revision)) == ("accuracy", 1.0, 64)
    assert found.scores[0].model_id == str(Path(experts[0]))
    assert found.scores[0].examples == 12 and found.scores[0].seconds > 0
    assert json.loads(json.dumps(found.to_dict()))["scores"][0]["metrics"]["accuracy"] == 1.0
    assert steps[-1][:2] == (12, 12)
    assert len(evaluate(experts[:1], {"films": data}, limit=5).results()) == 2


def test_token_classification_from_end_to_end(tmp_path):
    path = str(tiny_model(tmp_path / "m", "roberta", task=TOKENS, labels=TAGS, seed=2))
    texts = [text.split() for text in TEXTS]
    tags = [[label for label, _ in own] for own in predict(path, texts).answers()]
    data = tmp_path / "d.jsonl"
    rows = [{"tokens": own, "ner_tags": their} for own, their in zip(texts, tags, strict=True)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert {tag for own in tags for tag in own} - {"O"}, "or there is nothing to find"
    assert set(evaluate([path], {"d": str(data)}).scores[0].metrics.values()) == {1.0}


def test_what_cannot_be_evaluated(experts, said, tmp_path):
    good = write(tmp_path / "good.jsonl", said[0])
    with pytest.raises(BadData, match="no data"):
        evaluate(experts, {})
    with pytest.raises(BadData, match=r"films: The labels of .*yes, no"):
        evaluate(experts, {"good": good, "bad": write(tmp_path / "bad.jsonl", ["yes", "no"] * 6)})
    (tmp_path / "a.txt").write_text("a\n")
    with pytest.raises(NotFound, match="labels"):
        evaluate(experts, {"a": str(tmp_path / "a.txt")})
    with pytest.raises(BadData, match="several labels"):
        score([["a"], ["b"]], hot("ab", "ab"), ["a", "b"])
    words_model = str(tiny_model(tmp_path / "w", task=TOKENS))
    with pytest.raises(Incompatible, match="different tasks"):
        evaluate([experts[0], words_model], {"good": good})
