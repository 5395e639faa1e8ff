"""What travels: the address of the page, links that are copied and opened, and the same as code."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from playwright.sync_api import expect

from fusehub.merging.recipe import Recipe
from fusehub.utils.untrusted.yaml_text import load_yaml
from space.links.link import KEYS, Link, link_of, read_link
from space.links.opening import open_recipe
from space.render.elsewhere import elsewhere_html
from space.serve import close, new_frame
from space.setting import Setting
from space.visit import COMPARE, MERGE, PICK, PUSH, Made, Picked, Visit
from tests.app.conftest import ENTITIES, SENTIMENT, publish
from tests.app.steps import compare, example, go, grave_faults, merge, pick, sticks_out
from tests.unit.experts import relatives

SHARED, OWN = Setting(shared=True), Setting(shared=False)


def picked(name: str, url: str | None = "https://hub/x", commit: str = "1a2b") -> Picked:
    known = (None, None, None, None, None, (), False, None, url)
    return Picked(name, f"{name}@{commit}" if url else name, *known)


@pytest.fixture
def visit() -> Visit:
    visit = Visit("key-of-the-visit", Path("folder-of-the-visit"), step=MERGE)
    visit.picks = [picked("ada/films"), picked("ben/base+ben/shops")]
    visit.base, visit.chosen = "ada/base", ["regmean", "mean"]
    visit.options = {"regmean": {"alpha": 0.5}}
    visit.shares = {"ada/films": 2.0, "ben/base+ben/shops": 1.0}
    visit.typed = ["Not bad & not good + 1 = ?", "ünï \u202e 🤗"]
    return visit


def test_a_link_says_again_what_it_was_made_of(visit) -> None:
    link = link_of(visit)
    assert link.models == ("ada/films@1a2b", "ben/base+ben/shops@1a2b") and link.step == MERGE
    assert read_link(f"?{link.query()}", SHARED) == link == read_link(link.query(), OWN)
    # Whatever else is in an address is not ours.
    assert read_link(f"__theme=dark&{link.query()}&view=api", SHARED) == link
    assert read_link("?__theme=dark", SHARED) == Link() and not Link().says_something


def test_no_token_no_file_and_no_statistics_of_ones_own_go_into_a_link(visit) -> None:
    visit.picks.append(picked("/home/ada/model", url=None))
    visit.base = "/home/ada/base"
    visit.statistics = {"ada/films": {"source": "/tmp/fusehub/statistics", "data": "the file mine.csv"}}
    visit.uploads = {"mine": "/tmp/fusehub/mine.csv"}
    visit.pushes_as, visit.token_given = (1, "ada"), True
    query = link_of(visit).query()
    assert "home" not in query and "tmp" not in query and "mine" not in query and visit.key not in query
    assert set(re.findall(r"(?:^|&)(\w+)=", query)) <= set(KEYS)


def test_a_long_link_has_the_texts_that_fit_into_an_address(visit) -> None:
    visit.typed = [f"{number} " + "word " * 100 for number in range(50)]
    link = link_of(visit)
    assert 0 < len(link.shown_texts) < 50 and len(link.query()) <= 6000
    assert len(read_link(link.query(), SHARED).texts) == len(link.shown_texts)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("step=x", "no step 'x'"),
        ("model=/etc/passwd", "'/etc/passwd'"),
        ("model=../../x", "'../../x'"),
        ("model=~/models", "'~/models'"),
        ("model=file:///etc", "'file:///etc'"),
        ("model=tests", "'tests'"),
        ("model=ada/films%2B/etc", "ada/films"),
        ("base=/etc", "'/etc'"),
        (f"model={'a' * 5000}", "too long"),
        ("&".join(f"model=ada/m{number}" for number in range(9)), "names 9 models: 8 fit"),
        ("method=regmaen", "Did you mean 'regmean'"),
        ("method=regmean_plus_plus", "needs more than the app can give"),
        ("option=regmean.alpha=1", "of no method that it names"),
        ("method=regmean&option=regmean", "of no method that it names"),
        ("method=regmean&option=regmean.alpa=1", "no option of regmean 'alpa'"),
        ("method=regmean&option=regmean.alpha=7", "less than or equal to 1"),
        ("method=regmean&option=regmean.alpha=NaN", "alpha cannot be NaN"),
        ("method=regmean&option=regmean.alpha=[1]", "alpha cannot be"),
        (f"method=regmean&option=regmean.alpha={'[' * 3000}", "cannot be"),
        (f"method=regmean&option=regmean.alpha={'9' * 5000}", "cannot be"),
        ("model=ada/a&share=nan", "shares of this link do not fit"),
        ("model=ada/a&share=one", "share cannot be 'one'"),
        ("model=ada/a&share=1&share=1", "shares of this link do not fit"),
        ("&".join(["text=a"] * 51), "51 texts"),
        ("x" * 20_000, "too long"),
        ("&" * 10 + "&".join(["text=a"] * 400), "more than 300 parts"),
    ],
)
def test_a_broken_link_is_answered_in_words_and_leads_nowhere(query, said, monkeypatch) -> None:
    """On a laptop too, where folders can be named otherwise: no link that somebody sent leads to one."""
    monkeypatch.chdir(Path(__file__).parents[2])
    for setting in (SHARED, OWN):
        link = read_link(query, setting)
        told = "\n".join(str(problem) for problem in link.problems)
        assert (said in told) or (setting is SHARED and query == "model=tests"), told
        assert "base" not in query or not link.base
        assert not any(name.startswith(("/", ".", "~", "file")) for name in link.models)
    # What else it says holds.
    kept = read_link(f"model=ada/kept&{query}"[:10_000], SHARED)
    assert "model" in query or len(query) > 5000 or "text" in query or kept.models == ("ada/kept",)


def test_each_step_can_be_done_elsewhere(visit) -> None:
    """The code that is shown is whole: Python reads it, and it says what the visit has."""
    visit.merges["regmean"] = Made(
        "regmean", Path("regmean"), "regmean", "", (), recipe="merge_method: regmean\nstatistics: /tmp/x/statistics\n",
        asked={
            "models": visit.names(), "method": "regmean", "parameters": {"alpha": 0.5, "nonneg": False},
            "base_model": None, "weights": visit.shares, "labels": {}, "heads": "auto",
            "statistics": {"ada/films": "/tmp/x/statistics"},
            "made": {"ada/films": {"data": "3 pasted texts", "dataset": None, "limit": 100, "fisher": False,
                                   "text_column": "review"}},
        },
    )  # fmt: skip
    for step in range(PUSH + 1):
        visit.step = step
        shown = elsewhere_html(visit, "http://127.0.0.1:7860")
        command, python, call, *recipe = _codes(shown)
        compile(python, "python", "exec")
        compile(call, "call", "exec")
        assert "fusehub " in command and "/tmp/x" not in shown
        assert 'Client("http://127.0.0.1:7860")' in call
        if step == MERGE:
            assert "alpha=0.5" in command and "fusehub collect ada/films" in command
            assert "'alpha': 0.5" in python and "'alpha': 0.5" in call and ')["name"]' in call
            assert "statistics_1 = client.predict" in call
            # That of the merge as it has written it, but for what lies in the visit.
            assert recipe == ["merge_method: regmean\nstatistics: statistics/films\n"]
        if step == COMPARE:
            assert "Not bad & not good" in command and 'merged["name"]' in call
        assert len(recipe) == (step in (MERGE, PUSH))


def test_what_was_searched_for_and_what_would_be_merged_can_be_said_elsewhere(visit) -> None:
    visit.step = PICK
    assert _codes(elsewhere_html(visit, "http://x"))[0] == "fusehub find --with-statistics"
    visit.sought = {"query": "two words", "task": "fill-mask", "base": "ada/base", "with_statistics": False}
    command, python, call = _codes(elsewhere_html(visit, "http://x"))
    assert command == "fusehub find 'two words' --base ada/base --task fill-mask"
    assert "fusehub.find(query='two words', task='fill-mask', base='ada/base')" in python
    assert "client.predict(query='two words', task='fill-mask', base='ada/base', api_name=\"/find\")" in call
    # Before anything is merged: the recommended way, with what was said of the models.
    visit.step, visit.heads, visit.labels = MERGE, "keep", {"ada/films": ["bad", "good"]}
    best = {"method": "regmean", "options": {"alpha": 0.5}, "base_model": None, "need": "statistics"}
    visit.advice = {"recommended": best}
    visit.statistics = {
        "ada/films": {"source": "/tmp/x", "data": "d", "dataset": "ada/texts", "limit": 9, "fisher": False,
                      "text_column": None},
    }  # fmt: skip
    *_, written = _codes(elsewhere_html(visit, "http://x"))
    recipe = Recipe.parse(load_yaml(written, "The recipe"))
    assert (recipe.merge_method, recipe.parameters, recipe.heads) == ("regmean", {"alpha": 0.5}, "keep")
    assert [model.model for model in recipe.models] == visit.names()
    assert recipe.models[0].labels == ("bad", "good") and recipe.models[0].statistics == "statistics/films"


def _codes(shown: str) -> list[str]:
    return [unescape(re.sub(r"<[^>]*>", "", own)) for own in re.findall(r"<code>(.*?)</code>", shown, re.S)]


def test_the_address_goes_with_the_visit_and_a_link_brings_a_colleague_there(visitor, app) -> None:
    page = visitor(alone=True)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    example(page)
    page.wait_for_url(lambda url: url.count("model=") == 2)
    commits = re.findall(r"model=([\w%./-]+)(?:%40|@)([0-9a-f]{40})", page.url)
    assert len(commits) == 2
    go(page, "Check")
    page.wait_for_url(re.compile("step=check"))
    go(page, "Merge")
    page.locator("#merge").wait_for()
    page.go_back()
    page.locator("#step-check").wait_for()
    page.go_forward()
    page.locator("#merge").wait_for()
    page.get_by_role("button", name="RegMean: options").click()
    alpha = page.get_by_role("spinbutton", name=re.compile(r"\(alpha\)"))
    alpha.wait_for()
    alpha.fill("0.5")
    alpha.blur()
    merge(page)
    assert alpha.input_value() == "0.5"
    page.wait_for_url(re.compile(r"option=regmean.alpha(%3D|=)0.5"))
    texts = "a very good film\nan awful plot"
    compare(page, *texts.splitlines())
    page.get_by_role("button", name="Copy link").click()
    page.get_by_text("A link to this step was copied, with 2 models at their commits").wait_for()
    link = page.evaluate("navigator.clipboard.readText()")
    page.get_by_text("The same elsewhere, as code").click()
    told = page.get_by_role("region", name="On the command line").inner_text()
    assert "--text" in told
    page.get_by_role("button", name="Copy: On the command line").click()
    page.wait_for_function("told => navigator.clipboard.readText().then((text) => text === told)", arg=told)
    # Where a page may not write there, what is to be copied is selected.
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.get_by_role("button", name="Copy: In Python").click()
    assert page.evaluate("getSelection().toString()") == page.get_by_role("region", name="In Python").inner_text()
    # A reload finds the same visit, and what was typed.
    page.reload()
    page.locator(".fh-compared[data-texts='2']").wait_for()
    expect(page.locator("#texts textarea")).to_have_value(texts, timeout=180_000)

    colleague = visitor(link)
    colleague.get_by_text("A link has filled in 2 models").wait_for()
    said = colleague.locator(".fh-said").inner_text()
    assert "RegMean" in said and "2 texts" in said and "Nothing was computed" in said
    for model in SENTIMENT:
        colleague.get_by_role("button", name=f"Remove {model}").wait_for()
    assert colleague.get_by_text("What a merge will take").count() == 0
    go(colleague, "Merge")
    colleague.locator("#merge").wait_for()
    assert colleague.locator("#recommended input").is_checked()
    colleague.get_by_role("button", name="RegMean: options").click()
    expect(colleague.get_by_role("spinbutton", name=re.compile(r"\(alpha\)"))).to_have_value("0.5", timeout=180_000)
    go(colleague, "Pick")
    go(colleague, "Compare")
    expect(colleague.locator("#texts textarea")).to_have_value(texts, timeout=180_000)

    broken = visitor(f"{app.url}?step=nowhere&model=/etc/passwd&model={SENTIMENT[0]}&method=zz")
    alert = broken.get_by_role("alert")
    alert.get_by_text("There is no step 'nowhere'").wait_for()
    assert "/etc/passwd" in alert.inner_text() and "no merge method 'zz'" in alert.inner_text()
    broken.get_by_role("button", name=f"Remove {SENTIMENT[0]}").wait_for()
    broken.wait_for_url(lambda url: "passwd" not in url)


def test_a_recipe_is_filled_in_and_what_the_app_cannot_say_is_told(visitor, hub, tmp_path) -> None:
    """From its text and from the repo that holds it; the merge of it is the recipe's."""
    api = HfApi(endpoint=hub.url, token=hub.token("carl"))
    one, two = (f"{name}@{api.model_info(name).sha}" for name in SENTIMENT)
    # Not the base that the cards name, which is filled in where nothing else is said.
    publish(hub, "ben/own-base", Path(api.snapshot_download("ada/base", local_dir=tmp_path)))
    written = "\n".join(
        ["merge_method: task_arithmetic", "base_model: ben/own-base", "dtype: float16", "parameters: {lambda: 0.5}",
         "heads: merge",
         f"models: [{{model: {one}, parameters: {{weight: 0.5}}}}, {{model: {two}}}]"]
    )  # fmt: skip
    page = visitor(width=360)
    pick(page, ENTITIES[0])
    page.get_by_role("button", name="Or open a recipe").click()
    box, press = page.locator("#recipe textarea"), page.get_by_role("button", name="Fill in what it says")
    box.fill("merge_method: regmaen\nmodels: [{model: a/a}, {model: b/b}]")
    press.click()
    page.get_by_role("alert").get_by_text("Did you mean 'regmean'").wait_for()
    box.fill(written.replace(SENTIMENT[1], "nobody/nothing"))
    press.click()
    page.get_by_role("alert").get_by_text("nobody/nothing").wait_for()
    assert page.get_by_role("button", name=f"Remove {ENTITIES[0]}").is_visible(), "nothing was taken of it"
    box.fill(written)
    press.click()
    page.get_by_text("The recipe has filled in 2 models and Task arithmetic. Nothing was computed.").wait_for()
    page.get_by_text("also says what cannot be said here: dtype: 'float16'").wait_for()
    assert grave_faults(page) == [] and sticks_out(page) == []
    for name in SENTIMENT:
        page.get_by_role("button", name=f"Remove {name}").wait_for()
    assert page.get_by_role("button", name=f"Remove {ENTITIES[0]}").count() == 0
    page.get_by_role("button", name="Go on to Check").click()
    page.get_by_text("What a merge will take").wait_for()
    page.locator("#check").click()
    page.wait_for_function("() => window.fusehub.pending.size === 0")
    merge(page)
    made = page.get_by_role("list", name="Merged models").get_by_role("article")
    made.get_by_text(re.compile("lambda 0.5, shares 0.5 : 1")).wait_for()
    assert made.count() == 1
    made.locator("summary", has_text="Recipe").click()
    recipe = made.locator("code").inner_text()
    assert "base_model: ben/own-base@" in recipe
    told = page.locator(".fh-elsewhere").inner_html()
    assert "--heads merge" in told, "what the page does not ask stays as the recipe said"
    api.create_repo("carl/opened-recipe")
    api.upload_file(repo_id="carl/opened-recipe", path_in_repo="fusehub_recipe.yaml", path_or_fileobj=recipe.encode())
    other = visitor()
    other.get_by_role("button", name="Or open a recipe").click()
    other.locator("#recipe textarea").fill("carl/opened-recipe")
    other.get_by_role("button", name="Fill in what it says").click()
    other.get_by_text("The recipe has filled in 2 models and Task arithmetic").wait_for()
    assert other.get_by_text("cannot be said here").count() == 0
    merge(other)
    made = other.get_by_role("list", name="Merged models").get_by_role("article")
    made.locator("summary", has_text="Recipe").click()
    assert made.locator("code").inner_text() == recipe


def test_all_that_a_recipe_says_beyond_the_app_is_told_one_by_one(tmp_path) -> None:
    """What has no field here, what a field does not take, and what does nothing at all."""
    one, two = relatives(tmp_path)
    frame = new_frame(OWN)
    visit = frame.visits.open()

    def said(*lines: str, first: str = "", second: str = "") -> list[str]:
        models = [f"- model: {one}\n  parameters: {{{first}}}", f"- model: {two}\n  parameters: {{{second}}}"]
        shown = open_recipe(frame, visit, None, "\n".join([*lines, "models:", *models]))
        return [unescape(re.sub("<[^>]*>", " ", part)) for part in re.findall("<p>(.*?)</p>", shown)]

    try:
        filled, left, note = said(
            "merge_method: ties", f"base_model: {tmp_path / 'base'}", "name: ours", "scale: 0.5", "seed: 7",
            "out_dtype: float16", "parameters: {density: [0.2, 0.8], lambda: 0.5}",
            first="weight: 3, density: 0.3", second="weight: [0.5, 1.0]",
        )  # fmt: skip
        assert "2 models and TIES" in filled and "Nothing was computed" in filled
        assert "cannot be said here" in left
        for told in (
            "scale: 0.5", "seed: 7", "out_dtype: 'float16'", f"density of {one}: 0.3", "density: [0.2, 0.8]",
            f"weight of {two}: [0.5, 1.0]", f"weight of {one}: 3",
        ):  # fmt: skip
            assert told in left, left
        assert left.count("weight of") == 2, "each is told once"
        assert note == "name does nothing: it is what mergekit-multi calls a recipe among several."
        # And none of it is done.
        assert visit.options == {"ties": {"lambda": 0.5}} and visit.shares == {}
        (filled,) = said("merge_method: mean", "heads: keep", first="weight: 2")
        assert visit.shares == {str(one): 2.0, str(two): 1.0} and visit.heads == "keep"
    finally:
        close(frame)


# Holds back the answer to the tick that finds the work done, which does not come by the stream of all other events.
_LATE = """() => {
  const fetched = window.fetch;
  window.late = [];
  window.fetch = async (...asked) => {
    const answer = await fetched(...asked);
    if (window.late && String(asked[0].url || asked[0]).includes('/run/') &&
        (await answer.clone().text()).includes('fh-nav'))
      await new Promise((go) => window.late.push(go));
    return answer;
  };
}"""
_LET_GO = "() => { const held = window.late; window.late = null; held.forEach((go) => go()); }"


def test_an_answer_that_comes_late_does_not_bring_back_what_was_before(visitor) -> None:
    page = visitor(alone=True)
    example(page)
    go(page, "Merge")
    page.locator("#merge").wait_for()
    page.evaluate(_LATE)
    page.locator("#merge").click()
    page.wait_for_function("() => window.late.length > 0")
    # The merge is made, this is still on its way to the page, and the visitor goes on.
    go(page, "Compare")
    page.wait_for_url(re.compile("step=compare"))
    turn = "() => Number(document.querySelector('[data-turn]').dataset.turn)"
    before = page.evaluate(turn)
    page.evaluate(_LET_GO)
    page.wait_for_function(f"() => ({turn})() > {before}")
    page.locator("#step-compare").wait_for()
    assert not page.locator("#step-merge").is_visible()
    assert "step=compare" in page.url


# Holds back what the server says last in a stream of answers: that it ends there.
_HELD_END = """() => {
  const fetched = window.fetch;
  window.fetch = async (...asked) => {
    const answer = await fetched(...asked);
    if (!String(asked[0].url || asked[0]).includes('/queue/data')) return answer;
    const pieces = answer.body.pipeThrough(new TextDecoderStream()).pipeThrough(new TransformStream({
      async transform(piece, out) {
        const end = piece.search(/data: [^\\n]*close_stream/);
        if (end < 0 || window.letEnd === null) return out.enqueue(piece);
        if (end > 0) out.enqueue(piece.slice(0, end));
        await new Promise((go) => { window.letEnd = go; });
        window.letEnd = null;
        out.enqueue(piece.slice(end));
      },
    }));
    return new Response(pieces.pipeThrough(new TextEncoderStream()), {headers: answer.headers});
  };
}"""


def test_a_press_between_the_last_answer_and_the_end_of_its_stream_is_answered(visitor) -> None:
    """Gradio takes the stream for open by then, and waits in it for what comes in another one."""
    page = visitor(alone=True)
    page.evaluate(_HELD_END)
    example(page)
    page.wait_for_function("() => window.letEnd")
    with page.expect_response(re.compile("/queue/join")) as joined:
        page.get_by_role("navigation", name="Steps").get_by_role("button", name="Check").click()
    joined.value.finished()
    page.wait_for_timeout(500)
    page.evaluate("window.letEnd()")
    page.locator("#step-check").wait_for()
    page.get_by_text("What a merge will take").wait_for()
