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
