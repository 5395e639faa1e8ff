"""What models say about texts: side by side, and scored."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fusehub.cli import console
from fusehub.cli.console import bar, command, print_json, say, table
from fusehub.cli.options import (
    Device,
    Json,
    LabelColumn,
    LabelColumns,
    Limit,
    MaxLength,
    Models,
    TextColumn,
    TextColumns,
    columns_by_data,
)
from fusehub.cli.printing import print_evaluation, print_preview
from fusehub.cli.program import app
from fusehub.utils.formats import label_text


@app.command(epilog='Example: fusehub compare user/expert-1 user/expert-2 merged/ --ensemble --text "Not bad at all."')
@command
def compare(
    models: Models,
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            help="A text; can be said many times. Also 'QUESTION | TEXT', a text with [MASK], or an image's file.",
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="SOURCE", help="Texts from data instead.")] = None,
    ensemble: Annotated[bool, typer.Option("--ensemble", help="Add the mean of the experts' probabilities.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Texts to take from --data.")] = 20,
    differing: Annotated[bool, typer.Option("--differing", help="Only texts on which the models disagree.")] = False,
    text_column: TextColumn = None,
    max_length: MaxLength = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Show what several models say about the same texts, side by side."""
    from fusehub.comparing.compare import compare as compare_models

    if bool(text) == bool(data):
        raise typer.BadParameter("give texts with --text, or data with --data", param_hint="--text")
    with bar("Predicting", quiet=as_json) as progress:
        comparison = compare_models(
            models, text, data=data, ensemble=ensemble, limit=limit, text_column=text_column, max_length=max_length,
            device=device, progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(comparison.to_dict())
        return
    for compared in comparison.texts:
        if differing and not compared.differs:
            continue
        known = f"  [{label_text(compared.label)}]" if compared.label is not None else ""
        console.out.print(f"{compared.text}{known}", style="bold", markup=False)
        rows = [
            (a.model, a.marked, None) if a.label is None else (a.model, label_text(a.label), a.probability)
            for a in compared.answers
        ]
        if all(probability is None for *_, probability in rows):
            table(None, ["model", "answer"], [row[:2] for row in rows])
        else:
            table(None, ["model", "answer", "probability"], rows, numbers=["probability"])
        console.out.print("[yellow]the models disagree[/yellow]\n" if compared.differs else "")


@app.command(epilog="Example: fusehub preview user/films user/expert-1 user/expert-2")
@command
def preview(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A file, a folder or a dataset on the Hub.")],
    models: Models,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    as_json: Json = False,
) -> None:
    """Show what data has for models: its columns, which of them would be read, and which labels those are."""
    from fusehub.data.preview import preview_data

    seen = preview_data(source, models, text_column=text_column, label_column=label_column)
    if as_json:
        print_json(seen.to_dict())
    else:
        print_preview(seen)
    if not seen.ok:
        raise typer.Exit(1)


@app.command(epilog="Example: fusehub evaluate user/expert-1 merged/ --data films=user/films/test --ensemble")
@command
def evaluate(
    models: Models,
    data: Annotated[
        list[str], typer.Option("--data", metavar="NAME=SOURCE", help="Labelled data; can be said many times.")
    ],
    ensemble: Annotated[bool, typer.Option("--ensemble", help="Add the mean of the experts' probabilities.")] = False,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(help="Which examples --limit draws, and which the resamples.")] = 0,
    resamples: Annotated[
        int, typer.Option(min=0, help="How often the examples are drawn anew for the intervals; 0: none.")
    ] = 1000,
    confidence: Annotated[
        float, typer.Option(metavar="SHARE", help="What part of the resamples an interval holds.")
    ] = 0.95,
    against: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Hold all others against this one, not against the experts."),
    ] = None,
    per_label: Annotated[
        bool, typer.Option("--per-label", help="Precision, recall and F1 of each label too.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write the scores as JSON, for `publish --results`.")
    ] = None,
    text_column: TextColumns = None,
    label_column: LabelColumns = None,
    max_length: MaxLength = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Score models on labelled data, each task by its own metrics; language models by their perplexity.

    Each score has an interval, and each difference to an expert: what other examples of the kind would have given.
    """
    import json

    from fusehub.comparing.evaluate import evaluate as evaluate_models
    from fusehub.utils.folders.places import require_ordinary, require_place
    from fusehub.utils.folders.unfinished import write_text

    sources = console.pairs(data, "--data")
    if out is not None:
        require_ordinary(out)
        require_place(out.parent)
    with bar("Predicting", quiet=as_json) as progress:
        evaluation = evaluate_models(
            models, sources, ensemble=ensemble, limit=limit, seed=seed, resamples=resamples,
            confidence_level=confidence, against=against, text_column=columns_by_data(text_column, [*sources]),
            label_column=columns_by_data(label_column, [*sources]), max_length=max_length, device=device,
            progress=progress,
        )  # fmt: skip
    if out is not None:
        write_text(out, json.dumps(evaluation.to_dict(), indent=2) + "\n")
    if as_json:
        print_json(evaluation.to_dict())
        return
    print_evaluation(evaluation, per_label=per_label)
    if out is not None:
        say(f"next: fusehub publish MERGED USER/NAME --results {shlex.quote(str(out))}")
