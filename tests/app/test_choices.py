"""What a visitor chooses, types and uploads: said where it is wrong, kept where it stands, and nowhere else."""

from __future__ import annotations

import re

from huggingface_hub import HfApi
from playwright.sync_api import expect

from fusehub.finding import FoundModel
from space.steps.pick import misfit
from space.visit import Picked
from tests.app.conftest import DATASET, ENTITIES, NAMED, SENTIMENT
from tests.app.processes import Watched
from tests.app.steps import (
    SLOW_FRAMES,
    collect_file,
    example,
    go,
    grave_faults,
    merge,
    open_form,
    pick,
    push,
    sticks_out,
)

PARTS = {"en": "a good film", "de": "ein guter Film"}

# All that a page has stored in its browser, as one text.
_STORED = """async () => {
  const told = [JSON.stringify({...localStorage}), JSON.stringify({...sessionStorage})];
  const result = (request) => new Promise((ok, no) => {
    request.onsuccess = () => ok(request.result);
    request.onerror = () => no(request.error);
  });
  for (const {name} of await indexedDB.databases()) {
    const database = await result(indexedDB.open(name));
    for (const store of database.objectStoreNames) {
      told.push(JSON.stringify(await result(database.transaction(store).objectStore(store).getAll())));
    }
    database.close();
  }
  return told.join();
}"""


def test_what_is_typed_into_a_part_that_was_just_opened_stays(visitor) -> None:
    """However long the page takes to draw it: a merge by 0.9 is not shown as one by 0.5."""
    page = visitor()
    page.evaluate(SLOW_FRAMES)

    def type_at_once(box, text: str) -> None:
        box.wait_for()
        box.fill(text)
        page.wait_for_timeout(2000)
        assert box.input_value() == text

    page.get_by_role("button", name="Or open a recipe").click()
    type_at_once(page.locator("#recipe textarea"), "ada/a-recipe")
    example(page)
    go(page, "Check")
    page.get_by_role("button", name="Base model").click()
    type_at_once(page.locator("#base-model").get_by_role("textbox"), "ada/other")
    page.locator("#base-model").get_by_role("textbox").fill("ada/base")
    go(page, "Merge")
    page.get_by_role("button", name="RegMean: options").click()
    type_at_once(page.get_by_role("spinbutton", name=re.compile(r"\(alpha\)")), "0.5")
    page.get_by_role("button", name="How much each model counts").click()
    type_at_once(page.locator("#share-0 input[type=number]"), "2")
    merge(page)
    made = page.get_by_role("list", name="Merged models")
    made.get_by_text("alpha 0.5, shares 2 : 1").wait_for()


def test_searching_as_one_types_puts_what_fits_first(visitor) -> None:
    page = visitor()
    pick(page, SENTIMENT[0])
    page.locator("#query").get_by_role("textbox").press_sequentially("sentiment")
    page.get_by_text("Does not fit: it comes from ada/other-base").wait_for()
    found = page.get_by_role("list", name="Models found").get_by_role("listitem").all_inner_texts()
    # Whatever fits comes before whatever does not.
    misfits = ["Does not fit" in card for card in found]
    assert misfits == sorted(misfits) and any(misfits)
    assert [misfit for card, misfit in zip(found, misfits, strict=True) if SENTIMENT[1] in card] == [False]


def test_models_for_other_tasks_fit_where_they_are_of_one_base() -> None:
    """Each keeps its own head; of other bases, or where that is not known, they do not."""

    def found(base: str | None) -> FoundModel:
        return FoundModel("x/tagger", "token-classification", base, 0, 0, None, False, False, None, None)

    task = "text-classification"
    picks = [Picked("ada/films", "ada/films", task, "google/bert", None, None, None, (), False, None)]
    assert misfit(found("mirror/Bert"), picks) == ""
    assert misfit(found("google/other"), picks).startswith("it comes from google/other")
    assert misfit(found(None), picks) == "it is for token classification, films for text classification."


def test_what_is_found_is_seen_while_one_types(visitor) -> None:
    page = visitor(width=1280)
    page.set_viewport_size({"width": 1280, "height": 800})
    found = page.get_by_role("list", name="Models found").get_by_role("article")
    box = page.locator("#query").get_by_role("textbox")
    page.mouse.wheel(0, 200)
    box.click()
    box.press_sequentially("sentiment")
    page.get_by_role("heading", name="Found", exact=True).wait_for()
    page.wait_for_timeout(500)
    assert all(
        own["y"] > 0 and own["y"] + own["height"] < 800 for own in (box.bounding_box(), found.first.bounding_box())
    )


def test_bad_choices_are_said_where_they_are_made(visitor, hub, tmp_path) -> None:
    page = visitor()
    _refused(page, "nobody/nothing", "does not exist")
    # It is said where the eye is, at the bottom of the window, and goes by its button or with the next try.
    said = page.get_by_role("alert")
    box = said.bounding_box()
    assert box["y"] > 450 and box["y"] + box["height"] <= 900
    assert page.locator("#named textarea").input_value() == "nobody/nothing"
    page.get_by_role("button", name="Close this message").click()
    said.wait_for(state="detached")
    # Of several names, those that are taken are cards, and the others stay to be mended.
    _refused(page, f"{SENTIMENT[1]}, nobody/nothing, ada/gated-sentiment", "is gated")
    page.get_by_role("button", name=f"Remove {SENTIMENT[1]}").click()
    assert page.locator("#named textarea").input_value() == "nobody/nothing, ada/gated-sentiment"
    page.get_by_role("button", name=f"Remove {SENTIMENT[1]}").wait_for(state="detached")
    pick(page, SENTIMENT[0], "ada/other-sentiment")
    go(page, "Check")
    page.get_by_text("These models cannot be merged").wait_for()
    assert grave_faults(page) == []
    apart = page.locator(".fh-findings li:has(.fh-fix)").first.evaluate(
        "item => item.querySelector('.fh-fix').getBoundingClientRect().top - "
        "item.querySelector('p').getBoundingClientRect().bottom"
    )
    assert apart >= 0, "what to do stands in a line of its own"
    page.locator("#check").click()
    page.get_by_role("button", name="Base model").click()
    page.locator("#base-model").get_by_role("textbox").fill("ada/nothing")
    said = page.get_by_role("alert").get_by_text("ada/nothing")
    report = page.locator("#step-check .fh-findings")
    for _ in range(120):
        # A press is not heard while the last one is still worked on.
        page.locator("#check").click()
        page.wait_for_timeout(1000)
        if said.is_visible():
            break
    said.wait_for()
    # The report was of what was asked before.
    assert report.count() == 0
    page.locator("#base-model").get_by_role("textbox").fill("")
    page.locator("#check").click()
    said.wait_for(state="detached")
    page.get_by_text("These models cannot be merged").wait_for()
    go(page, "Merge")
    said = page.locator("#step-merge .fh-notice")
    said.get_by_text("are of different architectures").wait_for()
    assert not page.locator("#merge").is_visible()
    # What is known to speak against it is said at once, by the time that the press is answered.
    said.get_by_role("button", name="Choose other models").click()
    page.get_by_role("button", name="Merge and compare in one go").click()
    page.locator("#step-check .fh-findings").wait_for()
    page.locator("#step-pick").wait_for(state="hidden")


def test_a_broken_upload_and_a_wrong_token_are_said_in_words(visitor, hub, tmp_path) -> None:
    page = visitor()
    example(page)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"this is no parquet")
    collect_file(page, broken)
    page.get_by_role("alert").get_by_text("broken.parquet").wait_for()
    assert grave_faults(page) == [], "what has failed is said to everybody"
    merge(page)
    push(page, "carl/never", "hf_wrong")
    page.get_by_role("alert").get_by_text("does not accept your token").wait_for()
    assert page.locator("#push-token input").input_value() == ""
    assert not HfApi(endpoint=hub.url, token=hub.token("carl")).repo_exists("carl/never")


def test_a_pasted_token_is_kept_nowhere(visitor, app, hub) -> None:
    """In no log, file, URL, process's arguments or environment, nor in the browser's own store, nor another visit."""
    page, other = visitor(alone=True), visitor()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    example(page)
    merge(page)
    secret = hub.token("carl")
    with Watched(app.process.pid) as watched:
        push(page, "carl/with-secret", secret)
        page.get_by_role("heading", name="The model is on the Hub").wait_for()
    assert any("forkserver" in line for line in watched.lines), "the processes of work are looked at"
    assert not [line for line in watched.lines if secret in line]
    assert not [url for url in asked if secret in url]
    assert secret not in app.log.read_text()
    for shown in (page, other):
        assert secret not in shown.content()
        assert secret not in shown.evaluate(_STORED)
    files = (path for folder in (app.temporary, app.log.parent) for path in folder.rglob("*") if path.is_file())
    assert not [path for path in files if path.stat().st_size < 1_000_000 and secret.encode() in path.read_bytes()]


def test_the_keyboard_alone_leads_through_the_steps(visitor) -> None:
    page = visitor()
    page.locator("#example").press("Enter")
    page.get_by_role("list", name="Your models").wait_for()
    check = page.get_by_role("navigation", name="Steps").get_by_role("button", name="Check")
    check.focus()
    page.keyboard.press("Enter")
    page.get_by_text("What a merge will take").wait_for()
    # What was pressed keeps the focus although it was painted anew.
    assert "Check" in page.evaluate("document.activeElement.closest('nav button')?.innerText ?? ''")


def test_a_press_counts_while_another_is_being_answered(visitor) -> None:
    page = visitor()
    pick(page, *SENTIMENT, ENTITIES[0])
    # The first press is held on its way.
    waiting = []
    page.route("**/queue/join*", lambda route: route.continue_() if waiting else waiting.append(route))
    page.get_by_role("button", name=f"Remove {SENTIMENT[0]}").click()
    while not waiting:
        page.wait_for_timeout(50)
    page.get_by_role("button", name=f"Remove {SENTIMENT[1]}").click()
    waiting[0].continue_()
    for model in SENTIMENT:
        page.get_by_role("button", name=f"Remove {model}").wait_for(state="detached")
    assert page.get_by_role("button", name=f"Remove {ENTITIES[0]}").count() == 1


def test_an_uploaded_file_stays_until_it_is_removed(visitor, tmp_path) -> None:
    """It serves for several models, and is still there after a reload."""
    page = visitor()
    pick(page, *ENTITIES)
    path = tmp_path / "cities.txt"
    path.write_text("Anna visited Paris .\nBruno lives in London .\n")
    collect_file(page, path)
    statistics = page.get_by_role("list", name="Statistics of each model")
    statistics.get_by_text("made in this visit").wait_for()
    page.reload()
    open_form(page)
    page.get_by_label("A file", exact=True).check()
    page.get_by_role("list", name="File with texts").get_by_text("cities.txt").wait_for()
    page.get_by_role("combobox", name="For the model").click()
    page.get_by_role("option", name=ENTITIES[0]).click()
    page.locator("#make-statistics").click()
    statistics.get_by_text("made in this visit").nth(1).wait_for()
    page.get_by_role("button", name="Remove cities.txt").click()
    page.get_by_role("list", name="File with texts").wait_for(state="detached")
    page.locator("#make-statistics").click()
    page.get_by_role("alert").get_by_text("No file was uploaded").wait_for()


def test_columns_config_and_split_are_chosen_from_what_the_data_has(visitor, hub, tmp_path) -> None:
    """The guess is chosen with its reason; what does not go with the models is named; what is chosen is read."""
    _publish_parts(hub)
    page = visitor(width=360)
    pick(page, *NAMED)
    go(page, "Statistics")
    dataset = page.locator("#statistics-dataset").get_by_role("textbox")
    dataset.fill("ada/parts")
    dataset.press("Tab")
    has = page.locator("#statistics-columns")
    has.get_by_text("Read as input: comment (columns of texts are often called so)").wait_for()
    has.get_by_role("rowheader", name="a good film").wait_for()
    assert page.locator("#statistics-config input").input_value() == "en"
    _choose(page, "#statistics-config", "de")
    has.get_by_role("rowheader", name="ein guter Film").wait_for()
    assert page.locator("#statistics-split").is_hidden(), "there is one alone"
    assert grave_faults(page) == [] and sticks_out(page) == []
    page.locator("#make-statistics").click()
    made = page.get_by_role("list", name="Statistics of each model")
    made.get_by_text("made in this visit").wait_for()
    assert "ada/parts:de" in made.inner_text()
    go(page, "Compare")
    # What the cards name to be scored on is there with one press, and looked into.
    page.get_by_role("button", name="Fill in the datasets of the cards").click()
    page.locator("#score-columns").get_by_role("rowheader", name="fine music").wait_for()
    datasets = page.locator("#datasets textarea")
    assert datasets.input_value() == DATASET
    page.reload()
    expect(datasets).to_have_value(DATASET, timeout=180_000)
    datasets.fill("")
    films, shops = tmp_path / "films.csv", tmp_path / "shops.csv"
    films.write_text("comment,verdict,note\na good film,1,x\nan awful plot,0,y\n")
    shops.write_text("text,label\na good shop,positive\nan awful one,mixed\n")
    with page.expect_file_chooser() as chosen:
        page.get_by_role("button", name="Add files with texts and labels").click()
    chosen.value.set_files([films, shops])
    has = page.locator("#score-columns")
    has.get_by_text("mixed: none of the models' labels").wait_for()
    _choose(page, "#score-which", "films.csv")
    has.get_by_text("films.csv: no column looks like labels").wait_for()
    _choose(page, "#score-label-column", "verdict")
    has.get_by_text("Its labels are those of the models: 1 = positive, 0 = negative").wait_for()
    assert grave_faults(page) == [] and sticks_out(page) == []
    page.locator("#score").click()
    page.get_by_role("list", name="What the numbers mean").wait_for()
    page.get_by_text("films 2 examples, shops 2 examples").wait_for()
    page.get_by_role("button", name="Remove shops.csv").click()
    page.locator("#score-which").wait_for(state="hidden")


def test_what_is_hidden_stays_hidden_when_one_comes_back(visitor) -> None:
    """The other inputs for texts, and options of methods that are not chosen."""
    page = visitor()
    pick(page, *ENTITIES)
    go(page, "Statistics")
    page.get_by_label("Texts that I paste").check()
    page.locator("#statistics-texts").wait_for()
    go(page, "Merge")
    page.locator("#merge").wait_for()
    page.get_by_role("button", name="How much each model counts").click()
    page.locator("#share-1").wait_for()
    options = page.get_by_role("button", name="options")
    shown = options.count()
    page.locator("#recommended input").uncheck()
    options.nth(shown - 1).wait_for(state="detached")
    go(page, "Statistics")
    page.locator("#statistics-texts").wait_for()
    assert not page.locator("#statistics-dataset").is_visible()
    assert not page.locator("#statistics-file").is_visible()
    go(page, "Merge")
    page.locator("#share-1").wait_for()
    assert options.count() == shown - 1
    assert not page.locator("#share-2").is_visible()
    page.locator("#recommended input").check()
    for place in (0, 1):
        page.locator(f"#share-{place} input[type=number]").fill("0")
    page.locator("#merge").click()
    page.get_by_role("alert").get_by_text("All models have the weight 0").wait_for()


def _refused(page, model: str, said: str) -> None:
    page.locator("#named").get_by_role("textbox").fill(model)
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_role("alert").get_by_text(said).wait_for()


def _publish_parts(hub) -> None:
    """A data set of two configs, whose one split is no train."""
    api = HfApi(endpoint=hub.url, token=hub.token("ada"))
    api.create_repo("ada/parts", repo_type="dataset")
    configs = "".join(f"- config_name: {name}\n  data_files: [{{split: test, path: {name}.csv}}]\n" for name in PARTS)
    files = {"README.md": f"---\nconfigs:\n{configs}---\n"} | {
        f"{name}.csv": f"comment,mark\n{text},x\n" for name, text in PARTS.items()
    }
    for name, content in files.items():
        api.upload_file(repo_id="ada/parts", repo_type="dataset", path_in_repo=name, path_or_fileobj=content.encode())


def _choose(page, box: str, option: str) -> None:
    page.locator(f"{box} input").click()
    page.get_by_role("option", name=option, exact=True).click()
