"""Finding models, and telling whether they fit."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from fusehub.cli import console
from fusehub.cli.console import command, print_json, say, table
from fusehub.cli.options import Base, HeadsOption, Json, Labels, Models, labels_by_model
from fusehub.cli.printing import print_report
from fusehub.cli.program import app
from fusehub.utils.formats import size


@app.command(epilog="Example: fusehub find sentiment --base google-bert/bert-base-uncased --with-statistics")
@command
def find(
    query: Annotated[str | None, typer.Argument(metavar="QUERY", help="Words in the name.")] = None,
    base: Base = None,
    task: Annotated[
        str | None,
        typer.Option(help="As the Hub calls it, or any; all that can be merged if not said."),
    ] = None,
    with_statistics: Annotated[
        bool, typer.Option("--with-statistics", help="Only models whose owners have published statistics.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most that many.")] = 20,
    as_json: Json = False,
) -> None:
    """Find models on the Hub that can go into a merge."""
    from fusehub.finding import find as find_models

    found = find_models(query, base=base, task=task, with_statistics=with_statistics, limit=limit)
    if as_json:
        print_json({"models": [model.to_dict() for model in found]})
        return
    columns = ["model", "task", "base", "license", "downloads", "statistics"]
    rows = [(m.id, m.task, m.base, m.license, m.downloads, m.statistics_at or _offered(m.offered_at)) for m in found]
    table(None, columns, rows, numbers=["downloads"])
    if not found:
        say("Nothing found. Try fewer words, or leave out --base.")
    elif len(found) > 1:
        say(f"next: fusehub check {found[0].id} {found[1].id}")


def _offered(repos: tuple[str, ...]) -> str:
    """`no`, and whose there are that a merge does not use by itself."""
    return f"no ({repos[0]}, of others)" if repos else "no"


@app.command(epilog="Example: fusehub findings")
@command
def findings(
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As docs/findings.md has them.")] = False,
) -> None:
    """List what `check` and `merge` can find, by code, and which of it a merge may go on with."""
    from dataclasses import asdict

    from fusehub.utils.findings import CODES, document

    if markdown:
        console.out.print(document(), markup=False, highlight=False, soft_wrap=True, end="")
    elif as_json:
        print_json({code: asdict(kind) for code, kind in CODES.items()})
    else:
        rows = [(code, kind.about, "yes" if kind.ignorable else "no") for code, kind in CODES.items()]
        table(None, ["code", "what was found", "--ignore"], rows)


@app.command(
    epilog="Example: fusehub check textattack/bert-base-uncased-imdb textattack/bert-base-uncased-yelp-polarity"
)
@command
def check(
    models: Models,
    base: Base = None,
    heads: HeadsOption = "auto",
    labels: Labels = None,
    as_json: Json = False,
) -> None:
    """Tell whether models can be merged, from their configs and headers, before any weights are downloaded."""
    from fusehub.checking.check import check as check_models

    report = check_models(models, base=base, heads=heads, labels=labels_by_model(labels, models))
    if as_json:
        print_json(report.to_dict())
    else:
        print_report(report)
        if report.ok:
            say(f"They can be merged. Weights still to download: {size(report.download)}.", "green")
            say(f"next: fusehub merge {shlex.join(models)} --out merged")
    if not report.ok:
        if not as_json:
            say("They cannot be merged as they are.", "bold red")
            if ignorable := report.ignorable:
                say(f"If you know better: fusehub merge {' '.join(f'--ignore {code}' for code in ignorable)} ...")
        raise typer.Exit(1)
