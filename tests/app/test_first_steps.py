"""What a visitor does first: a click before the page has settled, and texts that are typed, cut, pasted and undone."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor

import gradio as gr

from space.documents import picture_of, rendered, text_of
from space.render.first import first_html, links
from space.serve import build, close, new_frame
from space.setting import Setting
from space.visits import Visits
from space.workers.jobs import Jobs
from tests.app.conftest import ROOT

# Presses the example in the moment in which it is there.
_AT_ONCE = """new MutationObserver((_, observer) => {
  const press = document.querySelector('#example');
  if (press) { observer.disconnect(); press.click(); }
}).observe(document, {childList: true, subtree: true});"""


def test_what_is_pressed_before_the_hub_has_answered_is_heard(chromium, app, hub) -> None:
    plan = hub.root / "faults.json"
    plan.write_text(json.dumps([{"path": "/api/.*", "do": "stall", "seconds": 0.3}]))
    try:
        page = chromium.new_page()
        page.set_default_timeout(180_000)
        page.add_init_script(_AT_ONCE)
        page.goto(app.url)
        page.get_by_role("list", name="Your models").wait_for()
        assert page.get_by_text("This visit has ended").count() == 0
        page.context.close()
    finally:
        plan.unlink()
        (hub.root / "faults.log").unlink(missing_ok=True)


def test_the_first_screen_says_what_it_is_for_and_how_long_its_example_takes(visitor) -> None:
    page = visitor()
    picture = page.get_by_role("img", name="Three experts of one base")
    assert {"experts", "their grams", "one model", "merged"} <= {*picture.locator("text").all_text_contents()}
    example = page.locator("#example-about")
    example.get_by_text("films-sentiment, shops-sentiment").wait_for()
    assert re.search(r"one more press, and takes (a few|about \d+) (seconds|minute)", example.inner_text())
    # What a word means is told to whoever points at it.
    meaning = page.get_by_text("Its owner has published sums").first
    page.get_by_role("note").first.hover()
    meaning.wait_for()
    page.mouse.move(0, 0)
    meaning.wait_for(state="hidden")


def test_the_search_hears_whatever_changes_a_text(visitor) -> None:
    """Typing, deleting, cutting, pasting, undoing and clearing, in both of its boxes; and the buttons of tasks."""
    page = visitor()
    meaning = page.get_by_text("Its owner has published sums").first
    assert not meaning.is_visible()
    page.get_by_role("note").first.focus()
    meaning.wait_for()
    found = page.get_by_role("list", name="Models found")
    headings = page.locator("#step-pick h4").all_inner_texts()
    assert headings == ["With published statistics", "New on the Hub", "By task"], "what there is to find"
    nothing, no_base = page.get_by_text("No model matches"), page.get_by_role("alert").get_by_text("ada/basex")
    some = found.get_by_text("ada/films-sentiment")
    # Of those that are shown first, one that the text leaves out.
    for place, text, none, other in (
        ("#query", "filmsx", nothing, "ben/shops-sentiment"),
        ("#base", "ada/basex", no_base, "ada/films-entities"),
    ):
        box, others = page.locator(f"{place} input"), found.get_by_text(other)
        box.press_sequentially(text)
        none.wait_for()
        box.press("Backspace")
        some.wait_for()
        others.wait_for(state="detached")
        box.press("Control+a")
        box.press("Control+x")
        others.wait_for()
        box.press("Control+v")
        others.wait_for(state="detached")
        box.press("Control+z")
        others.wait_for()
        box.press("Control+v")
        others.wait_for(state="detached")
        some.wait_for()
        box.fill("")
        others.wait_for()
    page.get_by_role("button", name="token classification").click()
    some.wait_for(state="detached")
    found.get_by_text("ben/shops-entities").wait_for()
    assert page.locator("#task input").input_value() == "token classification"


def test_the_number_that_is_shown_is_the_one_of_our_results() -> None:
    told = (ROOT / "docs" / "results.md").read_text().partition("## Sentiment")[2].partition("\n## ")[0]
    points, runs = re.search(
        r"against the plain mean: (\S+ points) in domain \(above in (\d+ of \d+ runs)", told
    ).groups()
    shown = re.sub("<[^>]*>", "", first_html({}))
    assert points in shown and runs in shown


def test_documents_are_pages_of_the_app_where_they_have_no_other_address(visitor, app, tmp_path) -> None:
    page = visitor()
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Documents").click()
    read = opened.value
    read.get_by_role("heading", name="FuseHub", exact=True).wait_for()
    assert read.locator("main img").first.evaluate("one => one.decode().then(() => one.naturalWidth)") > 100
    read.get_by_role("link", name="the format").first.click()
    read.wait_for_url(re.compile(r"/documents/docs/[\w-]+\.md"))
    read.locator("h1").wait_for()
    answer = read.goto(f"{app.url}documents/pyproject.toml")
    assert answer.status == 404 and "There is no pyproject.toml here" in read.content()
    read.close()
    # Links within a page and from one to another lead somewhere, and no file of the machine is a document.
    ids = set(re.findall(r'id="([^"]+)"', rendered(text_of("README.md"))))
    assert {"publishing", "the-app", "in-python"} <= ids
    assert text_of("docs/guides.md") and text_of("SECURITY.md")
    for path in ("../etc/passwd", "docs/../pyproject.toml", "space/style.css", "/etc/hostname", "tests/x.md", "docs"):
        assert text_of(path) is None and picture_of(path) is None
    root = tmp_path / "root"
    (root / "tests").mkdir(parents=True)
    for path in (root / "pyproject.toml", root / "README.md", root / "tests" / "notes.md", tmp_path / "secret.md"):
        path.write_text("Words")
    assert text_of("README.md", root) == "Words"
    assert text_of("../secret.md", root) is None and text_of("tests/notes.md", root) is None
    # Where the package is installed, its metadata has the first page.
    installed = text_of("README.md", tmp_path)
    assert installed and installed.lstrip().startswith("# FuseHub") and text_of("docs/guides.md", tmp_path) is None


def test_on_a_space_code_and_documents_are_its_files(monkeypatch) -> None:
    assert links()["Documents"] == "documents/README.md" and "Code" not in links()
    monkeypatch.setenv("SPACE_ID", "you/app")
    assert links()["Code"].endswith("/spaces/you/app/tree/main") and "/spaces/you/app/" in links()["Documents"]
    assert links()["Questions"].endswith("/spaces/you/app/discussions")


def test_what_is_pressed_waits_for_the_visit_that_its_page_opens() -> None:
    visits = Visits(Setting(shared=True), Jobs(1, 1))
    with ThreadPoolExecutor(1) as pressing:
        pressed = pressing.submit(visits.of, "", "page")
        visits.open(page="another page")
        visit = visits.open(page="page")
        assert pressed.result(60) is visit
    visits.close()


def test_no_box_listens_for_the_keys_that_make_a_character_alone() -> None:
    frame = new_frame(Setting(shared=False))
    page = build(frame)
    boxes = {number for number, block in page.blocks.items() if isinstance(block, gr.Textbox)}
    heard = [(page.blocks[of].label, event) for fn in page.fns.values() for of, event in fn.targets if of in boxes]
    close(frame)
    # Of the box for a token, that it was left: it is asked whose it is.
    assert {event for _, event in heard} == {"change", "submit", "blur"}


def test_no_press_has_all_parts_of_the_page_told_that_it_goes_on() -> None:
    """The page looks for each among all parts, several times a press: by default these are all that is painted."""
    frame = new_frame(Setting(shared=False))
    page = build(frame)
    told = [fn.outputs if fn.show_progress_on is None else fn.show_progress_on for fn in page.fns.values()]
    painted = [len(fn.outputs) for fn in page.fns.values()]
    close(frame)
    assert max(painted) > 100 and max(map(len, told)) == 1
