"""Statistics: made, published, inspected."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fusehub.cli.console import bar, command, pairs, parse_size, print_json, say, table
from fusehub.cli.options import (
    AllowFewRows,
    AllowOtherWeights,
    CreatePR,
    Device,
    Json,
    MaxLength,
    OldPullRequest,
    TextColumn,
)
from fusehub.cli.printing import print_findings
from fusehub.cli.program import app
from fusehub.statistics.settled import error_in, error_words
from fusehub.utils.formats import size

if TYPE_CHECKING:
    from fusehub.statistics.file import Statistics


@app.command(epilog="Example: fusehub collect user/expert --data user/texts --limit 1000 --out statistics")
@command
def collect(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="The model whose statistics are wanted. With --add: two or more statistics. With --from: none.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="Texts of the domain that the model was trained for.")
    ] = None,
    add: Annotated[
        bool, typer.Option("--add", help="Add statistics of the same weights on different data, instead of MODEL.")
    ] = False,
    disjoint: Annotated[
        bool, typer.Option("--disjoint", help="With --add: no person's texts are in two of them; for their noise.")
    ] = False,
    imported: Annotated[
        Path | None,
        typer.Option(
            "--import", metavar="FILE", help="A llama.cpp imatrix or a folder of Hessians of MODEL, instead of data."
        ),
    ] = None,
    larger: Annotated[
        str | None,
        typer.Option("--from", metavar="STATISTICS", help="Make these statistics smaller, as --size says."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write them into.")] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Push them to the Hub, into the model's own repo.")
    ] = False,
    repo: Annotated[
        str | None, typer.Option("--repo", help="Push them into this companion repo instead (with --publish).")
    ] = None,
    create_pr: CreatePR = False,
    revision: Annotated[str | None, typer.Option(help="A branch, a tag or a commit of MODEL's repo.")] = None,
    limit: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|auto",
            help="Take that many examples, drawn from all by --seed; auto: as many as settle the grams.",
        ),
    ] = None,
    max_length: MaxLength = None,
    seed: Annotated[int, typer.Option(help="Which examples --limit draws.")] = 0,
    text_column: TextColumn = None,
    allow_few_rows: AllowFewRows = False,
    allow_other_weights: AllowOtherWeights = False,
    description: Annotated[
        str | None, typer.Option(help="What the file says of the data, instead of where it is.")
    ] = None,
    size_name: Annotated[
        Literal["full", "half", "compact", "tiny"],
        typer.Option("--size", help="How finely they are stored: about 0.62, 0.31, 0.16 or 0.03 of the weights."),
    ] = "compact",
    fisher: Annotated[
        bool,
        typer.Option("--fisher", help="Add Fisher diagonals, for --method fisher; a few times slower."),
    ] = False,
    fisher_samples: Annotated[
        int | None,
        typer.Option(min=1, help="With --fisher: labels drawn an example; without, few labels are summed over."),
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option("--noise", metavar="EPSILON", help="Add noise that makes them private for each text."),
    ] = None,
    delta: Annotated[float, typer.Option(help="With --noise: the chance that it fails; far below 1 / texts.")] = 1e-6,
    clip: Annotated[
        float, typer.Option(help="With --noise: where rows are cut, relative to their length on random tokens.")
    ] = 1.0,
    device: Device = "auto",
    device_map: Annotated[
        Literal["auto"] | None,
        typer.Option(help="Spread a model larger than its device over all devices, memory and disk."),
    ] = None,
    max_memory: Annotated[
        list[str] | None,
        typer.Option(metavar="DEVICE=SIZE", help="With --device-map: the most on one, such as 0=20GB or cpu=8GB."),
    ] = None,
    stream: Annotated[
        Literal["auto", "on", "off"],
        typer.Option(
            help="Read the model block by block, for one larger than the memory; auto: where it is and can be."
        ),
    ] = "auto",
    as_json: Json = False,
    pull_request: OldPullRequest = False,
) -> None:
    """Run a model over texts and write the statistics of its layers' inputs; the texts themselves are not kept."""
    from fusehub.collecting.collect import collect as collect_statistics
    from fusehub.collecting.noise import Noise
    from fusehub.collecting.resume import kept_work
    from fusehub.models.resolve import resolve
    from fusehub.publishing.publish import publish_statistics
    from fusehub.statistics.adding import add_statistics
    from fusehub.statistics.few_texts import few_texts_finding
    from fusehub.statistics.importers import import_statistics
    from fusehub.statistics.resizing import resize_statistics
    from fusehub.utils.folders.holding import scratch

    if out is None and not publish:
        raise typer.BadParameter("say where they go: a folder, or --publish", param_hint="--out")
    if repo and not publish:
        raise typer.BadParameter("--repo goes with --publish", param_hint="--repo")
    limits = pairs(max_memory, "--max-memory")
    if limits and not device_map:
        raise typer.BadParameter("--max-memory goes with --device-map", param_hint="--max-memory")
    models = models or []
    if disjoint and not add:
        raise typer.BadParameter("goes with --add", param_hint="--disjoint")
    _require_one_way(models, data=data, add=add, imported=imported, larger=larger, epsilon=epsilon)
    if revision and (add or larger):
        raise typer.BadParameter("goes with MODEL", param_hint="--revision")
    if fisher and data is None:
        raise typer.BadParameter("gradients are taken where the texts are read", param_hint="--fisher")
    if fisher_samples is not None and not fisher:
        raise typer.BadParameter("goes with --fisher", param_hint="--fisher-samples")
    with scratch() as temporary, bar("Reading texts", quiet=as_json) as progress:
        folder = out or temporary
        made: Statistics | None
        if add:
            made = add_statistics(models, folder, size=size_name, disjoint=disjoint)
        elif larger:
            made = resize_statistics(larger, folder, size=size_name)
        elif imported:
            made = import_statistics(
                models[0], imported, folder, revision=revision, description=description, size=size_name
            )
        else:
            assert data is not None  # One of the ways was required, and it is none of the others.
            made = collect_statistics(
                resolve(models[0], revision=revision),
                data,
                folder,
                limit=_limit(limit),
                max_length=max_length,
                seed=seed,
                text_column=text_column,
                description=description,
                size=size_name,
                fisher=fisher,
                fisher_samples=fisher_samples,
                noise=Noise(epsilon, delta, clip) if epsilon is not None else None,
                device=device,
                device_map=device_map,
                max_memory={name: parse_size(own, "--max-memory") for name, own in limits.items()},
                stream=stream,
                work=None if out else kept_work(f"{models[0]}@{revision}" if revision else models[0]),
                progress=progress,
            )
        if made is None:
            return  # One of several processes, and not the one that speaks and publishes.
        model = made.metadata["model"]["id"] if add or larger else models[0]
        summary = {
            "model": _pinned(made.metadata["model"]),
            "examples": made.metadata["examples"],
            "tokens": made.metadata["tokens"],
            "layers": len(made.layers),
            "uncounted": made.metadata["uncounted"],
            "standard_error": error_in(made.metadata),
            "size": made.metadata["size"],
            "bytes": made.nbytes,
            "folder": str(folder) if out else None,
        }
        made.close()
        if publish:
            published = publish_statistics(
                folder,
                repo,
                model=model,
                create_pr=create_pr or pull_request,
                allow_few_rows=allow_few_rows,
                allow_other_weights=allow_other_weights,
            )
            summary |= {"url": published.url}
    if as_json:
        print_json(summary)
        return
    where = summary.get("url") or f"{folder}/"
    say(f"Statistics of {len(made.layers)} layers{_counted(made.metadata)}, {size(summary['bytes'])} -> {where}")
    if (error := error_in(made.metadata)) is not None:
        say(f"The grams are known to {error_words(error)} (standard error, in nine of ten layers).")
    if ignored := (made.metadata.get("imported") or {}).get("ignored"):
        say(f"Of no linear layer of the model, and left out: {', '.join(ignored[:5])}.")
    if made.metadata["uncounted"]:
        say(f"No input was seen for {', '.join(made.metadata['uncounted'][:5])}: these layers will be averaged.")
    if few := few_texts_finding(made.metadata):
        print_findings([few])
    origin = "" if publish else f" --statistics {shlex.quote(f'{model}={folder}')}"
    say(f"next: fusehub merge {shlex.quote(model)} OTHER --method regmean{origin} --out merged")


def _require_one_way(
    models: list[str],
    *,
    data: str | None,
    add: bool,
    imported: Path | None,
    larger: str | None,
    epsilon: float | None,
) -> None:
    """Statistics come from a model and data, or from statistics that are there: wrong usage says which is meant."""
    ways = [way for way, given in (("--add", add), ("--import", imported), ("--from", larger)) if given]
    if data and ways:
        raise typer.BadParameter(f"{ways[0]} takes statistics that are there, and no data", param_hint="--data")
    if epsilon is not None and ways:
        raise typer.BadParameter("noise is added where the texts are read", param_hint="--noise")
    if len(ways) > 1:
        raise typer.BadParameter(f"one thing after the other: {' or '.join(ways)}", param_hint=ways[1])
    if larger and models:
        raise typer.BadParameter("statistics know their model: give none", param_hint="MODEL")
    if not larger and not models:
        raise typer.BadParameter("say which model", param_hint="MODEL")
    if add and len(models) < 2:
        raise typer.BadParameter("give two or more statistics to be added", param_hint="--add")
    if not add and len(models) > 1:
        raise typer.BadParameter("give one model; or say --add, to add statistics", param_hint="MODEL")
    if not ways and data is None:
        raise typer.BadParameter("say which texts the model is to be run over", param_hint="--data")


def _limit(text: str | None) -> int | Literal["auto"] | None:
    if text is None:
        return None
    if text == "auto":
        return "auto"
    if not text.isascii() or not text.isdecimal() or not int(text):
        raise typer.BadParameter(f"'{text}' is neither a number of 1 or more nor auto", param_hint="--limit")
    return int(text)


def _counted(metadata: dict[str, Any]) -> str:
    """` from 512 texts, 10240 tokens`, as far as it is known."""
    words = {"examples": "texts", "tokens": "tokens"}
    counts = [f"{metadata[key]} {word}" for key, word in words.items() if metadata[key]]
    return f" from {', '.join(counts)}" if counts else ""


def _pinned(model: dict[str, Any]) -> str:
    return f"{model['id']}@{model['commit']}" if model.get("commit") else model["id"]


@app.command(epilog="Example: fusehub inspect statistics/")
@command
def inspect(
    statistics: Annotated[
        str, typer.Argument(metavar="STATISTICS", help="A file, a folder, or a repo that holds them.")
    ],
    against: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Run this model on random tokens, and tell whether they can be of it."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a statistics file holds, and whether it is sound."""
    from fusehub.statistics.inspection import inspect as inspect_statistics

    with bar("Checking layers", quiet=as_json) as progress:
        summary = inspect_statistics(statistics, against=against, progress=progress)
    if as_json:
        print_json(summary.to_dict())
        return
    facts = summary.metadata
    data = facts["data"]
    at = f" at {facts['model']['commit'][:12]}" if facts["model"].get("commit") else ""
    say(f"{statistics}: statistics of {facts['model']['id']}{at} ({facts['model']['architecture']})")
    say(
        f"{_counted(facts).strip() or 'from texts that were not counted'}, of {data['source']}; "
        f"format version {facts['version']}"
    )
    if (error := error_in(facts)) is not None:
        say(f"known to {error_words(error)} (standard error of the grams, in nine of ten layers)")
    if fisher := facts.get("fisher"):
        labels = f"{fisher['samples']} drawn labels an example" if fisher["samples"] else "all labels"
        say(f"Fisher diagonals of {len(fisher['exponents'])} tensors, {fisher['examples']} examples, over {labels}")
    of_weights = f", {summary.of_weights:.3f} of the model's weights" if summary.of_weights else ""
    smaller = ", ".join(f"{name} {size(nbytes)}" for name, nbytes in summary.smaller.items())
    say(f"{facts['size']}: {size(summary.nbytes)}{of_weights}" + (f" (smaller: {smaller})" if smaller else ""))
    print_findings(summary.findings)
    if summary.likeness and against:
        say(summary.likeness.question(statistics, against) or f"held against {against}: {summary.likeness}")
    numbers = ["inputs", "rows", "error", "rank", "condition", "bytes", "shared by"]
    rows = [
        (
            x.name,
            x.size,
            x.rows,
            _error(x.standard_error),
            x.rank,
            f"{x.condition:.1e}",
            x.nbytes,
            len(x.aliases) + 1,
            x.encoding,
        )
        for x in summary.layers
    ]
    table(None, ["layer", *numbers, "stored as"], rows, numbers=numbers)


def _error(error: float | None) -> str:
    return "-" if error is None else error_words(error)
