"""A search over options and weights: what it tries, what it chooses, what it tells, and what it leaves alone."""

import json
import logging
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

import fusehub
from fusehub.comparing.evaluate import evaluate
from fusehub.comparing.predictor import predict
from fusehub.comparing.tuning import SHARES, Search, Tuning, tune
from fusehub.errors import BadData, BadRecipe
from fusehub.merging.merge import merge
from fusehub.merging.plan import plan_merge
from fusehub.merging.recipe import Recipe
from fusehub.publishing.cards.merge_card import model_card
from tests.unit.experts import WEIGHTS, recipe_of
from tests.unit.tiny import tiny_texts

TEXTS = tiny_texts(60, seed=77)
LABELS = ("a", "b", "c", "d", "e", "f")


def labelled(path: Path, said, texts=TEXTS) -> str:
    """Texts with what a model says of them as their labels."""
    rows = [{"text": text, "label": label} for text, label in zip(texts, said, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def pair(experts):
    """Two experts with statistics, so different that each alpha gives a model that says something else."""
    return [str(path) for path in experts("bert", labels=(LABELS, LABELS), noise=0.8)]


@pytest.fixture(scope="module")
def right(pair, tmp_path_factory):
    """Data of which the merge with alpha 0.3 is right about every text, and no other one is."""
    folder = tmp_path_factory.mktemp("right")
    merged = merge(pair, folder / "merged", parameters={"alpha": 0.3}).folder
    said = [label for label, _ in predict(str(merged), TEXTS).answers()]
    return labelled(folder / "films.jsonl", said)


def scores_by_hand(pair, data, folder, **options):
    """The mean of the main metric of one merge, by the package's parts."""
    return evaluate([str(merge(pair, folder, **options).folder)], data).mean().popitem()[1]


def test_every_alpha_of_the_grid_is_tried_and_the_best_is_taken(pair, right, tmp_path):
    tuned = tune(pair, {"films": right})
    assert [trial.values["alpha"] for trial in tuned.trials] == [0.9, 0.1, 0.3, 0.5, 0.7, 1.0]
    assert tuned.best.values == {"alpha": 0.3} and tuned.best.mean == 1.0 and tuned.metric == "accuracy"
    assert sum(trial.mean == 1.0 for trial in tuned.trials) == 1
    for place in (0, 1, 4):
        trial = tuned.trials[place]
        by_hand = scores_by_hand(pair, {"films": right}, tmp_path / f"{place}", parameters=trial.values)
        assert trial.mean == trial.scores["films"] == by_hand
    assert tuned.recipe.parameters["alpha"] == tuned.best.values["alpha"]


def test_of_equals_the_first_is_taken_which_is_the_recipe_as_it_is(pair, tmp_path):
    said = [label for label, _ in predict(pair[0], TEXTS[:1]).answers()]
    one = labelled(tmp_path / "one.jsonl", said, TEXTS[:1])
    tuned = tune(pair, Tuning({"one": one}, over={"alpha": (0.91, 0.92, 0.89)}), parameters={"alpha": 0.9})
    assert len({trial.mean for trial in tuned.trials}) == 1
    assert tuned.chosen == 0 and tuned.best.values == {"alpha": 0.9}


def test_the_recipe_that_is_written_gives_the_same_bytes_without_tuning(pair, right, tmp_path):
    first = merge(tune(pair, {"films": right}).plan, tmp_path / "first")
    again = merge(first.folder / "fusehub_recipe.yaml", tmp_path / "again")
    assert again.hashes == first.hashes
    chosen = yaml.safe_load((first.folder / "fusehub_recipe.yaml").read_text())
    assert chosen["parameters"]["alpha"] == 0.3
    plain = merge(pair, tmp_path / "plain", parameters={"alpha": 0.3})
    assert plain.hashes == first.hashes
    # What chose them is still known, without the trials, until something is said anew.
    assert chosen["provenance"]["tuning"]["data"][0]["source"] == "films.jsonl"
    assert "trials" not in chosen["provenance"]["tuning"]
    assert "Chosen by validation data: `alpha` (0.1," in model_card(again.folder).text
    other = merge(first.folder / "fusehub_recipe.yaml", tmp_path / "other", parameters={"alpha": 0.77})
    assert "Chosen by validation data" not in model_card(other.folder).text


def test_report_and_card_tell_every_trial(pair, right, tmp_path):
    tuned = tune(pair, Tuning({"films": right, "same": right}, over={"alpha": [0.3, 0.5]}))
    folder = merge(tuned.plan, tmp_path / "merged").folder
    report = json.loads((folder / "fusehub_report.json").read_text())["tuning"]
    assert [trial["values"]["alpha"] for trial in report["trials"]] == [0.9, 0.3, 0.5]
    assert all(set(trial["scores"]) == {"films", "same"} for trial in report["trials"])
    assert report["metric"] == "accuracy" and report["complete"] and report["over"] == {"alpha": [0.3, 0.5]}
    assert [own["examples"] for own in report["data"]] == [60, 60] and len(report["data"][0]["revision"]) == 64
    card = model_card(folder).text
    assert "| alpha | films | same | on average |" in card
    for trial in report["trials"]:
        bold = "**" if trial is report["trials"][report["chosen"]] else ""
        cells = [str(trial["values"]["alpha"]), *[f"{trial['mean']:.4f}"] * 3]
        assert "| " + " | ".join(f"{bold}{cell}{bold}" for cell in cells) + " |" in card
    assert str(Path(right).parent) not in card


def test_scores_on_the_data_that_chose_are_called_no_test(pair, right, tmp_path, caplog):
    folder = merge(tune(pair, Tuning({"films": right}, over={"alpha": [0.3]})).plan, tmp_path / "merged").folder
    other = labelled(tmp_path / "other.jsonl", ["a"] * 60)
    with caplog.at_level(logging.WARNING):
        evaluation = evaluate([str(folder)], {"validation": right, "test": other})
    assert [record.message for record in caplog.records if "no test" in record.message] == [
        "validation: the options of merged were chosen by this data, so this is no test of it."
    ]
    card = model_card(folder, evaluation=evaluation).text
    lines = [line for line in card.splitlines() if "is no test" in line]
    assert len(lines) == 1 and lines[0].startswith("- validation: films.jsonl")


def test_weights_are_walked_through_one_after_the_other(pair, tmp_path):
    """Of data on which the first expert is right about all, what it says counts."""
    said = [label for label, _ in predict(pair[0], TEXTS).answers()]
    data = labelled(tmp_path / "own.jsonl", said)
    tuned = tune(pair, Tuning({"own": data}, weights=True), method="mean")
    tried = [trial.weights for trial in tuned.trials]
    assert tried[0] == (1.0, 1.0)
    # Proportions that were tried are not tried again: (2, 2) is (1, 1).
    shares = [round(first / (first + second), 9) for first, second in tried]
    assert len(set(shares)) == len(shares)
    assert {round(share / (share + 1), 9) for share in SHARES} <= set(shares)
    assert tuned.best.mean == 1.0 and tuned.best.weights[0] > tuned.best.weights[1]
    assert [entry.parameters["weight"] for entry in tuned.recipe.models] == list(tuned.best.weights)
    folder = merge(tuned.plan, tmp_path / "merged").folder
    weights = dict(zip(pair, tuned.best.weights, strict=True))
    plain = merge(pair, tmp_path / "plain", method="mean", weights=weights).folder
    assert (folder / WEIGHTS).read_bytes() == (plain / WEIGHTS).read_bytes()
    record = tuned.plan.to_dict()["tuning"]
    assert record["complete"] and record["weights"] == list(SHARES)


def test_trials_are_bounded_and_it_is_said_that_they_ran_out(pair, right, tmp_path):
    tuned = tune(pair, Tuning({"films": right}, weights=True, trials=3), method="mean")
    assert len(tuned.trials) == 3 and not tuned.plan.tuning["complete"]
    assert "The search ended after 3 trials." in model_card(merge(tuned.plan, tmp_path / "merged").folder).text
    with pytest.raises(BadRecipe, match="7 combinations of alpha, ridge are more than 6 trials"):
        Search(
            plan_merge(Recipe.of(pair)),
            Tuning({"films": right}, over={"alpha": [0.1, 0.2], "ridge": [0, 1, 2]}, trials=6),
        )


def test_each_method_has_something_to_search_or_asks_for_it(pair, right):
    base = str(Path(pair[0]).parent / "base")

    def over(method, **changes):
        return Search(plan_merge(Recipe.of(pair, method, **changes)), Tuning({"films": right})).over

    assert over("regmean") == {"alpha": (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)}
    assert list(over("slerp")) == ["t"] and 0.5 in over("slerp")["t"]
    assert list(over("task_arithmetic", base_model=base)) == ["weight"]
    with pytest.raises(BadRecipe, match="Mean of the weights has no option that is searched") as error:
        over("mean")
    assert "--tune-weights" in error.value.fix
    tuning = Tuning({"films": right}, over={"scale": [0.5, 1.5], "alpha": [0.2]})
    search = Search(plan_merge(Recipe.of(pair, base_model=base)), tuning)
    assert search.grid == [{"scale": 1.0, "alpha": 0.9}, {"scale": 0.5, "alpha": 0.2}, {"scale": 1.5, "alpha": 0.2}]
    assert [plan.recipe.scale for plan in search.plans] == [1.0, 0.5, 1.5]
    assert {tensor.options.alpha for tensor in search.plans[1].tensors.values()} == {0.2}


def test_a_weight_for_all_models_is_the_weight_of_each(pair, right, tmp_path):
    base = str(Path(pair[0]).parent / "base")
    tuning = Tuning({"films": right}, over={"weight": [0.3]})
    tuned = tune(pair, tuning, method="task_arithmetic", base_model=base)
    by_hand = merge(pair, tmp_path / "m", method="task_arithmetic", base_model=base, weights=dict.fromkeys(pair, 0.3))
    assert tuned.trials[1].mean == evaluate([str(by_hand.folder)], {"films": right}).mean().popitem()[1]
    weighted = Recipe.of(pair, "task_arithmetic", base_model=base, weights={pair[0]: 0.5})
    with pytest.raises(BadRecipe, match="weight is said of single models"):
        Search(plan_merge(weighted), tuning)


@pytest.mark.parametrize(
    ("tuning", "error", "said"),
    [
        ({"over": {"alhpa": [0.1]}}, BadRecipe, "no option of regmean to search 'alhpa'"),
        ({"over": {"alpha": []}}, BadRecipe, "no value of alpha to try"),
        ({"over": {"alpha": [0.1, 2]}}, BadRecipe, "alpha=2 cannot be"),
        ({"over": {"scale": [0.5]}}, BadRecipe, "scale needs the base model"),
        ({"trials": 0}, BadRecipe, "0 trials try nothing"),
        ({"label_column": "x"}, fusehub.FuseHubError, "has no column 'x'"),
        ({"data": {}}, BadData, "no data to tune on"),
    ],
)
def test_what_cannot_be_tried_is_refused_before_anything_is_merged(tuning, error, said, pair, right):
    plan = plan_merge(Recipe.of(pair))
    with pytest.raises(error, match=said):
        Search(plan, Tuning(**({"data": {"films": right}} | tuning)))


def test_a_test_split_is_no_stand_in_for_a_validation_split(pair, right, tmp_path, caplog):
    lines = Path(right).read_text()
    for split in ("train", "test"):
        (tmp_path / "films").mkdir(exist_ok=True)
        (tmp_path / "films" / f"{split}.jsonl").write_text(lines)
    folder = str(tmp_path / "films")
    with pytest.raises(BadData, match="has no validation split, and tuning on its test split would spoil it"):
        Search(plan_merge(Recipe.of(pair)), Tuning({"films": folder}))
    caplog.clear()
    for source in (f"{folder}/test", f"{folder}/test.jsonl"):
        with caplog.at_level(logging.WARNING):
            Search(plan_merge(Recipe.of(pair)), Tuning({"films": source}))
        assert "is called a test split" in caplog.records[-1].message
    caplog.clear()
    (tmp_path / "films" / "validation.jsonl").write_text(lines)
    search = Search(plan_merge(Recipe.of(pair)), Tuning({"films": folder}))
    assert search.sets["films"].split == "validation" and not caplog.records


def test_kept_heads_are_each_scored_on_their_own_data(experts, tmp_path):
    paths = experts("bert", labels=(("negative", "positive"), ("PER", "LOC")))
    recipe = recipe_of(paths, heads="keep")
    data = {}
    for path in paths:
        said = [label for label, _ in predict(str(path), TEXTS).answers()]
        data[path.name] = labelled(tmp_path / f"{path.name}.jsonl", said)
    with pytest.raises(BadData, match="each wants its own data"):
        tune(recipe, {"films": data[paths[0].name]})
    tuned = tune(recipe, Tuning(data, over={"alpha": [0.1]}))
    assert set(tuned.best.scores) == {path.name for path in paths}
    folder = merge(recipe.changed(parameters={"alpha": 0.1}), tmp_path / "merged").folder
    for name, source in data.items():
        assert tuned.trials[1].scores[name] == evaluate([str(folder / name)], {name: source}).mean().popitem()[1]


def test_less_perplexity_is_better(experts, tmp_path):
    paths = experts("gpt2", task="text-generation")
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS))
    tuned = tune(recipe_of(paths), Tuning({"texts": str(texts)}, over={"alpha": [0.1, 0.5]}))
    assert tuned.metric == "perplexity"
    assert tuned.best.mean == min(trial.mean for trial in tuned.trials)
    assert len({trial.mean for trial in tuned.trials}) == 3


def test_the_command_line_tunes_and_tells_it(pair, right, tmp_path):
    from typer.testing import CliRunner

    from fusehub.cli.main import app

    run = CliRunner().invoke
    command = ["merge", *pair, "--tune", f"films={right}"]
    planned = run(app, [*command, "--dry-run"])
    assert planned.exit_code == 0, planned.output
    assert "tuning: 6 trials of alpha 0.1, 0.3, 0.5, 0.7, 0.9, 1.0, scored on films (60 examples)" in planned.stderr
    command += ["--tune-over", "alpha=0.3,0.5", "--out", str(tmp_path / "merged")]
    made = run(app, command)
    assert made.exit_code == 0, made.output
    rows = [line.split() for line in made.stdout.splitlines()]
    assert rows[:2] == [["Tuning:", "accuracy"], ["trial", "alpha", "films"]]
    assert [row[:2] for row in rows[2:]] == [["1", "0.9"], ["2", "0.3"], ["3", "0.5"]]
    assert [row[2:] for row in rows[2:] if "chosen" in row] == [["1.0000", "chosen"]]
    told = run(app, [*command[:-1], str(tmp_path / "other"), "--json"])
    assert len(json.loads(told.stdout)["tuning"]["trials"]) == 3
    stored = [load_file(tmp_path / name / WEIGHTS) for name in ("merged", "other")]
    assert all((stored[0][name] == value).all() for name, value in stored[1].items())
    lonely = run(app, ["merge", *pair, "--tune-over", "alpha=0.3", "--out", str(tmp_path / "no")])
    assert lonely.exit_code == 2 and "--tune" in lonely.stderr
