"""Odd texts into every text box of the app, on the Hub of the environment: `python -m tests.app.odd_inputs MODEL...`.

Every event that takes in a text box is called as a page would, with each text in turn. What answers that something
went wrong in FuseHub itself, or raises anything, is printed as JSON: [[box, text, what], ...].
"""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
from types import SimpleNamespace
from typing import Any

ODD = {
    "300 characters": "a" * 300,
    "300 characters of a user and a name": f"{'a' * 150}/{'b' * 149}",
    "emoji": "🤗/🎬 💥",
    "control characters": "a\x00b/\x01c\x7f\x1b[31m",
    "right to left": "מודל/עברית \u202e\u2066",
    "only spaces": "  \u00a0\u2003 ",
    "a URL": "https://example.org/a?b=c#d",
    "half a URL": "https://[::1",
    "a path": "../../etc/passwd",
    "separators": ",,;=@+/:%00%2e",
    "half of a pair": "a\ud83d/b\udcff",
    "very long": "word " * 40_000,
}
_BUG = "in FuseHub itself"


def main(models: list[str]) -> None:
    # Not above: each process of work reads this file again.
    import gradio as gr

    from space.serve import build, close, new_frame
    from space.setting import Setting
    from space.steps.merge import start_merges
    from space.steps.pick import describe
    from space.steps.statistics import TEXTS

    # As on ZeroGPU: what runs models is done in this process, and none is started for each text.
    os.environ["SPACES_ZERO_GPU"] = "1"
    frame = new_frame(Setting(shared=False))
    page = build(frame)
    visit = frame.visits.open(page="page")
    visit.picks = [describe(name, None) for name in models]
    start_merges(frame, visit, {"mean": {}}, {}, None)
    _ended(frame, visit)
    fixed = {"statistics-model": models[0], "push-which": "mean", "push-token": "", "statistics-source": TEXTS}
    wrong = []
    boxes = {number for number, block in page.blocks.items() if isinstance(block, gr.Textbox)}
    walked = set()
    for function in page.fns.values():
        # Of those that are one beside the other, as for the labels of each model, one is enough.
        alike = {re.sub(r"\d+", "", block.label or ""): block for block in function.inputs if block._id in boxes}
        if function.fn is None:
            continue
        walked |= {block._id for block in function.inputs if block._id in boxes}
        for box in alike.values():
            for name, text in ODD.items():
                values = [
                    visit.key if block is frame.key else _value(block, box, text, fixed) for block in function.inputs
                ]
                try:
                    told = _called(function.fn, values)
                    _ended(frame, visit)
                    told = [told, *visit.notices.values(), str(visit.job and visit.job.error)]
                except Exception as error:
                    told = f"{type(error).__name__}: {error}"
                    wrong.append([box.label, name, told[:300]])
                    continue
                if _BUG in json.dumps(told, default=str):
                    wrong.append([box.label, name, _BUG])
    close(frame)
    # Into a hidden box that no event takes in nobody can write.
    left = [page.blocks[number].elem_id for number in boxes - walked if page.blocks[number].visible != "hidden"]
    print(json.dumps({"wrong": wrong, "not walked": left}))


def _value(block: Any, box: Any, text: str, fixed: dict[str, str]) -> Any:
    if block is box:
        return text
    if box.elem_id == "statistics-dataset" and block.elem_id == "statistics-source":
        return block.value
    return fixed.get(block.elem_id, block.value)


def _called(function: Any, values: list[Any]) -> Any:
    """`function` with `values`, and what gradio adds by the types of its parameters."""
    request, data = SimpleNamespace(session_hash="page"), SimpleNamespace(act="", id="")
    added = {"OAuthToken": None, "Request": request, "EventData": data}
    own = inspect.signature(function).parameters.values()
    names = [str(one.annotation).removeprefix("gr.").partition(" ")[0] for one in own]
    return function(*(added[name] for name in names if name in added), *values)


def _ended(frame: Any, visit: Any) -> None:
    if visit.job is not None:
        frame.jobs.wait(visit.job, 300)


if __name__ == "__main__":
    main(sys.argv[1:])
