"""Reading texts and labels, and what tokenizers make of them."""

import csv
import json
import logging
import subprocess
import sys

import pytest

from fusehub.data.examples import Examples, load_examples
from fusehub.data.label_matching import labels_as_ids, match_labels
from fusehub.data.tables.hub_datasets import DatasetName, parse_dataset, trained_on
from fusehub.data.tables.sources import open_table
from fusehub.errors import BadData, BadFile, NotFound

ROWS = [
    {"text": "A fine, long film.", "label": "good"},
    {"text": "None", "label": "NA"},
    {"text": 'He said "no".\nTwice.', "label": "good"},
    {"text": "Überraschend; süß", "label": "bad"},
]
TEXTS, LABELS = [row["text"] for row in ROWS], [row["label"] for row in ROWS]
TAGGED = [
    {"tokens": ["Anna", "lives", "in", "Paris"], "ner_tags": ["B-PER", "O", "O", "B-LOC"]},
    {"tokens": ["nothing", "here"], "ner_tags": ["O", "O"]},
]


def write_csv(path, rows, delimiter=",", encoding="utf-8"):
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path, rows):
    from datasets import Dataset

    Dataset.from_list(rows).to_parquet(path)
    return path


def read(path, task="text-classification", **options):
    return load_examples(str(path), task, **options)


WRITERS = {
    "comma.csv": write_csv,
    "semicolon.csv": lambda path, rows: write_csv(path, rows, ";"),
    "excel.csv": lambda path, rows: write_csv(path, rows, encoding="utf-8-sig"),
    "tabs.tsv": lambda path, rows: write_csv(path, rows, "\t"),
    "lines.jsonl": write_jsonl,
    "list.json": lambda path, rows: path.write_text(json.dumps(rows)),
    "wrapped.json": lambda path, rows: path.write_text(json.dumps({"version": 1, "data": rows})),
    "lines.json": write_jsonl,
    "rows.parquet": write_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_examples(tmp_path, name):
    WRITERS[name](tmp_path / name, ROWS)
    examples = read(tmp_path / name, need_labels=True)
    assert (examples.texts, examples.labels) == (TEXTS, LABELS)
    assert (examples.source, len(examples), len(examples.revision)) == (name, 4, 64)


def test_a_text_file_has_one_text_a_line_and_no_labels(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n  \ntwo, three\n", encoding="utf-8")
    assert read(tmp_path / "a.txt").texts == ["one", "two, three"]
    assert read(tmp_path / "a.txt").labels is None
    with pytest.raises(NotFound, match="--label-column"):
        read(tmp_path / "a.txt", need_labels=True)


def test_the_revision_of_a_file_is_its_sha256(tmp_path):
    import hashlib

    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    assert read(path).revision == hashlib.sha256(path.read_bytes()).hexdigest()


def test_label_numbers_become_names_where_the_file_knows_them(tmp_path):
    from datasets import ClassLabel, Dataset, Features, List, Value

    features = Features(text=Value("string"), label=ClassLabel(names=["neg", "pos"]))
    data = Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    data.to_parquet(tmp_path / "a.parquet")
    examples = read(tmp_path / "a.parquet", need_labels=True)
    assert (examples.texts, examples.labels, examples.names) == (["a", "b"], ["pos", "neg"], ("neg", "pos"))
    assert read(tmp_path / "a.parquet").labels is None, "one text has none"

    features = Features(tokens=List(Value("string")), ner_tags=List(ClassLabel(names=["O", "B-PER"])))
    Dataset.from_dict({"tokens": [["a", "B"]], "ner_tags": [[0, 1]]}, features=features).to_parquet(
        tmp_path / "b.parquet"
    )
    assert read(tmp_path / "b.parquet", "token-classification").labels == [["O", "B-PER"]]


def test_a_column_whose_labels_the_data_names_is_the_one_with_the_labels(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features(text=Value("string"), score=Value("int64"), mood=ClassLabel(names=["sad", "glad"]))
    rows = {"text": ["a", "b"], "score": [5, 7], "mood": [1, 0]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", need_labels=True).labels == ["glad", "sad"]
    assert read(tmp_path / "a.parquet", label_column="score").labels == ["5", "7"]


@pytest.mark.parametrize(
    ("columns", "texts", "labels"),
    [
        (["id", "Review", "Sentiment"], ["x"], "x"),
        (["premise", "hypothesis", "label"], [("x", "x")], "x"),
        (["idx", "question", "sentence", "label"], [("x", "x")], "x"),
        (["label", "label_text", "text"], ["x"], "x"),
        (["utt", "label"], ["x"], "x"),
    ],
)
def test_columns_are_guessed(tmp_path, columns, texts, labels):
    examples = read(write_csv(tmp_path / "a.csv", [dict.fromkeys(columns, "x")]))
    assert (examples.texts, examples.labels) == (texts, [labels])


def test_a_failed_guess_lists_the_columns_and_says_how_to_name_them(tmp_path):
    path = write_csv(tmp_path / "a.csv", [{"one": "left", "two": "right", "mark": "3"}])
    with pytest.raises(NotFound, match=r"one, two, mark[\s\S]*--text-column"):
        read(path)
    with pytest.raises(NotFound, match=r"one, two, mark[\s\S]*--label-column"):
        read(path, text_column="one", need_labels=True)
    with pytest.raises(NotFound, match="no column 'three'"):
        read(path, text_column="three")
    named = read(path, text_column="one,two", label_column="mark", need_labels=True)
    assert (named.texts, named.labels) == ([("left", "right")], ["3"])


def test_words_and_tags_are_read_from_lists_and_from_lists_written_as_text(tmp_path):
    expected = ([row["tokens"] for row in TAGGED], [row["ner_tags"] for row in TAGGED])
    texts = [{key: json.dumps(value) for key, value in row.items()} for row in TAGGED]
    python = [{key: str(value) for key, value in row.items()} for row in TAGGED]
    plain = [{key: " ".join(value) for key, value in row.items()} for row in TAGGED]
    paths = [
        write_jsonl(tmp_path / "a.jsonl", TAGGED),
        write_parquet(tmp_path / "a.parquet", TAGGED),
        *(write_csv(tmp_path / f"{i}.csv", rows) for i, rows in enumerate((texts, python, plain))),
    ]
    for path in paths:
        examples = read(path, "token-classification", need_labels=True)
        assert (examples.texts, examples.labels) == expected, path.name


def test_words_and_tags_are_read_as_numpy_prints_them(tmp_path):
    import numpy as np

    printed = [{key: str(np.array(value)) for key, value in row.items()} for row in TAGGED]
    examples = read(write_csv(tmp_path / "a.csv", printed), "token-classification", need_labels=True)
    assert examples.texts == [row["tokens"] for row in TAGGED]
    assert examples.labels == [row["ner_tags"] for row in TAGGED]


def test_a_list_of_words_that_cannot_be_read_is_refused(tmp_path):
    path = write_csv(tmp_path / "a.csv", [{"tokens": "[Anna, lives]", "ner_tags": "[B-PER, O]"}])
    with pytest.raises(BadData, match=r"row 1: the column tokens holds no list of words that can be read: \[Anna"):
        read(path, "token-classification")


def test_words_with_their_tags_in_lines_of_a_text_file_are_read(tmp_path):
    lines = ["-DOCSTART- -X- O O", "", "Anna NNP B-NP B-PER", "lives VBZ B-VP O", "", "nothing NN O O", ""]
    (tmp_path / "a.txt").write_text("\n".join(lines), encoding="utf-8")
    examples = read(tmp_path / "a.txt", "token-classification", need_labels=True)
    assert (examples.texts, examples.labels) == ([["Anna", "lives"], ["nothing"]], [["B-PER", "O"], ["O"]])
    with pytest.raises(BadData, match="holds list, not text"):
        read(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_text("I got an O\nVitamin B-12\nand a text", encoding="utf-8")
    assert len(read(tmp_path / "b.txt")) == 3


@pytest.mark.parametrize("values", [[1, 0], [1.0, 0.0], [2.5, 3.0], [True, False], [[1, 0], [0, 1]], [["a"], []]])
def test_the_same_labels_are_read_from_every_format(tmp_path, values):
    rows = [{"text": f"text {number}", "label": value} for number, value in enumerate(values)]
    found = []
    for write, name in ((write_csv, "a.csv"), (write_parquet, "a.parquet"), (write_jsonl, "a.jsonl")):
        write(tmp_path / name, rows)
        found.append(read(tmp_path / name, need_labels=True).labels)
    assert found[0] == found[1] == found[2]
    assert isinstance(found[0][0], list) == isinstance(values[0], list)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"text,label,text\na,b,c\n"),
        ("a.csv", b"text,label, text\na,b,c\n"),
        ("a.jsonl", b'{"text": "a", "text": "b"}\n'),
        ("a.json", b'[{"text": "a", "text": "b"}]'),
        ("a.parquet", b""),
    ],
)
def test_a_column_that_is_there_twice_is_refused(tmp_path, name, content):
    if name.endswith("parquet"):
        import pyarrow
        from pyarrow.parquet import write_table

        write_table(pyarrow.table([pyarrow.array(["a"])] * 2, names=["text", "text"]), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadData, match=f"{name} has the column 'text' twice"):
        read(tmp_path / name)


def test_files_of_other_machines_are_read(tmp_path):
    """Blank lines before the header, lines that end as Windows ends them, spaces in the header, UTF-16."""
    (tmp_path / "a.csv").write_bytes("\r\ntext, label\r\nGrün,x\r\n\r\n".encode("utf-16"))
    examples = read(tmp_path / "a.csv", need_labels=True)
    assert (examples.texts, examples.labels) == (["Grün"], ["x"])
    (tmp_path / "b.csv").write_text(f'text,label\n"{"word " * 100_000}",x\n')
    assert len(read(tmp_path / "b.csv").texts[0]) == 500_000
    (tmp_path / "c.csv").write_text("text,label\n")
    with pytest.raises(BadData, match="is empty"):
        read(tmp_path / "c.csv")


def test_plain_texts_are_split_into_words_and_their_labels_ignored(tmp_path):
    path = write_csv(tmp_path / "a.csv", [{"text": "Anna's in Paris.", "label": "good"}])
    examples = read(path, "token-classification")
    assert (examples.texts, examples.labels) == ([["Anna", "'s", "in", "Paris", "."]], None)


def test_as_many_tags_as_words(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"tokens": ["a", "b"], "ner_tags": ["O"]}])
    with pytest.raises(BadData, match="row 1: 1 labels for 2 words"):
        read(path, "token-classification", need_labels=True)


def test_a_limit_draws_a_sample_by_seed_and_keeps_the_order(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": f"{i:04}"} for i in range(1000)])
    first, again, other = (read(path, limit=50, seed=seed).texts for seed in (0, 0, 1))
    assert first == again != other
    assert first == sorted(first)
    assert len(set(first)) == 50
    # A sorted data set must not give its head: each half has about 25 of 50.
    assert 10 < sum(text >= "0500" for text in first) < 40
    assert len(read(path, limit=5000)) == 1000
    with pytest.raises(BadData):
        read(path, limit=0)


@pytest.mark.parametrize("rows", [[{"text": " "}, {"text": None}], [{"tokens": []}]])
def test_data_without_text_is_refused(tmp_path, rows):
    task = "token-classification" if "tokens" in rows[0] else "text-classification"
    with pytest.raises(BadData, match="holds no text"):
        read(write_jsonl(tmp_path / "a.jsonl", rows), task)


def test_rows_without_text_are_left_out_with_a_warning(tmp_path, caplog):
    rows = [{"text": "a", "label": "x"}, {"text": "", "label": "y"}, {"text": "b", "label": None}]
    with caplog.at_level(logging.WARNING):
        examples = read(write_jsonl(tmp_path / "a.jsonl", rows), need_labels=True)
    assert (examples.texts, examples.labels) == (["a"], ["x"])
    assert "1 rows without text" in caplog.text and "1 rows without a label" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
        ("a.jsonl", b"[1, 2]\n", "line 1 is no object"),
        ("a.csv", "text\nGrün".encode("latin-1"), "not UTF-8"),
        ("a.csv", b"text,label\na,b,c\n", "line 2: more fields"),
        ("a.parquet", b"PAR1 broken", "not a sound Parquet"),
    ],
)
def test_broken_files_are_named_with_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadFile, match=message):
        read(tmp_path / name)


def test_what_is_no_data_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("")
    (tmp_path / "a.docx").write_text("x")
    write_jsonl(tmp_path / "number.jsonl", [{"text": 3}])
    for source, error, message in [
        (tmp_path / "a.csv", BadData, "is empty"),
        (tmp_path / "a.docx", BadData, "does not read .docx"),
        (tmp_path / "number.jsonl", BadData, "holds int, not text"),
        (tmp_path / "gone.csv", NotFound, "no file or folder"),
        ("gone.csv", NotFound, "no file or folder"),
        ("", NotFound, "empty name"),
        ("a b c", NotFound, "names no data"),
    ]:
        with pytest.raises(error, match=message):
            read(source)


def test_folders_have_splits_by_the_names_of_their_files(tmp_path):
    folder = tmp_path / "films"
    write_jsonl(folder / "one.train.jsonl", [{"text": "train one"}])
    write_jsonl(folder / "two-train.jsonl", [{"text": "train two"}])
    write_jsonl(folder / "dev" / "latest.jsonl", [{"text": "dev"}])
    write_jsonl(folder / ".cache" / "test.jsonl", [{"text": "hidden"}])
    assert read(folder).texts == ["train one", "train two"]
    assert read(folder).split == "train"
    assert read(folder, default_split="test").split == "validation", "instead of the test split"
    assert read(folder / "validation").texts == ["dev"]
    assert read(folder / "valid").source == "films/validation"
    with pytest.raises(NotFound, match=r"no split 'test'[\s\S]*Its splits are validation, train"):
        read(folder / "test")
    assert read(folder).revision != read(folder / "validation").revision


def test_another_split_is_read_for_a_missing_one_only_with_a_warning(tmp_path, caplog):
    write_jsonl(tmp_path / "d" / "train.jsonl", [{"text": "a"}])
    assert read(tmp_path / "d").texts == ["a"]
    assert not caplog.records
    assert read(tmp_path / "d", default_split="test").texts == ["a"]
    assert "no split 'test': 'train' is read" in caplog.text
    write_jsonl(tmp_path / "d" / "val.jsonl", [{"text": "b"}])
    assert read(tmp_path / "d", default_split="test").texts == ["b"]
    with pytest.raises(NotFound, match="no split 'test'"):
        read(tmp_path / "d" / "test")


def test_a_folder_without_splits_is_read_whole(tmp_path):
    for name in "ab":
        write_jsonl(tmp_path / "d" / f"{name}.jsonl", [{"text": name}])
    examples = read(tmp_path / "d", default_split="test")
    assert (examples.texts, examples.split) == (["a", "b"], None)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("user/data", ("user/data", None, None, None)),
        ("user/data:en/test@v1", ("user/data", "en", "test", "v1")),
        ("user/data/test", ("user/data", None, "test", None)),
        ("imdb:plain", ("imdb", "plain", None, None)),
        ("user/data@refs/convert/parquet", ("user/data", None, None, "refs/convert/parquet")),
        ("hf://datasets/user/data", ("user/data", None, None, None)),
        ("https://huggingface.co/datasets/user/data/tree/v1/sub", ("user/data", None, None, "v1")),
    ],
)
def test_names_of_datasets(text, parts):
    assert parse_dataset(text) == DatasetName(*parts)


def test_what_a_card_names_is_a_dataset_on_the_hub_or_left_out():
    assert trained_on({"datasets": ["ada/texts", 3, "/etc/passwd", "../x", "imdb", "ada/texts", None]}) == [
        "ada/texts",
        "imdb",
    ]
    assert trained_on({"datasets": "ada/texts"}) == ["ada/texts"] and trained_on({}) == []


def of_labels(labels, names=None, task="text-classification"):
    return Examples(task, ["x"] * len(labels), labels, "data", None, names=names)


def test_labels_are_matched_by_name_whatever_the_case():
    assert labels_as_ids(of_labels(["Positive", "NEGATIVE"]), ["negative", "positive"]) == [1, 0]
    tags = of_labels([["O", "b-per"]], task="token-classification")
    assert labels_as_ids(tags, ["B-PER", "O"]) == [[1, 0]]


@pytest.mark.parametrize(
    ("examples", "labels", "ids"),
    [
        (of_labels(["1", "0"]), ["negative", "positive"], [1, 0]),
        (of_labels(["1", "0"]), ["LABEL_0", "LABEL_1"], [1, 0]),
        (of_labels([1.0, 0.0]), ["LABEL_0", "LABEL_1"], [1, 0]),
        (of_labels(["pos", "neg"], ("neg", "pos")), ["LABEL_0", "LABEL_1"], [1, 0]),
    ],
)
def test_numbers_match_by_position_with_a_warning(examples, labels, ids, caplog):
    with caplog.at_level(logging.WARNING):
        assert labels_as_ids(examples, labels) == ids
    assert "matched by number" in caplog.text


@pytest.mark.parametrize(
    ("examples", "labels"),
    [
        (of_labels(["pos", "neg"]), ["positive", "negative"]),
        (of_labels(["pos", "neg"], ("neg", "pos")), ["negative", "positive"]),
        (of_labels(["pos", "neg"]), ["LABEL_0", "LABEL_1"]),
        (of_labels(["pos"], ("neg", "mid", "pos")), ["LABEL_0", "LABEL_1"]),
        (of_labels(["1", "2"]), ["negative", "positive"]),
    ],
)
def test_words_of_like_meaning_are_not_the_same_label(examples, labels):
    with pytest.raises(BadData, match=rf"{examples.labels[0]}[\s\S]*{labels[0]}"):
        match_labels(examples, labels)


def test_labels_that_the_model_does_not_know_are_named():
    with pytest.raises(BadData, match="does not know \\(mixed\\)"):
        labels_as_ids(of_labels(["good", "mixed"]), ["good", "bad"])
    assert match_labels(of_labels(["good", "mixed"]), ["good", "bad"]) == {"good": 0, "mixed": None}


def test_several_labels_a_text_by_name_or_as_zeros_and_ones():
    labels = ["joy", "fear", "anger"]
    assert labels_as_ids(of_labels([["joy", "anger"], []]), labels) == [[0, 2], []]
    assert labels_as_ids(of_labels([["0", "1", "0"], ["1.0", "0.0", "1.0"]]), labels) == [[1], [0, 2]]


def test_the_modules_load_without_the_heavy_libraries():
    code = (
        "import sys, fusehub.data.examples\n"
        "from fusehub.comparing import predictor, compare, evaluate\n"
        "heavy = {'torch', 'transformers', 'datasets', 'sklearn', 'numpy', 'pandas'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rows_are_read_as_they_are_asked_for(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\nbroken\n')
    assert next(open_table(str(path)).rows) == {"text": "a"}
