"""Intervals against laws and other libraries; differences and what is said of them against answers made by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

import fusehub
from fusehub.cli.main import app
from fusehub.comparing.evaluate import evaluate
from fusehub.comparing.evaluation import Difference, Evaluation, LabelDifference, Score
from fusehub.comparing.intervals import FEW_EXAMPLES, FEW_OF_LABEL, Interval, Resampling, interval_of, resampled
from fusehub.comparing.metrics.measured import mean_of, pearson_of
from fusehub.comparing.metrics.texts import answer_metrics, written_metrics
from fusehub.comparing.prediction import Prediction
from fusehub.comparing.predictor import predict
from fusehub.comparing.said import MULTI, REGRESSION, SINGLE
from fusehub.comparing.summary import summary
from fusehub.comparing.tasks import answers_of
from fusehub.data.examples import Examples, load_examples
from fusehub.errors import BadData, NotFound
from tests.unit.test_evaluate import TAGS, TOKENS, hot, words, write
from tests.unit.tiny import tiny_model, tiny_texts

USUAL = Resampling(0.95, 1000, 0)
NAMES = ["a", "b", "c"]


def measured(labels, said, names, task="text-classification", problem=SINGLE):
    probabilities = [np.array(rows, float) for rows in said] if task == TOKENS else np.array(said, float)
    examples = Examples(task, ["x"] * len(labels), labels, "data", None)
    return answers_of(task).score(Prediction("m", task, problem, names, probabilities), examples)


def drawn_labels(seed, count=60):
    random = np.random.default_rng(seed)
    return [str(name) for name in random.choice(NAMES, count, p=[0.6, 0.3, 0.1])]


def drawn_words(seed):
    random = np.random.default_rng(seed)
    return [[str(tag) for tag in random.choice(TAGS, 7)] for _ in range(25)]


@pytest.mark.parametrize(
    "found",
    [
        measured(drawn_labels(0), hot(NAMES, drawn_labels(1)), NAMES),
        measured([*drawn_labels(0), "a"], hot([*NAMES, "never"], [*drawn_labels(1), "never"]), [*NAMES, "never"]),
        measured(
            [["a", "b"], ["c"], ["a"], ["b"], []],
            [[0.9, 0.1, 0.6], [0.1, 0.2, 0.9], [0.9, 0.9, 0.1], [0.1, 0.1, 0.1], [0.7, 0.1, 0.1]],
            NAMES,
            problem=MULTI,
        ),
        measured([1.0, 2.5, 4.0, 3.0], [[1.0], [3.0], [3.5], [3.25]], ["score"], problem=REGRESSION),
        measured(drawn_words(0), words(TAGS, *drawn_words(1)), TAGS, TOKENS),
        measured([["A", "B"], ["A", "A"], ["B", "B", "A"]], words(["A", "B"], "AA", "AA", "ABA"), ["A", "B"], TOKENS),
        answer_metrics([["the Eiffel Tower"], ["Paris", "in Paris"], []], ["Eiffel tower!", "in London", ""]),
        written_metrics(["the cat sat on the mat", "a b c d e"], ["the cat sat on a mat", "a b d e"]),
    ],
    ids=["classes", "label-never-true", "several", "numbers", "entities", "words", "answers", "written"],
)
def test_what_examples_count_for_gives_the_metric_that_the_libraries_give(found):
    assert set(found.metrics) - set(found.tallies) <= {"spearman"}
    for name, tally in found.tallies.items():
        assert tally.metric(tally.counts.sum(0)) == pytest.approx(found.metrics[name]), name
        both = tally.metric(np.stack([tally.counts.sum(0), 2.0 * tally.counts.sum(0)]))
        assert both == pytest.approx([found.metrics[name]] * 2), f"{name} of every example twice"


def test_each_label_has_what_scikit_learn_and_seqeval_find():
    from seqeval.metrics import classification_report as of_entities
    from sklearn.metrics import classification_report as of_labels

    true, said = drawn_labels(0), drawn_labels(1)
    for found, expected in (
        (measured(true, hot(NAMES, said), NAMES), of_labels(true, said, output_dict=True)),
        (
            measured(drawn_words(0), words(TAGS, *drawn_words(1)), TAGS, TOKENS),
            of_entities(drawn_words(0), drawn_words(1), output_dict=True),
        ),
    ):
        counts = found.labels
        for at, name in enumerate(counts.names):
            right, own, there = (part[:, at].sum() for part in (counts.right, counts.said, counts.true))
            assert (right / own, right / there, there) == pytest.approx(
                tuple(expected[name][key] for key in ("precision", "recall", "support"))
            )


def test_an_interval_is_the_one_that_scipy_finds_of_the_same_draws():
    right = np.random.default_rng(3).random(150) < 0.8
    values = resampled(mean_of(right), USUAL, place=0)
    found = interval_of(values, 0.95)
    expected = stats.bootstrap((right,), np.mean, n_resamples=20_000, method="percentile", rng=0).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.01)
    assert found.low < right.mean() < found.high
    narrow = interval_of(values, 0.5)
    assert found.low < narrow.low < narrow.high < found.high
    x, y = np.random.default_rng(0).normal(size=(2, 80))
    found = interval_of(resampled(pearson_of(x, x + y), USUAL, 0), 0.95)
    expected = stats.bootstrap(
        (x, x + y), lambda a, b: stats.pearsonr(a, b).statistic, paired=True, vectorized=False, n_resamples=4000,
        method="percentile", rng=0,
    ).confidence_interval  # fmt: skip
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.03)


def test_draws_are_the_same_for_all_models_and_others_for_each_data_set_and_seed():
    right = mean_of(np.arange(50) % 3 == 0)
    assert np.array_equal(resampled(right, USUAL, 0), resampled(right, USUAL, 0))
    assert not np.array_equal(resampled(right, USUAL, 0), resampled(right, USUAL, 1))
    assert not np.array_equal(resampled(right, USUAL, 0), resampled(right, Resampling(0.95, 1000, 1), 0))


def test_where_resampling_tells_nothing_there_is_no_interval():
    assert interval_of(resampled(mean_of([1.0] * 12), USUAL, 0), 0.95) is None
    assert interval_of(resampled(pearson_of([1.0, 1.0], [1.0, 2.0]), USUAL, 0), 0.95) is None


@pytest.mark.parametrize("said", [{"confidence_level": 1.0}, {"confidence_level": 0.0}, {"resamples": 10}])
def test_intervals_that_cannot_be_are_refused(said):
    with pytest.raises(BadData, match=r"level of confidence|no interval of 95"):
        evaluate(["nobody/nothing"], {}, **said)


def test_few_examples_are_those_whose_intervals_hold_too_little():
    """The measure behind the two numbers, made again: how often the interval of a known accuracy holds it."""

    def held(examples, accuracy, cases=1000):
        random = np.random.default_rng(0)
        share = random.binomial(examples, accuracy, cases) / examples
        drawn = random.binomial(examples, share[:, None], (cases, 400)) / examples
        low, high = np.quantile(drawn, [0.025, 0.975], axis=1)
        return ((low <= accuracy) & (accuracy <= high)).mean()

    assert held(FEW_EXAMPLES, 0.95) > 0.93 > held(FEW_EXAMPLES // 2, 0.95)
    assert held(FEW_OF_LABEL, 0.9) > 0.93 > held(FEW_OF_LABEL // 2, 0.9)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Two experts, and a model that says what the first does, as if it were a merge."""
    folder = tmp_path_factory.mktemp("three")
    models = {name: tiny_model(folder / name, seed=seed) for name, seed in (("films", 1), ("news", 2), ("merged", 1))}
    (models["merged"] / "README.md").write_text("---\ntags: [merge]\n---\n")
    texts = tiny_texts(120, seed=4)
    said = {name: [label for label, _ in predict(str(models[name]), texts).answers()] for name in ("films", "news")}
    data = {name: write(folder / f"{name}.jsonl", labels, texts) for name, labels in said.items()}
    return {name: str(path) for name, path in models.items()}, data, said


def test_a_merge_is_held_against_the_expert_of_each_data_set_on_the_same_examples(three):
    models, data, said = three
    found = evaluate(list(models.values()), data, ensemble=True)
    assert found.experts == ["films", "news"]
    agree = np.mean([a == b for a, b in zip(said["films"], said["news"], strict=True)])
    lost = found.difference_of("merged", "news")
    assert (lost.against, lost.chosen, lost.metric) == ("news", "best", "accuracy")
    assert lost.value == pytest.approx(agree - 1) and lost.interval.low < lost.value < lost.interval.high < 0
    # What it says is what films says: there is no difference, and no interval of it.
    same = found.difference_of("merged", "films")
    assert (same.against, same.value, same.interval) == ("films", 0.0, None)
    assert found.score_of("merged", "films").intervals["accuracy"] is None, "all are right"
    worst = min(lost.labels, key=lambda label: label.value)
    told = found.summary
    assert Evaluation.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert any(f"merged lost on news against news: −{100 * (1 - agree):.1f} points" in line for line in told)
    assert any(f"most of all on the label {worst.label} (F1 −" in line for line in told)
    assert any("merged on films against films: these examples do not tell a difference" in line for line in told)
    assert not any("ensemble" in line for line in told)


def test_the_mean_over_data_sets_has_an_interval_narrower_than_each(three):
    models, data, _ = three
    found = evaluate([models["films"], models["news"]], {"one": data["news"], "two": data["news"]})
    mean, one = found.mean_intervals["films"], found.score_of("films", "one").intervals["accuracy"]
    # Of two independent samples of one spread: narrower by the root of two.
    assert mean.high - mean.low == pytest.approx((one.high - one.low) / np.sqrt(2), rel=0.15)
    average = found.difference_of("films", None)
    assert average.against == "news" and average.is_worse and not average.is_better


def test_all_are_held_against_the_model_that_is_asked_for(three):
    models, data, _ = three
    found = evaluate(list(models.values()), data, against="merged")
    assert {(own.against, own.chosen) for own in found.differences} == {("merged", "asked")}
    assert found.difference_of("news", "news").is_better
    with pytest.raises(NotFound, match="nobody is not among the models"):
        evaluate(list(models.values()), data, against="nobody")


def test_the_expert_whose_card_names_the_data_set_is_its_own(three):
    models, data, _ = three
    read = load_examples(data["news"], "text-classification", need_labels=True)
    # As if read from the Hub, from a data set that the worse expert's card names.
    hub = replace(read, source="ada/texts/test", revision="a" * 40)
    ref = fusehub.resolve(models["films"])
    (ref.folder / "README.md").write_text("---\ndatasets: [ada/texts]\n---\n")
    found = evaluate([models["films"], models["news"]], {"texts": hub})
    (ref.folder / "README.md").unlink()
    [own] = found.differences
    with pytest.raises(BadData, match="not those of an evaluation"):
        Evaluation.from_dict(found.to_dict() | {"differences": [{"model": "news"}]})
    assert (own.model, own.against, own.chosen) == ("news", "films", "own") and own.is_better


def test_without_resamples_there_are_scores_and_differences_alone(three):
    models, data, _ = three
    found = evaluate(list(models.values()), data, resamples=0)
    assert found.resampling is None and not any(score.intervals for score in found.scores)
    assert all(own.interval is None for own in found.differences)
    assert not any("[" in line for line in found.summary)


def test_perplexity_has_an_interval_and_the_better_model_the_lower_value(tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(tiny_texts(40, seed=2)))
    models = [str(tiny_model(tmp_path / f"m{seed}", "gpt2", task="text-generation", seed=seed)) for seed in (1, 2)]
    found = evaluate(models, {"texts": str(texts)})
    one, other = (score.main for score in found.scores)
    for score in found.scores:
        assert score.intervals["perplexity"].low < score.main < score.intervals["perplexity"].high and score.few
    [difference] = found.differences
    assert difference.value == pytest.approx(-abs(one - other)) and difference.against == f"m{1 if one < other else 2}"


def test_what_is_said_of_a_merge_that_wins_here_and_loses_there():
    def score(model, data, model_id="x"):
        return Score(model, model_id, data, data, None, None, 50, 0.0, {"accuracy": 0.5})

    own = [
        Difference("m", "a", "films", "accuracy", 0.05, Interval(0.01, 0.09), "own"),
        Difference("m", "b", "news", "accuracy", -0.04, Interval(-0.07, -0.01), "best",
                   [LabelDifference("x", -0.08, Interval(-0.1, 0.02)), LabelDifference("y", 0.01, None)]),
        Difference("m", "c", "mail", "accuracy", -0.01, Interval(-0.03, 0.01), "best"),
        Difference("m", "a", None, "accuracy", 0.0, Interval(-0.02, 0.02), "best"),
    ]  # fmt: skip
    models, data = ["a", "b", "c", "m"], ["films", "news", "mail"]
    scores = [score(model, name) for model in models for name in data]
    found = Evaluation("text-classification", models, data, scores, [], [], models[:3], USUAL, {}, own)
    few, mean, lost, won, unclear = summary(found)[1:]
    assert few.startswith("Too few examples to rely on: films (50), news (50), mail (50). Under 100,")
    assert mean == (
        "m against a, the best expert on average: +0.0 points [−2.0, +2.0], "
        "these examples do not tell which is better."
    )
    assert lost == (
        "m lost on news against b: −4.0 points [−7.0, −1.0], "
        "most of all on the label x (F1 −8.0 points [−10.0, +2.0])."
    )
    assert won == "m won on films against its own expert a (+5.0 points [+1.0, +9.0])."
    assert unclear == "m on mail against c: these examples do not tell a difference."


def test_the_command_prints_intervals_differences_and_labels(three):
    models, data, _ = three
    sources = [word for name, path in data.items() for word in ("--data", f"{name}={path}")]
    run = CliRunner().invoke(app, ["evaluate", *models.values(), *sources, "--per-label"])
    assert run.exit_code == 0, run.output
    assert "news against news" in run.stdout and "[" in run.stdout and "negative" in run.stdout
    assert "merged lost on news" in run.stderr
    run = CliRunner().invoke(app, ["evaluate", *models.values(), *sources, "--json", "--confidence", "0.5"])
    told = json.loads(run.stdout)
    assert told["resampling"] == {"confidence_level": 0.5, "resamples": 1000, "seed": 0}
    assert told["scores"][0]["labels"][0]["support"] and told["summary"]
    run = CliRunner().invoke(app, ["evaluate", *models.values(), *sources, "--json", "--resamples", "5"])
    assert run.exit_code == 1 and "no interval of 95" in json.loads(run.stdout)["error"]["what"]
