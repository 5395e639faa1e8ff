"""What tokenizers make of texts: cut, matched to words, and put into batches."""

import logging
from collections import Counter

import pytest

from fusehub.data.tokenizing import batches, encode, first_tokens, max_length_of, split_words
from fusehub.errors import BadData
from tests.unit.tiny import ARCHITECTURES, tiny_model, tiny_texts, tiny_tokenizer


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_longest_text_a_model_takes(tmp_path, arch):
    from fusehub.models.resolve import resolve
    from fusehub.models.tasks import load_config

    config = load_config(resolve(str(tiny_model(tmp_path / "m", arch))))
    tokenizer = tiny_tokenizer(arch)
    assert max_length_of(tokenizer, config) == 64
    tokenizer.model_max_length = int(1e30)
    # RoBERTa has 66 positions, of which two are never used; DeBERTa has no limit.
    assert max_length_of(tokenizer, config) == (512 if arch == "deberta-v2" else 64)
    assert max_length_of(tokenizer, config, 20) == 20
    tokenizer.model_max_length = 16.0  # As some tokenizer_config.json write it.
    assert len(encode(tiny_texts(1), tokenizer, max_length=max_length_of(tokenizer, config))[0]["input_ids"]) <= 16
    if arch != "deberta-v2":
        with pytest.raises(BadData, match="up to 64"):
            max_length_of(tokenizer, config, 65)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_texts_are_cut_and_pairs_joined(arch):
    tokenizer = tiny_tokenizer(arch)
    texts = tiny_texts(10)
    encodings = encode(texts, tokenizer, max_length=8)
    assert max(len(encoding["input_ids"]) for encoding in encodings) == 8
    pair = encode([(texts[0], texts[1])], tokenizer, max_length=64)[0]["input_ids"]
    assert pair == tokenizer(texts[0], texts[1], truncation=True, max_length=64)["input_ids"]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_long_text_becomes_the_same_though_only_a_part_of_it_is_looked_at(arch, side):
    tokenizer = tiny_tokenizer(arch)
    tokenizer.truncation_side = side
    words = " ".join(tiny_texts(400))
    texts = [words, " " * 5000 + words + " " * 5000, "=" * 4000, "x" * 4000, "\u200b" * 3000 + "was great", "the film"]
    whole = tokenizer(texts, truncation=True, max_length=16)["input_ids"]
    assert [encoding["input_ids"] for encoding in encode(texts, tokenizer, max_length=16)] == whole


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_each_word_is_found_at_its_first_token(arch):
    tokenizer = tiny_tokenizer(arch)
    words = ["Anna", "unbelievably", "Paris", "."]
    encoding = encode([words], tokenizer, max_length=64)[0]
    first = first_tokens(encoding)
    pieces = tokenizer.convert_ids_to_tokens(encoding["input_ids"])
    assert list(first) == [0, 1, 2, 3]
    for word, token in first.items():
        assert pieces[token].strip("▁Ġ#")[:1] in (words[word][0], ""), (word, pieces)


@pytest.mark.parametrize("arch", ["roberta", "gpt2"])
def test_words_are_not_glued_together(arch, tmp_path):
    from transformers import AutoTokenizer

    tiny_tokenizer(arch).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    words = encode([["the", "film", "was", "great"]], tokenizer, max_length=64)[0]["input_ids"]
    assert words == tokenizer(" the film was great")["input_ids"]
    assert words != tokenizer(["the", "film", "was", "great"], is_split_into_words=True)["input_ids"]


def test_words_that_do_not_fit_are_reported(caplog):
    with caplog.at_level(logging.WARNING):
        encodings = encode([["film"] * 20, ["film"] * 3], tiny_tokenizer(), max_length=12)
    assert [len(first_tokens(encoding)) for encoding in encodings] == [10, 3]
    assert "10 words in 1 texts get no prediction" in caplog.text


def test_batches_hold_every_text_once_longest_first_within_their_bounds():
    tokenizer = tiny_tokenizer()
    encodings = encode([text.split() for text in tiny_texts(100)], tokenizer, max_length=64)
    for bounds in ({"batch_size": 7}, {"batch_tokens": 200}, {"batch_size": 5, "batch_tokens": 100}, {}):
        made = list(batches(encodings, tokenizer, **bounds))
        assert Counter(index for indices, _ in made for index in indices) == Counter(range(100))
        widths = [batch["input_ids"].shape[1] for _, batch in made]
        assert widths == sorted(widths, reverse=True)
        for indices, batch in made:
            assert set(batch) <= set(tokenizer.model_input_names)
            assert len(indices) <= bounds.get("batch_size", 1000)
            assert batch["input_ids"].numel() <= max(bounds.get("batch_tokens", 10**6), widths[0])
            for row, index in enumerate(indices):
                length = len(encodings[index]["input_ids"])
                assert batch["input_ids"][row, :length].tolist() == encodings[index]["input_ids"]
                assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (
                    batch["input_ids"].shape[1] - length
                )
    assert [i for i, _ in batches(encodings, tokenizer, batch_size=9)] == [
        i for i, _ in batches(encodings, tokenizer, batch_size=9)
    ]


def test_kinds_of_texts_are_not_mixed():
    with pytest.raises(BadData, match="several kinds"):
        encode(["a", ["b"]], tiny_tokenizer(), max_length=10)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Anna's co-op, in Paris.", ["Anna", "'s", "co-op", ",", "in", "Paris", "."]),
        ("I don't pay $3,000.50!", ["I", "don't", "pay", "$", "3,000.50", "!"]),
        ("  हिन्दी\t北京 naïve\u200b ", ["हिन्दी", "北", "京", "naïve"]),
        ("(e.g. O'Neil)", ["(", "e.g", ".", "O'Neil", ")"]),
        ("", []),
    ],
)
def test_words_of_a_text_keep_their_place(text, words):
    assert [text[start:end] for start, end in split_words(text)] == words
