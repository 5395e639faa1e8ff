"""The app in a browser, on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from fusehub.cli.console import command, say
from fusehub.cli.program import app
from fusehub.utils.extras import needs


@app.command("app", epilog="Example: fusehub app textattack/bert-base-uncased-imdb textattack/bert-base-uncased-SST-2")
@command
def app_(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL", help="Models that its example fills in.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The first free one from 7860 if not said.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Other than this machine's own: no token stored here is used.")
    ] = "127.0.0.1",
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Open the app in a browser: pick, check, merge, compare and push by hand."""
    open_app(models or (), port=port, host=host, browser=browser)


def open_app(
    models: list[str] | tuple[str, ...], *, port: int | None = None, host: str | None = None, browser: bool = True
) -> None:
    """Serves the app until interrupted. The Hub is that of HF_ENDPOINT."""
    with needs("app", "The app"):
        import gradio  # noqa: F401
        from fusehub_space import launch
    say("The app is starting. Ctrl-C ends it.", "green")
    launch(models, host=host, port=port, open_browser=browser)
