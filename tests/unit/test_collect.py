"""Statistics collected from a model and texts: the file, what it says, and several processes."""

import contextlib
import json
import os
import subprocess

import pytest

from fusehub.collecting.collect import collect
from fusehub.errors import BadData, FuseHubError
from fusehub.models.layout import linears_of
from fusehub.models.loading import load_model
from fusehub.models.resolve import resolve
from fusehub.statistics.file import Statistics
from tests.unit import together
from tests.unit.experts import edit_json, raw_inputs, rel, text_file, texts_of
from tests.unit.tiny import ARCHITECTURES, tiny_model
from tests.warm import python

TEXTS = texts_of(1, 13)


@pytest.fixture
def collected():
    """`collect`, whose files are closed afterwards."""
    with contextlib.ExitStack() as files:
        yield lambda *args, **options: files.enter_context(contextlib.closing(collect(*args, **options)))


def from_rows(inputs):
    return {name: (x.T @ x, x.sum(0), len(x)) for name, x in inputs.items()}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_collect_writes_the_grams_under_the_names_of_the_file(collected, experts, tmp_path, arch):
    path = experts(arch)[0]
    statistics = collected(str(path), text_file(tmp_path, texts=TEXTS), tmp_path / "out", batch_tokens=100)
    expected = from_rows(raw_inputs(path, TEXTS))
    assert statistics.layers.keys() == expected.keys()
    for name, layer in statistics.layers.items():
        assert layer.rows == expected[name][2]
        assert rel(layer.gram(), expected[name][0]) < 1e-5
    assert statistics.metadata["uncounted"] == []
    assert statistics.metadata["examples"] == len(TEXTS)


def test_collect_says_what_it_was_made_from_and_nothing_of_this_machine(collected, experts, tmp_path):
    path = experts()[0]
    statistics = collected(str(path), text_file(tmp_path, texts=TEXTS), tmp_path / "out", max_length=20)
    metadata = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert metadata == statistics.metadata
    assert metadata["model"]["architecture"] == "BertForSequenceClassification"
    assert metadata["model"]["id"] == "expert-0" and list(metadata["model"]["weights"]) == ["model.safetensors"]
    assert metadata["task"] == "text-classification" and metadata["max_length"] == 20
    assert metadata["data"]["source"] == "texts-0.txt"
    assert metadata["tokens"] == statistics.layers["bert.encoder.layer.0.output.dense.weight"].rows
    assert str(tmp_path) not in json.dumps(metadata) and str(path.parent) not in json.dumps(metadata)
    private = collected(
        str(path), text_file(tmp_path, texts=TEXTS), tmp_path / "private", description="mails of our customers"
    )
    assert private.metadata["data"] == {"source": "mails of our customers", "revision": None}
    assert "texts-0" not in (tmp_path / "private" / "statistics.json").read_text()


def test_collect_takes_a_sample_and_the_same_one_again(collected, experts, tmp_path):
    data = text_file(tmp_path, texts=TEXTS)
    runs = [collected(str(experts()[0]), data, tmp_path / str(i), limit=5, seed=s) for i, s in enumerate((1, 1, 2))]
    assert [run.metadata["examples"] for run in runs] == [5, 5, 5]
    files = [(tmp_path / str(i) / "statistics.safetensors").read_bytes() for i in range(3)]
    assert files[0] == files[1] != files[2]


def test_collect_names_layers_that_saw_nothing(collected, tmp_path):
    path = tiny_model(tmp_path / "m", "deberta-v2", hidden=16)
    expected = from_rows(raw_inputs(path, TEXTS))
    # Heads of another task's pooler are there, but its forward never calls them.
    statistics = collected(str(path), text_file(tmp_path, texts=TEXTS), tmp_path / "out")
    assert statistics.metadata["uncounted"] == sorted(set(linears_of(load_model(resolve(str(path))))) - set(expected))


def test_collect_of_nothing_is_refused(collected, experts, tmp_path):
    with pytest.raises(BadData):
        collected(str(experts()[0]), text_file(tmp_path, texts=[""]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("batch_tokens", [64, 4096], ids=["many batches", "one batch, so that one has none"])
def test_two_processes_count_the_same_as_one(collected, experts, tmp_path, batch_tokens):
    path, data = experts()[0], text_file(tmp_path, texts=TEXTS)
    one = collected(str(path), data, tmp_path / "one", batch_tokens=batch_tokens)
    code = (
        "import sys\nfrom fusehub.collecting.collect import collect\n"
        f"made = collect(*sys.argv[1:], batch_tokens={batch_tokens})\nprint(made is not None)\nmade and made.close()\n"
    )
    said = in_two_processes([*python(), "-c", code, str(path), data, str(tmp_path / "two")])
    assert said == ["True", "False"]
    two = Statistics(tmp_path / "two" / "statistics.safetensors")
    assert two.layers.keys() == one.layers.keys()
    for name, layer in one.layers.items():
        assert two.layers[name].rows == layer.rows
        assert rel(two.layers[name].gram(), layer.gram()) < 1e-6
    two.close()


def test_of_two_processes_one_speaks(experts, tmp_path):
    command = [
        *python(),
        "-m",
        "fusehub",
        "collect",
        str(experts()[0]),
        "--data",
        text_file(tmp_path, texts=TEXTS),
    ]
    first, second = in_two_processes([*command, "--out", str(tmp_path / "out"), "--json"])
    assert json.loads(first)["examples"] == len(TEXTS)
    assert second == ""


def in_two_processes(command):
    """What two processes print that find each other."""
    ended = together.ends(together.start(command, 2))
    assert [code for code, _, _ in ended] == [0, 0], ended
    return [out.strip() for _, out, _ in ended]


def test_a_process_that_cannot_find_the_others_says_so(experts, tmp_path):
    code = (
        "import sys\nfrom fusehub.collecting.collect import collect\nfrom fusehub.errors import FuseHubError\n"
        "try:\n    collect(*sys.argv[1:])\nexcept FuseHubError as error:\n    print(error.what)\n"
    )
    done = subprocess.run(
        [*python(), "-c", code, str(experts()[0]), text_file(tmp_path), str(tmp_path / "out")],
        env={**os.environ, "WORLD_SIZE": "3", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.startswith("3 processes were started, but they cannot be joined"), done.stderr
    assert not (tmp_path / "out").exists()


def test_a_model_of_another_task_is_refused(collected, tmp_path):
    path = tiny_model(tmp_path / "m", hidden=16)
    edit_json(path / "config.json", architectures=["BertForNextSentencePrediction"])
    with pytest.raises(FuseHubError, match="is a BertForNextSentencePrediction"):
        collected(str(path), text_file(tmp_path), tmp_path / "out")
    edit_json(path / "config.json", "architectures")
    with pytest.raises(FuseHubError, match="names no single architecture"):
        collected(str(path), text_file(tmp_path), tmp_path / "out")


def test_texts_whose_words_the_tokenizer_does_not_know_are_questioned(tmp_path, caplog):
    """Statistics of [UNK] alone are of nothing."""
    model = tiny_model(tmp_path / "model", hidden=16)
    known = texts_of(0)[0].split()[0]
    (tmp_path / "strange.txt").write_text("ᚠᛇᚻ ᛒᛦᚦ\nᚠᚱᚩᚠᚢᚱ\n")
    with pytest.raises(BadData, match=r"knows no word of the texts of strange.txt: all become \[UNK\]"):
        collect(str(model), tmp_path / "strange.txt", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "mostly.txt").write_text(f"ᚠᛇᚻ ᛒᛦᚦ {known}\n")
    collect(str(model), tmp_path / "mostly.txt", tmp_path / "out").close()
    assert "of the words are unknown to the tokenizer" in caplog.text
