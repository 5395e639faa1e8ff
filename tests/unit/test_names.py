"""Names that people give to folders, and tokens as they come out of files, mean what they say everywhere."""

import shlex
import shutil

import pytest
import typer

from fusehub.cli.console import pairs
from fusehub.merging.recipe import Recipe
from tests.unit.test_cli import run


@pytest.mark.parametrize("name", ["lr=2e-5", "a@b", "a+b", "50 % ü", "x=y@z+1 2"])
def test_a_folder_is_merged_whatever_its_name(experts, tmp_path, monkeypatch, name):
    """Its weight, statistics and labels are its own, and what is said to be done next can be pasted."""
    first, second = experts()
    monkeypatch.chdir(tmp_path)
    shutil.copytree(first, name)
    options = ["--weight", f"{name}=2", "--statistics", f"{name}={first}", "--labels", f"{name}=negative,positive"]
    code, _, said = run("merge", name, second, *options, "--statistics", f"{second}={second}", "--out", "merged it")
    assert code == 0, said
    recipe = Recipe.read("merged it/fusehub_recipe.yaml")
    assert recipe.models[0].model == name
    assert recipe.models[0].parameters["weight"] == 2
    assert recipe.models[0].labels == ("negative", "positive")
    line = next(line for line in said.splitlines() if "fusehub compare" in line)
    assert shlex.split(line.removeprefix("next:"))[2:5] == [name, str(second), "merged it"]


def test_names_with_an_equals_sign_are_split_where_a_known_one_ends():
    known = ["a", "a=b", "c"]
    assert pairs(["a=b=1", "c=d=e", "a=2"], "--weight", known) == {"a=b": "1", "c": "d=e", "a": "2"}
    assert pairs(["films=user/a=b.csv"], "--data") == {"films": "user/a=b.csv"}
    for wrong in ("a", "=1", "a=b="):
        with pytest.raises(typer.BadParameter, match="NAME=VALUE"):
            pairs([wrong], "--weight", known)


def test_an_empty_token_is_none_and_spaces_around_one_are_cut_off(ann):
    said = ann.python(
        "import fusehub\n"
        "from huggingface_hub import get_token\n"
        "from fusehub.errors import FuseHubError\n"
        "for token in (None, '', ' \\n', f' {get_token()}\\n'):\n"
        "    for ask in (lambda: fusehub.check(['ann/a', 'ann/b'], token=token),\n"
        "                lambda: fusehub.collect('ann/a', 'ann/d', 'out', token=token)):\n"
        "        try: ask()\n"
        "        except FuseHubError as error: print(type(error).__name__)\n"
    )
    assert said.split() == ["NotFound"] * 8
