"""What runs on this machine alone: a Hub, and the demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fusehub.cli.console import command, print_json, say
from fusehub.cli.options import Json
from fusehub.cli.program import app
from fusehub.utils.extras import needs


@app.command(epilog="Example: fusehub hub ./my-hub --port 8730")
@command
def hub(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where its repos live.", show_default=False)],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8730,
    host: Annotated[str, typer.Option(help="Address to listen on; this machine alone if not said.")] = "127.0.0.1",
) -> None:
    """Serve a Hub on this machine: the real client works with it through HF_ENDPOINT, without an account."""
    with needs("hub", "The local Hub"):
        from fusehub.localhub import LocalHubError, serve
    from fusehub.errors import FuseHubError

    def ready(url: str) -> None:
        say(f"A Hub is running at {url} on the files in {folder}/. Ctrl-C ends it.", "green")
        say(f"To use it: export HF_ENDPOINT={url} HF_HUB_DISABLE_XET=1")
        say(f"Users and their tokens: {folder / 'users.json'} (the first user is 'user')")

    try:
        serve(folder, host=host, port=port, on_ready=ready)
    except LocalHubError as error:
        raise FuseHubError(str(error), error.fix) from error


@app.command(epilog="Example: fusehub demo --folder demo")
@command
def demo(
    folder: Annotated[Path, typer.Option(help="Where everything it makes is kept.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of the experts' training.")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="A quarter of the texts, and less training: under a third of the time.")
    ] = False,
    kinds: Annotated[
        bool,
        typer.Option(
            "--kinds", help="Only fill a Hub with tiny experts of every kind: entities, questions, language, images."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """The whole way on this machine alone: train three experts, publish them, merge without data, score, publish."""
    if kinds:
        from fusehub.demo.kinds import run as run_kinds

        report = run_kinds(folder, quiet=as_json)
    else:
        from fusehub.demo.run import run

        report = run(folder, seed=seed, quick=quick, quiet=as_json)
    if as_json:
        print_json(report)
