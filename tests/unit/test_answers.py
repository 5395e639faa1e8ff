"""Answers of every task: against what the model says text by text, in comparisons, ensembles and scores."""

import json
import math
from pathlib import Path

import pytest
import torch

from fusehub.comparing.compare import compare
from fusehub.comparing.ensemble import ensemble
from fusehub.comparing.evaluate import evaluate
from fusehub.comparing.metrics.texts import answer_metrics, written_metrics
from fusehub.comparing.predictor import predict
from fusehub.comparing.tasks.fill_mask import mask_a_word
from fusehub.data.examples import Examples
from fusehub.errors import BadData, Incompatible
from fusehub.models.loading import load_model, load_tokenizer
from fusehub.models.resolve import resolve
from tests.unit.tiny import tiny_images, tiny_model, tiny_texts

TEXTS = tiny_texts(9, seed=21, longest=12)
PAIRS = [("Who lives in Paris?", f"Anna lives in Paris. {text}") for text in TEXTS]
MASKS = [f"{text} [MASK] film" for text in TEXTS]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory):
    made: dict = {}

    def get(arch: str, task: str, seed: int = 0) -> Path:
        if (arch, task, seed) not in made:
            folder = tmp_path_factory.mktemp(arch) / f"{task}-{seed}"
            made[arch, task, seed] = tiny_model(folder, arch, task=task, hidden=16, seed=seed)
        return made[arch, task, seed]

    return get


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_answer_is_the_likeliest_span_of_the_text(models) -> None:
    path = models("bert", "question-answering")
    # Some texts are longer than the longest answer.
    pairs = [*PAIRS[:4], *(("Who?", text) for text in tiny_texts(60, seed=5, longest=30) if len(text.split()) > 20)][
        :16
    ]
    answers = predict(str(path), pairs).answers()
    network, tokenizer = load_model(resolve(str(path))), load_tokenizer(resolve(str(path)))
    for (question, text), (said, probability) in zip(pairs, answers, strict=True):
        encoded = tokenizer(question, text, return_tensors="pt")
        if encoded["input_ids"].shape[1] > 64:
            continue
        inside = [at for at, part in enumerate(encoded.sequence_ids(0)) if part == 1]
        with torch.no_grad():
            output = network(**encoded)
        scores = {
            (a, b): float(output.start_logits[0, a] + output.end_logits[0, b])
            for a in inside
            for b in inside
            if a <= b < a + 30
        }
        first, last = max(scores, key=scores.get)
        assert said == text[encoded.token_to_chars(first).start : encoded.token_to_chars(last).end]
        assert 0 < probability <= 1
    alone = [predict(str(path), [pair]).answers()[0] for pair in pairs]
    assert [one for one, _ in alone] == [one for one, _ in answers]
    # Cut into windows, a text is still read to its end.
    long = predict(str(path), [("Who?", " ".join(tiny_texts(40, seed=2)))], max_length=24)
    assert len(long) == 1 and long.answers()[0][0]


@pytest.mark.parametrize(
    ("arch", "task"), [("gpt2", "text-generation"), ("llama", "text-generation"), ("t5", "text2text-generation")]
)
def test_what_a_model_writes_is_its_likeliest_token_again_and_again(arch: str, task: str, models) -> None:
    """Texts of other lengths beside it change nothing."""
    path = models(arch, task)
    texts = ["Anna", "Anna works for Acme", "the film was not very good"]
    written = predict(str(path), texts).written
    network, tokenizer = load_model(resolve(str(path))), load_tokenizer(resolve(str(path)))
    for text, said in zip(texts, written, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        assert ids.shape[1] <= 32
        new: list[int] = []
        with torch.no_grad():
            while len(new) < 32:
                if task == "text-generation":
                    logits = network(torch.cat([ids, torch.tensor([new], dtype=torch.long)], 1)).logits
                else:
                    logits = network(ids, decoder_input_ids=torch.tensor([[0, *new]])).logits
                new.append(int(logits[0, -1].argmax()))
                if new[-1] == tokenizer.eos_token_id:
                    break
        mine = tokenizer.decode(new, skip_special_tokens=True).strip()
        assert mine and said.startswith(mine)


def test_a_mask_is_filled_by_the_likeliest_token_and_models_agree_by_token(models) -> None:
    path, other = models("bert", "fill-mask"), models("bert", "fill-mask", 1)
    prediction = predict(str(path), MASKS)
    network, tokenizer = load_model(resolve(str(path))), load_tokenizer(resolve(str(path)))
    for number, text in enumerate(MASKS):
        encoded = tokenizer(text, return_tensors="pt")
        at = encoded["input_ids"][0].tolist().index(tokenizer.mask_token_id)
        with torch.no_grad():
            row = network(**encoded).logits[0, at].softmax(-1)
        assert torch.allclose(torch.tensor(prediction.probabilities[number][0]), row, atol=1e-5)
        assert prediction.answers()[number][0][0] == tokenizer.convert_ids_to_tokens(int(row.argmax()))
    both = ensemble([prediction, predict(str(other), MASKS)])
    mean = (prediction.probabilities[0] + predict(str(other), MASKS).probabilities[0]) / 2
    assert abs(both.probabilities[0] - mean).max() < 1e-6
    with pytest.raises(BadData, match=r"no mask in 'a film'.*\n.*\[MASK\]"):
        predict(str(path), ["a film"])


@pytest.mark.parametrize(("arch", "task"), [("gpt2", "text-generation"), ("bert", "fill-mask")])
def test_perplexity_is_what_the_models_own_loss_says_whatever_the_batches(arch: str, task: str, models, tmp_path):
    path = models(arch, task)
    data = write(tmp_path / "texts.jsonl", [{"text": text} for text in TEXTS])
    scores = [evaluate([str(path)], {"texts": data}, batch_size=size, seed=3).scores[0].metrics for size in (1, 4, 8)]
    assert all(math.isclose(own["perplexity"], scores[0]["perplexity"], rel_tol=1e-4) for own in scores)
    from fusehub.data.inputs import Inputs

    ref = resolve(str(path))
    inputs = Inputs.of(ref, Examples(task, TEXTS, None, "", None), seed=3)
    network, losses, count = load_model(ref), 0.0, 0
    for indices, batch in inputs.batches(batch_size=1):
        own = inputs.encodings[indices[0]]
        labels = torch.tensor([own.get("labels", own["input_ids"])])
        told = int((labels[:, 1:] if task == "text-generation" else labels).ne(-100).sum())
        with torch.no_grad():
            losses += float(network(**batch, labels=labels).loss) * told if told else 0.0
        count += told
    assert math.isclose(scores[0]["perplexity"], math.exp(losses / count), rel_tol=1e-4)
    with pytest.raises(Incompatible, match="ensemble of language models is not defined"):
        evaluate([str(path), str(models(arch, task, 1))], {"texts": data}, ensemble=True)


def test_questions_are_compared_and_scored(models, tmp_path: Path) -> None:
    names = [str(models("bert", "question-answering", seed)) for seed in (0, 1)]
    found = compare(names, ["Who lives in Paris? | Anna lives in Paris."])
    assert found.models[-1] == "ensemble" and len(found.texts[0].answers) == 3
    for answer in found.texts[0].answers:
        assert answer.label in "Anna lives in Paris." and answer.label and answer.label in answer.probabilities
        assert list(answer.probabilities.values()) == sorted(answer.probabilities.values(), reverse=True)
    with pytest.raises(BadData, match=r"needs the text.*\n.*bar between"):
        compare(names, ["Who lives in Paris?"])
    right = predict(names[0], PAIRS).answers()
    rows = [
        {"question": question, "context": text, "answers": {"text": [said, "nothing at all"]}}
        for (question, text), (said, _) in zip(PAIRS, right, strict=True)
    ]
    data = {"all": write(tmp_path / "all.jsonl", rows)}
    scores = evaluate(names, data, ensemble=True).scores
    assert scores[0].metrics == {"f1": 1.0, "exact_match": 1.0}
    assert scores[1].metrics["f1"] < 1 and scores[2].model == "ensemble"


def test_answers_are_scored_as_squad_scores_them() -> None:
    right = [["the Eiffel Tower", "a tower"], [], [], ["Anna Smith"]]
    assert answer_metrics(right, ["Eiffel tower!", "", "Paris", "Smith"]).metrics == {
        "f1": pytest.approx((1 + 1 + 0 + 2 / 3) / 4),
        "exact_match": 0.5,
    }
    written = written_metrics(["the cat sat on the mat", "a b c d"], ["the cat sat on the mat", "x"]).metrics
    assert written["exact_match"] == 0.5 and 0 < written["bleu"] < written["chrf"] < 1


def test_written_texts_are_compared_and_scored_and_have_no_mean(models, tmp_path: Path, caplog) -> None:
    names = [str(models("t5", "text2text-generation", seed)) for seed in (0, 1)]
    found = compare(names, ["Anna visited Paris ."])
    assert [answer.label for answer in found.texts[0].answers] == [
        predict(n, ["Anna visited Paris ."]).written[0] for n in names
    ]
    assert len(found.models) == 2 and "no ensemble is shown" in caplog.text
    with pytest.raises(Incompatible, match="write texts, which have no mean"):
        compare(names, ["Anna"], ensemble=names)
    written = predict(names[0], TEXTS).written
    rows = [{"source": text, "target": said or "nothing"} for text, said in zip(TEXTS, written, strict=True)]
    scores = evaluate(names, {"all": write(tmp_path / "all.jsonl", rows)}).scores
    assert list(scores[0].metrics) == ["chrf", "bleu", "exact_match"]
    assert scores[0].metrics["exact_match"] > scores[1].metrics["exact_match"]


def test_fillings_are_shown_in_the_text_and_a_word_of_data_is_masked(models, tmp_path: Path) -> None:
    names = [str(models("bert", "fill-mask", seed)) for seed in (0, 1)]
    found = compare(names, ["Anna visited [MASK] ."])
    for answer in found.texts[0].answers:
        assert len(answer.label) == 1 and answer.marked == f"Anna visited [{answer.label[0]}] ."
        assert len(answer.probabilities) == 5 or len(set(answer.probabilities)) < 5
    data = write(tmp_path / "texts.jsonl", [{"text": text} for text in ("a great film", "Anna visited Paris")])
    shown = compare(names, data=data)
    assert all("[MASK]" in text.text and text.label for text in shown.texts)
    assert shown.texts[0].text.replace("[MASK]", shown.texts[0].label) == "a great film"
    own = Examples("fill-mask", ["a great film"], None, "x", None)
    assert mask_a_word(own, 1) == mask_a_word(own, 1)


def test_images_are_compared_and_scored(models, tmp_path: Path) -> None:
    names = [str(models("vit", "image-classification", seed)) for seed in (0, 1)]
    folder = tiny_images(tmp_path / "photos", labels=("negative", "positive"))
    found = compare(names, [str(folder / "negative" / "0.png")])
    assert found.models[-1] == "ensemble"
    for answer in found.texts[0].answers:
        assert answer.label in ("negative", "positive") and sum(answer.probabilities.values()) == pytest.approx(1)
    scores = evaluate(names, {"photos": str(folder)}, ensemble=True).scores
    assert all(list(score.metrics) == ["accuracy", "f1_macro"] and score.examples == 6 for score in scores)
    shown = compare(names, data=str(folder))
    assert shown.texts[0].text.endswith(".png") and shown.texts[0].label == "negative"


def test_a_card_knows_that_less_perplexity_is_better(models, tmp_path: Path) -> None:
    from fusehub.publishing.cards.results import Results

    names = [str(models("gpt2", "text-generation", seed)) for seed in (0, 1)]
    found = evaluate(names, {"texts": write(tmp_path / "texts.jsonl", [{"text": text} for text in TEXTS])})
    values = [score.main for score in found.scores]
    better, worse = sorted(range(2), key=values.__getitem__)
    results = Results(found, Path(names[better]), None, [found.scores[worse].model_id])
    assert results.rows[better].cells[0].startswith("**") and not results.rows[worse].cells[0].startswith("**")
    assert results.verdict[0].startswith("The merge is better than the best single expert")


def test_an_answer_has_at_most_thirty_tokens_and_never_ends_before_it_starts() -> None:
    import numpy as np

    from fusehub.data.questions import LONGEST_ANSWER, best_spans, spans_of

    offsets = [None, *((2 * at, 2 * at + 1) for at in range(60))]
    start, end = np.zeros(61), np.zeros(61)
    start[[1, 50]], end[[40, 20]] = [9.0, 5.0], [9.0, 6.0]
    found = spans_of(start, end, {"offsets": offsets, "nothing": 0})
    assert (found[0].start, found[0].end, found[0].score) == (0, 39, 15.0), "from 1 to 20: to 40 is too far"
    assert all(0 < span.end - span.start < 2 * LONGEST_ANSWER for span in found[:-1]) and found[-1].end == 0
    [(best, probability), *_] = best_spans([found], may_be_none=False)
    assert (best.start, best.end) == (0, 39) and 0.9 < probability <= 1
