"""What a merge kept of its experts, layer by layer."""

from __future__ import annotations

from typing import Annotated

import typer

from fusehub.cli.console import bar, command, print_json, say, table
from fusehub.cli.options import Json
from fusehub.cli.program import app


@app.command(epilog="Example: fusehub layers merged/")
@command
def layers(
    merged: Annotated[str, typer.Argument(metavar="MERGED", help="A merge that FuseHub made: a folder, or a repo.")],
    as_json: Json = False,
) -> None:
    """Show by how much each layer of a merge changed for each expert: 0 % where it is the expert's own.

    By what the layer gives for the expert's texts, where the merge was made by their statistics, else by its weights.
    """
    from fusehub.comparing.layer_changes import layer_changes

    with bar("Comparing", quiet=as_json) as progress:
        found = layer_changes(merged, progress=progress)
    if as_json:
        print_json(found.to_dict())
        return
    title = "change of what the layer gives for the expert's texts" if found.of_outputs else "change of the weights"
    rows = [[row["layer"], *(f"{100 * row[name]:.1f} %" for name in found.experts)] for row in found.rows()]
    table(title, ["layer", *found.experts], rows, numbers=found.experts)
    say("It tells where the merge left an expert, and not how good it is: fusehub evaluate does.")
