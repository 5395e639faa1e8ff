"""Options that several commands have, each said once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import typer
from typer import CallbackParam

from fusehub.cli import console

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, and nothing else there.")]
Base = Annotated[str | None, typer.Option("--base", metavar="MODEL", help="The pretrained model they share.")]
Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL", help="user/name, user/name@revision, a folder, or BASE+ADAPTER.", show_default=False
    ),
]
TextColumn = Annotated[
    str | None, typer.Option(help="Column of the text; 'premise,hypothesis' for pairs. Guessed if not said.")
]
LabelColumn = Annotated[str | None, typer.Option(help="Column of the label. Guessed if not said.")]
TextColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--text-column",
        metavar="[DATA=]NAME",
        help="Column of the text; 'premise,hypothesis' for pairs. Guessed if not said; of one data set by its name.",
    ),
]
LabelColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--label-column",
        metavar="[DATA=]NAME",
        help="Column of the label. Guessed if not said; of one data set by its name.",
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Take that many examples, drawn from all by --seed.")]
MaxLength = Annotated[int | None, typer.Option(min=1, help="Cut texts to that many tokens.")]
Device = Annotated[
    str,
    typer.Option(
        help="Where models run and layers are solved: cpu, cuda, mps, or auto: what FUSEHUB_DEVICE says, else an "
        "accelerator where there is one."
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option("--labels", metavar="MODEL=A,B,...", help="Names of the rows of a model's head, where it has none."),
]
AllowFewRows = Annotated[
    bool, typer.Option("--allow-few-rows", help="Publish statistics although few rows can give texts away.")
]
AllowOtherWeights = Annotated[
    bool, typer.Option("--allow-other-weights", help="Use statistics that were made for other weights.")
]
Private = Annotated[bool, typer.Option("--private/--no-private", help="Whether only its owner can see a new repo.")]
CreatePR = Annotated[bool, typer.Option("--create-pr", help="As a pull request to a repo that is there.")]
CommitMessage = Annotated[str | None, typer.Option(help="The commit's message, in the place of FuseHub's.")]
CommitDescription = Annotated[str | None, typer.Option(help="The commit's description.")]
Branch = Annotated[
    str | None, typer.Option("--revision", metavar="BRANCH", help="The branch to push to; made where it is not there.")
]


def _renamed(new: str) -> Callable[[CallbackParam, bool], bool]:
    """What an option that is called `new` now says where it is still called as it was."""

    def say_so(option: CallbackParam, value: bool) -> bool:
        if value:
            console.say(f"{option.opts[0]} is called {new} now, and will be gone in the next version.", "yellow")
        return value

    return say_so


OldPublic = Annotated[bool, typer.Option("--public", hidden=True, callback=_renamed("--no-private"))]
OldPullRequest = Annotated[bool, typer.Option("--pull-request", hidden=True, callback=_renamed("--create-pr"))]
OldAllowLicence = Annotated[bool, typer.Option("--allow-licence", hidden=True, callback=_renamed("--allow-license"))]
HeadsOption = Annotated[
    Literal["auto", "merge", "keep"],
    typer.Option(help="merge heads by label name, keep each model's own, or auto: merge where labels agree."),
]


def labels_by_model(given: list[str] | None, models: Sequence[str]) -> dict[str, list[str]] | None:
    """What `--labels` said: label names by model."""
    named = console.pairs(given, "--labels", models)
    return {name: [label.strip() for label in text.split(",")] for name, text in named.items()} or None


def columns_by_data(given: list[str] | None, data: Sequence[str]) -> str | dict[str, str] | None:
    """What `--text-column` or `--label-column` said: the column of all `data`, or that of each that is named."""
    if not given:
        return None
    split = [text.partition("=") for text in given]
    own = {name: column for name, separator, column in split if separator and name in data}
    others = [
        text for text, (name, separator, _) in zip(given, split, strict=True) if not (separator and name in data)
    ]
    if len(others) > 1:
        raise typer.BadParameter(f"{', '.join(others)}: name one column, or DATA=COLUMN", param_hint="columns")
    return {**dict.fromkeys(data, others[0]), **own} if others and own else others[0] if others else own
