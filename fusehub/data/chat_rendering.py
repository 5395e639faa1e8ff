"""Conversations put into words by a model's chat template, in a process that may take so much time and memory.

    render(template, [[{"role": "user", "content": "Hi."}]], {"eos_token": "</s>"}, reply=True)     # ["..."]

A template is a program of a stranger's: loops in loops, or a text times a billion, cannot be told from what it says.
`python -m fusehub.data.chat_rendering` is the process: what it is given and what it answers is JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from fusehub.errors import Action, BadData
from fusehub.utils.untrusted.limits import CELL_CHARACTERS, TEMPLATE_BYTES, TEMPLATE_SECONDS

_FIX = "Leave it out, or use data in the form that the model was trained on."
# Conversations that are put into words in a second, at least.
_PACE = 100


def render(template: str, chats: Sequence[Any], settings: Mapping[str, Any], *, reply: bool) -> list[str]:
    """Each of `chats`, which are lists of messages, as transformers' `apply_chat_template` puts it into words.

    `settings` are what the template may name: the special tokens. With `reply`, up to where the assistant is to speak.
    Raises `BadData` where a template refuses a conversation, or takes more than it may.
    """
    seconds = TEMPLATE_SECONDS + len(chats) // _PACE
    asked = json.dumps(
        {
            "template": template,
            "chats": chats,
            "settings": dict(settings),
            "reply": reply,
            "seconds": seconds,
        },
        default=str,
    )
    # It is told nothing that it has no use for.
    kept = {name: value for name, value in os.environ.items() if "TOKEN" not in name}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "fusehub.data.chat_rendering"],
            input=asked,
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=kept | {"PYTHONUTF8": "1"},
            timeout=30 * seconds,  # The other limit is of processor time, which not every system knows.
        )
    except subprocess.TimeoutExpired as error:
        raise _too_much(seconds) from error
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        raise _too_much(seconds) from error
    if "words" not in answer:
        raise BadData(
            f"Conversation {answer['number']}: the model's chat template does not take it ({answer['error']}).", _FIX
        )
    return answer["words"]


def _too_much(seconds: int) -> BadData:
    return BadData(
        f"The model's chat template takes more than {seconds} seconds, or {TEMPLATE_BYTES:,} bytes of memory.",
        "Take the template from the model's base, or name a column of plain texts: --text-column NAME",
        actions=[Action("name-columns")],
    )


def _answer(asked: Mapping[str, Any]) -> dict[str, Any]:
    from transformers.utils.chat_template_utils import render_jinja_template

    _limit(asked["seconds"])
    words: list[str] = []
    for number, chat in enumerate(asked["chats"], 1):
        try:
            made, _ = render_jinja_template(  # type: ignore[str-unpack]  # It is said to give a text, and gives two lists.
                conversations=[chat],
                chat_template=asked["template"],
                add_generation_prompt=asked["reply"],
                **asked["settings"],
            )
            if len(made[0]) > CELL_CHARACTERS:
                raise ValueError(f"it makes {len(made[0]):,} characters of it")
        except Exception as error:  # A template may raise whatever its expressions lead to.
            return {"number": number, "error": str(error) or type(error).__name__}
        words += made
    return {"words": words}


def _limit(seconds: int) -> None:
    """Bounds what this process takes from here on, where the system can."""
    try:
        import resource
    except ImportError:
        return
    spent = resource.getrusage(resource.RUSAGE_SELF)
    most = seconds + int(spent.ru_utime + spent.ru_stime) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most, most))
    resource.setrlimit(resource.RLIMIT_AS, (TEMPLATE_BYTES, TEMPLATE_BYTES))


if __name__ == "__main__":
    print(json.dumps(_answer(json.load(sys.stdin))))  # noqa: T201
