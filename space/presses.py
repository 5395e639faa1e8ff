"""What lies between a press and its answer, in the browser: it is known there what is asked and not answered yet.

The bar at the bottom says so (`dock`); and what the visitor does to a field meanwhile stays as they have it when the
answer comes (`render/touched.py`). What ends a press comes with its answer: an event of its own for it would cost the
browser as much as the press.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from . import dock
from .events import Pieces, at_end, in_turn, text_of, token_of, with_more
from .visit import Visit


@dataclass
class Presses:
    """The presses of the page: `key` says whose a press is, `ended` tells the page which of them was answered."""

    visit_of: Callable[[gr.Request, str], Visit]
    key: gr.State
    ended: gr.HTML
    count: int = 0

    def connect(
        self,
        event: Callable[..., Any],
        answered: Callable[..., Pieces],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        words: str | None = None,
        *,
        shows: str | None = None,
        prepares: bool = True,
        by_itself: bool = False,
        before: str = "",
        **options: Any,
    ) -> Any:
        """`answered(visit, token, data, *values)` gives what `outputs` show when `event` happens.

        The bar at the bottom says `words`, if there are any, until it is answered; then what `shows` selects is
        brought into view. Where it `prepares` something, all that it gives is shown in turn, else the last alone.
        `before` is the script with which it begins. What the page asks `by_itself` was told of no field.
        """
        self.count += 1
        press = "" if by_itself else f"press-{self.count}"
        handler = self._handler(answered, inputs, len(outputs), press, shows)
        return event(
            in_turn(handler) if prepares else at_end(handler),
            [self.key, *inputs],
            [*outputs, self.ended],
            js=None if by_itself else dock.begin(press, words, 1 + len(inputs), before),
            **options,
        )

    def _handler(
        self, answered: Callable[..., Pieces], inputs: Sequence[Any], count: int, press: str, shows: str | None
    ) -> Callable[..., Iterator[list[Any]]]:
        def run(
            oauth: gr.OAuthToken | None, request: gr.Request, data: gr.EventData, key: str, *values: Any
        ) -> Iterator[list[Any]]:
            visit = self.visit_of(request, key)
            taken = [
                text_of(value) if isinstance(box, gr.Textbox) else value
                for box, value in zip(inputs, values, strict=True)
            ]
            last = yield from with_more(answered(visit, token_of(oauth), data, *taken), [gr.skip()])
            yield [*(last or [gr.skip()] * count), dock.end(visit.ended, press, shows)]

        return run
