"""Words with their tags, however files of them are written: read as sentences, or refused, never as texts."""

import pytest

from fusehub.data.examples import load_examples
from fusehub.errors import BadData, BadFile
from tests.unit.test_data import write_csv, write_jsonl


def read(path, content, **options):
    path.write_text(content, encoding="utf-8")
    examples = load_examples(str(path), "token-classification", **options)
    return examples.texts, examples.labels


@pytest.mark.parametrize(
    ("content", "words", "tags"),
    [
        ("# id 1 domain=en\nanna _ _ B-PER\nlikes _ _ O\n", ["anna", "likes"], ["B-PER", "O"]),
        ("# O\nanna B-PER\n#begin document (a); part 000\n#wnut O\n", ["#", "anna", "#wnut"], ["O", "B-PER", "O"]),
        ("1\tanna\tB-PER\n2\tlikes\tO\n", ["anna", "likes"], ["B-PER", "O"]),
        ("# text\nanna PER\n#wnut LOC\nlikes O\n", ["anna", "#wnut", "likes"], ["PER", "LOC", "O"]),
        ("x O\n" * 250 + "anna B-PER\n", ["x"] * 250 + ["anna"], ["O"] * 250 + ["B-PER"]),
        # Numbers that do not run are words.
        ("1 CD B-NUM\n3 CD O\n", ["1", "3"], ["B-NUM", "O"]),
        ("1 B-NUM\n2 O\n", ["1", "2"], ["B-NUM", "O"]),
    ],
)
def test_words_with_their_tags_are_read(tmp_path, content, words, tags):
    assert read(tmp_path / "a.txt", content, need_labels=True) == ([words], [tags])


def test_numbers_begin_anew_with_a_sentence_or_run_on(tmp_path):
    for second in ("1\tbob\tB-PER\n2\tsings\tO\n", "3\tbob\tB-PER\n4\tsings\tO\n"):
        texts, _ = read(tmp_path / "a.txt", "1\tanna\tB-PER\n2\tlikes\tO\n\n" + second)
        assert texts == [["anna", "likes"], ["bob", "sings"]]


def test_a_numbered_word_without_a_tag_is_refused(tmp_path):
    with pytest.raises(BadFile, match="line 301: 'paris' has no tag"):
        read(tmp_path / "a.txt", "1\tanna\tB-PER\n2\tlikes\tO\n\n" * 100 + "1\tparis\n")


def test_texts_stay_texts(tmp_path):
    for content in ("# A heading\nI got an O\nand a text\n", "blood type O\n", "Fly to LA\nSee the UN\n"):
        texts, labels = read(tmp_path / "a.txt", content)
        assert len(texts) == len(content.splitlines()) and labels is None


def test_lines_that_end_in_one_of_few_words_are_refused(tmp_path):
    lines = [f"word{number} {('NOUN', 'VERB', 'x')[number % 3]}" for number in range(30)]
    with pytest.raises(BadData, match=r"30 of 30 lines have 2 fields.*NOUN, VERB, x"):
        read(tmp_path / "a.txt", "\n".join(lines))
    names = [f"word{number} word{number}" for number in range(30)]
    assert len(read(tmp_path / "b.txt", "\n".join(names))[0]) == 30


@pytest.mark.parametrize(
    "columns", [("sentence_id", "word", "label"), ("Sentence #", "Word", "POS"), ("word", "tags")]
)
def test_a_table_of_words_is_refused(tmp_path, columns):
    values = {"word": ("anna", "likes"), "label": ("B-PER", "O"), "tags": ("B-PER", "O"), "pos": ("NNP", "VBZ")}
    rows = [{name: values.get(name.casefold(), "11")[number] for name in columns} for number in range(2)]
    with pytest.raises(BadData, match="one word a row"):
        load_examples(str(write_csv(tmp_path / "a.csv", rows)), "token-classification")


def test_sentences_of_one_word_in_a_list_are_read(tmp_path):
    rows = [{"tokens": ["anna"], "ner_tags": ["B-PER"]}, {"tokens": ["sings"], "ner_tags": ["O"]}]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    assert load_examples(str(path), "token-classification").texts == [["anna"], ["sings"]]
