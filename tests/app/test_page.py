"""The page as gradio keeps it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gradio as gr
from gradio.state_holder import SessionState

from space.loading.page import Page


class _Counting(SessionState):
    """What gradio knows of a page that somebody has open, and how often a part of it was made anew."""

    made = 0

    def __setitem__(self, key: int, value: Any) -> None:
        self.made += isinstance(value, gr.blocks.Block)
        super().__setitem__(key, value)


def test_what_an_event_skips_is_answered_as_gradio_does_and_not_made_anew() -> None:
    with Page() as page:
        parts = [gr.HTML("a"), gr.Button("b"), gr.State("c"), gr.Textbox("d"), gr.Slider(), gr.State("e")]
        parts[1].click(lambda: None, None, parts)
        parts[1].click(lambda: None, None, [parts[0], parts[1], parts[3]])
        parts[1].click(lambda: None, None, parts[:1])
    every, some, one = page.fns.values()
    skip = gr.skip()
    # What is answered, and how many parts that makes anew: here, and by gradio alone.
    answers: list[tuple[Any, Any, int, int]] = [
        (every, ["<p>x</p>", skip, skip, skip, skip, skip], 0, 3),
        (every, [skip, gr.Button(variant="primary"), "new", "words", skip, skip], 1, 3),
        (every, [skip, skip, skip, gr.Textbox("typed", label="new"), skip, gr.update(value="newer")], 1, 4),
        (every, [skip, skip, skip, skip, skip, skip], 0, 4),
        (every, skip, 4, 4),
        # Gradio is asked of two at the least, be they skipped.
        (some, ["<p>y</p>", skip, skip], 1, 2),
        (some, [skip, skip, skip], 2, 3),
        (one, "<p>y</p>", 0, 0),
        (one, skip, 1, 1),
    ]
    # Where a browser was in use, this thread has a loop already.
    with ThreadPoolExecutor(1) as apart:
        for event, said, *counts in answers:
            expected, told = _Counting(page), _Counting(page)
            answer = apart.submit(asyncio.run, gr.Blocks.postprocess_data(page, event, said, expected)).result()
            assert apart.submit(asyncio.run, page.postprocess_data(event, said, told)).result() == answer
            assert [told.made, expected.made] == counts
            assert [told[part._id] for part in parts if part.stateful] == [
                expected[part._id] for part in parts if part.stateful
            ]
