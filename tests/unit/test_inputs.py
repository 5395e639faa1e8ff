"""Examples of each task as models take them: what is in a batch, how it is padded, and what a probe looks like."""

import json
import sys
from pathlib import Path

import pytest
import torch

from fusehub.data.examples import Examples, load_examples
from fusehub.data.inputs import Inputs
from fusehub.errors import BadData, BadFile, Incompatible, NotFound
from fusehub.models.loading import load_model
from fusehub.models.resolve import resolve
from tests.unit.tiny import KINDS, tiny_images, tiny_model, tiny_texts

TEXTS = tiny_texts(20, seed=3)


def examples(task: str, texts: list, labels: list | None = None) -> Examples:
    return Examples(task, texts, labels, "texts", None)


@pytest.mark.parametrize("arch", ["bert", "roberta", "gpt2"])
def test_the_batches_of_texts_hold_every_text_once_and_the_model_takes_them(arch: str, tmp_path: Path) -> None:
    ref = resolve(str(tiny_model(tmp_path / arch, arch)))
    inputs = Inputs.of(ref, examples("text-classification", TEXTS))
    made = list(inputs.batches(batch_tokens=100))
    assert sorted(index for indices, _ in made for index in indices) == list(range(len(inputs))) == list(range(20))
    assert sum(int(batch["attention_mask"].sum()) for _, batch in made) == inputs.tokens
    assert all(batch["input_ids"].numel() <= 100 or len(indices) == 1 for indices, batch in made)
    lengths = [batch["input_ids"].shape[1] for _, batch in made]
    assert lengths == sorted(lengths, reverse=True) and len(set(lengths)) > 2
    network = load_model(ref)
    with torch.inference_mode():
        assert network(**made[0][1]).logits.shape == (len(made[0][0]), 2)
        assert network(**inputs.probe()).logits.shape == (3, 2)
    assert inputs.probe()["input_ids"].shape == (3, 11)


def test_a_length_cuts_and_is_remembered(tmp_path: Path) -> None:
    ref = resolve(str(tiny_model(tmp_path / "bert")))
    words = [text.split() for text in TEXTS]
    inputs = Inputs.of(ref, examples("token-classification", words), max_length=9)
    assert inputs.max_length == 9
    assert max(len(encoding["input_ids"]) for encoding in inputs.encodings) == 9
    assert inputs.tokens < Inputs.of(ref, examples("token-classification", words)).tokens


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory):
    """A model of each kind, made when it is first asked for."""
    made: dict = {}

    def get(arch: str, task: str):
        if (arch, task) not in made:
            folder = tmp_path_factory.mktemp(arch) / task
            made[arch, task] = resolve(str(tiny_model(folder, arch, task=task, hidden=16)))
        return made[arch, task]

    return get


def own_examples(task: str, folder: Path) -> Examples:
    """Examples of a task, of many lengths."""
    if task == "image-classification":
        return load_examples(str(tiny_images(folder / "photos")), task)
    if task == "question-answering":
        pairs = [(f"Who {text[:10]}?", f"Anna lives in Paris. {text}") for text in TEXTS]
        return examples(task, pairs, [["Anna"]] * len(pairs))
    return examples(task, TEXTS, TEXTS[::-1] if task == "text2text-generation" else None)


@pytest.mark.parametrize(("arch", "task"), KINDS)
def test_every_kind_of_model_takes_its_batches_and_its_probe(arch: str, task: str, models, tmp_path: Path) -> None:
    ref = models(arch, task)
    inputs = Inputs.of(ref, own_examples(task, tmp_path))
    made = list(inputs.batches(batch_tokens=120))
    assert sorted(index for indices, _ in made for index in indices) == list(range(len(inputs)))
    network = load_model(ref)
    with torch.inference_mode():
        for indices, batch in (*made[:1], *made[-1:]):
            assert len(network(**batch)[0]) == len(indices)
        network(**inputs.probe())
    probe = inputs.probe()
    if task == "image-classification":
        assert {name: tuple(value.shape) for name, value in probe.items()} == {"pixel_values": (3, 3, 16, 16)}
        assert inputs.tokens == 6 * 17
        return
    counted = sum(int(value.sum()) for _, batch in made for name, value in batch.items() if "mask" in name)
    assert counted == inputs.tokens
    assert all(sum(v.numel() for n, v in batch.items() if n.endswith("input_ids")) <= 120 for _, batch in made)
    shapes = {name: tuple(value.shape) for name, value in probe.items() if name.endswith("input_ids")}
    assert shapes == {"input_ids": (3, 11)} | ({"decoder_input_ids": (3, 7)} if arch in ("t5", "bart") else {})


@pytest.mark.parametrize("arch", ["t5", "bart"])
def test_a_decoder_is_given_what_it_learns_from(arch: str, models, tmp_path: Path) -> None:
    """The same logits as when the model itself makes its decoder's inputs from the labels."""
    ref = models(arch, "text2text-generation")
    inputs = Inputs.of(ref, own_examples("text2text-generation", tmp_path))
    indices, batch = next(inputs.batches(batch_size=1))
    labels = torch.tensor([inputs.encodings[indices[0]]["labels"]])
    source = {name: value for name, value in batch.items() if not name.startswith("decoder")}
    network = load_model(ref)
    with torch.inference_mode():
        learnt = network(**source, labels=labels).logits
        assert torch.allclose(network(**batch).logits, learnt, atol=1e-5)
    tokens = inputs.processor.decode(labels[0], skip_special_tokens=True)
    assert tokens.split() == TEXTS[::-1][indices[0]].split() or arch == "t5"


def test_masks_are_those_of_training_and_depend_on_nothing_but_the_text_and_the_seed(models) -> None:
    ref = models("bert", "fill-mask")
    texts = tiny_texts(300, seed=9)
    inputs = Inputs.of(ref, examples("fill-mask", texts))
    backwards = Inputs.of(ref, examples("fill-mask", texts[::-1]))
    assert inputs.encodings == backwards.encodings[::-1]
    assert inputs.encodings != Inputs.of(ref, examples("fill-mask", texts), seed=1).encodings
    plain = Inputs.of(ref, examples("text-classification", texts))
    tokenizer = inputs.processor
    told = masked = kept = ordinary = 0
    for own, original in zip(inputs.encodings, plain.encodings, strict=True):
        for token, label, true in zip(own["input_ids"], own["labels"], original["input_ids"], strict=True):
            ordinary += true not in tokenizer.all_special_ids
            assert label in (-100, true) and (label == true or token == true)
            assert label == -100 or true not in tokenizer.all_special_ids
            told += label != -100
            masked += label != -100 and token == tokenizer.mask_token_id
            kept += label != -100 and token == true
        assert any(label != -100 for label in own["labels"])
    assert 0.12 < told / ordinary < 0.19 and 0.7 < masked / told < 0.88 and 0.05 < kept / told < 0.16


def test_long_texts_are_read_in_windows_that_cover_them(models) -> None:
    ref = models("bert", "question-answering")
    text = " ".join(tiny_texts(60, seed=4))
    inputs = Inputs.of(ref, examples("question-answering", [("Who?", "Anna."), ("Where?", text)]), max_length=32)
    windows = [encoding for encoding in inputs.encodings if encoding["example"] == 1]
    assert len(windows) > 5 and inputs.encodings[0]["example"] == 0
    covered = {place for window in windows for offset in window["offsets"] if offset for place in range(*offset)}
    assert covered == {place for place, letter in enumerate(text) if letter != " "}
    assert all(len(window["input_ids"]) <= 32 for window in windows)
    endless = Inputs.of(ref, examples("question-answering", [(text, text)]), max_length=32)
    assert all(len(window["input_ids"]) <= 32 for window in endless.encodings)


def test_images_come_from_folders_tables_and_files_of_datasets(models, tmp_path: Path) -> None:
    folder = tiny_images(tmp_path / "photos")
    found = load_examples(str(folder), "image-classification", need_labels=True)
    assert found.labels == ["cat"] * 3 + ["dog"] * 3 and found.names == ("cat", "dog")
    assert found.texts[0].name.endswith(".png") and str(tmp_path) not in found.source and len(found.revision) == 64
    table = folder / "list.csv"
    table.write_text("image,label\ncat/0.png,cat\ndog/1.png,dog\n")
    listed = load_examples(str(table), "image-classification")
    assert listed.labels == ["cat", "dog"]
    assert listed.texts[1].open().tobytes() == found.texts[4].open().tobytes()
    import datasets

    rows = {"image": [str(folder / "dog" / "0.png")], "label": [1]}
    data = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    data = data.cast_column("label", datasets.ClassLabel(names=["cat", "dog"]))
    data.to_parquet(str(tmp_path / "one.parquet"))
    stored = load_examples(str(tmp_path / "one.parquet"), "image-classification")
    assert stored.labels == ["dog"] and stored.texts[0].open().size == (20, 20)


def test_images_that_are_none_or_not_there_are_named(models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_images(tmp_path / "photos")
    table = folder / "list.csv"
    table.write_text("image,label\ncat/9.png,cat\n")
    with pytest.raises(NotFound, match=r"row 1: the column image names the image cat/9\.png, which is not there"):
        load_examples(str(table), "image-classification")
    (folder / "cat" / "0.png").write_bytes(b"no image")
    table.write_text("image,label\ncat/0.png,cat\n")
    ref = models("vit", "image-classification")
    with pytest.raises(BadFile, match=r"cat/0\.png is no image"):
        list(Inputs.of(ref, load_examples(str(table), "image-classification")).batches())
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(Exception, match=r"pip install \"fusehub\[images\]\""):
        load_examples(str(folder), "image-classification")


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_columns_of_every_task_are_guessed(tmp_path: Path) -> None:
    squad = {"question": "Who?", "context": "Anna lives.", "answers": {"text": ["Anna"], "answer_start": [0]}}
    found = load_examples(write(tmp_path / "a.jsonl", [squad]), "question-answering", need_labels=True)
    assert (found.texts, found.labels) == ([("Who?", "Anna lives.")], [["Anna"]])
    nested = {"data": [{"paragraphs": [{"context": "Anna lives.", "qas": [{"question": "Who?", "answers": []}]}]}]}
    (tmp_path / "b.json").write_text(json.dumps(nested))
    assert load_examples(str(tmp_path / "b.json"), "question-answering").labels == [[]]
    (tmp_path / "c.csv").write_text("question,context,answers\nWho?,Anna.,\"{'text': ['Anna']}\"\nWhy?,So.,So\n")
    assert load_examples(str(tmp_path / "c.csv"), "question-answering").labels == [["Anna"], ["So"]]
    news = write(tmp_path / "d.jsonl", [{"article": "Long.", "highlights": "Short.", "id": "1"}])
    found = load_examples(news, "text2text-generation", need_labels=True)
    assert (found.texts, found.labels) == (["Long."], ["Short."])
    both = write(tmp_path / "e.jsonl", [{"translation": {"en": "cat", "de": "Katze"}}])
    found = load_examples(both, "text2text-generation", text_column="translation.en,translation.de")
    assert (found.texts, found.labels) == (["cat"], ["Katze"])
    for task in ("fill-mask", "text-generation"):
        found = load_examples(write(tmp_path / "f.jsonl", [{"text": "a", "label": 1}]), task, need_labels=True)
        assert (found.texts, found.labels) == (["a"], None)


def test_files_that_do_not_fit_the_task_say_which_columns_they_have(models, tmp_path: Path) -> None:
    plain = write(tmp_path / "a.jsonl", [{"text": "a", "stars": 4}])
    for task, words in (
        ("question-answering", r"looks like a question and a text.*\n.*text, stars.*--text-column QUESTION,TEXT"),
        ("image-classification", r"no column looks like images|holds str|names the image"),
    ):
        with pytest.raises((NotFound, BadData), match=words):
            load_examples(plain, task)
    with pytest.raises(NotFound, match=r"looks like target texts.*\n.*text, stars.*--label-column"):
        load_examples(plain, "text2text-generation", need_labels=True)
    with pytest.raises(BadData, match="has no labels"):
        load_examples(plain, "fill-mask", label_column="stars")
    with pytest.raises(BadData, match="no target texts"):
        Inputs.of(models("t5", "text2text-generation"), examples("text2text-generation", TEXTS))
    with pytest.raises(BadData, match="cannot take a text"):
        Inputs.of(models("bert", "question-answering"), examples("question-answering", TEXTS))
    odd = write(tmp_path / "b.jsonl", [{"question": "Who?", "context": "Anna.", "answers": [4]}])
    with pytest.raises(BadData, match="row 1: the column answers holds no answers"):
        load_examples(odd, "question-answering")
    with pytest.raises(Incompatible, match="has no mask token"):
        Inputs.of(models("gpt2", "text-generation"), examples("fill-mask", TEXTS))
