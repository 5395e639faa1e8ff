"""The endpoints: every step of the way, for `gradio_client`, plain HTTP and MCP clients.

    client = Client("http://localhost:7860")
    client.predict(models=["user/a", "user/b"], api_name="/check")
    merged = client.predict(models=["user/a", "user/b"], method="regmean", options={"alpha": 0.9}, api_name="/merge")
    client.predict(models=["user/a", "user/b", merged["name"]], texts=["Not bad."], api_name="/compare")

Each is a function of the frame and the caller, whose docstring is what agents read. Answers are plain data of known
types (see `answers`); a caller's mistake is one of them: {"error": {...}}. `oauth_token=` of `gradio_client` is passed
on to the Hub, for private and gated models, and to push.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import gradio as gr

from fusehub.finding import ANY_TASK
from fusehub.models.tasks import TASKS

from ..frame import Frame
from ..steps.advice import offered
from .asking import compare, evaluate
from .looking import check, find, methods, recipe, recommend
from .making import merge, statistics
from .taking import card, download, push
from .told import told

ENDPOINTS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        find, methods, recommend, check, recipe, statistics, merge, compare, evaluate, card, push, download,
    )
}  # fmt: skip


def endpoints(frame: Frame) -> None:
    """Adds the endpoints to the page that is being built."""
    shown = {"method": Literal[tuple(offered())] | None, "task": Literal[(*TASKS, ANY_TASK)] | None}
    for name, function in ENDPOINTS.items():
        gr.api(told(function, frame, shown), api_name=name, concurrency_limit=8)
