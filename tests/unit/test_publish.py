"""Pushes to a real server by the unmodified client, and what lies there afterwards."""

import json
import subprocess
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from fusehub.collecting.collect import collect
from fusehub.localhub import running
from fusehub.merging.merge import merge
from tests.unit.experts import recipe_of, relatives, text_file, texts_of
from tests.unit.publish_scripts import EXPERTS, FAILING, FUSE, PRELUDE, REFUSED, bad_line
from tests.warm import python

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with running(tmp_path_factory.mktemp("hub")) as server:
        for name in ("ann", "bob", "cat", "dan"):
            server.add_user(name)
        yield server
    assert (server.root / "server.log").read_text() == ""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Two experts, statistics of both, and merges of them, all local."""
    folder = tmp_path_factory.mktemp("work")
    parts = relatives(folder)
    for number, part in enumerate(parts):
        data = text_file(folder, number, texts_of(number, count=110))
        collect(str(part), data, part / "fusehub" if number == 0 else folder / "statistics-1").close()
    collect(str(parts[0]), text_file(folder, 9, texts_of(0, count=9)), folder / "few").close()
    merge(recipe_of(parts, "mean"), folder / "local")
    merge(recipe_of(parts, "mean"), folder / "shards", max_shard_size=20_000)
    other = relatives(folder / "other", labels=(["good", "bad"], ["sport", "news", "art"]))
    merge(recipe_of(other, "mean", heads="keep"), folder / "kept")
    return folder


@pytest.fixture(scope="module")
def script(hub, work, tmp_path_factory):
    """Runs a script in a process of its own as `user` (None: nobody), and gives back what it told."""

    def run(code, user, token=None, **more):
        env = hub.env(user, home=tmp_path_factory.mktemp("home")) | more
        env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        env |= {"HF_TOKEN": token} if token else {}
        env = {
            key: value
            for key, value in env.items()
            if key != "HF_HUB_OFFLINE" and (user or token or key != "HF_TOKEN")
        }
        done = subprocess.run(
            [*python(), "-c", f"{PRELUDE}\n{code}\nprint(json.dumps(told))", str(work)],
            env=env, capture_output=True, text=True, timeout=300, cwd=work,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert env.get("HF_TOKEN") is None or env["HF_TOKEN"] not in done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="module")
def ann(script):
    return script(EXPERTS, "ann")


@pytest.fixture(scope="module")
def bob(ann, script):
    return script(FUSE, "bob")


@pytest.fixture(scope="module")
def cat(script):
    return script(REFUSED, "cat")


# --- experts and their statistics ------------------------------------------------------------------------------------


def test_an_expert_is_pushed_with_its_card_and_without_what_training_left(ann):
    own = ["README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    statistics = ["fusehub/statistics.json", "fusehub/statistics.safetensors"]
    assert ann["files 0"] == ann["files 1"] == sorted([".gitattributes", *own, *statistics])
    assert not ann["expert-0"]["private"] and ann["expert-0"]["repo_id"] == "ann/expert-0"


def test_statistics_add_nothing_else_to_the_model(ann):
    assert ann["own statistics"]["repo_id"] == "ann/expert-1"
    assert ann["card 1"].endswith("---\nHi\n"), "the card is the owner's"


def test_an_earlier_version_is_replaced_in_one_commit(ann):
    assert ann["commits"] == 1
    own = ["fusehub/statistics.json", "fusehub/statistics.safetensors"]
    assert ann["files after"] == sorted(["fusehub/notes.txt", *own])


def test_statistics_that_are_of_other_weights_or_too_few_texts_are_refused(ann):
    assert ann["other weights"][0] == "BadStatistics" and "other weights" in ann["other weights"][1]
    assert ann["few rows"][0] == "BadStatistics" and "--allow-few-rows" in ann["few rows"][2]
    assert "of few rows (bert.pooler.dense.weight: 9 rows, classifier.weight: 9," in ann["few rows"][1]
    assert ann["no model"][0] == "NotFound" and "Publish the model first" in ann["no model"][2]
    assert ann["no statistics"][0] == "NotFound"


def test_statistics_go_to_others_as_a_request_or_beside_the_model(bob, hub):
    assert bob["not my model"][0] == "AccessDenied" and "--create-pr" in bob["not my model"][2]
    url, main, request = bob["statistics request"]
    assert url == f"{hub.url}/ann/expert-2/discussions/1"
    assert set(request) - set(main) == {"fusehub/statistics.json", "fusehub/statistics.safetensors"}
    assert bob["companion"]["repo_id"] == "bob/stats-1" and not bob["companion"]["private"]
    assert bob["companion files"] == [
        ".gitattributes",
        "README.md",
        "fusehub/statistics.json",
        "fusehub/statistics.safetensors",
    ]
    card = ModelCard(bob["companion card"])
    assert card.data.base_model == ["ann/expert-1"] and "fusehub-statistics" in card.data.tags
    assert bob["companion again"] == bob["companion"]["commit"], "the same again is no new commit"
    assert bob["companion taken"][0] == "OutputExists" and "bob/mine" in bob["companion taken"][1]


# --- a merge ---------------------------------------------------------------------------------------------------------


def test_a_merge_is_private_and_answers_the_same_from_the_hub(bob, hub):
    assert bob["private"] and bob["published"]["private"]
    assert bob["published"]["url"] == f"{hub.url}/bob/fused"
    assert bob["same"] and bob["untouched"]
    assert bob["commits"][0].startswith("Merge of expert-0 and expert-1 by regmean (FuseHub ")
    assert len(bob["commits"]) == 2, "the empty repo, and everything at once"
    assert bob["files"] == [
        ".gitattributes",
        "README.md",
        "config.json",
        "fusehub_recipe.yaml",
        "fusehub_report.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_the_card_of_a_merge_from_the_hub(bob, ann, hub):
    card = ModelCard(bob["card"])
    value = round(bob["mean"], 4)
    metrics = [
        {"type": "accuracy", "value": value, "name": "Accuracy"},
        {"type": "f1", "value": value, "name": "F1 (macro)", "args": {"average": "macro"}},
    ]
    found = card.data.to_dict()
    index = found.pop("model-index")
    assert index[0]["name"] == "fused" and index[0]["results"][0]["metrics"][0] == metrics[0]
    assert found == {
        "license": "mit",
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "base_model": ["ann/expert-0", "ann/expert-1"],
        "base_model_relation": "merge",
        "language": ["en"],
        "datasets": ["ann/texts-0", "ann/texts-1"],
        "tags": ["merge", "fusehub", "regmean"],
    }
    assert {"base_model:merge:ann/expert-0", "base_model:merge:ann/expert-1", "license:mit"} <= set(bob["tags"])
    commits = [ann["expert-0"]["commit"], ann["own statistics"]["commit"]]
    for number, commit in enumerate(commits):
        page = f"{hub.url}/ann/expert-{number}/tree/{commit}"
        assert f"| [ann/expert-{number}]({page}) | 1 | " in card.text
        assert f"| [its own repo]({page}/fusehub): 11{3 * number} texts" in card.text
        assert f"- model: ann/expert-{number}@{commit}" in card.text
    assert "hf download bob/fused fusehub_recipe.yaml" in card.text
    assert "Not on the Hub" not in card.text and "/tmp" not in card.text


def test_a_taken_name_is_refused_and_left_as_it_is(bob):
    assert bob["taken"][0] == "OutputExists" and "bob/fused exists already" in bob["taken"][1]
    assert bob["taken, mine"][0] == "OutputExists" and bob["taken, untouched"]
    assert bob["kept"] == "keep me" and bob["added files"] == sorted([*bob["files"], "notes.txt"])


def test_a_pull_request_leaves_the_repo_as_it_is(bob, hub):
    assert bob["request"]["pull_request_url"] == f"{hub.url}/ann/expert-0/discussions/1"
    assert bob["request left main"] and "fusehub_recipe.yaml" in bob["request files"]
    assert bob["no such repo"][0] == "NotFound" and "ann/none" in bob["no such repo"][1]


def test_a_branch_is_made_where_it_is_not_there_and_the_main_one_stays(bob, hub):
    commit, title, description, on_main = bob["branch commit"]
    assert bob["branch"]["commit"] == commit and on_main and bob["branch left main"]
    assert (title, description) == ("By hand", "And why.")
    assert bob["branch"]["url"] == bob["branch again"] == f"{hub.url}/bob/mine/tree/next"
    assert bob["branch, new repo"] == f"{hub.url}/bob/branched/tree/first"
    main, branch = bob["branch, new repo, files"]
    assert "model.safetensors" in branch and "model.safetensors" not in main
    assert bob["no such branch"][0] == "NotFound" and "no branch nowhere" in bob["no such branch"][1]
    assert bob["a commit"][0] == "NotFound" and "Name a branch" in bob["a commit"][2]


def test_old_names_of_parameters_work_and_say_so(bob):
    private, warned = bob["old words"]
    assert private is False and bob["old request"]
    assert [kind for kind, *_ in warned] == ["FutureWarning"] * 2
    assert "private=False" in warned[0][1] and "create_pr=True" in warned[1][1]
    assert {place for *_, place in warned} == {"<string>"}  # The line that says them.
    assert "got public, which is called private now" in bob["both words"]


def test_results_are_pushed_as_their_folders_are(bob, hub):
    assert bob["push"]["url"] == f"{hub.url}/bob/pushed" and not bob["push"]["private"]
    assert {"README.md", "model.safetensors", "fusehub_recipe.yaml"} <= set(bob["push files"])
    assert bob["push tuned"] == [True, True]
    assert bob["push statistics"]["repo_id"] == "bob/stats-2"
    assert bob["push statistics, own"][0] in ("AccessDenied", "NotFound")


def test_a_repo_of_somebody_else_is_refused(bob):
    assert bob["not mine"][0] == bob["not mine, new"][0] == "AccessDenied"
    assert "--create-pr" in bob["not mine"][2]
    assert bob["no such name"][0] == "NotFound" and "not the name of a repo" in bob["no such name"][1]


# --- what must not be pushed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "kind", "words"),
    [
        ("missing", "BadFile", "lacks classifier.weight"),
        ("extra", "BadFile", "has left over more.weight"),
        ("shape", "BadFile", "has in other shapes classifier.weight"),
        ("nan", "NonFinite", "NaN"),
        ("changed", "BadFile", "not what the merge wrote"),
        ("gone", "NotFound", "lacks model.safetensors"),
        ("cut", "BadFile", "is truncated or corrupt"),
        ("half tensors", "NotFound", "no statistics.json in"),
        ("half metadata", "NotFound", "no statistics in"),
        ("no tokenizer", "NotFound", "no tokenizer"),
        ("empty", "NotFound", "no config.json"),
        ("unfinished", "NotFound", "no finished model"),
        ("bad card", "BadData", '"license" must be a string'),
        ("no yaml", "BadData", "is not YAML"),
        ("no derivatives", "LicenseForbids", "expert-1 is under cc-by-nd-4.0"),
        ("loosened", "LicenseForbids", "says apache-2.0, and what went into the merge asks for more: cc-by-nc-4.0"),
        ("loosened by hand", "LicenseForbids", "The card says mit"),
        ("license lost", "BadData", "license would be lost"),
        ("conflict, public", "LicenseForbids", "expert-0 is under gpl-3.0 and expert-1 under cc-by-nc-4.0"),
        ("gated, public", "AccessDenied", "expert-0 and expert-1 are gated or private"),
        ("gated, into public", "AccessDenied", "open to everyone"),
        ("results lost", "BadData", "results would be lost"),
        ("shadowed", "OutputExists", "would be loaded instead"),
        ("kept broken", "BadFile", "not complete"),
    ],
)
def test_what_is_broken_or_not_allowed_is_told_before_anything_is_made(cat, case, kind, words):
    assert cat[case][0] == kind and words in cat[case][1], cat[case]
    assert cat[case][2]


def test_nothing_was_made_for_what_was_refused(cat):
    assert cat["repos"] == ["cat/open"] and not cat["kept broken repo"]


def test_what_is_allowed_is_pushed_and_private_is_no_trouble(cat):
    assert cat["forced"]["private"] and cat["gated, private"]["private"] and cat["conflict, private"]["private"]
    assert not cat["conflict, allowed"]["private"]


def test_a_card_says_that_its_licenses_do_not_go_together_and_claims_none(cat):
    front, _, text = cat["conflict, its card"].removeprefix("---").partition("---")
    assert "license:" not in front
    assert "No license allows to share this merge: expert-0 is under gpl-3.0 and expert-1 under cc-by-nc-4.0" in text


def test_a_card_of_ones_own_is_kept(cat):
    assert cat["my words"] == "---\nlicense: mit\n---\nMy words.\n"
    assert "more/plot.txt" in cat["my files"] and ".hidden" not in cat["my files"]


def test_what_is_published_names_no_folder_of_this_machine(cat, work):
    assert str(work) in (work / "mine" / "fusehub_report.json").read_text()
    for name in ("report", "recipe"):
        assert str(work) not in cat[name] and "expert-0" in cat[name]


def test_heads_that_were_kept_are_loadable_from_the_hub(cat):
    assert {"expert-0/config.json", "expert-1/head.safetensors", "fusehub_report.json"} <= set(cat["kept files"])
    assert cat["kept labels"] == [["good", "bad"], ["sport", "news", "art"]]


def test_a_push_that_fails_takes_back_only_what_it_made(script, hub):
    with bad_line(hub) as address:
        dan = script(FAILING, "dan", HF_ENDPOINT=address)
    assert dan["cut"][0] == "Offline" and not dan["cut repo"]
    assert dan["old"][0] == "Offline" and dan["old repo"], "this one was there before"
    assert dan["late"][0] == "OutputExists" and "Somebody else changed dan/late" in dan["late"][1]
    assert "theirs.txt" in dan["late files"], "it is not empty any more"
    assert dan["different"][0] == "BadFile" and "arrived differently" in dan["different"][1]


@pytest.mark.parametrize(
    ("token", "words"), [("none", "there is none"), ("read", "can only read"), ("wrong", "does not accept your token")]
)
def test_without_a_token_that_can_write(script, hub, token, words):
    given = {"none": None, "read": hub.token("ann", "read"), "wrong": "hf_" + "x" * 34}[token]
    told = script('tell("error", fails(lambda: publish(work / "local", "ann/locked")))', None, given)
    assert told["error"][0] == "AccessDenied" and words in told["error"][1]
    assert "token" in told["error"][2].lower() or "hf auth login" in told["error"][2]
