"""What is typed or ticked in the moment a step comes up counts."""

from __future__ import annotations

from tests.app.conftest import SENTIMENT
from tests.app.steps import example, go, merge

# Holds the end of the next answer that came in pieces, until something was done to what the last piece shows.
_BEFORE_THE_END = """([selector, does]) => {
  const reader = ReadableStreamDefaultReader.prototype, read = reader.read;
  let begun = null;
  window.done = null;
  reader.read = async function (...all) {
    const got = await read.apply(this, all), line = typeof got.value === 'string' ? got.value : '';
    const of = line.match(/"event_id":"([^"]*)"/)?.[1];
    if (line.includes('"process_generating"')) begun = of;
    if (of === undefined || of !== begun || !line.includes('"process_completed"')) return got;
    reader.read = read;
    const found = () => [...document.querySelectorAll(selector)].find((one) => one.checkVisibility());
    while (!found()) await new Promise((then) => setTimeout(then, 20));
    if (does === 'click') found().click();
    else {
      found().value = does;
      found().dispatchEvent(new Event('input', {bubbles: true}));
    }
    await new Promise((then) => setTimeout(then, 200));
    setTimeout(() => { window.done = selector; }, 500);
    return got;
  };
}"""


def test_what_is_done_before_an_answer_has_ended_stays(visitor) -> None:
    """Gradio ends what comes in pieces with the last of them once more, a second later on a busy machine."""
    page = visitor()

    def before_the_end(step: str, selector: str, does: str) -> None:
        page.evaluate(_BEFORE_THE_END, [selector, does])
        go(page, step)
        page.wait_for_function("(selector) => window.done === selector", arg=selector)

    example(page)
    before_the_end("Merge", "#baseline input", "click")
    assert not page.locator("#baseline input").is_checked()
    merge(page)
    before_the_end("Push", "#push-repo input", "ada/typed-at-once")
    assert page.locator("#push-repo input").input_value() == "ada/typed-at-once"


# Holds the end of the stream that answers come in, which the server has ended, until the next event is asked for.
_STREAM_ENDS = """() => {
  const reader = ReadableStreamDefaultReader.prototype, read = reader.read, fetched = window.fetch;
  let asked = null;
  window.held = false;
  reader.read = async function (...all) {
    const got = await read.apply(this, all), line = typeof got.value === 'string' ? got.value : '';
    if (!line.includes('"close_stream"')) return got;
    reader.read = read;
    window.held = true;
    await new Promise((then) => { asked = then; });
    return got;
  };
  window.fetch = async function (...all) {
    const answer = await fetched.apply(this, all), url = String(all[0]?.url || all[0]);
    if (asked && url.includes('queue/join')) {
      window.fetch = fetched;
      setTimeout(asked, 300);
    }
    return answer;
  };
}"""


def test_what_is_pressed_as_a_stream_ends_is_answered(visitor) -> None:
    """Gradio takes a stream that has ended for open until it has read its end, and waits for an answer there."""
    page = visitor()
    page.set_default_timeout(20000)
    example(page)
    page.evaluate(_STREAM_ENDS)
    go(page, "Check")
    page.wait_for_function("() => window.held")
    go(page, "Statistics")
    page.get_by_text("All statistics are there").wait_for()
    # Nor is a press lost of which nothing says that it goes on.
    go(page, "Pick")
    page.wait_for_timeout(1000)
    page.evaluate(_STREAM_ENDS)
    page.get_by_role("button", name=f"Remove {SENTIMENT[0]}").click()
    page.wait_for_function("() => window.held")
    page.get_by_role("button", name=f"Remove {SENTIMENT[1]}").click()
    page.get_by_role("list", name="Your models").wait_for(state="detached")


# Holds what the server answers from now on, until `window.release()`.
_HOLD = """() => {
  const reader = ReadableStreamDefaultReader.prototype, read = reader.read;
  window.held = 0;
  const released = new Promise((then) => { window.release = () => { reader.read = read; then(); }; });
  reader.read = async function (...all) {
    const got = await read.apply(this, all), line = typeof got.value === 'string' ? got.value : '';
    if (/"process_(generating|completed)"/.test(line)) {
      window.held += 1;
      await released;
    }
    return got;
  };
}"""


def test_what_is_done_after_something_was_asked_wins_over_its_answer(visitor) -> None:
    """The answer knows nothing of it, and says of each field what it was when it was asked."""
    page = visitor()
    page.set_default_timeout(30000)
    example(page)
    go(page, "Merge")
    page.locator("#merge").wait_for()
    page.get_by_role("button", name="Other ways to merge").click()
    slerp = page.locator("#methods").get_by_label("SLERP", exact=True)
    page.evaluate(_HOLD)
    page.get_by_role("navigation", name="Steps").get_by_role("button", name="Merge").click()
    page.wait_for_function("() => window.held > 0")
    slerp.check()
    page.locator("#baseline input").uncheck()
    page.evaluate("() => window.release()")
    page.wait_for_function("() => window.fusehub.pending.size === 0")
    page.wait_for_timeout(500)
    assert slerp.is_checked() and not page.locator("#baseline input").is_checked()
    # What was asked after it was told of it, and an answer may change it again.
    go(page, "Pick")
    page.locator("#named textarea, #named input").first.fill(SENTIMENT[0])
    page.get_by_role("button", name="Add", exact=True).click()
    page.wait_for_function("() => document.querySelector('#named textarea, #named input').value === ''")
    page.wait_for_timeout(500)
    assert page.locator("#named textarea, #named input").first.input_value() == ""
    go(page, "Merge")
    assert slerp.is_checked() and not page.locator("#baseline input").is_checked()


def test_what_is_typed_while_work_goes_on_stays_when_it_ends(visitor) -> None:
    """In one go texts are compared that nobody has typed, and then stand in the box for them."""
    page = visitor()
    example(page)
    page.get_by_role("button", name="Merge and compare in one go").first.click()
    page.get_by_role("region", name="Work that goes on").wait_for()
    go(page, "Compare")
    texts = page.locator("#texts textarea")
    texts.fill("typed meanwhile")
    page.locator(".fh-compared").wait_for()
    page.wait_for_timeout(1000)
    assert texts.input_value() == "typed meanwhile"


def test_a_press_that_cannot_be_sent_is_not_said_to_go_on(visitor) -> None:
    """Gradio says so in a message of its own, and no answer comes that ends it."""
    page = visitor()
    page.route("**/queue/join**", lambda route: route.fulfill(status=500, json={"detail": "Not now."}))
    page.locator("#example").click()
    page.locator(".toast-body.error").wait_for()
    page.wait_for_function("() => window.fusehub.pending.size === 0")
    assert page.locator(".fh-busy").is_hidden()
    # An older message ends nothing that is asked later, which is answered.
    page.unroute("**/queue/join**")
    page.locator("#example").click()
    page.get_by_role("list", name="Your models").wait_for()
    page.wait_for_function("() => window.fusehub.pending.size === 0")
