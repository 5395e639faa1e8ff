"""What data has is told before it is used: the columns that would be read, why, and the labels that those are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusehub import preview_data
from fusehub.data.examples import load_examples
from fusehub.data.preview import ROWS
from fusehub.errors import NotFound
from tests.unit.tiny import tiny_model


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    made = {
        "sentiment": tiny_model(folder / "sentiment"),
        "stars": tiny_model(folder / "stars", labels=["1 star", "2 stars", "3 stars"]),
        "writer": tiny_model(folder / "writer", "gpt2", task="text-generation"),
        "reader": tiny_model(folder / "reader", task="question-answering"),
    }
    return {name: str(path) for name, path in made.items()}


def written(folder: Path, rows: list[dict[str, object]]) -> str:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_it_tells_what_would_be_read_and_why(models, tmp_path) -> None:
    rows = [{"id": 1, "review": "a good film " * 20, "stars": 0}, {"id": 2, "review": "bad", "stars": 1}]
    source = written(tmp_path, rows)
    seen = preview_data(source, [models["sentiment"]])
    assert (seen.text_columns, seen.label_column, seen.columns) == (("review",), "stars", ("id", "review", "stars"))
    assert seen.why_texts == "columns of texts are often called so" and seen.why_label
    assert seen.labels == {models["sentiment"]: {"0": "negative", "1": "positive"}} and seen.ok
    assert any("matched by number" in warning for warning in seen.warnings)
    assert len(seen.rows[0]["review"]) < 130 and seen.rows[1] == {"id": "2", "review": "bad", "stars": "1"}
    # Just what is read.
    examples = load_examples(source, "text-classification", need_labels=True)
    assert examples.texts[1] == "bad" and examples.labels == ["0", "1"] and seen.examples == len(examples)
    named = preview_data(source, [models["sentiment"]], text_column="ID", label_column="review")
    assert (named.text_columns, named.label_column, named.why_texts, named.why_label) == (("id",), "review", "", "")
    assert not named.ok and "holds int, not text" in named.problems[0].what
    [problem] = preview_data(source, [models["sentiment"]], text_column="x").problems
    assert "has no column 'x'" in problem.what
    with pytest.raises(NotFound, match="There is no file"):
        preview_data(tmp_path / "nothing.csv", [models["sentiment"]])


def test_labels_that_do_not_go_with_the_models_are_named(models, tmp_path) -> None:
    rows = [{"text": "one", "label": "Positive"}, {"text": "two", "label": "mixed"}]
    seen = preview_data(written(tmp_path, rows), [models["sentiment"], models["stars"]])
    assert seen.labels == {models["sentiment"]: {"Positive": "positive", "mixed": None}}
    [problem] = seen.problems
    assert "(Positive, mixed) are not those of the model (1 star, 2 stars, 3 stars)" in problem.what
    assert [action.code for action in problem.actions] == ["name-columns"]
    # For statistics nobody asks for labels.
    assert preview_data(written(tmp_path, rows), [models["stars"]], labelled=False).ok


def test_columns_that_are_not_clear_are_a_problem_and_all_are_told(models, tmp_path) -> None:
    seen = preview_data(written(tmp_path, [{"text": "a", "verdict": "good", "note": "b"}]), [models["sentiment"]])
    assert seen.text_columns == ("text",) and seen.label_column is None and seen.columns[1:] == ("verdict", "note")
    assert "no column looks like labels" in seen.problems[0].what
    seen = preview_data(written(tmp_path, [{"a": "x", "b": "y"}]), [models["sentiment"]])
    assert seen.text_columns == () and "no column looks like text" in seen.problems[0].what and seen.rows


def test_labels_of_which_only_the_first_rows_are_known_are_no_problem(models, tmp_path) -> None:
    rows: list[dict[str, object]] = [{"text": f"text {number}", "label": 1} for number in range(ROWS)]
    seen = preview_data(written(tmp_path, rows), [models["stars"]])
    assert seen.ok and any(f"Of the first {ROWS:,} rows: " in warning for warning in seen.warnings)
    assert not preview_data(written(tmp_path, rows[1:]), [models["stars"]]).ok


def test_each_task_has_its_own_columns(models, tmp_path) -> None:
    told = {"question": "Who?", "context": "Anna.", "answers": {"text": ["Anna"], "answer_start": [0]}}
    seen = preview_data(written(tmp_path, [told]), [models["reader"]])
    assert (seen.text_columns, seen.label_column, seen.most_text_columns) == (("question", "context"), "answers", 2)
    assert seen.ok and seen.labels == {}
    chat = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    seen = preview_data(written(tmp_path, [{"messages": chat, "label": 1}]), [models["writer"]])
    assert (seen.text_columns, seen.label_column, seen.why_texts) == (("messages",), None, "it holds conversations")
    assert json.loads(json.dumps(seen.to_dict()))["ok"]
