"""Adding statistics of the same weights, and what cannot be added."""

import contextlib
import json
import shutil

import pytest
import torch
from typer.testing import CliRunner

from fusehub import add_statistics
from fusehub.collecting.collect import collect
from fusehub.errors import BadStatistics, NotFound
from fusehub.statistics.file import Statistics
from tests.unit.experts import edit_json, rel, text_file, texts_of
from tests.unit.test_statistics_format import rewrite


@pytest.fixture(scope="module")
def parts(experts, tmp_path_factory):
    """Statistics of one expert: on two parts of its texts, and on all of them."""
    folder = tmp_path_factory.mktemp("parts")
    expert, texts = experts("bert")[0], texts_of(0, 30)
    for number, own in enumerate((texts[:11], texts[11:], texts)):
        collect(str(expert), text_file(folder, number, own), folder / str(number), max_length=60 + number).close()
    return [folder / "0", folder / "1", folder / "2"]


def copy_of(folder, to, metadata=None, **tensors):
    """A copy of statistics with other metadata (a function of what they were) or tensors."""
    shutil.copytree(folder, to)
    rewrite(to / "statistics.safetensors", metadata, **tensors)
    with contextlib.closing(Statistics(to / "statistics.safetensors")) as statistics:
        edit_json(to / "statistics.json", **statistics.metadata)
    return to


def changed(key, **values):
    def change(metadata):
        metadata[key] = metadata[key] | values
        return metadata

    return change


def test_the_sum_is_what_one_run_over_everything_counts(parts, tmp_path):
    with contextlib.ExitStack() as opened:
        added = opened.enter_context(contextlib.closing(add_statistics([str(p) for p in parts[:2]], tmp_path / "sum")))
        whole = opened.enter_context(contextlib.closing(Statistics(parts[2] / "statistics.safetensors")))
        assert added.layers.keys() == whole.layers.keys() and added.aliases == whole.aliases
        for name, layer in added.layers.items():
            assert layer.rows == whole.layers[name].rows
            # Each part was rounded when it was stored.
            assert rel(layer.gram(), whole.layers[name].gram()) < 2e-2, name
            assert rel(layer.total, whole.layers[name].total) < 2e-2, name
        for key in ("examples", "tokens", "model", "task", "tokenizer", "uncounted"):
            assert added.metadata[key] == whole.metadata[key]
        told = added.metadata["parts"]
        assert [part["examples"] for part in told] == [11, 19]
        assert [part["max_length"] for part in told] == [60, 61] and added.metadata["max_length"] == 61
        assert [part["data"]["source"] for part in told] == ["texts-0.txt", "texts-1.txt"]
        assert added.metadata["data"] == {"source": "texts-0.txt + texts-1.txt", "revision": None}


def test_a_layer_that_one_part_lacks_has_the_rows_of_the_other(parts, tmp_path):
    name = "classifier.weight"
    without = {f"{name}.{suffix}": None for suffix in "Ssn"}

    def change(metadata):
        metadata["layers"].pop(name)
        metadata["uncounted"].append(name)
        return metadata

    lacking = copy_of(parts[1], tmp_path / "lacking", change, **without)
    with contextlib.closing(add_statistics([str(parts[0]), str(lacking)], tmp_path / "sum")) as added:
        assert added.layers[name].rows == 11
        assert added.layers["bert.pooler.dense.weight"].rows == 30
        assert added.metadata["uncounted"] == []


def test_sharing_of_one_part_alone_is_undone(parts, tmp_path):
    """A layer that shares its sums in one part and has its own in another has its own in the sum."""
    query, key = ("bert.encoder.layer.0.attention.self." + name + ".weight" for name in ("query", "key"))
    with contextlib.closing(Statistics(parts[1] / "statistics.safetensors")) as statistics:
        stored = statistics.aliases.get(key, key)
        apart, alone = next((a, b) for a, b in ((query, key), (key, query)) if b in statistics.aliases)
        tensors = {f"{alone}.{suffix}": 3 * statistics.tensor(f"{stored}.{suffix}") for suffix in "Ssn"}

    def change(metadata):
        metadata["aliases"].pop(alone)
        own = metadata["layers"][stored]
        metadata["layers"][alone] = own | {"rows": 3 * own["rows"]}
        return metadata

    other = copy_of(parts[1], tmp_path / "other", change, **tensors)
    with contextlib.closing(add_statistics([str(parts[0]), str(other)], tmp_path / "sum")) as added:
        assert alone not in added.aliases
        first, second = added.layers[alone], added.layers[apart]
        assert first.rows > second.rows and not torch.equal(first.gram(), second.gram())


def test_sums_can_be_added_again(parts, tmp_path, experts):
    add_statistics([str(parts[0]), str(parts[1])], tmp_path / "sum").close()
    with contextlib.closing(add_statistics([str(tmp_path / "sum"), str(parts[2])], tmp_path / "again")) as added:
        assert [part["examples"] for part in added.metadata["parts"]] == [11, 19, 30]
        assert added.metadata["examples"] == 60


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed("model", weights={"model.safetensors": "0" * 64}), "differ in weights"),
        (changed("model", architecture="BertModel"), "architecture .BertForSequenceClassification; BertModel."),
        (lambda metadata: metadata | {"task": "fill-mask"}, "task .text-classification; fill-mask."),
        (changed("tokenizer", **{"tokenizer.json": "0" * 64}), "tokenizer.json .*; 00000000."),
    ],
)
def test_what_is_not_of_the_same_model_is_refused_with_what_differs(parts, tmp_path, change, words):
    other = copy_of(parts[1], tmp_path / "other", change)
    with pytest.raises(BadStatistics, match=words):
        add_statistics([str(parts[0]), str(other)], tmp_path / "sum")
    assert not (tmp_path / "sum").exists()


def test_a_tokenizers_config_may_differ(parts, tmp_path):
    other = copy_of(parts[1], tmp_path / "other", changed("tokenizer", **{"tokenizer_config.json": "0" * 64}))
    add_statistics([str(parts[0]), str(other)], tmp_path / "sum").close()


def test_the_same_statistics_twice_are_refused(parts, tmp_path):
    again = copy_of(parts[0], tmp_path / "again", lambda metadata: metadata | {"examples": 7})
    with pytest.raises(BadStatistics, match="hold the same sums"):
        add_statistics([str(parts[0]), str(parts[1]), str(again)], tmp_path / "sum")


def test_the_same_texts_counted_in_another_way_are_refused_and_other_texts_of_the_data_told(
    parts, experts, tmp_path, caplog
):
    source = text_file(tmp_path, 0, texts_of(0, 30)[:11])
    for name, options in (("again", {"batch_tokens": 16}), ("few", {"limit": 5})):
        collect(str(experts("bert")[0]), source, tmp_path / name, max_length=60, **options).close()
    add_statistics([str(parts[0]), str(parts[1])], tmp_path / "sum").close()
    for added in (parts[0], tmp_path / "sum"):
        with pytest.raises(BadStatistics, match=r"11 examples and .* tokens each: their rows would count twice"):
            add_statistics([str(added), str(tmp_path / "again")], tmp_path / "twice")
    assert not (tmp_path / "twice").exists() and "count twice" not in caplog.text
    add_statistics([str(parts[0]), str(tmp_path / "few")], tmp_path / "both").close()
    assert "texts that are in both count twice" in caplog.text


def test_noised_parts_of_the_same_data_are_not_disjoint(parts, tmp_path):
    noise = {"epsilon": 1.0, "delta": 1e-6, "unit": "example", "clip": 1.0}

    def of(revision, source="texts.txt"):
        return lambda told: told | {"noise": noise, "tokens": None, "data": {"source": source, "revision": revision}}

    def added(name, *told, **options):
        sources = [str(copy_of(parts[n], tmp_path / f"{name}{n}", of(*own))) for n, own in enumerate(told)]
        with contextlib.closing(add_statistics(sources, tmp_path / name, **options)) as statistics:
            return statistics.metadata["noise"]["epsilon"]

    for name, told in (
        ("file", [("0" * 64, "a.txt"), ("0" * 64, "b.txt")]),
        ("hub", [("0" * 40, "user/data/train"), ("0" * 40, "user/data/train")]),
    ):
        with pytest.raises(BadStatistics, match="they are not disjoint"):
            added(name, *told, disjoint=True)
        assert added(f"{name}-summed", *told) == 2.0
    assert added("splits", ("0" * 40, "user/data/train"), ("0" * 40, "user/data/test"), disjoint=True) == 1.0


def test_what_noised_parts_tell_of_a_text_adds_up_unless_no_text_is_in_two(parts, tmp_path):
    noise = {"epsilon": 1.0, "delta": 1e-6, "unit": "example", "clip": 1.0}
    one = copy_of(parts[0], tmp_path / "one", lambda metadata: metadata | {"noise": noise})
    two = copy_of(parts[1], tmp_path / "two", lambda metadata: metadata | {"noise": noise | {"epsilon": 4.0}})
    with contextlib.closing(add_statistics([str(one), str(two)], tmp_path / "sum")) as added:
        told = added.metadata["noise"]
        assert told == noise | {"epsilon": 5.0, "delta": 2e-6, "clip": None, "composition": "sequential"}
        assert [part["noise"]["epsilon"] for part in added.metadata["parts"]] == [1.0, 4.0]
    with contextlib.closing(add_statistics([str(one), str(two)], tmp_path / "apart", disjoint=True)) as added:
        assert added.metadata["noise"] == noise | {"epsilon": 4.0, "clip": None, "composition": "parallel"}
    # Sums that are added again add up too.
    three = copy_of(parts[2], tmp_path / "three", lambda metadata: metadata | {"noise": noise | {"epsilon": 2.0}})
    for source, epsilon in (("sum", 7.0), ("apart", 6.0)):
        with contextlib.closing(add_statistics([str(tmp_path / source), str(three)], tmp_path / "again")) as added:
            assert added.metadata["noise"]["epsilon"] == epsilon
    with contextlib.closing(add_statistics([str(one), str(parts[1])], tmp_path / "half")) as added:
        assert added.metadata["noise"] is None


def test_the_command_line_says_that_parts_are_disjoint(parts, tmp_path):
    from fusehub.cli.main import app

    noise = {"epsilon": 1.0, "delta": 1e-6, "unit": "example", "clip": 1.0}
    sources = [str(copy_of(parts[n], tmp_path / str(n), lambda told: told | {"noise": noise})) for n in (0, 1)]
    for words, epsilon in (([], 2.0), (["--disjoint"], 1.0)):
        out = tmp_path / f"sum{len(words)}"
        result = CliRunner().invoke(app, ["collect", "--add", *words, *sources, "--out", str(out)])
        assert result.exit_code == 0, result.stderr
        assert json.loads((out / "statistics.json").read_text())["noise"]["epsilon"] == epsilon
    result = CliRunner().invoke(app, ["collect", "a", "--data", "x", "--disjoint", "--out", "x"])
    assert result.exit_code == 2 and "--disjoint" in result.stderr


def test_fisher_diagonals_are_averaged_over_all_examples(experts, tmp_path):
    from fusehub.statistics.fisher_file import FisherFile

    expert, texts = experts("bert")[0], texts_of(0, 12)
    for name, own in (("one", texts[:4]), ("two", texts[4:]), ("whole", texts)):
        collect(str(expert), text_file(tmp_path, 0, own), tmp_path / name, size="full", fisher=True).close()
    parts = [str(tmp_path / "one"), str(tmp_path / "two")]
    with contextlib.ExitStack() as opened:
        read = {}
        for name in ("sum", "whole"):
            if name == "sum":
                add_statistics(parts, tmp_path / "sum", size="full").close()
            described = json.loads((tmp_path / name / "statistics.json").read_text())["fisher"]
            file = FisherFile(tmp_path / name / "fisher.safetensors", name, described)
            read[name] = opened.enter_context(contextlib.closing(file)), described
        assert read["sum"][1]["examples"] == 12 and read["sum"][1]["kind"] == "exact"
        assert read["sum"][1]["exponents"].keys() == read["whole"][1]["exponents"].keys()
        whole = {name: read["whole"][0].read(name) for name in read["whole"][1]["exponents"]}
        # A key's bias changes no attention: its gradient is rounding alone, and no two runs round the same.
        rounding = 1e-9 * max(float(expected.norm()) for expected in whole.values())
        for name, expected in whole.items():
            difference = float((read["sum"][0].read(name) - expected).norm())
            assert difference <= 1e-4 * float(expected.norm()) + rounding, name
    collect(str(expert), text_file(tmp_path, 1), tmp_path / "grams").close()
    add_statistics([parts[0], str(tmp_path / "grams")], tmp_path / "sum").close()
    assert not (tmp_path / "sum" / "fisher.safetensors").exists(), "one part has none"


def test_one_is_no_sum_and_none_is_not_there(parts, tmp_path):
    with pytest.raises(BadStatistics, match="cannot be added"):
        add_statistics([str(parts[0])], tmp_path / "sum")
    with pytest.raises(NotFound, match="no statistics in"):
        add_statistics([str(parts[0]), str(tmp_path)], tmp_path / "sum")


def test_the_command_line_adds(parts, tmp_path):
    from fusehub.cli.main import app

    arguments = ["collect", "--add", str(parts[0]), str(parts[1]), "--out", str(tmp_path / "sum"), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["examples"] == 30
    for wrong, words in (
        (["collect", "--add", str(parts[0]), "--out", "x"], "two or more"),
        (["collect", "--add", str(parts[0]), str(parts[1]), "--data", "x", "--out", "x"], "and no data"),
        (["collect", "a", "b", "--data", "x", "--out", "x"], "give one model"),
        (["collect", "a", "--out", "x"], "which texts"),
    ):
        result = CliRunner().invoke(app, wrong)
        assert result.exit_code == 2 and words in " ".join(result.stderr.replace("│", " ").split())
