"""An answer that comes in pieces, on a page that is slower than the server: its last piece is what is seen."""

from __future__ import annotations

import signal

from tests.app.conftest import SLOW
from tests.app.steps import pick

# Gives the page all pieces of the next answer that has several at once, and its end with them.
_AT_ONCE = """() => {
  const reader = ReadableStreamDefaultReader.prototype, read = reader.read, held = [];
  let holds = null;
  window.pieces = 0;
  reader.read = async function (...all) {
    if (holds === this && held.length) return held.shift();
    while (true) {
      const got = await read.apply(this, all), line = typeof got.value === 'string' ? got.value : '';
      if (line.includes('"process_generating"')) {
        holds = this;
        window.pieces += 1;
      }
      if (holds !== this) return got;
      held.push(got);
      if (got.done || line.includes('"process_completed"')) return held.shift();
    }
  };
}"""


def test_all_of_a_step_is_there_where_its_pieces_wait_for_the_browser(visitor, hub) -> None:
    """Gradio works each piece into the one before, also where that has not been shown: nothing of it may be lost."""
    page = visitor()
    pick(page, *SLOW)
    page.evaluate(_AT_ONCE)
    # The Hub takes longer than a moment, so that how far the check is comes first, and what it found after that.
    hub.process.send_signal(signal.SIGSTOP)
    try:
        page.get_by_role("navigation", name="Steps").get_by_role("button", name="Check").click()
        page.wait_for_timeout(1500)
    finally:
        hub.process.send_signal(signal.SIGCONT)
    page.get_by_text("What a merge will take").wait_for()
    assert page.evaluate("() => window.pieces") > 1
    page.get_by_role("button", name="Go on to statistics").wait_for()
    assert page.get_by_role("button", name="Base model").is_visible()
