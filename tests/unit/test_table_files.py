"""Files whose bytes, quotes or nesting are not what their ending says: read right, or refused in words."""

import pytest

from fusehub.comparing.evaluate import evaluate
from fusehub.data.examples import load_examples
from fusehub.errors import BadData, BadFile
from tests.unit.test_data import write_csv, write_jsonl
from tests.unit.tiny import tiny_model, tiny_texts


def texts_of(path, content, task="text-classification"):
    path.write_bytes(content)
    return load_examples(str(path), task).texts


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_texts_are_read_in_the_encoding_that_the_files_mark_names(tmp_path, encoding):
    assert texts_of(tmp_path / "a.txt", "Grün\nRot\n".encode(encoding)) == ["Grün", "Rot"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.json"])
def test_text_of_another_encoding_without_a_mark_is_refused(tmp_path, name, encoding):
    with pytest.raises(BadFile, match="looks like UTF-16"):
        texts_of(tmp_path / name, "text,label\ngood,1\n".encode(encoding))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[" * 100_000, "a.json is JSON that cannot be read: .* nested too deeply"),
        ("a.jsonl", "[" * 100_000, "line 1 is not JSON .*nested too deeply"),
        # What Python can hold, but who goes through it cannot.
        ("a.json", '[{"text": "a", "label": ' + "[" * 400 + "]" * 400 + "}]", "nested too deeply"),
        ("a.jsonl", '{"text": "a", "label": ' + "[" * 400 + "]" * 400 + "}", "line 1 .*nested too deeply"),
        ("a.json", '[{"text": "a", "label": ' + "9" * 5000 + "}]", "more digits"),
        ("a.jsonl", '{"text": "a"}\n{"text": "a", "label": ' + "9" * 5000 + "}", "line 2 .*more digits"),
    ],
)
def test_json_that_python_cannot_hold_is_refused(tmp_path, name, content, message):
    with pytest.raises(BadFile, match=message):
        texts_of(tmp_path / name, content.encode())


@pytest.mark.parametrize(
    ("task", "row", "column"),
    [
        ("text-classification", {"text": "good \ud800 bad"}, "text"),
        ("text-classification", {"text": "good", "label": "\udc00"}, "label"),
        ("text-classification", {"sentence1": "good", "sentence2": "\ud800"}, "sentence1 and sentence2"),
        ("token-classification", {"tokens": ["good", "\ud800"]}, "tokens"),
        ("text-generation", {"messages": [{"role": "user", "content": "\ud800"}]}, "messages"),
    ],
)
def test_half_a_character_is_refused_with_its_row_and_column(tmp_path, task, row, column):
    path = write_jsonl(tmp_path / "a.jsonl", [row])
    with pytest.raises(BadData, match=rf"a.jsonl, row 1: the column {column} holds half a character"):
        load_examples(str(path), task)


def test_a_whole_pair_is_a_character(tmp_path):
    assert texts_of(tmp_path / "a.jsonl", b'{"text": "\\ud83d\\ude00"}') == ["\U0001f600"]


@pytest.mark.parametrize(
    ("rows", "texts"),
    [
        # No quoting: the first text would take the tab, the label and the next row.
        (['"good x\tneg', 'bad"\tpos'], ['"good x', 'bad"']),
        (['"good" x is\tneg', "bad\tpos"], ['"good" x is', "bad"]),
        (['"good\tneg', "bad\tpos"], ['"good', "bad"]),
        # Quotes around fields, with a quote, a tab or a line break in them.
        (['"good ""x"""\tneg', '"bad"\tpos'], ['good "x"', "bad"]),
        (['"a\tb"\tneg', "bad\tpos"], ["a\tb", "bad"]),
        (['"a\nb"\tneg', "bad\tpos"], ["a\nb", "bad"]),
    ],
)
def test_quotes_in_files_with_tabs_never_join_rows(tmp_path, rows, texts):
    assert texts_of(tmp_path / "a.tsv", "\n".join(["sentence\tlabel", *rows, ""]).encode()) == texts


def test_quotes_that_may_be_either_are_refused(tmp_path):
    with pytest.raises(BadFile, match="line 2: whether its quotes belong to the text"):
        texts_of(tmp_path / "a.tsv", b'sentence\tlabel\n"good x\tneg\nbad"\tpos\nno label\n')


@pytest.mark.parametrize("label", ["inf", "-inf", "1e999"])
def test_labels_for_regression_are_finite(tmp_path, label):
    tiny_model(tmp_path / "model", labels=("score",), problem_type="regression")
    rows = [{"text": text, "label": value} for text, value in zip(tiny_texts(2), ("1.5", label), strict=True)]
    with pytest.raises(BadData, match="needs finite numbers"):
        evaluate([str(tmp_path / "model")], {"data": str(write_csv(tmp_path / "a.csv", rows))})
