"""Whole visits in a real browser: what a visitor sees and gets, and what ends up on the Hub."""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
import zipfile
from pathlib import Path

import httpx
from huggingface_hub import HfApi, snapshot_download
from playwright.sync_api import expect

from fusehub.comparing.predictor import predict
from tests import warm
from tests.app.conftest import DATASET, ENTITIES, ROOT, SENTIMENT, SLOW
from tests.app.steps import collect_file, compare, example, go, grave_faults, merge, pick, push, sticks_out


def test_a_sentiment_visit_ends_with_a_repo_that_predicts(visitor, app, hub, tmp_path) -> None:
    """From the example to the Hub on a phone; every step fits the window and axe-core finds nothing grave in it.

    So it is for whoever is at the same step in a wide window and in the light.
    """
    page = visitor(width=360, dark=True)
    faults, wide = {}, {}

    def look(step: str) -> None:
        for width, scheme in ((1100, "light"), (360, "dark")):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)
            page.wait_for_function("dark => document.body.classList.contains('dark') === dark", arg=scheme == "dark")
            page.wait_for_timeout(300)
            faults[step, scheme], wide[step, scheme] = grave_faults(page), sticks_out(page)

    check, begin = page.get_by_role("button", name="Check these models"), page.locator("#example")
    # The loud button is the one that can be pressed next; the picture's words can be read on a phone.
    assert [_is_loud(check), _is_loud(begin)] == [False, True]
    words = page.locator(".fh-picture text").evaluate_all("all => all.map((e) => e.getBoundingClientRect().height)")
    assert min(words) > 11
    look("nothing picked")
    found = page.get_by_role("list", name="Models found").get_by_role("article").filter(has_text=SENTIMENT[0])
    sizes = [_size(found)]
    example(page)
    sizes.append(_size(page.get_by_role("list", name="Your models").get_by_role("article").first))
    assert len({unit for _, unit in sizes}) == 1, "before and after it is picked, in the same unit"
    numbers = page.locator(".fh-nav .fh-step").evaluate_all(
        "all => all.map((one) => one.getBoundingClientRect().width)"
    )
    assert len(numbers) == 6 and min(numbers) > 4, "on a phone the steps have their numbers"
    page.locator(".fh-picture").wait_for(state="hidden")
    assert _is_loud(check) and not begin.is_visible(), "what is picked is the example"
    look("pick")
    page.get_by_role("button", name="Check these models").click()
    page.get_by_text("What a merge will take").wait_for()
    look("check")
    page.get_by_role("button", name="Go on to statistics").click()
    page.get_by_text("All statistics are there").wait_for()
    look("statistics")
    go(page, "Merge")
    does, leads = page.locator("#merge"), page.get_by_role("button", name="Compare the results")
    does.wait_for()
    assert [_is_loud(does), _is_loud(leads)] == [True, False]
    options = page.locator("#step-merge").get_by_role("button", name=": options")
    assert [one.split(":")[0] for one in options.all_inner_texts()] == ["RegMean", "Mean of the weights"]
    merge(page)
    assert [_is_loud(does), _is_loud(leads)] == [False, True], "what comes next is loud"
    packed = _manage(page, app)
    look("merge")
    go(page, "Compare")
    does, leads = page.locator("#compare"), page.get_by_role("button", name="Push a result")
    assert [_is_loud(does), _is_loud(leads)] == [True, False]
    assert not _is_loud(page.locator("#score")), "one thing is loud"
    compare(page, "a very good film", "an awful bad plot", "music was fine")
    assert [_is_loud(does), _is_loud(leads)] == [False, True]
    with page.expect_file_chooser() as chosen:
        page.get_by_role("button", name="Add files with texts and labels").click()
    chosen.value.set_files(_labelled(tmp_path))
    page.get_by_role("list", name="Files to score on").get_by_text("domain.csv").wait_for()
    page.locator("#score").click()
    page.get_by_role("list", name="What the numbers mean").wait_for()
    assert page.get_by_role("rowheader", name="regmean").count() == 1
    # Where the file was given, and above its scores.
    page.get_by_text("labels are matched by number: 1 = positive, 0 = negative").nth(1).wait_for()
    page.locator("#layers").click()
    page.get_by_role("img", name="Change layer by layer").first.wait_for()
    assert (
        page.locator(".fh-plot text").evaluate_all(
            "all => all.filter(one => one.getBoundingClientRect().left <"
            " one.ownerSVGElement.getBoundingClientRect().left)"
            ".map(one => one.textContent)"
        )
        == []
    ), "no number is cut off"
    look("compare")
    # Beside the longest label a name has room for its words.
    names = page.locator(".fh-table .fh-name:visible, .fh-answers .fh-name:visible")
    assert min(names.evaluate_all("all => all.map((one) => one.parentElement.clientWidth)")) > 80
    repo = "carl/merged-sentiment"
    go(page, "Push")
    page.get_by_role("button", name="Model card").click()
    page.get_by_role("tab", name="Edit").click()
    card = page.locator("#push-card textarea")
    card.fill(card.input_value() + "\n\nA word of mine.\n")
    page.locator("#push-license").get_by_role("textbox").fill("mit")
    page.get_by_role("tab", name="Preview").click()
    page.locator("#preview").get_by_text("A word of mine.").wait_for()
    page.get_by_label("With a demonstration").check()
    push(page, repo, hub.token("carl"))
    page.get_by_role("heading", name="The model is on the Hub").wait_for()
    page.get_by_role("link", name=f"{hub.url}/spaces/{repo}-demo").first.wait_for()
    page.get_by_text("give it a secret called HF_TOKEN").wait_for()
    page.locator("#preview").get_by_role("heading", name="merged-sentiment").wait_for()
    page.locator("#push-token input").fill(hub.token("carl"))
    page.get_by_role("button", name="Publish the recipe only").click()
    page.get_by_role("heading", name="The recipe is on the Hub").wait_for()
    page.get_by_text(f"fusehub merge {repo}-recipe --out merged").wait_for()
    look("push")
    _read_card(page)
    page.get_by_role("tab", name="Edit").click()
    shown = card.input_value()
    assert faults == {step: [] for step in faults}
    assert not any(wide.values()), wide

    api = HfApi(endpoint=hub.url, token=hub.token("carl"))
    assert api.model_info(repo).private
    alone = api.model_info(f"{repo}-recipe")
    assert alone.private and "fusehub-recipe" in alone.tags
    space = api.space_info(f"{repo}-demo")
    assert space.private and space.card_data.license == "mit" and space.card_data.get("models") == [repo]
    folder = snapshot_download(repo, endpoint=hub.url, token=hub.token("carl"), cache_dir=tmp_path / "cache")
    assert predict(folder, ["a very good film"]).labels == ["negative", "positive"]
    said = Path(folder, "README.md").read_text()
    assert Path(folder, "README.md").read_bytes() == shown.encode(), "what is pushed is what the page shows"
    assert f'model="{repo}"' in said and "\n# merged-sentiment\n" in said and "\n- name: merged-sentiment\n" in said
    assert "\nlicense: mit\n" in said and "A word of mine." in said and 'model="regmean' not in said
    assert "fusehub-visits" not in said
    # The zip has the same, but for the card, which was another one then.
    for path in ("model.safetensors", "fusehub_recipe.yaml", "fusehub_report.json", "tokenizer.json"):
        assert packed.read(f"regmean/{path}") == Path(folder, path).read_bytes()
    assert b"nothing was trained" in packed.read("regmean/README.md")


def test_an_entities_visit_makes_the_statistics_that_are_missing(visitor) -> None:
    page = visitor(dark=True)
    pick(page, *ENTITIES)
    go(page, "Statistics")
    page.get_by_text("1 model has no statistics yet").wait_for()
    page.get_by_label("Texts that I paste").check()
    page.locator("#statistics-texts textarea").fill(
        "Anna visited Paris .\nBruno lives in London .\nthe music was good"
    )
    page.locator("#make-statistics").click()
    page.get_by_text("made in this visit").wait_for()
    page.get_by_text("are of 3 texts: a merge by them follows these texts").wait_for()
    assert "3 pasted texts" in page.get_by_role("list", name="Statistics of each model").inner_text()
    # Of two taggers the mean is recommended, as RegMean was not better in our tests.
    merge(page, "RegMean")
    go(page, "Compare")
    page.get_by_text("each merged model marks the entities in every text").wait_for()
    page.get_by_role("button", name="Add files with words and the label of each").wait_for()
    compare(page, "Anna works for Acme Corp in Paris")
    models = page.locator(".fh-answers .fh-name").all_inner_texts()
    expected = {"films-entities", "shops-entities", "ensemble", "mean", "regmean"}
    assert set(models) == expected
    assert grave_faults(page) == []


def test_comparisons_are_downloaded_as_they_are_shown(visitor) -> None:
    page = visitor()
    example(page)
    go(page, "Compare")
    # There is something to begin with, for models of this task; what is typed in its place stays.
    texts = page.locator("#texts textarea")
    assert len(texts.input_value().splitlines()) == 3
    texts.fill("an own text")
    go(page, "Merge")
    go(page, "Compare")
    page.wait_for_timeout(500)
    assert texts.input_value() == "an own text"
    compare(page, "a very good film", "<b>bold</b> & sad")
    assert page.locator(".fh-text b").count() == 0
    with page.expect_download() as saved:
        page.get_by_role("link", name="Download as CSV").first.click()
    rows = list(csv.DictReader(io.StringIO(saved.value.path().read_text())))
    assert [row["text"] for row in rows] == ["a very good film"] * 3 + ["<b>bold</b> & sad"] * 3
    assert {row["model"] for row in rows} == {"films-sentiment", "shops-sentiment", "ensemble"}
    differing = len({row["text"] for row in rows if row["differs"] == "True"})
    page.get_by_label("Only where the models disagree").check()
    expect(page.locator("#step-compare tbody").first.get_by_role("row")).to_have_count(differing, timeout=180_000)


def test_work_is_found_again_after_a_reload_and_can_be_cancelled(visitor, app, many_texts) -> None:
    page = visitor()
    pick(page, *SLOW)
    before = set(app.temporary.rglob("statistics.safetensors"))
    collect_file(page, many_texts)
    work = page.get_by_role("region", name="Work that goes on")
    # How far the whole is, and how long it will still take.
    work.get_by_text("left").wait_for()
    assert grave_faults(page) == [], "while work goes on"
    # Where the eye is, however long the page.
    page.evaluate("window.scrollTo(0, 0)")
    place = work.bounding_box()
    assert page.evaluate("document.documentElement.scrollHeight") > 900 >= place["y"] + place["height"] > 600
    page.reload()
    work.get_by_text("left").wait_for()
    bar = work.get_by_role("progressbar")
    assert float(bar.get_attribute("aria-valuenow")) < 100
    drawn = bar.evaluate(
        "bar => [bar, bar.firstElementChild].map((one) => [one.getBoundingClientRect().width, "
        "getComputedStyle(one).backgroundColor])"
    )
    assert drawn[1][0] < drawn[0][0] and drawn[0][1] != drawn[1][1], "of what is done, and not a full block"
    work.get_by_role("button", name="Cancel").click()
    page.get_by_text("was cancelled").wait_for()
    work.wait_for(state="detached")
    assert not list(app.temporary.rglob("*.partial"))
    assert set(app.temporary.rglob("statistics.safetensors")) == before
    # What it had to say was for that: it is gone once one was elsewhere.
    go(page, "Merge")
    page.get_by_text("was cancelled").wait_for(state="detached")
    go(page, "Statistics")
    # The place is free for other work.
    page.get_by_label("Texts that I paste").check()
    assert page.get_by_text("was cancelled").count() == 0, "nor is it told there once more"
    page.locator("#statistics-texts textarea").fill("a good film")
    page.locator("#make-statistics").click()
    page.get_by_text("made in this visit").wait_for()
    page.get_by_role("status").get_by_text(f"Statistics of {SLOW[0]}: done").wait_for()
    assert page.get_by_text("was cancelled").count() == 0
    # The result is in the window, above the bar.
    page.wait_for_function("document.querySelector('.fh-cards').getBoundingClientRect().top >= 0")


def test_the_commands_that_are_shown_make_the_same_again(visitor, hub, tmp_path) -> None:
    """With statistics made here, an option and shares that were changed: by command and in Python, byte by byte."""
    page = visitor()
    pick(page, *ENTITIES)
    go(page, "Statistics")
    page.locator("#statistics-dataset").get_by_role("textbox").fill(DATASET)
    page.locator("#make-statistics").click()
    page.get_by_text("made in this visit").wait_for()
    go(page, "Merge")
    page.locator("#recommended input").uncheck()
    page.get_by_role("button", name="Other ways to merge").click()
    page.locator("#methods").get_by_label("RegMean", exact=True).check()
    page.get_by_role("button", name="RegMean: options").click()
    page.get_by_role("spinbutton", name="number input for Correlations between inputs (alpha)").fill("0.5")
    page.get_by_role("button", name="How much each model counts").click()
    page.locator("#share-0 input[type=number]").fill("2")
    merge(page)
    push(page, "carl/entities-again", hub.token("carl"))
    page.get_by_role("heading", name="The same again").wait_for()
    told = {
        place: page.get_by_role("region", name=name, exact=True).inner_text()
        for place, name in (("commands", "On the command line"), ("python", "In Python"))
    }
    page.get_by_text("The recipe", exact=True).click()
    with page.expect_download() as saved:
        page.get_by_role("link", name="Download the recipe alone").click()
    recipe, commands = saved.value.path().read_text(), told["commands"]
    # It takes the statistics from where the commands put them.
    (folder,) = re.findall(r"--out (statistics/\S+)", commands)
    assert f"statistics: {folder}\n" in recipe and "fusehub-visits" not in recipe
    made = snapshot_download(
        "carl/entities-again", endpoint=hub.url, token=hub.token("carl"), cache_dir=tmp_path / "c"
    )
    # So does the recipe in the repo, to whoever has nothing but that.
    assert "\n# fusehub collect " in recipe and f" {DATASET} " in recipe and f"--out {folder}\n" in recipe
    pushed = Path(made, "fusehub_recipe.yaml").read_text()
    assert "\n  statistics: statistics\n" in pushed
    told_first = rf"# - statistics: statistics of {ENTITIES[1]}, made of 4 texts of {DATASET}\S*@\w{{40}}"
    assert re.fullmatch(told_first, pushed.splitlines()[1]), pushed.splitlines()[1]
    wanted = Path(made, "model.safetensors").read_bytes()
    # Sums are the same to the last bit with as many threads as the app's processes have.
    environment = hub.env("carl", tmp_path / "home") | {"OMP_NUM_THREADS": "1"}
    environment |= {"PATH": f"{warm.command(tmp_path)}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    for place, program in (("commands", ["bash", "-e", "-c"]), ("python", [*warm.python(), "-c"])):
        folder = tmp_path / place
        folder.mkdir()
        text = told[place].replace("carl/entities-again", f"carl/entities-{place}")
        done = subprocess.run([*program, text], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert (folder / "merged" / "model.safetensors").read_bytes() == wanted
        assert HfApi(endpoint=hub.url, token=hub.token("carl")).model_info(f"carl/entities-{place}").private

    # Where everybody can see it, the owners can be told: one by one, in words that were changed before.
    api = HfApi(endpoint=hub.url)
    assert not page.locator("#telling").is_visible()
    page.get_by_label("Public: everybody can").check()
    push(page, "carl/entities-told", hub.token("carl"))
    page.get_by_role("heading", name="Tell the owners").wait_for()
    assert not api.model_info("carl/entities-told").private
    words = page.locator("#tell-words textarea")
    assert f"{hub.url}/carl/entities-told" in words.input_value() and ENTITIES[0] in words.input_value()
    words.fill("Thank you for your model.")
    page.get_by_role("button", name="Open the discussion").click()
    page.get_by_role("alert").get_by_text("This needs a Hub token").wait_for()
    assert words.input_value() == "Thank you for your model."
    page.locator("#push-token input").fill(hub.token("carl"))
    page.get_by_role("button", name="Open the discussion").click()
    page.get_by_text(f"You have told the owner of {ENTITIES[0]}").wait_for()
    assert page.locator("#push-token input").input_value() == "", "it is used once"
    page.get_by_role("link", name=f"{hub.url}/{ENTITIES[0]}/discussions/1", exact=True).wait_for()
    expect(words).to_have_value(re.compile(f"{ENTITIES[1]} was merged with"), timeout=180_000)
    (opened,) = api.get_repo_discussions(ENTITIES[0])
    assert opened.author == "carl" and opened.title == "Your model is part of a merge"
    assert not opened.is_pull_request, "a merge changes nothing in the model"
    (said,) = api.get_discussion_details(ENTITIES[0], opened.num).events
    assert said.content == "Thank you for your model."
    assert not list(api.get_repo_discussions(ENTITIES[1])), "nobody is told without a press"
    assert grave_faults(page) == []


def _is_loud(button) -> bool:
    return "primary" in button.get_attribute("class").split()


def _size(card) -> tuple[str, str]:
    """The size that the card of a model tells: number and unit."""
    return re.search(r"Size\s*([\d.,]+) (\w+)", card.inner_text()).groups()


def _read_card(page) -> None:
    """The preview of a long card scrolls in itself, below the button, and breaks no word of its tables."""
    preview = page.locator("#preview")
    box, button = preview.bounding_box(), page.locator("#push").bounding_box()
    assert box["height"] <= 430 < preview.evaluate("box => Math.max(...[box, ...box.querySelectorAll('*')].map("
                                                   "(one) => one.scrollHeight))")  # fmt: skip
    assert button["y"] < box["y"]
    words = preview.locator("th, td").evaluate_all(
        "all => all.map((one) => getComputedStyle(one)).map((one) => [one.overflowWrap, one.wordBreak, one.hyphens])"
    )
    assert words and {tuple(own) for own in words} == {("normal", "normal", "manual")}


def _manage(page, app) -> zipfile.ZipFile:
    """What can be done with merges: nothing is made twice, and each is renamed, brought back and downloaded."""
    page.locator("#merge").click()
    page.get_by_text("You have regmean and mean already").wait_for()
    made = page.get_by_role("list", name="Merged models")
    assert f"Models {SENTIMENT[0]}, {SENTIMENT[1]}" in " ".join(made.inner_text().split())
    made.get_by_role("group").filter(has_text="Rename").last.locator("summary").click()
    page.get_by_label("New name of mean").fill("average")
    page.get_by_label("New name of mean").press("Enter")
    made.get_by_role("heading", name="average").wait_for()
    page.get_by_role("button", name="Delete average", exact=True).click()
    page.get_by_role("button", name="Undo: bring average back").click()
    made.get_by_role("heading", name="average").wait_for()
    made.get_by_role("group").filter(has_text="Download").first.locator("summary").click()
    link = page.get_by_role("link", name="Download regmean (zip)")
    with page.expect_download() as saved:
        link.click()
    assert saved.value.suggested_filename == "regmean.zip"
    address = app.url + (link.get_attribute("href") or "").removesuffix(".zip")
    one = httpx.get(f"{address}/config.json")
    assert one.status_code == 200 and one.json()["model_type"] == "bert"
    for wrong in (f"{address[:-1]}.zip", f"{address}/..%2F..%2Fapp.log", f"{address}/%2Fetc%2Fpasswd", f"{address}/x"):
        assert httpx.get(wrong).status_code == 404
    return zipfile.ZipFile(saved.value.path())


def _labelled(folder):
    path = folder / "domain.csv"
    path.write_text("text,label\na good film,1\nan awful plot,0\nfine music,1\nsad and bad,0\n")
    return path
