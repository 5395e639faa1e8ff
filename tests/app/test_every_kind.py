"""Every kind of model has its form of comparing: questions, language models and images, each from pick to scores."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import HfApi

from fusehub.localhub import running
from tests.app.conftest import serving
from tests.app.steps import go, grave_faults, merge, pick, sticks_out
from tests.unit.experts import relatives
from tests.unit.tiny import tiny_images, tiny_texts

KINDS = {"question-answering": "bert", "text-generation": "gpt2", "image-classification": "vit"}
SQUAD = [
    {"question": "Who?", "context": text, "answers": {"text": [text.split()[0]], "answer_start": [0]}}
    for text in tiny_texts(12, seed=3)
]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A Hub with two experts of each kind, and the app on it."""
    folder = tmp_path_factory.mktemp("kinds")
    with running(folder / "hub") as hub:
        api = HfApi(endpoint=hub.url, token=hub.token("ada"))
        for task, arch in KINDS.items():
            labels = ("cat", "dog") if task == "image-classification" else ("a", "b")
            for number, expert in enumerate(relatives(folder / task, arch, labels=(labels, labels), task=task)):
                front = f"license: apache-2.0\npipeline_tag: {task}\nbase_model: ada/{arch}-base"
                (expert / "README.md").write_text(f"---\n{front}\n---\n")
                api.create_repo(f"ada/{task}-{number}")
                api.upload_folder(repo_id=f"ada/{task}-{number}", folder_path=expert)
        with serving(hub, folder) as app:
            yield app
            assert "Traceback" not in app.log.read_text()


@pytest.fixture
def at_compare(visitor, served):
    """`at_compare(task)`: a page at the comparison of the two experts of a task and their mean; axe-core finds nothing
    grave in any step before it."""

    def come(task: str):
        page = visitor(served.url)
        pick(page, f"ada/{task}-0", f"ada/{task}-1")
        faults = {"pick": grave_faults(page)}
        go(page, "Check")
        page.get_by_text("What a merge will take").wait_for()
        assert not page.get_by_role("heading", name="Name the labels").is_visible(), "they have names, or none at all"
        faults["check"] = grave_faults(page)
        go(page, "Statistics")
        page.get_by_text("2 models have no statistics yet").wait_for()
        faults["statistics"] = grave_faults(page)
        go(page, "Merge")
        page.locator("#merge").wait_for()
        page.locator("#recommended input").check()
        merge(page)
        faults["merge"] = grave_faults(page)
        go(page, "Push")
        page.get_by_role("button", name="Model card").click()
        page.locator("#preview").get_by_role("heading").first.wait_for()
        faults["push"] = grave_faults(page)
        assert not any(faults.values()), faults
        go(page, "Compare")
        return page

    return come


def test_questions_are_typed_with_the_text_that_holds_the_answer(at_compare, tmp_path) -> None:
    page = at_compare("question-answering")
    page.get_by_label("the question | the text that holds its answer").wait_for()
    assert "Who wrote it? | The book" in page.locator(".fh-elsewhere").inner_html(), "a command that runs"
    page.get_by_text("each merged model answers every question from its text").wait_for()
    _fill_in_and_compare(page, "questions")
    page.get_by_text("1 question; the models disagree on").wait_for()
    page.get_by_role("columnheader", name="Question", exact=True).wait_for()
    page.get_by_role("rowheader", name="Who wrote it?").wait_for()
    (tmp_path / "squad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SQUAD))
    page.get_by_text("with questions, contexts and answers in columns").wait_for()
    _score(page, tmp_path / "squad.jsonl", "questions, contexts and answers", "F1 of words, in percent")


def test_language_models_go_on_with_a_beginning_and_are_scored_by_perplexity(at_compare, tmp_path) -> None:
    page = at_compare("text-generation")
    page.get_by_label("Beginnings, one a line").wait_for()
    page.get_by_text("Each expert and merged model goes on with every beginning.").wait_for()
    _fill_in_and_compare(page, "beginnings")
    page.get_by_text("2 beginnings; the models disagree on").wait_for()
    page.get_by_role("heading", name="Once upon a time").wait_for()
    assert page.locator(".fh-written").count() == 2 * 3, "each text by two experts and the merge: no ensemble"
    assert "--ensemble" not in page.locator(".fh-elsewhere").inner_html()
    (tmp_path / "texts.csv").write_text("text\n" + "".join(f'"{text}"\n' for text in tiny_texts(12)))
    _score(page, tmp_path / "texts.csv", "texts", "Perplexity, less is better")


def test_images_are_added_shown_and_asked_about(at_compare, tmp_path) -> None:
    page = at_compare("image-classification")
    assert not page.locator("#texts").is_visible()
    assert "--text picture.png" in page.locator(".fh-elsewhere").inner_html()
    page.get_by_text("each merged model labels every image").wait_for()
    page.get_by_role("button", name="Add files with images and labels").wait_for()
    words = page.locator("#step-compare").inner_text()
    assert "text" not in words.replace("texts.txt", "").lower(), words
    page.locator("#compare").click()
    page.get_by_text("There is no image.").wait_for()
    images = sorted(tiny_images(tmp_path / "images", count=2).rglob("*.png"))
    with page.expect_file_chooser() as chosen:
        page.get_by_role("button", name="Add images").click()
    chosen.value.set_files([{"name": f"{path.parent.name}-{path.name}", "mimeType": "image/png",
                             "buffer": path.read_bytes()} for path in images])  # fmt: skip
    page.get_by_role("list", name="Images to ask about").get_by_text("dog-1.png").wait_for()
    page.get_by_role("button", name="Remove cat-1.png").click()
    page.locator("#compare").click()
    page.locator(".fh-compared[data-texts='3']").get_by_text("3 images; the models disagree on").wait_for()
    page.get_by_role("columnheader", name="Image", exact=True).wait_for()
    assert page.locator(".fh-thumbnail").count() == 3
    assert page.locator(".fh-thumbnail").first.evaluate("image => image.complete && image.naturalWidth") > 0
    page.get_by_role("rowheader", name="dog-1.png").wait_for()
    assert "fusehub-visits" not in page.content(), "nobody is told where it lies"
    assert grave_faults(page) == [] and sticks_out(page) == []
    # There are no images to compare them on in one go, which is no error: it ends where they are added.
    go(page, "Pick")
    page.get_by_text("then images can be added").wait_for()
    page.get_by_role("button", name="Merge and compare in one go").click()
    page.get_by_role("status").get_by_text("Merging: done").wait_for()
    page.locator("#step-compare").wait_for()
    assert page.get_by_role("alert").count() == 0


def _fill_in_and_compare(page, asked: str) -> None:
    texts = page.locator("#texts textarea")
    examples = texts.input_value()
    assert examples, "there is something to begin with"
    texts.fill("")
    page.get_by_role("button", name=f"Fill in some {asked}").click()
    page.wait_for_function("() => document.querySelector('#texts textarea').value !== ''")
    assert texts.input_value() == examples
    page.locator("#compare").click()
    page.locator(".fh-compared").wait_for()


def _score(page, path, holds: str, caption: str) -> None:
    with page.expect_file_chooser() as chosen:
        page.get_by_role("button", name=f"Add files with {holds}", exact=True).click()
    chosen.value.set_files(path)
    page.get_by_role("list", name="Files to score on").get_by_text(path.name).wait_for()
    page.locator("#score").click()
    page.get_by_role("region", name=caption).wait_for()
    page.set_viewport_size({"width": 360, "height": 800})
    assert grave_faults(page) == [] and sticks_out(page) == []
