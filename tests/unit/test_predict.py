"""Predictions, ensembles and comparisons, on tiny models of all architectures."""

import json
import logging
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fusehub.comparing.answers import find_entities, mark
from fusehub.comparing.compare import compare
from fusehub.comparing.ensemble import ensemble
from fusehub.comparing.prediction import Prediction
from fusehub.comparing.predictor import Predictor, predict
from fusehub.comparing.said import MULTI, REGRESSION, SINGLE
from fusehub.errors import BadData, Incompatible, NonFinite, NotFound
from fusehub.models.resolve import resolve
from tests.unit.tiny import ARCHITECTURES, tiny_model, tiny_texts
from tests.warm import python

TAGS = ["O", "B-PER", "I-PER", "B-LOC"]
TEXTS = tiny_texts(9, seed=3)
TOKENS = "token-classification"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def model(folder):
    """`model("bert", seed=1)`: the path of a tiny model, made once."""
    made = {}

    def make(arch="bert", task="text-classification", **options):
        key = json.dumps([arch, task, options])
        if key not in made:
            labels = options.pop("labels", TAGS if task == TOKENS else ["negative", "positive"])
            made[key] = str(tiny_model(folder / f"m{len(made)}", arch, task=task, labels=labels, **options))
        return made[key]

    return make


def by_hand(path, texts, words=False):
    """Probabilities one text at a time, with nothing of ours."""
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, **({"add_prefix_space": True} if words else {}))
    auto = AutoModelForTokenClassification if words else AutoModelForSequenceClassification
    network = auto.from_pretrained(path).eval()
    result = []
    for text in texts:
        encoded = tokenizer(text, return_tensors="pt", is_split_into_words=words)
        with torch.no_grad():
            result.append(network(**encoded).logits[0].softmax(-1).numpy())
        if words:
            ids = encoded.word_ids(0)
            result[-1] = result[-1][[ids.index(word) for word in range(len(text))]]
    return result


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_padding_and_order_do_not_change_predictions(model, arch):
    path = model(arch)
    expected = by_hand(path, TEXTS)
    with Predictor(resolve(path)) as predictor:
        for batch_size in (1, 4, 32):
            found = predictor(TEXTS, batch_size=batch_size)
            np.testing.assert_allclose(found.probabilities, expected, atol=2e-6)
    assert found.labels == ["negative", "positive"]
    assert np.ptp(found.probabilities[:, 0]) > 0.02, "texts differ, or the test could not fail"


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_words_are_predicted_from_their_first_token(model, arch):
    path = model(arch, TOKENS)
    words = [text.split() for text in TEXTS]
    with Predictor(resolve(path)) as predictor:
        found = predictor(words, batch_size=4)
        alone = [predictor([own]).probabilities[0] for own in words]
    # Only the tokenizers of RoBERTa and GPT-2 are told to put a space before each word.
    expected = by_hand(path, words, words=True) if arch not in ("llama", "modernbert") else None
    for index, rows in enumerate(found.probabilities):
        assert rows.shape == (len(words[index]), 4)
        if expected is not None:
            np.testing.assert_allclose(rows, expected[index], atol=2e-6)
        np.testing.assert_allclose(rows, alone[index], atol=2e-6)


@pytest.mark.parametrize("arch", ["gpt2", "llama"])
def test_models_without_padding_token_or_with_padding_on_the_left(model, arch, tmp_path):
    import shutil

    path = shutil.copytree(model(arch), tmp_path / "left")
    config = json.loads((path / "config.json").read_text())
    del config["pad_token_id"]
    (path / "config.json").write_text(json.dumps(config))
    settings = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps({**settings, "padding_side": "left"}))
    expected = predict(model(arch), TEXTS).probabilities
    np.testing.assert_allclose(predict(str(path), TEXTS, batch_size=4).probabilities, expected, atol=2e-6)


def test_words_that_were_cut_have_no_prediction_and_shift_no_other(model, caplog):
    long = ["film", "unbelievably", "Paris", "disappointment", "great"] * 5
    path = model("bert", TOKENS)
    with caplog.at_level(logging.WARNING):
        found = predict(path, [["Anna", "lives"], long, ["great"]], max_length=30)
    rows = found.probabilities[1]
    seen = int((~np.isnan(rows[:, 0])).sum())
    assert 0 < seen < len(long) and len(rows) == len(long)
    assert np.isnan(rows[seen:]).all() and not np.isnan(rows[:seen]).any()
    np.testing.assert_allclose(predict(path, [long], max_length=30).probabilities[0], rows, atol=2e-6)
    assert found.answers()[1][seen:] == [(None, None)] * (len(long) - seen)
    assert not np.isnan(found.probabilities[0]).any()
    assert f"{len(long) - seen} words in 1 texts" in caplog.text


def test_cut_words_of_a_causal_model_leave_the_others_as_they_are(model):
    # What a causal model says of a word depends only on what is before it, so cutting must change nothing.
    path = model("gpt2", TOKENS)
    words = [*tiny_texts(1, seed=8, longest=12)[0].split(), "masterpiece", "film"]
    whole, cut = (predict(path, [words], max_length=length).probabilities[0] for length in (64, 14))
    seen = ~np.isnan(cut[:, 0])
    assert 0 < seen.sum() < len(words)
    np.testing.assert_allclose(cut[seen], whole[seen], atol=2e-6)


def test_pairs_of_texts_are_not_their_first_text_alone(model):
    pair = predict(model(), [("a great film", "a bad film"), ("a great film", "fine")]).probabilities
    assert abs(pair[0] - pair[1]).max() > 1e-3


def test_problem_types(model):
    multi = predict(model(labels=["joy", "fear", "rage"], problem_type=MULTI), TEXTS)
    number = predict(model(labels=["score"]), TEXTS)
    assert abs(multi.probabilities.sum(1) - 1).max() > 0.05, "labels have probabilities of their own"
    for (labels, surest), row in zip(multi.answers(), multi.probabilities, strict=True):
        assert labels == [label for label, p in zip(multi.labels, row, strict=True) if p >= 0.5]
        assert surest == pytest.approx(max(row))
    assert (number.problem, number.probabilities.shape) == (REGRESSION, (9, 1))
    assert number.answers()[0] == (pytest.approx(number.probabilities[0, 0]), None)


def test_half_precision_models_are_predicted_in_single_precision_on_a_cpu(model, folder):
    half = str(tiny_model(folder / "half", dtype=torch.bfloat16))
    found = predict(half, TEXTS, device="cpu")
    assert found.probabilities.dtype == np.float32
    assert abs(found.probabilities - predict(model(), TEXTS, device="cpu").probabilities).max() < 0.05


def test_progress_counts_the_texts(model):
    steps = []
    predict(model(), TEXTS, batch_size=4, progress=lambda *step: steps.append(step[:2]))
    assert steps == [(0, 9), (4, 9), (8, 9), (9, 9)]


def test_inputs_that_do_not_fit_the_model(model):
    for arguments, message in [
        ((model(), []), "no text"),
        ((model(task=TOKENS), ["a text"]), "cannot take a text"),
        ((model(), [["a", "word"]]), "cannot take a list of words"),
    ]:
        with pytest.raises(BadData, match=message):
            predict(*arguments)
    with pytest.raises(BadData, match="up to 64"):
        predict(model(), TEXTS, max_length=100)


def test_broken_models_are_named(tmp_path):
    path = tiny_model(tmp_path / "broken")
    weights = load_file(path / "model.safetensors")
    weights["classifier.bias"][0] = float("nan")
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NonFinite, match="broken"):
        predict(str(path), TEXTS)
    path = tiny_model(tmp_path / "small", vocab_size=100)
    with pytest.raises(Incompatible, match="only 100 embeddings"):
        predict(str(path), TEXTS)


def test_a_head_in_a_subfolder(model, tmp_path):
    import shutil

    shutil.copytree(model(), tmp_path / "merged" / "films")
    (tmp_path / "merged" / "config.json").write_text("{}")
    found = predict(str(tmp_path / "merged"), TEXTS, subfolder="films")
    assert found.model == "films"
    np.testing.assert_array_equal(found.probabilities, predict(model(), TEXTS).probabilities)
    with pytest.raises(NotFound, match="has nothing in news; it holds films"):
        predict(str(tmp_path / "merged"), TEXTS, subfolder="news")


def of(labels, rows, model="m", task="text-classification", problem=SINGLE):
    probabilities = [np.array(own, float) for own in rows] if task == TOKENS else np.array(rows, float)
    return Prediction(model, task, problem, labels, probabilities)


def test_an_ensemble_matches_labels_by_name():
    one = of(["neg", "pos"], [[0.9, 0.1], [0.2, 0.8]])
    other = of(["Pos", "Neg"], [[0.3, 0.7], [0.6, 0.4]])
    both = ensemble([one, other])
    assert both.labels == ["neg", "pos"]
    np.testing.assert_allclose(both.probabilities, [[0.8, 0.2], [0.3, 0.7]])
    turned = ensemble([other, one])
    np.testing.assert_allclose(turned.probabilities[:, ::-1], both.probabilities)


def test_an_ensemble_of_a_real_model_and_itself_with_another_label_order_is_the_model(model, tmp_path):
    path = tiny_model(tmp_path / "permuted", labels=["a", "b", "c"], seed=5)
    straight = predict(str(path), TEXTS)
    weights = load_file(path / "model.safetensors")
    order = [2, 0, 1]
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][order].contiguous()
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    config["id2label"] = {"0": "c", "1": "a", "2": "b"}
    config["label2id"] = {"c": 0, "a": 1, "b": 2}
    (path / "config.json").write_text(json.dumps(config))
    permuted = predict(str(path), TEXTS)
    assert permuted.labels == ["c", "a", "b"]
    np.testing.assert_allclose(ensemble([straight, permuted]).probabilities, straight.probabilities, atol=1e-6)


def test_a_label_that_only_some_know_is_averaged_over_those():
    one = of(["neg", "pos"], [[0.5, 0.5]])
    other = of(["neg", "pos", "mixed"], [[0.1, 0.3, 0.6]])
    # Means: neg .3, pos .4, mixed .6; scaled to sum to 1.
    np.testing.assert_allclose(ensemble([one, other]).probabilities, [[0.3 / 1.3, 0.4 / 1.3, 0.6 / 1.3]])


def test_an_ensemble_of_other_problems():
    multi = [of(["a", "b"], [[0.9, 0.8]], problem=MULTI), of(["b", "a"], [[0.6, 0.7]], problem=MULTI)]
    np.testing.assert_allclose(ensemble(multi).probabilities, [[0.8, 0.7]])
    numbers = [of(["LABEL_0"], [[1.0]], problem=REGRESSION), of(["score"], [[4.0]], problem=REGRESSION)]
    np.testing.assert_allclose(ensemble(numbers).probabilities, [[2.5]])
    with pytest.raises(Incompatible, match="no mean"):
        ensemble([multi[0], numbers[0]])


def test_an_ensemble_of_tokens_uses_the_models_that_saw_the_word():
    nan = float("nan")
    one = of(["O", "B-PER"], [[[0.8, 0.2], [nan, nan], [nan, nan]]], task=TOKENS)
    other = of(["B-PER", "O"], [[[0.6, 0.4], [0.7, 0.3], [nan, nan]]], task=TOKENS)
    found = ensemble([one, other]).probabilities[0]
    np.testing.assert_allclose(found, [[0.6, 0.4], [0.3, 0.7], [nan, nan]])


def test_models_without_a_label_in_common_have_no_ensemble():
    with pytest.raises(Incompatible, match=r"m \(negative, positive\) has no label in common"):
        ensemble([of(["negative", "positive"], [[0.5, 0.5]]), of(["pos", "neg"], [[0.5, 0.5]], "m2")])
    with pytest.raises(Incompatible):
        ensemble([of(["O", "B-A"], [[[1, 0]]], task=TOKENS), of(["O", "B-B"], [[[1, 0]]], task=TOKENS)])


def test_a_comparison_shows_experts_ensemble_and_merge(model, tmp_path):
    import shutil

    merged = shutil.copytree(model(seed=3), tmp_path / "merged")
    (merged / "fusehub_report.json").write_text("{}")
    steps = []
    found = compare([model(seed=1), model(seed=2), str(merged)], TEXTS, progress=lambda *step: steps.append(step[:2]))
    one, two = Path(model(seed=1)).name, Path(model(seed=2)).name
    assert found.models == [one, two, "ensemble", "merged"]
    assert found.ensemble_of == [one, two]
    expected = (predict(model(seed=1), TEXTS).probabilities + predict(model(seed=2), TEXTS).probabilities) / 2
    for row, text, mean in zip(found.texts, TEXTS, expected, strict=True):
        assert row.text == text and [answer.model for answer in row.answers] == found.models
        assert row.answers[2].probability == pytest.approx(max(mean), abs=1e-6)
        assert row.answers[2].probabilities["negative"] == pytest.approx(mean[0], abs=1e-6)
        assert row.differs == (len({answer.label for answer in row.answers}) > 1)
    assert {row.differs for row in found.texts} == {True, False}, "or the test could not fail"
    assert json.loads(json.dumps(found.to_dict()))["texts"][0]["answers"][0]["model"] == one
    assert len(found.to_rows()) == 36
    assert steps[-1] == (27, 27) and steps == sorted(steps)


def test_the_ensemble_can_be_chosen_or_left_out(model):
    paths = [model(seed=seed) for seed in (1, 2, 3)]
    names = [Path(path).name for path in paths]
    assert compare(paths, TEXTS, ensemble=False).models == names
    chosen = compare(paths, TEXTS, ensemble=[names[0], paths[1]])
    assert (chosen.models, chosen.ensemble_of) == ([*names[:2], "ensemble", names[2]], names[:2])
    assert compare(paths[:1], TEXTS).models == names[:1], "one model is no ensemble"
    with pytest.raises(NotFound, match="nobody is not among"):
        compare(paths, TEXTS, ensemble=["nobody"])


def test_entities_are_marked_in_the_text_as_it_was_given(model):
    text = "Anna's  film (a masterpiece),\nParis!"
    found = compare([model(task=TOKENS, seed=1), model(task=TOKENS, seed=2)], [text])
    entities = [entity for answer in found.texts[0].answers for entity in answer.entities]
    assert entities
    for entity in entities:
        assert text[entity.start : entity.end] == entity.text == entity.text.strip()
        assert 0 < entity.score <= 1 and entity.label in ("PER", "LOC")
    for answer in found.texts[0].answers:
        assert answer.marked == mark(text, answer.entities)
    json.dumps(found.to_dict())


def spans_of(words):
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    return [(int(end) - len(word), int(end)) for word, end in zip(words, ends, strict=True)]


@pytest.mark.parametrize(
    ("tags", "marked"),
    [
        (["B-PER", "I-PER", "O", "B-LOC"], "[Anna Bruno](PER) in [Paris](LOC)"),
        (["I-PER", "I-PER", "O", "I-LOC"], "[Anna Bruno](PER) in [Paris](LOC)"),
        (["B-PER", "E-PER", "O", "S-LOC"], "[Anna Bruno](PER) in [Paris](LOC)"),
        (["B-PER", "L-PER", "O", "U-LOC"], "[Anna Bruno](PER) in [Paris](LOC)"),
        (["B-PER", "B-PER", "O", None], "[Anna](PER) [Bruno](PER) in Paris"),
        (["NOUN", "NOUN", "ADP", "NOUN"], "[Anna Bruno](NOUN) [in](ADP) [Paris](NOUN)"),
    ],
)
def test_entities_of_all_tagging_schemes(tags, marked):
    words = ["Anna", "Bruno", "in", "Paris"]
    entities = find_entities(" ".join(words), spans_of(words), tags, [0.5, 1.0, 1.0, 0.8])
    assert mark(" ".join(words), entities) == marked
    if tags[:2] == ["B-PER", "I-PER"]:
        assert entities[0].score == pytest.approx(0.75)


def test_a_comparison_on_data_knows_what_is_true(model, tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({"tokens": ["Anna", "in", "Paris"], "ner_tags": ["B-PER", "O", "B-LOC"]}) + "\n")
    row = compare([model(task=TOKENS, seed=1)], data=str(path)).texts[0]
    assert mark(row.text, row.entities) == "[Anna](PER) in [Paris](LOC)"
    (tmp_path / "test.csv").write_text("text,label\na fine film,positive\n")
    assert compare([model(seed=1)], data=str(tmp_path / "test.csv")).texts[0].label == "positive"


def test_what_cannot_be_compared(model):
    with pytest.raises(Incompatible, match="different tasks"):
        compare([model(), model(task=TOKENS)], TEXTS)
    for texts in (None, [], ["fine", " "]):
        with pytest.raises(BadData):
            compare([model()], texts)
    with pytest.raises(BadData, match="either"):
        compare([model()], TEXTS, data="a.csv")
    with pytest.raises(BadData, match="no model"):
        compare([], TEXTS)


HUB_TEST = """
import json, sys
import fusehub
from fusehub.comparing.predictor import predict

assert list(fusehub.load_heads("alice/merged").heads) == ["films"]
try:
    fusehub.load_heads("alice/merged/films")
except fusehub.FuseHubError as error:
    assert "names one model of several" in error.what and "alice/merged." in error.fix, error
else:
    raise SystemExit("a subfolder was ignored")
whole, head = predict("alice/merged", sys.argv[1:]), predict("alice/merged", sys.argv[1:], subfolder="films")
print(json.dumps([whole.model, whole.probabilities.tolist(), head.model, head.probabilities.tolist()]))
"""


def test_models_and_heads_on_a_hub(model, tmp_path):
    from huggingface_hub import HfApi, constants

    from fusehub.localhub import running

    constants.HF_HUB_DISABLE_XET = True
    with running(tmp_path / "hub") as hub:
        api = HfApi(endpoint=hub.url, token=hub.token("alice"))
        api.create_repo("alice/merged")
        api.upload_folder(repo_id="alice/merged", folder_path=model(seed=1))
        api.upload_folder(repo_id="alice/merged", folder_path=model("roberta", seed=2), path_in_repo="films")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run([*python(), "-c", HUB_TEST, *TEXTS], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names, found = (json.loads(done.stdout.splitlines()[-1])[at::2] for at in (0, 1))
    assert names == ["merged", "films"]
    np.testing.assert_allclose(found[0], predict(model(seed=1), TEXTS).probabilities, atol=1e-6)
    np.testing.assert_allclose(found[1], predict(model("roberta", seed=2), TEXTS).probabilities, atol=1e-6)
