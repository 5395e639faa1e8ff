"""Recipes at the Hub: published alone, found again by name, and made into the same model."""

import json
from pathlib import Path

import pytest
from huggingface_hub import HfApi, ModelCard

from tests.unit.experts import relatives, with_statistics

RECIPE = "fusehub_recipe.yaml"


@pytest.fixture(scope="module")
def experts(ann, tmp_path_factory):
    """Two experts of ann's with statistics, at the Hub, and a merge of them by bob's hand."""
    parts = with_statistics(relatives(tmp_path_factory.mktemp("experts")))
    for part, name in zip(parts, ("films", "shops"), strict=True):
        (part / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\nHi\n")
        ann("publish", part, name, "--no-private", "--allow-few-rows")
    return ["ann/films", "ann/shops"]


@pytest.fixture(scope="module")
def merged(experts, bob, tmp_path_factory):
    folder = tmp_path_factory.mktemp("merged") / "merged"
    bob("merge", *experts, "--method", "regmean", "--param", "alpha=0.7", "--weight", "ann/shops=0.5", "--out", folder)
    return folder


def files_of(folder):
    """All but the report, which calls models as they were named: here without a commit, in the recipe with it."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "fusehub_report.json"}


def test_a_recipe_alone_makes_the_same_bytes_for_whoever_has_its_name(
    hub, ann, bob, experts, merged, tmp_path
) -> None:
    told = bob.json("publish", merged, "by-recipe", "--recipe-only", "--no-private")
    assert told["repo_id"] == "bob/by-recipe" and not told["private"]
    api = HfApi(endpoint=hub.url, token=hub.token("bob"))
    assert set(api.list_repo_files("bob/by-recipe")) == {".gitattributes", "README.md", RECIPE}
    ann("merge", "bob/by-recipe", "--out", tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(merged)
    found = ann.python(
        f"import fusehub; print(fusehub.merge('bob/by-recipe@main', {str(tmp_path / 'python')!r}).plan.method.name)"
    )
    assert found.strip() == "regmean" and files_of(tmp_path / "python") == files_of(merged)
    # What is said beside it holds, as beside a recipe's file; and a merge that was published has its recipe, too.
    plan = ann.json("merge", "bob/by-recipe", "--param", "alpha=0.5", "--dry-run")
    assert plan["options"]["alpha"] == 0.5
    bob("publish", merged, "whole", "--no-private")
    ann("merge", f"{hub.url}/bob/whole", "--out", tmp_path / "whole")
    assert files_of(tmp_path / "whole") == files_of(merged)

    card = ModelCard.load(api.hf_hub_download("bob/by-recipe", "README.md", local_dir=tmp_path / "card"))
    assert card.data.base_model == experts and card.data.base_model_relation == "merge" and not card.data.license
    assert {"fusehub-recipe", "regmean"} <= set(card.data.tags) and not card.data.pipeline_tag
    assert "fusehub merge bob/by-recipe --out merged" in card.text and "cc-by-nc-4.0" in card.text
    assert not [model for model in ann.json("find", "by-recipe")["models"] if model["id"] == "bob/by-recipe"]


def test_a_recipe_is_replaced_where_that_was_said_and_nothing_else_is(hub, bob, merged) -> None:
    bob("publish", merged, "replaced", "--recipe-only")
    assert "exists already" in bob.fails("publish", merged, "replaced", "--recipe-only")[0]
    bob("publish", merged, "replaced", "--recipe-only", "--exist-ok", "--commit-message", "Again")
    bob("publish", merged, "a-model")
    what, _ = bob.fails("publish", merged, "a-model", "--recipe-only", "--exist-ok")
    assert "is no repo of a recipe alone" in what
    code, said = bob.outcome("publish", merged, "x", "--recipe-only", "--create-pr")
    assert code == 2 and "--create-pr" in said


def test_what_nobody_else_has_is_no_part_of_a_recipe(ann, bob, experts, merged, tmp_path) -> None:
    parts = relatives(tmp_path / "here")
    bob("merge", *parts, "--method", "mean", "--out", tmp_path / "local")
    what, fix = bob.fails("publish", tmp_path / "local", "no", "--recipe-only")
    assert "on this machine alone" in what and "Publish that first" in fix and str(tmp_path) not in what
    assert "no finished merge" in bob.fails("publish", parts[0], "no", "--recipe-only")[0]
    # Private models' names are shown to those alone who asked for that.
    ann("publish", parts[0], "hidden")
    ann("merge", "ann/hidden", "ann/films", "--method", "mean", "--out", tmp_path / "hidden")
    what, _ = ann.fails("publish", tmp_path / "hidden", "told", "--recipe-only", "--no-private")
    assert "names of what is private: hidden" in what
    ann("publish", tmp_path / "hidden", "told", "--recipe-only", "--no-private", "--allow-restricted")
    assert "does not exist" in bob.fails("merge", "ann/told", "--out", tmp_path / "out")[0]


def test_a_stranger_is_told_what_statistics_were_made_of_that_only_the_author_has(
    hub, ann, bob, experts, tmp_path
) -> None:
    """Of folders that are called alike, too: each by its expert. Whoever makes them again gets the same bytes."""
    for name, rows in (("films", 30), ("shops", 20)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "texts.txt").write_text(f"a good {name[:-1]}\n" * rows)
        ann("collect", f"ann/{name}", "--data", tmp_path / name / "texts.txt", "--out", tmp_path / name / "sums")
    said = [word for name in experts for word in ("--statistics", f"{name}={tmp_path / name[4:] / 'sums'}")]
    ann("merge", *experts, "--method", "regmean", *said, "--out", tmp_path / "merged")
    ann("publish", tmp_path / "merged", "of-own-sums", "--no-private")
    what, fix = bob.fails("merge", "ann/of-own-sums", "--out", tmp_path / "out")
    assert "not on the Hub: films-sums, shops-sums" in what and f"hf download ann/of-own-sums {RECIPE}" in fix
    api = HfApi(endpoint=hub.url, token=hub.token("bob"))
    text = Path(api.hf_hub_download("ann/of-own-sums", RECIPE, local_dir=tmp_path / "bob")).read_text()
    lines = text.splitlines()
    assert lines[0] == "# Not on the Hub, but of whoever made the merge. Put paths in for them first."
    for line, (name, rows) in zip(lines[1:3], (("films", 30), ("shops", 20)), strict=True):
        assert line.startswith(f"# - {name}-sums: statistics of ann/{name}, made of {rows} texts of texts.txt (sha256")
    assert lines[3] == "merge_method: regmean" and str(tmp_path) not in text
    card = ModelCard.load(api.hf_hub_download("ann/of-own-sums", "README.md", local_dir=tmp_path / "card"))
    assert "folders of whoever made the merge: films-sums and shops-sums." in card.text
    # Bob has the texts, and does what the recipe says.
    for name in ("films", "shops"):
        bob("collect", f"ann/{name}", "--data", tmp_path / name / "texts.txt", "--out", tmp_path / "bob" / name)
        text = text.replace(f"statistics: {name}-sums", f"statistics: {tmp_path / 'bob' / name}")
    (tmp_path / "bob" / RECIPE).write_text(text)
    bob("merge", tmp_path / "bob" / RECIPE, "--out", tmp_path / "again")
    weights = "model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (tmp_path / "merged" / weights).read_bytes()


def test_what_a_strangers_recipe_says_leads_nowhere_on_this_machine(hub, ann, bob, experts, tmp_path) -> None:
    api = HfApi(endpoint=hub.url, token=hub.token("ann"))
    own = relatives(tmp_path / "own")
    (tmp_path / "texts.csv").write_text("text\nsecret\n")
    bad = {
        "model": {"models": [{"model": str(own[0])}, {"model": experts[0]}]},
        "base": {"models": [{"model": name} for name in experts], "base_model": str(own[1])},
        "statistics": {"models": [{"model": experts[0], "statistics": str(own[0])}, {"model": experts[1]}]},
        "data": {"models": [{"model": experts[0], "data": str(tmp_path / "texts.csv")}, {"model": experts[1]}]},
    }
    for name, said in bad.items():
        api.create_repo(f"ann/bad-{name}", exist_ok=True)
        text = json.dumps({"merge_method": "mean", **said}).encode()
        api.upload_file(repo_id=f"ann/bad-{name}", path_in_repo=RECIPE, path_or_fileobj=text)
        what, fix = bob.fails("merge", f"ann/bad-{name}", "--out", tmp_path / "out")
        assert "lies on a machine" in what and RECIPE in fix, name
    assert "has no recipe" in bob.fails("merge", experts[0], "--out", tmp_path / "out")[0]
    assert "does not exist" in bob.fails("merge", "ann/nothing", "--out", tmp_path / "out")[0]
    assert not (tmp_path / "out").exists()
