"""What is recommended follows from what is at hand and what was measured; what cannot run says what it lacks."""

from __future__ import annotations

import fnmatch
import json
import shutil
import tomllib
from pathlib import Path

import pytest

import fusehub
from fusehub.errors import BadRecipe, FuseHubError
from fusehub.methods import METHODS
from fusehub.methods.plugins import load_plugins
from fusehub.recommending.at_hand import AtHand
from fusehub.recommending.measured import FILENAME, record
from fusehub.recommending.recommend import recommended, suiting
from tests.battery.measured import TABLE, measured_text
from tests.unit.experts import LABELS, edit_json, relatives, with_statistics
from tests.unit.test_cli import run

ROOT = Path(__file__).parents[2]
TEXTS, WORDS, WRITING = ("text-classification",), ("token-classification",), ("text-generation",)


def there(tasks=TEXTS, count=3, *, base=None, statistics=False, fisher=False, by_update=False, texts=False) -> AtHand:
    names = tuple(f"user/expert-{number}" for number in range(count))
    return AtHand(
        names, tasks, base, False, dict.fromkeys(names, "somewhere") if statistics else {},
        names if fisher else (), names if by_update else (), names if texts else (),
    )  # fmt: skip


def test_the_numbers_that_come_with_the_package_are_those_of_the_record() -> None:
    assert TABLE.read_text() == measured_text(ROOT / "docs")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["fusehub"]
    assert any(fnmatch.fnmatch(f"recommending/{FILENAME}", pattern) for pattern in patterns)


def test_the_numbers_are_those_that_the_results_tell() -> None:
    told = (ROOT / "docs" / "results.md").read_text()
    for tasks in (TEXTS, WORDS):
        own = recommended(there(tasks, statistics=True)).recommended
        assert own.method == "regmean" and own.gain and own.outside
        inside, outside = own.gain, own.outside
        assert (
            f"against the plain mean: {inside.points:+.1f} points in domain (above in {inside.above} of {inside.runs} "
            f"runs), {outside.points:+.1f} points out of domain (above in {outside.above} of {outside.runs} runs)"
        ) in told


@pytest.mark.parametrize(
    "at_hand, method, better",
    [
        (there(statistics=True), "regmean", None),
        (there(statistics=True, base="user/base", fisher=True), "regmean", None),
        (there(count=2, statistics=True, base="user/base"), "regmean", None),
        (there(), "mean", "regmean"),
        (there(base="user/base"), "data_free", None),
        (there(by_update=True, base="user/base"), "data_free", None),
        (there(WORDS, statistics=True), "regmean", "regmean_plus_plus"),
        # Of two taggers RegMean was above the mean in 8 of 18 runs: that is no gain.
        (there(WORDS, 2, statistics=True), "mean", "regmean_plus_plus"),
        (there(WORDS, statistics=True, texts=True), "regmean_plus_plus", None),
        # What was measured was 0.4 of three updates: of four or more, nothing is known.
        (there(WORDS, base="user/base"), "task_arithmetic", None),
        (there(WORDS, 4, base="user/base"), "mean", "regmean_plus_plus"),
        (there((*TEXTS, *WORDS), 2, statistics=True), "regmean", None),
        (there(WRITING, statistics=True), "regmean", None),
        (there(WRITING, base="user/base"), "mean", "regmean"),
    ],
)
def test_what_was_measured_decides_among_what_can_run(at_hand, method, better) -> None:
    found = recommended(at_hand)
    assert (found.recommended.method, found.better and found.better.method) == (method, better)
    assert found.recommended.can_run and found.baseline.method == record().baseline


def test_the_reason_says_what_speaks_against_it_too() -> None:
    found = recommended(there(WORDS, statistics=True, base="user/base"))
    assert "RegMean was 0.7 points above the mean (higher in 12 of 12 runs), and 0.6 points below it" in found.reason
    assert "Task arithmetic was 0.8 points above the mean" in found.reason
    assert recommended(there(WORDS, 2, statistics=True)).reason.startswith(
        "Nothing that can run here was clearly above the mean of the weights. In our tests of 2 models on token "
        "classification, RegMean was 0.1 points above the mean (higher in 8 of 18 runs)."
    )
    written = recommended(there(WRITING, statistics=True))
    assert written.reason.startswith("No method was measured on text generation yet. ") and not written.is_measured
    assert "weight=0.4" in recommended(there(WORDS, base="user/base")).reason
    assert "Its base is user/base, which all of the models name." in recommended(there(base="user/base")).reason


def test_where_the_mean_is_recommended_for_lack_of_statistics_it_says_so() -> None:
    among = [name for name, method in METHODS.items() if not method.needs_data]
    names = there(WORDS, 2).models
    one_lacks = AtHand(names, WORDS, statistics={names[0]: "somewhere"})
    found = recommended(one_lacks, among)
    assert (found.recommended.method, found.better) == ("mean", None)
    assert found.reason == (
        "Nothing that can run here was clearly above the mean of the weights. There are no statistics of "
        "user/expert-1. Once they are made, RegMean can run. In our tests of 2 models on token classification, "
        "RegMean was 0.1 points above the mean (higher in 8 of 18 runs)."
    )
    assert "Once they are made" not in recommended(there(WORDS, 2, statistics=True), among).reason


def test_a_base_that_all_name_and_nobody_can_read_is_told_with_the_reason(experts, tmp_path) -> None:
    models = [str(shutil.copytree(model, tmp_path / Path(model).name)) for model in experts[0]]
    gone = tmp_path / "gone"
    for model in models:
        edit_json(Path(model) / "config.json", _name_or_path=str(gone))
        Path(model, "README.md").write_text(f"---\nbase_model: {gone}\n---\n")
    found = fusehub.recommend(models)
    [obstacle] = found.way("ties").obstacles
    assert obstacle.code == "no-base" and obstacle.what.startswith("The base that all models name cannot be read: ")
    assert str(gone) in obstacle.what and found.to_dict()["at_hand"]["base_problem"] in obstacle.what
    [obstacle] = fusehub.recommend(experts[0]).way("ties").obstacles
    assert obstacle.what == "The base model is not known."


def test_only_what_may_be_chosen_is_recommended() -> None:
    among = [name for name, method in METHODS.items() if "alpha" in method.options.fields()]
    found = recommended(there(), among)
    # None of them can run: then it is said of the best one what it lacks.
    assert found.recommended.method == "regmean" and not found.recommended.can_run and found.better is None
    assert found.recommended.obstacles[0].what in found.reason
    with pytest.raises(BadRecipe, match="There is no merge method 'regmeen'"):
        recommended(there(), ["regmeen"])


def test_every_obstacle_says_what_would_change_it() -> None:
    found = recommended(there())
    lacking = {way.method: [(o.code, o.action.code) for o in way.obstacles] for way in found.ways() if not way.can_run}
    assert lacking["regmean"] == [("no-statistics", "collect-statistics")]
    assert lacking["fisher"] == [("no-fisher", "collect-fisher")]
    assert lacking["ties"] == lacking["data_free"] == [("no-base", "name-base")]
    assert lacking["slerp"] == [("too-many-models", "choose-models")]
    assert lacking["regmean_plus_plus"] == [("no-texts", "give-texts")]
    assert found.way("slerp").obstacles[0].action.count == 2
    assert found.way("regmean").obstacles[0].action.models == found.at_hand.models
    assert [way.method for way in found.ways()].count("mean") == 1 and len(found.ways()) == len(METHODS)
    assert json.loads(json.dumps(found.to_dict()))["better"]["obstacles"][0]["action"]["code"] == "collect-statistics"


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """Three experts with statistics, without Fisher diagonals, and their base."""
    folder = tmp_path_factory.mktemp("experts")
    made = with_statistics(relatives(folder, labels=(LABELS,) * 3))
    return [str(path) for path in made], str(folder / "base")


@pytest.mark.parametrize("with_base", [False, True])
def test_what_is_said_to_run_is_planned_and_the_rest_is_refused(experts, with_base) -> None:
    models, base = experts
    found = fusehub.recommend(models, base_model=base if with_base else None)
    assert found.recommended.method == "regmean" and found.at_hand.base == (base if with_base else None)
    assert {way.can_run for way in found.ways()} == {True, False}
    for way in found.ways():
        recipe = fusehub.Recipe.of(models, way.method, base_model=way.base_model, parameters=way.options)
        if way.can_run:
            assert fusehub.plan_merge(recipe).method.name == way.method
        else:
            with pytest.raises(FuseHubError):
                fusehub.plan_merge(recipe)
    assert found.way("ties").can_run == with_base and not found.way("fisher").can_run


def test_a_method_of_ones_own_takes_its_place_among_the_others(experts, tmp_path) -> None:
    plugin = tmp_path / "middle.py"
    plugin.write_text(
        "from fusehub.methods import merge_method\n"
        "@merge_method('middle', title='Middle', summary='Half way. And more.', base='needed', models=(2, 2))\n"
        "def middle(layer, options):\n    return layer.tensors[0]\n"
    )
    try:
        load_plugins([plugin])
        found = fusehub.recommend(experts[0])
        way = next(way for way in found.alternatives["base"] if way.method == "middle")
        assert way.sentence == "Half way." and way.gain is None
        assert [obstacle.code for obstacle in way.obstacles] == ["too-many-models", "no-base"]
    finally:
        METHODS.pop("middle", None)


def test_one_model_is_no_merge(experts) -> None:
    with pytest.raises(BadRecipe, match="at least two models"):
        fusehub.recommend(experts[0][:1])


def test_a_merge_without_a_method_takes_the_recommended_one_and_says_so(experts, tmp_path) -> None:
    models = experts[0]
    code, _, said = run("merge", *models, "--out", tmp_path / "merged")
    assert code == 0, said
    [line] = [line for line in said.splitlines() if line.startswith("method: ")]
    assert line.startswith("method: RegMean (regmean), as none was said. In our tests of 3 models on text class")
    recipe = fusehub.Recipe.read(tmp_path / "merged" / "fusehub_recipe.yaml")
    assert recipe.merge_method == "regmean" and "regmean" in str(fusehub.model_card(tmp_path / "merged"))
    assert run("merge", tmp_path / "merged" / "fusehub_recipe.yaml", "--out", tmp_path / "again")[0] == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("merged", "again")]
    assert weights[0] == weights[1]


def test_what_is_said_of_a_merge_narrows_the_choice(experts, tmp_path) -> None:
    models = experts[0]
    bare = [str(shutil.copytree(model, tmp_path / Path(model).name)) for model in models]
    for model in bare:
        shutil.rmtree(Path(model) / "fusehub")

    def method(*words: object) -> str:
        code, out, said = run("merge", *words, "--dry-run", "--json")
        return json.loads(out)["method"] if code == 0 else said + out

    assert method(*bare) == "mean"
    assert method(*bare, "--base", experts[1]) == "data_free"
    assert "has no published statistics" in method(*bare, "--param", "alpha=0.5")
    assert method(*models, "--param", "density=0.5", "--base", experts[1]) == "ties"
    assert method(*models, "--weight", f"{models[0]}=2") == "regmean"
    assert suiting(as_adapter=True) == [name for name, own in METHODS.items() if own.factors is not None]
    assert suiting(data={"a": "b"}) == ["regmean_plus_plus"] and "mean" not in suiting(tuned=())


def test_the_command_line_tells_which_methods_can_run_and_what_the_others_lack(experts) -> None:
    code, out, said = run("methods", *experts[0])
    assert code == 0, said
    assert "+4.3 (12 of 12)" in out and "regmean " in out and "In our tests of 3 models" in said
    assert "Say --base MODEL." in said and f"next: fusehub merge {experts[0][0]} " in said
    told = json.loads(run("methods", *experts[0], "--base", experts[1], "--json")[1])
    assert told["recommended"]["method"] == "regmean" and told["recommended"]["can_run"]
    assert all(way["can_run"] for way in told["alternatives"]["base"])
