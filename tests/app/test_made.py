"""What a visit has merged, and its cards: named, kept apart, brought back, packed, and following what is typed."""

from __future__ import annotations

import io
import re
import shlex
import zipfile
from pathlib import Path

import gradio as gr
import pytest

from fusehub.errors import FuseHubError
from fusehub.publishing.naming import suggested_name
from space.downloads import zipped
from space.render.published import published_html
from space.render.reproduce import propose_lines
from space.serve import build, close, new_frame
from space.setting import Setting
from space.steps.card import Draft, followed
from space.steps.made import made_html, pressed, rename, same_as
from space.steps.push import PRIVATE
from space.steps.telling import Telling, letters_of, tell
from space.visit import PUSH, Made, Picked
from space.visits import Visits
from space.workers.jobs import Jobs

WRITTEN = "---\nlicense: mit\n---\n# regmean\n\nOne model.\n\nmodel='regmean'\n\n## Limits\n\nLicense: mit."
NAMED = WRITTEN.replace("regmean", "ada/fused")


def test_a_card_follows_its_name_wherever_nobody_wrote_otherwise() -> None:
    assert followed(WRITTEN, WRITTEN, NAMED) == NAMED
    mine = WRITTEN.replace("One model.", "The best model.\nBy me.") + "\n\nA word of mine."
    assert (
        followed(mine, WRITTEN, NAMED)
        == NAMED.replace("One model.", "The best model.\nBy me.") + "\n\nA word of mine."
    )
    # A line that both change stays as the visitor wrote it, and the lines about it follow.
    titled = WRITTEN.replace("# regmean", "# Our model")
    assert followed(titled, WRITTEN, NAMED) == NAMED.replace("# ada/fused", "# Our model")
    scored = NAMED.replace("## Limits", "## Results\n\n| a | 1 |\n\n## Limits")
    assert followed(mine, WRITTEN, scored).count("| a | 1 |") == 1
    assert followed(mine, WRITTEN, WRITTEN) == mine


def test_what_a_page_still_shows_is_not_taken_for_the_visitors_own() -> None:
    draft = Draft("ada/fused")
    draft.write(WRITTEN)
    draft.write(NAMED)
    draft.take(WRITTEN)
    assert draft.text == NAMED
    draft.take(None)
    assert draft.text == NAMED, "a box that is not on the page says nothing"
    draft.take(NAMED + "\nMine.")
    draft.write(WRITTEN)
    assert draft.text == WRITTEN + "\nMine."
    # A page that still shows what it told before the name was changed does not take that back.
    draft.take(NAMED + "\nMine.")
    draft.write(WRITTEN)
    assert draft.text == WRITTEN + "\nMine."


@pytest.fixture
def visit():
    visits = Visits(Setting(shared=True, undo=60), Jobs(1, 1))
    visit = visits.open()
    visit.picks = [Picked(name, name, None, None, None, None, None, (), False, None) for name in ("ada/a", "ben/b")]
    for name, models in (("mean", ["ada/a", "ben/b"]), ("regmean", ["ada/a", "ben/b"]), ("other", ["ada/a", "c/c"])):
        folder = visit.new_folder(name)
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(name.encode() * 1000)
        asked = {"name": name, "out": str(folder), "models": models, "method": "mean", "base_model": None, "made": {}}
        asked |= {"statistics": {}}
        visit.merges[name] = Made(
            name, folder, "mean", "default options", (), asked=asked | {"weights": {}, "parameters": {}}
        )
    yield visit, visits
    visits.close()


def test_merges_of_other_models_stay_apart(visit) -> None:
    visit, _ = visit
    assert set(visit.merges_of_picks()) == {"mean", "regmean"}
    assert set(visit.all_models()) == {"ada/a", "ben/b", "mean", "regmean"}
    shown = made_html(visit, 60)
    these, _, others = shown.partition("1 merge of other models")
    assert these.count("ada/a, ben/b") == 2 and "ada/a, c/c" not in these and "ada/a, c/c" in others


def test_the_recipe_of_a_merge_names_no_folder_of_the_visit(visit) -> None:
    visit, _ = visit
    own = str(visit.merges["mean"].folder.parent / "statistics-0")
    made = visit.merges["mean"]
    made.asked |= {"statistics": {"ada/a": own, "ben/b": "ben/statistics"}, "made": {"ada/a": {"dataset": "ada/x"}}}
    made.recipe = f"models:\n- model: ada/a\n  statistics: {own}\n- model: ben/b\n  statistics: ben/statistics\n"
    shown = made_html(visit, 60)
    assert "statistics: statistics/a\n" in shown and "statistics: ben/statistics" in shown
    assert own not in shown and str(visit.folder) not in shown


def test_the_same_recipe_is_known_again_whatever_it_is_called(visit) -> None:
    visit, _ = visit
    asked = visit.merges["mean"].asked | {"name": "mean-2", "out": "elsewhere"}
    assert same_as(visit, asked) is visit.merges["mean"]
    assert same_as(visit, asked | {"weights": {"ada/a": 2.0}}) is None
    # An option at its default is the same as one that nobody named.
    assert same_as(visit, asked | {"method": "regmean", "parameters": {"alpha": 0.5}}) is None
    visit.merges["mean"].asked |= {"method": "regmean"}
    assert same_as(visit, asked | {"method": "regmean", "parameters": {"alpha": 0.9}}) is visit.merges["mean"]


def test_a_deleted_merge_comes_back_until_its_time_is_over(visit) -> None:
    visit, visits = visit
    visit.evaluation = {"scores": []}
    folder = visit.merges["mean"].folder
    visit.delete("mean")
    assert folder.exists() and "mean" not in visit.merges and visit.evaluation is None
    assert visits.merge_of(visit.deleted["mean"].made.secret) is None
    visit.restore("mean")
    assert visit.merges["mean"].folder == folder and visit.evaluation == {"scores": []}
    visit.delete("mean")
    deleted = visit.deleted["mean"].at
    visits.sweep(deleted + 59)
    assert folder.exists()
    visits.sweep(deleted + 61)
    assert not folder.exists() and not visit.deleted
    visit.delete("regmean")
    visit.purge("regmean")
    visit.restore("regmean")
    assert set(visit.merges) == {"other"}


def test_a_merge_is_renamed_with_its_folder_and_its_scores(visit) -> None:
    visit, _ = visit
    before = visit.merges["mean"].folder
    score = {"model": "mean", "model_id": str(before), "data": "mean"}
    gain = {"model": "mean", "against": "a", "data": "mean"}
    visit.evaluation = {"models": ["a", "mean"], "scores": [score], "mean": {"mean": 1.0}, "data": ["mean"]}
    visit.evaluation |= {"mean_intervals": {"mean": None}, "differences": [gain], "summary": ["mean lost"]}
    visit.cards["mean"] = card = Draft("ada/mean")
    visit.layers = {"mean": {"rows": []}}
    rename(visit, "mean", "best")
    made = visit.merges["best"]
    assert list(visit.merges) == ["best", "regmean", "other"], "each keeps its place"
    assert made.folder.name == "best" and (made.folder / "model.safetensors").exists() and not before.exists()
    assert visit.cards == {"best": card} and visit.layers == {"best": {"rows": []}}
    assert visit.evaluation["models"] == ["a", "best"] and visit.evaluation["mean"] == {"best": 1.0}
    told = {"model": "best", "model_id": str(made.folder), "data": "mean"}
    assert visit.evaluation["scores"] == [told] and visit.evaluation["data"] == ["mean"]
    assert visit.evaluation["differences"] == [gain | {"model": "best"}] and visit.evaluation["summary"] == []
    for wrong in ("", "../up", ".hidden", "a/b", "x" * 61, "a\nb"):
        with pytest.raises(FuseHubError, match="cannot be the name of a merge"):
            rename(visit, "best", wrong)
    visit.delete("other")
    for taken in ("regmean", "other"):
        with pytest.raises(FuseHubError, match="another merge called"):
            rename(visit, "best", taken)


def test_what_is_being_downloaded_is_neither_moved_nor_gone(visit) -> None:
    visit, visits = visit
    visit.delete("other")
    gone, kept = visit.deleted["other"], visit.merges["mean"].folder
    with visits.held(visit.key):
        for act, name in (("rename", "mean"), ("purge", "other")):
            with pytest.raises(FuseHubError, match="is being downloaded"):
                pressed(visit, act, name, "best")
        visits.sweep(gone.at + 61)
        assert kept.exists() and gone.made.folder.exists()
    pressed(visit, "rename", "mean", "best")
    visits.sweep(gone.at + 61)
    assert set(visit.merges) == {"best", "regmean"} and not gone.made.folder.exists()


def test_a_merge_is_found_by_its_own_secret_alone(visit) -> None:
    visit, visits = visit
    made = visit.merges["mean"]
    assert visits.merge_of(made.secret) == (visit, made)
    assert visits.merge_of(visit.key) is None and visits.merge_of("") is None
    visits.end(visit)
    assert visits.merge_of(made.secret) is None


def test_a_zip_is_sent_in_pieces_and_holds_every_byte(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(range(256)) * 20_000)
    pieces = list(zipped({"model.safetensors": weights, "parts/README.md": b"A card."}, "fused"))
    assert max(map(len, pieces)) < 1_200_000 < weights.stat().st_size, "the file is never in memory as a whole"
    with zipfile.ZipFile(io.BytesIO(b"".join(pieces))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["fused/model.safetensors", "fused/parts/README.md"]
        assert archive.read("fused/model.safetensors") == weights.read_bytes()


@pytest.mark.parametrize(
    ("experts", "method", "name"),
    [
        (["ada/minilm-films-sentiment", "ben/minilm-shops-sentiment@abc"], "regmean", "minilm-sentiment-regmean"),
        (["ada/one", "ben/two"], "task_arithmetic", "merged-task-arithmetic"),
        (["/home/x/Some Model!", "ada/some.other_model"], "mean", "some-model-mean"),
    ],
)
def test_a_name_is_suggested_by_what_all_experts_are_called(experts, method, name) -> None:
    assert suggested_name(experts, method) == name


def test_statistics_of_the_visit_can_be_proposed_to_the_owners() -> None:
    known = {"data": "carl/texts", "dataset": "carl/texts", "limit": 200, "fisher": False, "text_column": "review"}
    said = propose_lines({"made": {"ada/one": known}})
    assert shlex.split(said.replace("\\\n", "")) == shlex.split(
        "fusehub collect ada/one --data carl/texts --text-column review --limit 200 --publish --create-pr"
    )
    assert propose_lines({"made": {}}) == ""


def test_owners_of_the_models_can_be_told_of_a_merge_that_they_can_see(visit) -> None:
    visit, _ = visit
    made = visit.merges["mean"]
    made.asked["models"] = ["ada/a@1a2b", "hf://ben/b", "cam/base+cam/adapter", "/home/ada/model"]
    made.asked |= {"parameters": {}, "labels": {}, "statistics": {}, "heads": "auto"}
    visit.published = {
        "made": "mean", "repo_id": "ada/fused", "url": "https://hub/ada/fused", "commit": "1" * 40, "private": False,
        "pull_request_url": None, "demo_url": "https://hub/spaces/ada/fused-demo", "demo_needs_token": False,
        "asked": made.asked, "recipe": "merge_method: mean",
    }  # fmt: skip
    told = published_html(visit)
    assert 'href="https://hub/spaces/ada/fused-demo"' in told and "HF_TOKEN" not in told
    assert "fusehub publish merged ada/fused --no-private --demo" in told and "demo=True" in told
    assert re.findall(r'href="[^"]*/([\w-]+/[\w-]+)/discussions"', told) == [
        "ada/a",
        "ben/b",
        "cam/base",
        "cam/adapter",
    ]
    # Nobody writes to oneself, and each other owner has words that name the others' models.
    letters = letters_of(visit)
    assert list(letters) == ["ben/b", "cam/base", "cam/adapter"]
    assert "https://hub/ada/fused" in letters["ben/b"].text and "with ada/a, cam/base and" in letters["ben/b"].text
    visit.told = {"ben/b": "https://hub/ben/b/discussions/1"}
    assert 'href="https://hub/ben/b/discussions/1"' in published_html(visit)
    with pytest.raises(FuseHubError, match="told already"):
        tell(visit, None, "ben/b", "Hello", "Words")
    with pytest.raises(FuseHubError, match="No owner was chosen"):
        tell(visit, None, "somebody/else", "Hello", "Words")
    assert f'href="{made.address}/fusehub_recipe.yaml"' in told
    # Its address and how it is made stay when it is deleted here, and when another takes its name.
    visit.delete("mean")
    gone = published_html(visit)
    assert 'href="https://hub/ada/fused"' in gone and "fusehub publish merged ada/fused" in gone
    assert list(letters_of(visit)) == list(letters) and "download" not in gone and "fh-loud" not in gone
    visit.merges["mean"] = Made("mean", made.folder, "mean", "default options", (), asked=dict(made.asked))
    assert published_html(visit) == gone
    visit.restore("mean")
    visit.published["private"] = True
    visit.told = {}
    assert not letters_of(visit)
    assert "discussions" not in published_html(visit) and "opens for ada alone" in published_html(visit)


def test_a_box_that_the_page_has_not_filled_yet_takes_no_license_out_of_a_card() -> None:
    """Gradio tells of the name before the license is there; whoever edits the card by then would take it out."""
    frame = new_frame(Setting(shared=False))
    build(frame)
    try:
        visit = frame.visits.open("", "session")
        visit.pushing, visit.cards["mean"] = "mean", Draft("carl/fused", "mit", text="license: mit")
        assert frame.steps[PUSH]._follow(visit.key, "carl/fused", None, PRIVATE, None) == [gr.skip()] * 3
        assert (visit.cards["mean"].license, visit.cards["mean"].text) == ("mit", "license: mit")
    finally:
        close(frame)


def test_each_owner_is_offered_once_and_what_is_typed_to_one_stays(visit) -> None:
    visit, _ = visit
    visit.page = "the page"
    with gr.Blocks():
        telling = Telling()
    form, *rest = telling.show(visit)
    assert not form.visible and rest == [gr.skip()] * 3, "nothing was pushed"
    visit.published = {
        "made": "other", "repo_id": "carl/fused", "url": "https://hub/carl/fused", "private": False,
        "pull_request_url": None, "asked": visit.merges["other"].asked, "recipe": "",
    }  # fmt: skip
    form, whom, title, words = telling.show(visit)
    assert form.visible
    assert [value for _, value in whom.choices] == ["ada/a", "c/c"] and whom.value == "ada/a"
    assert title and "ada/a was merged with c/c" in words
    # Painted again, it leaves alone what is typed by now.
    assert telling.show(visit)[2:] == [gr.skip()] * 2
    visit.telling = (None, "c/c", "")
    form, whom, title, words = telling.show(visit)
    assert whom.value == "c/c" and "c/c was merged with ada/a" in words
    visit.told["c/c"] = "https://hub/c/c/discussions/1"
    form, whom, title, words = telling.show(visit)
    assert [value for _, value in whom.choices] == ["ada/a"] and "ada/a was merged" in words
    visit.told["ada/a"] = "https://hub/ada/a/discussions/1"
    assert not telling.show(visit)[0].visible
    # A pull request is its owner's to tell of.
    visit.told, visit.published["pull_request_url"] = {}, "https://hub/carl/fused/discussions/1"
    assert not telling.show(visit)[0].visible
