"""The program that all commands belong to, and what it says of itself."""

from __future__ import annotations

from typing import Annotated

import typer

from fusehub.cli import console

app = typer.Typer(
    name="fusehub",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Merge fine-tuned models of the Hugging Face Hub into one, without their training data.\n\n"
    "The steps: [b]find[/b] models, [b]check[/b] that they fit, [b]collect[/b] statistics (or use published ones), "
    "[b]merge[/b], [b]compare[/b] and [b]evaluate[/b], [b]publish[/b].\n\n"
    "A MODEL is user/name, user/name@revision, a folder, or BASE+ADAPTER for a LoRA adapter. A SOURCE of data is a "
    "file (.txt, .csv, .jsonl, .parquet), a folder, or user/dataset\\[:config]\\[/split].",
)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    from fusehub.hub.client import be_patient

    be_patient()
    if version:
        from fusehub.hub.client import fusehub_version

        console.out.print(f"fusehub {fusehub_version()}")
        raise typer.Exit
